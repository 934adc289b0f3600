"""Submissions beside downloads: a run at the largest account's rate with images, against the same one without.

Downloads must change neither how fast a run submits nor, by much, how late its event loop is. The server answers at
once and has an image of a megapixel for each prediction.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.downloads import jpeg, png
from tests.benchmarks.measured import environment
from tests.benchmarks.server import ZeroLatency
from tests.benchmarks.table import Row, compared

__all__ = ["run"]

_CELLS = 600
_ROUNDS = 3
_RATE = "5000/min"
_LOOK_EVERY_S = 0.005
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    submissions_per_s: float
    lag_ms: float
    """The 99th percentile of how late the event loop was."""


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about two minutes. Nothing is measured without nginx."""
    if not shutil.which("nginx"):
        sys.stdout.write("needs nginx\n")
        return []
    cells, rounds = max(10, round(_CELLS * scale)), _ROUNDS if scale >= 1 else 1
    return [row for data in (png(), jpeg()) for row in _rows(data, cells=cells, rounds=rounds)]


def _rows(data: bytes, *, cells: int, rounds: int) -> list[Row]:
    without: list[_Run] = []
    beside: list[_Run] = []
    with ZeroLatency(image=data) as server:
        for _ in range(rounds):
            for downloads, found in ((False, without), (True, beside)):
                with tempfile.TemporaryDirectory(prefix="batchflux-beside-") as folder:
                    found.append(_fresh(Path(folder), server.base_url, cells=cells, downloads=downloads))
    what = f"images of {len(data) / 1e6:.1f} MB"
    rate: Callable[[_Run], float] = lambda each: each.submissions_per_s  # noqa: E731
    lag: Callable[[_Run], float] = lambda each: each.lag_ms  # noqa: E731
    return [
        compared(
            f"{name} beside {what}",
            list(map(figure, beside)),
            unit,
            baseline="without",
            against=list(map(figure, without)),
            target=target,
        )
        for name, unit, figure, target in (
            ("submissions", "a second", rate, ">= 0.99"),
            ("event loop late", "ms (99 %)", lag, ""),
        )
    ]


def _fresh(folder: Path, base_url: str, *, cells: int, downloads: bool) -> _Run:
    spec = {
        "api": {"base_url": base_url},
        "prompts": {"path": "prompts.csv"},
        "params": {"seed": 1},
        "run": {"rate_limit": _RATE},
        "output": {"dir": "out", "download": downloads},
    }
    (folder / "prompts.csv").write_text("prompt\n" + "".join(f"a kite {n}\n" for n in range(cells)))
    (folder / "job.yaml").write_text(json.dumps(spec))  # JSON is YAML
    command = [sys.executable, "-m", "tests.benchmarks.beside", str(folder / "job.yaml")]
    done = subprocess.run(
        command, cwd=_ROOT, env=environment(), check=True, capture_output=True, text=True, timeout=300
    )
    return _Run(**json.loads(done.stdout))


# ------------------------------------------------------------------------------- in a fresh process, imports left out


async def _watched(job_file: Path) -> _Run:
    import batchflux

    late_s: list[float] = []

    async def look() -> None:
        while True:
            before_s = time.perf_counter()
            await asyncio.sleep(_LOOK_EVERY_S)
            late_s.append(time.perf_counter() - before_s - _LOOK_EVERY_S)

    job = batchflux.load_job(job_file)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        result = await batchflux.run_async(job)
        looking.cancel()
    if result.exit_status != 0:
        raise RuntimeError(f"the run ended with {result.exit_status}")
    return _Run(
        submissions_per_s=_submissions_per_s(job.run_dir), lag_ms=1000 * sorted(late_s)[len(late_s) * 99 // 100]
    )


def _submissions_per_s(run_dir: Path) -> float:
    from batchflux.io.checkpoint import read_facts

    facts = read_facts(run_dir, columns=["kind", "at"]).to_pylist()
    at: list[float] = sorted(fact["at"].timestamp() for fact in facts if fact["kind"] == "intent")
    return (len(at) - 1) / (at[-1] - at[0])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(asyncio.run(_watched(Path(sys.argv[1]))))) + "\n")
