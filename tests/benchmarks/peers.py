"""batchflux against the official SDK in a pool of 50 threads, and against what people write today, as jobs grow.

All three submit and poll on a server that answers at once; the naive script keeps its status in a DataFrame that it
writes whole every 50 results, the SDK keeps nothing. Each in a fresh process, in turn.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.measured import Speed, run_batchflux, run_program
from tests.benchmarks.plot import Bars, bar_chart
from tests.benchmarks.server import ZeroLatency
from tests.benchmarks.table import Row, compared

__all__ = ["draw", "run"]

_SIZES = (1_000, 10_000, 50_000)
_ROUNDS = {1_000: 3, 10_000: 1, 50_000: 1}
_LABELS = {"sdk": "official SDK, 50 threads", "naive": "script, DataFrame and semaphore"}


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about ten minutes."""
    rows = []
    names = [name for name in _LABELS if name != "sdk" or find_spec("wavespeed") is not None]
    with ZeroLatency() as server:
        for size in _SIZES:
            cells, rounds = max(20, round(size * scale)), _ROUNDS[size] if scale >= 1 else 1
            found: dict[str, list[Speed]] = {name: [] for name in ("batchflux", *names)}
            for _ in range(rounds):
                for name, speeds in found.items():
                    speeds.append(_measure(name, server.base_url, cells))
            rows += _rows(found, names, cells)
    return rows


def _measure(name: str, base_url: str, cells: int) -> Speed:
    with tempfile.TemporaryDirectory(prefix="batchflux-peers-") as folder:
        if name == "batchflux":
            return run_batchflux(base_url, cells=cells, folder=Path(folder), in_flight=256, ca=None)
        return run_program(name, base_url, cells=cells, folder=Path(folder), ca=None)


def _rows(found: dict[str, list[Speed]], names: list[str], cells: int) -> list[Row]:
    rows = []
    for name in names:
        for unit in ("cells/s", "ms CPU a cell"):
            is_rate = unit == "cells/s"
            target = {"naive": "> 1 at every size", "sdk": ""} if is_rate else {"naive": "", "sdk": "<= 0.2"}
            rows.append(
                compared(
                    f"batchflux, {cells:,} cells",
                    [speed.cells_per_s if is_rate else speed.cpu_ms for speed in found["batchflux"]],
                    unit,
                    baseline=_LABELS[name],
                    against=[speed.cells_per_s if is_rate else speed.cpu_ms for speed in found[name]],
                    target=target[name],
                )
            )
    return rows


def draw(rows: list[Row]) -> str:
    """Return the plot of the README: cells a second of each, as jobs grow."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.unit == "cells/s" and row.baseline_value is not None:
            bars = groups.setdefault(row.name.removeprefix("batchflux, "), {"batchflux": row.value})
            bars[row.baseline] = row.baseline_value
    chart = Bars(title="Cells a second on a server that answers at once", unit="cells/s", groups=groups)
    return bar_chart(chart)
