"""batchflux against a bare aiohttp loop that submits and polls and keeps no books, on a server that answers at once.

Also what a connection for each submission costs the bare loop, on plain http and on TLS: asyncio resumes no TLS
session, so each is a whole handshake. Runs are interleaved, each in a fresh process; ratios are of neighbours.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measured import Speed, run_batchflux, run_program
from tests.benchmarks.server import ZeroLatency
from tests.benchmarks.table import Row, compared

__all__ = ["run"]

_CELLS = 5_000
_ROUNDS = 3
_LEAST_TLS_SCALE = 0.01  # below it the command is only tried out
# The bare loop asks at once and needs no more than 50; batchflux waits 50 ms before it asks, and so has more in flight.
_IN_FLIGHT = 256


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about three minutes."""
    cells, rounds = max(50, round(_CELLS * scale)), _ROUNDS if scale >= 1 else 1
    with ZeroLatency() as server:
        plain = _rounds(server, cells=cells, rounds=rounds)
    rows = _rows(plain, f"on {server.name}")
    if scale >= _LEAST_TLS_SCALE and shutil.which("openssl"):
        with ZeroLatency(tls=True) as server:
            rows += _rows(_rounds(server, cells=cells // 2, rounds=rounds), f"on {server.name} with TLS")
    return rows


def _rounds(server: ZeroLatency, *, cells: int, rounds: int) -> dict[str, list[Speed]]:
    found: dict[str, list[Speed]] = {"batchflux": [], "bare": [], "bare-closing": []}
    for _ in range(rounds):
        for name, speeds in found.items():
            with tempfile.TemporaryDirectory(prefix="batchflux-speed-") as folder:
                if name == "batchflux":
                    speed = run_batchflux(
                        server.base_url, cells=cells, folder=Path(folder), in_flight=_IN_FLIGHT, ca=server.ca_file
                    )
                else:
                    speed = run_program(name, server.base_url, cells=cells, folder=Path(folder), ca=server.ca_file)
            speeds.append(speed)
    return found


def _rows(found: dict[str, list[Speed]], where: str) -> list[Row]:
    rate: Callable[[Speed], float] = lambda speed: speed.cells_per_s  # noqa: E731
    cpu: Callable[[Speed], float] = lambda speed: speed.cpu_ms  # noqa: E731
    rows = []
    for name, label in (("batchflux", "batchflux"), ("bare-closing", "bare loop, a connection a POST")):
        for unit, figure in (("cells/s", rate), ("ms CPU a cell", cpu)):
            rows.append(
                compared(
                    f"{label} {where}",
                    [figure(speed) for speed in found[name]],
                    unit,
                    baseline="bare loop",
                    against=[figure(speed) for speed in found["bare"]],
                    target=(">= 0.65" if unit == "cells/s" else "<= 2") if name == "batchflux" else "",
                )
            )
    return rows
