"""The command line: verbs, options, exit statuses. The only place that catches everything; it decides nothing.

Standard output carries results, standard error everything else. Heavy modules are imported by the verb that needs them.
"""

import os
import re
import resource
import signal
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

import batchflux
from batchflux.core.errors import BatchfluxError

__all__ = ["main"]

_ISSUES = "this is a bug in batchflux; what was durable is safe, and the same command goes on. Please report:"


def main() -> NoReturn:
    """Run the command line and exit."""
    # A crash must write no image of this process's memory, which holds the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        # Not `_cli.main`, which ends a broken pipe with 1: that says of a run that cells have failed.
        with _cli.make_context("batchflux", sys.argv[1:]) as context:
            status = _cli.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        with suppress(OSError):
            error.show(file=sys.stderr)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _say("stopped")
        sys.exit(130)
    except BatchfluxError as error:
        _say(f"batchflux: {error}" if "\n" not in str(error) else str(error))
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # Whoever read standard output has left, as `head` does; the interpreter's own flush must not complain too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("BATCHFLUX_LOG", "").lower() == "debug":
            raise
        _say(f"batchflux: {_ISSUES}\n  {type(error).__name__}: {error}\n  (BATCHFLUX_LOG=debug shows where)")
        sys.exit(4)
    sys.exit(status if isinstance(status, int) else 0)


def _say(text: str) -> None:
    """Write to standard error; that nobody reads it ends no run."""
    with suppress(OSError):
        click.echo(_harmless(text), err=True)


def _tell(text: str) -> None:
    """Write a result for people to standard output."""
    click.echo(_harmless(text))


