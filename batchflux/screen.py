"""What the command line writes and asks: results to standard output, all else to standard error; it decides nothing.

Characters that came from data and could steer a terminal never reach one. Heavy modules are imported where needed.
"""

import re
import signal
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import click

__all__ = [
    "asker",
    "counting_bar",
    "export_progress",
    "observer",
    "say",
    "show_failed",
    "show_plan",
    "show_requests",
    "tell",
    "tell_json",
]

_LINE_EVERY_S = 10.0  # where there is no terminal for a bar

# Control characters, lone surrogates, separators of lines and paragraphs; what turns the direction of writing.
_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def say(text: str) -> None:
    """Write to standard error; that nobody reads it ends no run."""
    with suppress(OSError):
        click.echo(_harmless(text), err=True)


def tell(text: str) -> None:
    """Write a result for people to standard output. Raises StorageError, BrokenPipeError."""
    _write_result(_harmless(text))


def tell_json(text: str) -> None:
    """Write JSON to standard output; what could steer a terminal is escaped, which changes no value."""
    _write_result(re.sub("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _write_result(text: str) -> None:
    from batchflux.core.errors import StorageError

    try:
        click.echo(text)
    except BrokenPipeError:
        raise  # whoever read has left: the command line's edge ends quietly
    except OSError as error:
        raise StorageError(Path("standard output"), doing="write the result", cause=error) from error


def _harmless(text: str) -> str:
    """Return text in which no character that came from data can steer a terminal or turn the order of what it shows."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join("�" if _is_steering(char) else char for char in text)


def _is_steering(char: str) -> bool:
    return (unicodedata.category(char) in _STEERING and char != "\n") or char in _TURNING


def asker(*, yes: bool) -> Callable[[Any], bool]:
    """Return what answers before money is spent: the options, else the user, else an error that says what to add."""
    from batchflux.core.budget import usd

    def ask(question: Any) -> bool:
        affordable = question.affordable_cells
        if affordable is not None:
            say(
                f"the balance of {usd(question.balance_micro_usd)} buys {affordable:,} of the {question.plan.to_pay:,} "
                "cells that are left"
            )
        if yes:
            return True
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"this spends up to {usd(question.cost_micro_usd)}, and there is no terminal to ask at: "
                "add --yes, or a bound with --budget USD"
            )
        cells, images = question.plan.to_pay, question.plan.images
        again = question.plan.replicates
        twice = f", {again:,} of the cells a second time" if again else ""
        say(f"{question.plan.name}: {cells:,} cells, {images:,} images are left to pay{twice}")
        most = usd(question.cost_micro_usd)
        wanted = f"Buy {affordable:,} cells?" if affordable is not None else f"Spend up to {most}?"
        # asyncio turns the first Ctrl-C into a cancelled task, which nobody would notice while the question waits.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return click.confirm(wanted, default=False, err=True)
        finally:
            signal.signal(signal.SIGINT, before)

    return ask


def show_plan(plan: Any, preflight: Any) -> None:
    from batchflux.app.rundir import is_rehearsal
    from batchflux.core.budget import usd

    for warning in preflight.warnings:
        say(f"warning: {warning}")
    if plan.kept or plan.retired:
        say(f"{plan.kept:,} cells kept, {plan.new:,} new, {plan.retired:,} retired; {plan.done:,} done already")
    if plan.to_pay > plan.replicates:  # what is submitted twice alone has a plan of its own, which follows
        balance = preflight.balance_micro_usd
        of = f" of a balance of {usd(balance)}" if balance is not None else ""
        if is_rehearsal(Path(plan.run_dir)):
            of = " of play money"
        cost = usd(round((plan.cost_usd or 0) * 1_000_000))
        again = f" ({plan.replicates:,} of them a second time)" if plan.replicates else ""
        say(f"{plan.name}: {plan.to_pay:,} cells to pay{again}, {plan.images:,} images, {cost}{of}")


def observer(name: str) -> Callable[[Any], Any]:
    def make(progress: Any) -> Any:
        from batchflux.engine.observers import Bar, Lines

        return Bar(progress, name=_harmless(name)) if sys.stderr.isatty() else Lines()

    return make


def show_requests(requests: Sequence[Mapping[str, Any]]) -> None:
    import json

    tell("  first requests")
    for request in requests:
        body = json.dumps(request["body"], ensure_ascii=False)
        shown = body if len(body) <= 400 else body[:400] + "…"
        tell(f"    POST {request['model']}  {shown}")


def show_failed(cells: list[dict[str, Any]], run_dir: Path, *, as_json: bool) -> None:
    import json

    from batchflux.app.family import run_command

    if as_json:
        tell_json(json.dumps(cells, ensure_ascii=False))
        return
    for cell in cells:
        params = ", ".join(f"{name} {value}" for name, value in cell["params"].items())
        line = f"row {cell['row']} ({cell['prompt_id']}), {params}: {cell['error_kind']}: {cell['error']}"
        tell(" ".join(line.splitlines()))
    tell(f"next: {run_command(run_dir)} --retry-failed" if cells else "no cell has failed")


def counting_bar(what: str, unit: str) -> Callable[[int, int], None]:
    """Return what shows on a terminal how many of something are done."""
    from tqdm import tqdm

    bar = tqdm(desc=what, unit=f" {unit}", leave=False)

    def show(done: int, total: int) -> None:
        bar.total, bar.n = total, done
        bar.refresh()
        if done >= total:
            bar.close()

    return show


def export_progress(tell_line: Callable[[str], None] = say) -> Callable[[int, int], None]:
    """Return what shows how many cells are exported: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        return counting_bar("export", "cells")
    last_s = monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last_s
        if monotonic() - last_s >= _LINE_EVERY_S and done < total:
            last_s = monotonic()
            tell_line(f"export: {done:,} of {total:,} cells")

    return show
