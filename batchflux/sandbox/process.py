"""The sandbox as a command: its options, its one line on standard output, and how its process ends.

Decides nothing about the service. Standard output carries exactly one line of JSON; whoever reads it has the address.
`command` is a click command that `batchflux sandbox` and `python -m batchflux.sandbox` share.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from batchflux.core.errors import BatchfluxError, StorageError, UsageError
from batchflux.sandbox.config import Latency, Rate, SandboxConfig, parse_latency, parse_rate
from batchflux.sandbox.faults import NO_FAULTS, FaultScript, parse_fault_script
from batchflux.sandbox.running import serve

__all__ = ["command", "main", "read_fault_script", "run_until_stopped"]

_DEFAULTS = SandboxConfig()

_NOTICE = "batchflux sandbox: this is a sandbox and not the model; it costs nothing and its images are drawn here"


def run_until_stopped(config: SandboxConfig, *, with_parent: bool = False) -> None:
    """Run a sandbox until SIGINT or SIGTERM, and `with_parent` also until standard input ends.

    Prints one line of JSON, `base_url` and `pid`, once it listens. Raises UsageError and StorageError.
    """
    asyncio.run(_run(config, with_parent=with_parent))


def read_fault_script(path: Path) -> FaultScript:
    """Read a script of faults from a YAML or JSON file. Raises UsageError that names the file, and StorageError."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # JSON may be indented with tabs, which YAML forbids.
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: can't be read as YAML or JSON: {error}") from error
    except OSError as error:
        raise StorageError(path, doing="read the fault script", cause=error) from error
    try:
        return parse_fault_script(_with_on(document))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _with_on(document: Any) -> Any:
    """Give rules back their key `on`, which YAML 1.1 reads as the boolean."""
    if isinstance(document, dict):
        return {"on" if key is True else key: _with_on(value) for key, value in document.items()}
    return [_with_on(value) for value in document] if isinstance(document, list) else document


async def _run(config: SandboxConfig, *, with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if not with_parent:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    else:
        # A terminal's Ctrl-C goes to the parent too, which still has answers to hear before it ends, and this with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()
    await serve(config, ready=_announce, stop=stop)


def _announce(base_url: str) -> None:
    click.echo(_NOTICE, err=True)
    click.echo(json.dumps({"base_url": base_url, "pid": os.getpid()}))
    sys.stdout.flush()


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # A thread, since an event loop can't wait on every kind of standard input. Whatever kills the parent closes it.
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # a signal has ended the loop already
        loop.call_soon_threadsafe(stop.set)


def _parse_failure(text: str) -> tuple[int, float]:
    code, _, share = text.partition("=")
    try:
        return int(code), float(share)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not CODE=SHARE, such as 5000=0.02") from error


@click.command("sandbox", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--port", default=0, help="Port on 127.0.0.1; 0 takes the last one used with --state, or a free one.")
@click.option("--state", "state_dir", type=click.Path(path_type=Path, file_okay=False), help="Keep its memory here.")
@click.option("--latency", metavar="MEDIAN[,SIGMA]", help="Seconds a prediction takes; 0 is at once. [0.8,0.35]")
@click.option("--guidance-latency", default=0.0, help="Growth of the latency for each unit of guidance.")
@click.option("--concurrency", default=_DEFAULTS.concurrency, show_default=True, help="At work at once; 0: no limit.")
@click.option("--rate", metavar="N/min", help="Images started at most: N/s, N/min or N/h.")
@click.option(
    "--over-limit",
    type=click.Choice(["queue", "refuse"]),
    default="queue",
    show_default=True,
    help="What becomes of a submission over a limit.",
)
@click.option("--retry-after", is_flag=True, help="Say in a refusal how long to wait.")
@click.option(
    "--failure",
    "failures",
    metavar="CODE=SHARE",
    type=_parse_failure,
    multiple=True,
    help="Let a share of predictions fail.",
)
@click.option(
    "--nsfw", "nsfw_share", metavar="SHARE", default=0.0, help="Flag a share of images, alike for equal requests."
)
@click.option(
    "--drift",
    "drift_share",
    metavar="SHARE",
    default=0.0,
    help="Draw a share of predictions otherwise than their seed.",
)
@click.option("--faults", type=click.Path(path_type=Path, dir_okay=False), help="A YAML or JSON script of faults.")
@click.option("--seed", default=0, show_default=True, help="Seed of its latencies and faults.")
@click.option(
    "--schema",
    type=click.Choice(["page", "today"]),
    default="page",
    show_default=True,
    help="Parameters it takes: the model page's, or those still listed.",
)
@click.option("--image-size", default=_DEFAULTS.image_size, show_default=True, help="Long side in pixels.")
@click.option(
    "--image-format", type=click.Choice(["png", "jpeg"]), default="png", show_default=True, help="What it draws."
)
@click.option("--require-key", metavar="KEY", help="Refuse any other key.")
@click.option("--no-inputs", is_flag=True, help="Leave inputs out of the history.")
@click.option("--balance", "balance_usd", default=_DEFAULTS.balance_usd, help="USD on the account.")
@click.option("--with-parent", is_flag=True, help="End when standard input does.")
def command(**options: Any) -> None:
    """A local server that speaks the API of the service and draws real images. It is not the model."""
    with_parent = bool(options.pop("with_parent"))
    run_until_stopped(_config_of(options), with_parent=with_parent)


def _config_of(options: dict[str, Any]) -> SandboxConfig:
    latency, per_guidance = options.pop("latency"), options.pop("guidance_latency")
    read = Latency() if latency is None else parse_latency(latency)
    rate: str | None = options.pop("rate")
    faults: Path | None = options.pop("faults")
    limited: Rate | None = None if rate is None else parse_rate(rate)
    return SandboxConfig(
        latency=Latency(median_s=read.median_s, sigma=read.sigma, per_guidance=per_guidance),
        rate=limited,
        concurrency=options.pop("concurrency") or None,
        failures=dict(options.pop("failures")),
        faults=NO_FAULTS if faults is None else read_fault_script(faults),
        history_inputs="absent" if options.pop("no_inputs") else "on",
        **options,
    )


def main() -> None:
    """Run the command and exit: 2 for what can't be, as click does, 4 where the disk says no."""
    try:
        command(prog_name="batchflux sandbox")
    except BatchfluxError as error:
        click.echo(f"batchflux sandbox: {error}", err=True)
        sys.exit(error.exit_status)