def _tell_json(text: str) -> None:
    """Write JSON to standard output; what could steer a terminal is escaped, which changes no value."""
    click.echo(re.sub("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _harmless(text: str) -> str:
    """Return text in which no character that came from data can steer a terminal or turn the order of what it shows."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join("�" if _is_steering(char) else char for char in text)


def _is_steering(char: str) -> bool:
    return (unicodedata.category(char) in _STEERING and char != "\n") or char in _TURNING


# Control characters, lone surrogates, separators of lines and paragraphs; what turns the direction of writing.
_STEERING = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batchflux.__version__, message="batchflux %(version)s")
def _cli() -> None:
    """Turn a prompt table into a finished image dataset, paying for no cell twice.

    Start with `batchflux init`, then `batchflux plan` and `batchflux run --sandbox`.
    """


_job = click.argument("job", type=click.Path(path_type=Path, exists=True))
_out = click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Another run directory.")
_set = click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any spec key, dotted; repeatable.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _overrides(settings: tuple[str, ...], concurrency: int | None = None) -> dict[str, Any]:
    from batchflux.io.jobfile import parse_set_options

    overrides: dict[str, Any] = dict(parse_set_options(settings))
    if concurrency is not None:
        overrides["run.concurrency"] = concurrency
    return overrides


def _money(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an amount of USD as micro-USD, exactly."""
    from decimal import Decimal

    if value is None:
        return None
    try:
        amount = Decimal(value.removeprefix("$"))
        micro_usd = int(amount * 1_000_000)
    except (ArithmeticError, ValueError):
        raise click.BadParameter(f"{value!r} is no amount in USD; write one like 12.50") from None
    if amount < 0:
        raise click.BadParameter("an amount can't be negative")
    return micro_usd


def _until(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Read a time of day as seconds since the epoch, the next time that a clock here shows it."""
    from datetime import datetime, timedelta
    from re import fullmatch

    if value is None:
        return None
    found = fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no time of day; write one like 07:00")
    # Without a zone, so that a night in which the clocks change has the length it has.
    now = datetime.now()  # noqa: DTZ005
    then = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
    if then <= now:
        then += timedelta(days=1)
    return then.timestamp()


# ------------------------------------------------------------------------------------------------------ run


@_cli.command(short_help="Run a job, or go on where it stopped; safe to repeat.")
@_job
@_out
@_set
@click.option("-j", "--concurrency", type=click.IntRange(1), metavar="N", help="Predictions in flight at most.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="Start this many cells at most, this time.")
@click.option("--budget", metavar="USD", callback=_money, help="Spend this much at most, this time.")
@click.option("--until", metavar="HH:MM", callback=_until, help="Submit nothing that wouldn't be done by then.")
@click.option(
    "--sandbox", is_flag=True, help="Rehearse against a local sandbox: no key, no cost, a directory of its own."
)
@click.option("--retry-failed", is_flag=True, help="Take up failed cells again.")
@click.option("--resubmit-unknown", is_flag=True, help="Send again what may have been accepted: you may pay twice.")
@click.option("--download-only", is_flag=True, help="Fetch the images that are missing; submit nothing.")
@click.option("--allow-host", "allow_hosts", metavar="HOST", multiple=True, help="Send your key to this API host too.")
@click.option("--yes", is_flag=True, help="Don't ask before spending.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_json
def run(job: Path, out: Path | None, settings: tuple[str, ...], concurrency: int | None, **options: Any) -> int:
    """Run a job to its end, or go on where an earlier run of it stopped; safe to repeat.

    JOB is a job file, or a run directory, which goes on with exactly the spec and table that it holds.
    """
    import asyncio

    from batchflux.app.job import load_job
    from batchflux.app.run import RunOptions, run_async

    loaded = load_job(job, _overrides(settings, concurrency), out=out)
    for warning in loaded.warnings:
        _say(f"warning: {warning}")
    as_json, quiet, yes = options.pop("as_json"), options.pop("quiet"), options.pop("yes")
    has_budget = options["budget"] is not None or loaded.spec.run.budget_micro_usd is not None
    run_options = RunOptions(
        limit=options["limit"],
        budget_micro_usd=options["budget"],
        until_at_s=options["until"],
        sandbox=options["sandbox"],
        retry_failed=options["retry_failed"],
        resubmit_unknown=options["resubmit_unknown"],
        download_only=options["download_only"],
        allow_hosts=frozenset(options["allow_hosts"]),
    )
    result = asyncio.run(
        run_async(
            loaded,
            run_options,
            ask=_asker(yes=yes or has_budget),
            observe=None if quiet else _observer(_harmless(loaded.name)),
            on_plan=None if quiet else _show_plan,
            on_notice=None if quiet else _say,
        )
    )
    if as_json:
        _tell_json(result.as_json())
    _say("\n".join(result.lines()) if not as_json else result.lines()[0])
    return result.exit_status


def _asker(*, yes: bool) -> Callable[[Any], bool]:
    """Return what answers before money is spent: the options, else the user, else an error that says what to add."""
    from batchflux.core.budget import usd

    def ask(question: Any) -> bool:
        affordable = question.affordable_cells
        if affordable is not None:
            _say(
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
        _say(f"{question.plan.name}: {cells:,} cells, {images:,} images are left to pay")
        most = usd(question.cost_micro_usd)
        wanted = f"Buy {affordable:,} cells?" if affordable is not None else f"Spend up to {most}?"
        # asyncio turns the first Ctrl-C into a cancelled task, which nobody would notice while the question waits.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return click.confirm(wanted, default=False, err=True)
        finally:
            signal.signal(signal.SIGINT, before)

    return ask


def _show_plan(plan: Any, preflight: Any) -> None:
    from batchflux.app.rundir import is_rehearsal
    from batchflux.core.budget import usd

    for warning in preflight.warnings:
        _say(f"warning: {warning}")
    if plan.kept or plan.retired:
        _say(f"{plan.kept:,} cells kept, {plan.new:,} new, {plan.retired:,} retired; {plan.done:,} done already")
    if plan.to_pay:
        balance = preflight.balance_micro_usd
        of = f" of a balance of {usd(balance)}" if balance is not None else ""
        if is_rehearsal(Path(plan.run_dir)):
            of = " of play money"
        cost = usd(round((plan.cost_usd or 0) * 1_000_000))
        _say(f"{plan.name}: {plan.to_pay:,} cells to pay, {plan.images:,} images, {cost}{of}")


def _observer(name: str) -> Callable[[Any], Any]:
    def make(progress: Any) -> Any:
        from batchflux.engine.observers import Bar, Lines

        return Bar(progress, name=name) if sys.stderr.isatty() else Lines()

    return make


# ------------------------------------------------------------------------------------------------------ looking


@_cli.command(short_help="Say what `run` would do and cost; needs no key.")
@_job
@_out
@_set
@click.option("--against", type=click.Path(path_type=Path, exists=True), metavar="JOB2", help="Compare with another.")
@_json
def plan(job: Path, out: Path | None, settings: tuple[str, ...], against: Path | None, as_json: bool) -> None:
    """Say what `run` would do, and nothing more: cells, cost, time, first requests. Needs no key."""
    from batchflux.app.job import load_job
    from batchflux.app.plan import compare, make_plan

    loaded = load_job(job, _overrides(settings), out=out)
    planned = make_plan(loaded)
    compared = compare(loaded, load_job(against)) if against is not None else None
    if as_json:
        import json
        from dataclasses import asdict

        extra = {"against": asdict(compared)} if compared is not None else {}
        _tell_json(json.dumps({**asdict(planned), **extra}, ensure_ascii=False, indent=1))
        return
    _tell(str(planned))
    if compared is not None:
        _tell(f"  {compared}")
    if planned.first_requests:
        _show_requests(planned.first_requests)


def _show_requests(requests: Sequence[Mapping[str, Any]]) -> None:
    import json

    _tell("  first requests")
    for request in requests:
        body = json.dumps(request["body"], ensure_ascii=False)
        shown = body if len(body) <= 400 else body[:400] + "…"
        _tell(f"    POST {request['model']}  {shown}")


@_cli.command(short_help="Show how a run stands; never disturbs it.")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True))
@click.option("--failed", is_flag=True, help="List the cells that failed, and why.")
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until the run ends.")
@_json
def status(run_dir: Path, failed: bool, watch: bool, as_json: bool) -> None:
    """Show how a run stands: cells by status, rate, cost, errors and what to do about each.

    RUN_DIR is a run directory or its job file. Never disturbs a run at work.
    """
    import time

    from batchflux.app.job import locate_run_dir
    from batchflux.app.status import failed_cells, read_status

    place = locate_run_dir(run_dir)
    while True:
        found, job, known = read_status(place)
        if watch and sys.stdout.isatty():
            click.clear()
        if failed:
            _show_failed(failed_cells(job, known), place, as_json=as_json)
        elif as_json:
            _tell_json(found.as_json())
        else:
            _tell(str(found))
        if not watch or not found.is_at_work:
            return
        time.sleep(2)


def _show_failed(cells: list[dict[str, Any]], run_dir: Path, *, as_json: bool) -> None:
    import json
    from shlex import quote

    if as_json:
        _tell_json(json.dumps(cells, ensure_ascii=False))
        return
    for cell in cells:
        params = ", ".join(f"{name} {value}" for name, value in cell["params"].items())
        line = f"row {cell['row']} ({cell['prompt_id']}), {params}: {cell['error_kind']}: {cell['error']}"
        _tell(" ".join(line.splitlines()))
    _tell(f"next: batchflux run {quote(str(run_dir))} --retry-failed" if cells else "no cell has failed")


@_cli.command(short_help="Check a run directory, and what the account charged.")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True))
@click.option("--account", is_flag=True, help="Also against the service's own history and charges.")
@click.option("--allow-host", "allow_hosts", metavar="HOST", multiple=True, help="Send your key to this API host too.")
@_json
def verify(run_dir: Path, account: bool, allow_hosts: tuple[str, ...], as_json: bool) -> int:
    """Check that every cell is there once, every file whole, the checkpoint sound and the costs right.

    RUN_DIR is a run directory or its job file. Never disturbs a run at work; ends with 1 where something is wrong.
    """
    from batchflux.app.job import locate_run_dir
    from batchflux.app.verify import verify_run

    bar = _file_bar() if sys.stderr.isatty() else None
    place = (
        run_dir if run_dir.is_dir() else locate_run_dir(run_dir)
    )  # one that lacks its papers is checked all the same
    found = verify_run(place, account=account, allow_hosts=frozenset(allow_hosts), on_files=bar)
    click.echo(found.as_json() if as_json else str(found))
    return found.exit_status


def _file_bar() -> Callable[[int, int], None]:
    """Return what shows how far the files are."""
    from tqdm import tqdm

    bar = tqdm(desc="verify", unit=" files", leave=False)

    def show(done: int, total: int) -> None:
        bar.total, bar.n = total, done
        bar.refresh()
        if done >= total:
            bar.close()

    return show


# ------------------------------------------------------------------------------------------------------ the rest


@_cli.command(short_help="Write a run's results as a table.")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), required=True, help="Of the table.")
def export(run_dir: Path, dest: Path, form: str) -> None:
    """Write the results of RUN_DIR (or its job file) as a table to DEST."""
    from batchflux.app.job import locate_run_dir
    from batchflux.export.table import export_table

    rows = export_table(locate_run_dir(run_dir), dest, form="csv" if form == "csv" else "jsonl")
    _say(f"{rows:,} cells written to {dest}")


@_cli.command()
def schema() -> None:
    """Print the job spec's JSON Schema, for editors."""
    path = Path(__file__).parent / "core" / "job.schema.json"
    click.echo(path.read_text(encoding="utf-8"), nl=False)


@_cli.command(short_help="Write a commented starter spec and prompt table.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("job.yaml"))
def init(file: Path) -> None:
    """Write a commented starter spec to FILE [job.yaml], and a prompt table beside it: 4 cells."""
    from shlex import quote

    from batchflux.app.starter import write_starter

    for path in write_starter(file):
        _say(f"wrote {path}")
    shown = quote(str(file))
    _say(f"next: batchflux plan {shown}, then batchflux run {shown} --sandbox")


@_cli.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    short_help="Serve the same API locally, with drawn images.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    """A local server that speaks the same API and draws real images, with latency, limits and faults on demand."""
    from batchflux.sandbox.process import command

    command.main(list(arguments), prog_name="batchflux sandbox", standalone_mode=False)
