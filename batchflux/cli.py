"""The command line: verbs, options, exit statuses. The only place that catches everything; it decides nothing.

Standard output carries results, standard error everything else. Heavy modules are imported by the verb that needs them.
"""

import os
import resource
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

import batchflux
from batchflux.core.errors import BatchfluxError
from batchflux.export.command import build_options, export_options
from batchflux.screen import (
    asker,
    counting_bar,
    export_progress,
    observer,
    say,
    show_failed,
    show_plan,
    show_requests,
    tell,
    tell_json,
)

__all__ = ["main"]

_ISSUES = "this is a bug in batchflux; what was durable is safe, and the same command goes on. Please report:"


def main() -> NoReturn:
    """Run the command line and exit."""
    _fill_closed_streams()
    # A crash must write no image of this process's memory, which holds the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Arrow's own allocators keep what they were given back: 80 MB of a run of a million cells.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
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
        say("stopped")
        sys.exit(130)
    except BatchfluxError as error:
        say(f"batchflux: {error}" if "\n" not in str(error) else str(error))
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # Whoever read standard output has left, as `head` does; the interpreter's own flush must not complain too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("BATCHFLUX_LOG", "").lower() == "debug":
            raise
        say("\n".join([f"batchflux: {_ISSUES}", *_causes(error), "  (BATCHFLUX_LOG=debug shows the way there)"]))
        sys.exit(4)
    sys.exit(status if isinstance(status, int) else 0)


