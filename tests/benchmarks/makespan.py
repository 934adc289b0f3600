"""How long a job takes on a service with a limit that nobody tells, against the least that its slots allow.

The sandbox works on so many predictions at once and queues or refuses the rest; ideal is the time in which its slots,
never idle, would have done what it says each prediction took. From the first intent to the last outcome. Where it
refuses, a slot stays empty until the next intent is on the disk and sent: what a flush took meanwhile is shown too.
"""

import heapq
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np

from batchflux.io.checkpoint import read_facts
from batchflux.sandbox import SandboxProcess
from tests.benchmarks.measured import environment, write_job
from tests.benchmarks.table import Row

__all__ = ["run"]

_SLOTS = 50
_CELLS = 1000  # some 45 s at 50 slots
_PROBE_EVERY_S = 0.25
_TARGETS = {"queue": "<= 1.02", "refuse": "<= 1.10"}


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about two minutes."""
    return [row for over_limit in _TARGETS for row in _measure(over_limit, cells=max(60, round(_CELLS * scale)))]


def _measure(over_limit: str, *, cells: int) -> list[Row]:
    options = ["--latency", "2,0.5" if cells >= _CELLS else "0.2,0.5", "--concurrency", str(_SLOTS)]
    with (
        tempfile.TemporaryDirectory(prefix="batchflux-makespan-") as folder,
        SandboxProcess([*options, "--over-limit", over_limit]) as sandbox,
        _DiskProbe(Path(folder) / "probe") as probe,
    ):
        job = write_job(Path(folder), base_url=sandbox.base_url, cells=cells)
        command = [sys.executable, "-m", "batchflux", "run", str(job), "--quiet"]
        subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=500)
        facts = read_facts(Path(folder) / "runs" / job.stem, columns=["at", "inference_ms"])
    at_ms = np.asarray(facts["at"].cast("int64"))
    ideal_s = _ideal_s([ms / 1000 for ms in facts["inference_ms"].drop_null().to_pylist()])
    took_s = float(at_ms.max() - at_ms.min()) / 1000
    makespan = Row(
        name=f"{cells:,} cells on {_SLOTS} hidden slots, median 2 s, sigma 0.5, the service would {over_limit}",
        value=took_s,
        unit="s",
        baseline="ideal",
        baseline_value=ideal_s,
        ratio=took_s / ideal_s,
        target=_TARGETS[over_limit],
    )
    return [makespan, Row(name="a flush to its disk meanwhile, mean", value=1000 * probe.mean_s, unit="ms")]


class _DiskProbe(threading.Thread):
    """Flushes a few bytes now and then, beside the run that does the same, and takes the time."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path, self._over = path, threading.Event()
        self._took_s: list[float] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while True:
                began_s = time.perf_counter()
                file.write(bytes(64))
                os.fsync(file.fileno())
                self._took_s.append(time.perf_counter() - began_s)
                if self._over.wait(_PROBE_EVERY_S):
                    return

    @property
    def mean_s(self) -> float:
        return sum(self._took_s) / len(self._took_s)


def _ideal_s(times_s: list[float]) -> float:
    """Return when the last one is done where each takes the first slot that is free."""
    free_at_s = [0.0] * _SLOTS
    for time_s in times_s:
        heapq.heappush(free_at_s, heapq.heappop(free_at_s) + time_s)
    return max(free_at_s)
