"""Peak memory of a run's whole life by its number of cells: `python -m tests.benchmarks.memory [FOLDER]`.

A feeder stands for the service and the engine: it gives every cell's facts to the real checkpoint and the real books,
as fast as they take them, refreshes the manifest in between and ends as a run ends. What looks at a run afterwards is
the real command.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from batchflux.app.job import load_job
from batchflux.app.publish import publish_results
from batchflux.app.reading import read_known
from batchflux.app.rundir import RunIdentity, freeze_job
from batchflux.app.summary import summarise
from batchflux.core.progress import Progress
from batchflux.io.checkpoint import CheckpointWriter
from tests.benchmarks.made import lives, make_job
from tests.benchmarks.measure import measure
from tests.benchmarks.table import Row, lines


def run(scale: float = 1.0, *, folder: Path | None = None) -> list[Row]:
    """Measure two million cells whole, and ten million for ten minutes at 1,000 cells a second; some five minutes."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="batchflux-memory-") as place:
            return run(scale, folder=Path(place))
    rows = []
    for name, full_rows, full_cells, target in (
        ("run100k", 10_000, 100_000, ""),
        ("run2m", 200_000, 2_000_000, "<= 300"),
        ("run10m", 1_000_000, 600_000, "<= 400"),
    ):
        n_rows, cells = max(10, round(full_rows * scale)), max(60, round(full_cells * scale))
        shutil.rmtree(folder / name, ignore_errors=True)
        job = make_job(folder / name, rows=n_rows, seeds=10, name=name)
        for what in (
            ["tests.benchmarks.memory", "feed", str(job), str(cells)],
            ["batchflux", "status", str(job.parent / "runs" / name)],
            ["batchflux", "verify", str(job.parent / "runs" / name)],
        ):
            took = measure(what)
            if took.status:
                raise RuntimeError(took.out)
            text = f"{what[1]}, {cells:,} of {n_rows * 10:,} cells ({took.seconds:.0f} s, CPU {took.cpu_s:.0f} s)"
            rows.append(Row(name=text, value=took.peak_mb, unit="MB", target=target))
    return rows


def feed(job_file: Path, cells: int) -> None:
    """Live a run's life without a service."""
    job = load_job(job_file)
    identity = RunIdentity.open(job.run_dir, origin=job.spec.api.origin)
    known = read_known(job.grid, job.run_dir, identity)
    job = freeze_job(job)
    started = time.monotonic()

    async def live() -> None:
        progress = Progress.of(known.statuses)
        async with CheckpointWriter.open(job.run_dir, identity.run_id) as sink:
            for number, (index, facts) in enumerate(islice(lives(job), cells), start=1):
                for fact in facts:
                    sink.record(fact)
                    # Moments of the last two minutes are kept: as many as at that rate, and not as it is fed.
                    progress.apply(index, fact, now_s=number / 1000)
                if number % 1000 == 0:
                    await sink.seal_if_due(time.monotonic())
                if number == cells // 2:
                    await asyncio.to_thread(publish_results, job, known, base_url="http://127.0.0.1/api/v3")

    asyncio.run(live())
    left = read_known(job.grid, job.run_dir, identity)
    publish_results(job, left, base_url="http://127.0.0.1/api/v3")
    sys.stdout.write(f"{summarise(job, left, stop=None, started=started, spent_before=0)}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["feed"]:
        feed(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        given = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None
        sys.stdout.write("\n".join(lines(run(folder=given))) + "\n")
