"""How soon a run begins and a finished one ends: `python -m tests.benchmarks.start [FOLDER]`. FOLDER keeps the data.

The jobs are of 2 million cells (200,000 rows × 10 seeds) and 10 million; making their run directories takes minutes.
"""

import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.benchmarks.made import finish_cells, make_job
from tests.benchmarks.measure import Listener, Measured, measure
from tests.benchmarks.table import Row, lines

_MILLION = 1_000_000


def run(scale: float = 1.0, *, folder: Path | None = None) -> list[Row]:
    """Measure; some seven minutes, one where `folder` holds the data already."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="batchflux-start-") as place:
            return run(scale, folder=Path(place))
    million = max(30, round(_MILLION * scale))
    return [*imports(), *first_submissions(folder, rows=million // 5, done=million), *reruns(folder, cells=million)]


def imports() -> list[Row]:
    """Measure the commands that load nothing heavy, the median of nine."""
    rows = []
    for name in ("--help", "schema"):
        took = [measure(["batchflux", name]).seconds for _ in range(9)]
        rows.append(Row(name=f"batchflux {name}", value=statistics.median(took), unit="s", target="<= 0.25"))
    return rows


def first_submissions(folder: Path, *, rows: int = 200_000, seeds: int = 10, done: int = _MILLION) -> list[Row]:
    """Measure from the command to its first POST: of a new job, of one half done, of ten million facts."""
    found = []
    for name, n_rows, n_done, target in (
        ("new", rows, 0, "<= 3"),
        ("half", rows, done, "<= 10"),
        ("facts10m", 5 * rows, done * 10 // 3, ""),
    ):
        job = _job(folder, name, rows=n_rows, seeds=seeds, done=n_done)
        took = _until_first_post(job)
        what = f"{n_rows * seeds:,} cells, {n_done:,} done"
        first_s = took.first_post_s or -1.0
        found.append(Row(name=f"first submission of {what}", value=first_s, unit="s", target=target))
        limit = "<= 400" if n_rows > rows else "<= 300"
        found.append(
            Row(
                name=f"peak memory until then, {what} (CPU {took.cpu_s:.1f} s)",
                value=took.peak_mb,
                unit="MB",
                target=limit,
            )
        )
    return found


def reruns(folder: Path, *, cells: int = _MILLION) -> list[Row]:
    """Measure a run of a job whose cells are all done: the first writes the manifest, the second has nothing to do."""
    job = _job(folder, "finished", rows=cells // 10, seeds=10, done=cells)
    found = []
    with Listener() as listener:  # the same for both: another port is another spec, and so another manifest
        for what, target in (("writing the manifest", ""), ("again", "<= 5")):
            took = measure(["batchflux", "run", str(_at_port(job, listener.port)), "--yes", "--quiet"])
            if took.status != 0:
                raise RuntimeError(took.out)
            found.append(
                Row(name=f"rerun of {cells:,} finished cells, {what}", value=took.seconds, unit="s", target=target)
            )
            found.append(
                Row(
                    name=f"peak memory of the rerun, {what} (CPU {took.cpu_s:.1f} s)",
                    value=took.peak_mb,
                    unit="MB",
                    target="<= 300",
                )
            )
            found.append(Row(name=f"requests of the rerun, {what}", value=listener.requests, unit="", target="0"))
    return found


def _until_first_post(job: Path) -> Measured:
    """Measure on a copy of what the run left: the next one would first wait for what this one submitted."""
    left, kept = job.parent / "runs", job.parent / "kept"
    if left.exists():
        shutil.copytree(left, kept)
    try:
        with Listener() as listener:
            arguments = ["batchflux", "run", str(_at_port(job, listener.port)), "--yes", "--quiet", "-j", "1"]
            return measure(arguments, until_post=listener)
    finally:
        shutil.rmtree(left)
        if kept.exists():
            kept.rename(left)


def _job(folder: Path, name: str, *, rows: int, seeds: int, done: int) -> Path:
    """Return a job with so many cells done, made where the folder doesn't hold it; one without starts anew."""
    job = folder / name / f"{name}.yaml"
    if not job.exists():
        # In a process of its own: what is measured inherits its starter's peak memory.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            other.submit(_make, folder / name, rows=rows, seeds=seeds, name=name, done=done).result()
    if not done:
        shutil.rmtree(folder / name / "runs", ignore_errors=True)
    return job


def _make(folder: Path, *, rows: int, seeds: int, name: str, done: int) -> None:
    made = make_job(folder, rows=rows, seeds=seeds, name=name)
    if done:
        finish_cells(made, cells=done)


def _at_port(job: Path, port: int) -> Path:
    """Return the job with its service at another port, under which its run directory was begun."""
    for path in [job, *job.parent.glob("runs/*/run.json")]:
        lines = path.read_text().split("127.0.0.1:")
        path.write_text(lines[0] + "".join(f"127.0.0.1:{port}{rest.lstrip('0123456789')}" for rest in lines[1:]))
    return job


if __name__ == "__main__":
    given = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None
    sys.stdout.write("\n".join(lines(run(folder=given))) + "\n")
