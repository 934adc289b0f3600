"""Runs the ordinary command line in processes that can be struck; `python -m tests.kills.victim` serves them.

The server has all imports behind it and forks one process an order, so that a life costs a tenth of a second instead
of a whole one; what runs there is the product's own `main`. An order is a line of JSON on standard input, the process's
end a line on standard output.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.canary import CANARY
from tests.kills.points import Points, Strike

__all__ = ["End", "Victims"]

ROOT = Path(__file__).parents[2]

# Runs here take a second; one that takes this long waits for what will never come, and is told from a killed one.
_PATIENCE_S = 60.0
HUNG = 98


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ended: its exit status (negative: the signal that killed it), its words, its passages by point."""

    status: int
    out: str
    err: str
    passages: dict[str, int]

    @property
    def is_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL

    @property
    def summary(self) -> dict[str, Any]:
        """The closing summary of `--json`."""
        found: dict[str, Any] = json.loads(self.out)
        return found


class Victims:
    """The server, as a context manager: `run` starts one process and returns its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "WAVESPEED_API_KEY": CANARY,
            "OPENBLAS_NUM_THREADS": "1",  # no thread may live when the server forks
            "OMP_NUM_THREADS": "1",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.kills.victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def run(
        self,
        arguments: list[str],
        *,
        run_dir: Path,
        strike: Strike | None = None,
        moment_s: float | None = None,
        limit_bytes: int | None = None,
    ) -> End:
        """Run the command line once. `moment_s`: SIGKILL after so long, from outside; `limit_bytes`: no file grows
        beyond that."""
        out, err, passages = (self._folder / f"victim.{name}" for name in ("out", "err", "passages"))
        for path in (out, err, passages):
            path.write_text("")
        order = {
            "arguments": arguments,
            "run_dir": str(run_dir),
            "strike": None if strike is None else asdict(strike),
            "moment_s": moment_s,
            "limit_bytes": limit_bytes,
            "out": str(out),
            "err": str(err),
            "passages": str(passages),
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        status = json.loads(self._server.stdout.readline())
        counted = json.loads(passages.read_text() or "{}")
        return End(status=status, out=out.read_text(), err=err.read_text(), passages=counted)


# ---------------------------------------------------------------------------------------------- in the server


def run_struck(order: dict[str, Any]) -> NoReturn:
    """Be the program: take the order's place for streams, wrap the points, run `main`. Never returns."""
    for fd, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["out"], os.O_WRONLY | os.O_TRUNC),
        (2, order["err"], os.O_WRONLY | os.O_TRUNC),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, fd)
        os.close(opened)
    if order["limit_bytes"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit_bytes"], resource.RLIM_INFINITY))
    strike = None if order["strike"] is None else Strike(**order["strike"])
    points = Points(Path(order["run_dir"]), strike)
    points.install()
    sys.argv = ["batchflux", *order["arguments"]]
    from batchflux.cli import main

    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(order["passages"]).write_text(json.dumps(points.passages))
        os._exit(end.code if isinstance(end.code, int) else 1)


def _import_all() -> None:
    import pandas  # noqa: F401

    import batchflux.app.job
    import batchflux.app.publish
    import batchflux.app.run
    import batchflux.cli
    import batchflux.engine.local
    import batchflux.io.checkpoint
    import batchflux.io.manifest

    # A run of a second has one seal, at its end: here seals come while it is at work too.
    batchflux.io.checkpoint.SEAL_AFTER_FACTS = 12  # type: ignore[misc]
    batchflux.engine.local.PULSE_S = 0.02


def _serve() -> None:
    _import_all()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        alive, life = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(alive)
            run_struck(order)  # holds `life` open for as long as it lives
        os.close(life)
        moment_s = order["moment_s"]
        is_over = bool(select.select([alive], [], [], _PATIENCE_S if moment_s is None else moment_s)[0])
        if not is_over:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(alive)
        is_hung = not is_over and moment_s is None
        sys.stdout.write(json.dumps(HUNG if is_hung else os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