def _fill_closed_streams() -> None:
    """Open what the caller closed (`2>&-`), in order: else a file of the run gets the number of standard error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lasts


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(batchflux.__version__, message="batchflux %(version)s")
def _cli() -> None:
    """Turn a prompt table into a finished image dataset, paying for no cell twice.

    Start with `batchflux init`, then `batchflux plan` and `batchflux run --sandbox`.
    """


def _causes(error: BaseException) -> list[str]:
    """Return what went wrong and where, a line for each: of a group, each of those within."""
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _causes(each)]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return [f"  {type(error).__name__}: {error}{place}"]


_job = click.argument("job", type=click.Path(path_type=Path, exists=True))
_out = click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Another run directory.")
_set = click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any spec key, dotted; repeatable.")
_REDO = "Draw the cells of this file anew with other seeds, beside the run, instead of running it."
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
@click.option("--redo", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="PICKS.CSV", help=_REDO)
@click.option("--allow-host", "allow_hosts", metavar="HOST", multiple=True, help="Send your key to this API host too.")
@click.option("--notify", metavar="URL", help="POST the closing summary there when the run ends or stops.")
@click.option("--notify-command", metavar="CMD", help="Run this then, with the summary on its standard input.")
@click.option("--yes", is_flag=True, help="Don't ask before spending.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@_json
def run(job: Path, out: Path | None, settings: tuple[str, ...], concurrency: int | None, **options: Any) -> int:
    """Run a job to its end, or go on where an earlier run of it stopped; safe to repeat.

    JOB is a job file, or a run directory, which goes on with exactly the spec and table that it holds.
    """
    from batchflux.app.eventloop import run_to_end
    from batchflux.app.job import load_job
    from batchflux.app.run import RunOptions, run_async
    from batchflux.io.notify import Notifier

    loaded = load_job(job, _overrides(settings, concurrency), out=out)
    notifier = Notifier(url=options["notify"], command=options["notify_command"], key_env=loaded.spec.api.key_env)
    for warning in loaded.warnings:
        say(f"warning: {warning}")
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
        redo=options["redo"],
        allow_hosts=frozenset(options["allow_hosts"]),
    )
    with notifier.on_error(loaded.name, loaded.run_dir, say):
        result = run_to_end(
            run_async(
                loaded,
                run_options,
                ask=asker(yes=yes or has_budget),
                observe=None if quiet else observer(loaded.name),
                on_plan=None if quiet or run_options.download_only else show_plan,  # it pays for nothing
                on_notice=None if quiet else say,
            )
        )
    if as_json:
        tell_json(result.as_json())
    say("\n".join(result.lines()) if not as_json else result.lines()[0])
    notifier.tell(result.as_json(), name=result.name, run_dir=result.run_dir, exit_status=result.exit_status, say=say)
    return result.exit_status


# ------------------------------------------------------------------------------------------------------ looking


@_cli.command(short_help="Say what `run` would do and cost; needs no key.")
@_job
@_out
@_set
@click.option("--against", type=click.Path(path_type=Path, exists=True), metavar="JOB2", help="Compare with another.")
@_json
def plan(job: Path, out: Path | None, settings: tuple[str, ...], against: Path | None, as_json: bool) -> None:
    """Say what `run` would do, and nothing more: cells, cost, time, first requests. Needs no key."""
    from batchflux.app.compare import compare
    from batchflux.app.job import load_job
    from batchflux.app.plan import make_plan

    loaded = load_job(job, _overrides(settings), out=out)
    other = load_job(against) if against is not None else None
    planned = make_plan(loaded, against=other)
    compared = compare(loaded, other) if other is not None else None
    if as_json:
        import json
        from dataclasses import asdict

        extra = {"against": asdict(compared)} if compared is not None else {}
        tell_json(json.dumps({**asdict(planned), **extra}, ensure_ascii=False, indent=1))
        return
    tell(str(planned))
    if compared is not None:
        tell(f"  {compared}")
    if planned.first_requests:
        show_requests(planned.first_requests)


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
            show_failed(failed_cells(job, known), place, as_json=as_json)
        elif as_json:
            tell_json(found.as_json())
        else:
            tell(str(found))
        if not watch or not found.is_at_work:
            return
        time.sleep(2)


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

    bar = counting_bar("verify", "files") if sys.stderr.isatty() else None
    place = (
        run_dir if run_dir.is_dir() else locate_run_dir(run_dir)
    )  # one that lacks its papers is checked all the same
    found = verify_run(place, account=account, allow_hosts=frozenset(allow_hosts), on_files=bar)
    if as_json:
        tell_json(found.as_json())
    else:
        tell(str(found))
    return found.exit_status


# ------------------------------------------------------------------------------------------------------ the rest


@_cli.command(short_help="Write a run's page: its grid, gallery and statistics.")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True))
@click.option("--live", is_flag=True, help="Serve the page on this machine and let it follow the run, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where --live listens; default: a free port.")
@_json
def report(run_dir: Path, live: bool, port: int, as_json: bool) -> None:
    """Write report.html into RUN_DIR (or its job file's): a gallery of the grid, with timings, statistics and failures.

    Never disturbs a run at work. With --live, serve it instead, at an address for this machine alone, with how the
    run stands: also after a crash. With --json, print the statistics and write nothing.
    """
    from batchflux.app.job import locate_run_dir
    from batchflux.app.reporting import report_json, write_report

    if live and as_json:
        raise click.UsageError("--live serves a page and --json prints figures: take one of them")
    if port and not live:
        raise click.UsageError("--port goes with --live")
    place = locate_run_dir(run_dir)
    if live:
        import asyncio

        from batchflux.app.live import follow_run

        asyncio.run(follow_run(place, port=port, on_ready=lambda address: tell(f"{address}  (Ctrl-C ends it)")))
        return
    if as_json:
        tell_json(report_json(place))
        return
    tell(str(write_report(place)))


@_cli.command(short_help="Write a run's results as a dataset.")
@click.argument("run_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("dest", type=click.Path(path_type=Path), required=False)
@export_options
def export(run_dir: Path, dest: Path | None, **asked: Any) -> None:
    """Write the results of RUN_DIR (or its job file) to DEST: a folder of images and metadata, or a table."""
    from batchflux.app.job import locate_run_dir
    from batchflux.app.publish import is_manifest_current
    from batchflux.export.run import export_run

    to, options = build_options(dest, asked)
    place = locate_run_dir(run_dir)
    if (place / "manifest.parquet").exists() and not is_manifest_current(place):
        say("note: the run has gone on since its manifest was written; batchflux run brings it up to date")
    exported = export_run(place, to, options, on_cells=export_progress())
    say("\n".join(exported.lines()))


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
        say(f"wrote {path}")
    shown = quote(str(file))
    say(f"next: batchflux plan {shown}, then batchflux run {shown} --sandbox")


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
