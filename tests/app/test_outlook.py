"""What `plan` forecasts, and by whose measurements: the run's own, a reused run's, or one that it is compared with."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from batchflux.app.job import Job, load_job
from batchflux.app.plan import make_plan
from batchflux.app.rundir import RunIdentity
from batchflux.app.work import work_of
from batchflux.core.learned import Learned
from batchflux.core.model import CellStatus, FactKind
from batchflux.core.steps import CellState
from batchflux.io.checkpoint import CheckpointWriter
from batchflux.io.limitsfile import write_limits
from tests.io.durable import make_fact

_BEGAN_MS = 1_760_000_000_000


def _job(folder: Path, *, n: int, more: str = "") -> Job:
    """A job of `n` cells."""
    folder.mkdir(exist_ok=True)
    (folder / "p.csv").write_text("prompt\nAn owl\n")
    seeds = list(range(n))
    output = "{dir: out, download: false}"
    (folder / "job.yaml").write_text(f"prompts: {{path: p.csv}}\ngrid: {{seed: {seeds}}}\noutput: {output}\n{more}")
    return load_job(folder / "job.yaml")


async def _run(job: Job, *, n: int, every_s: int, failed: int = 0) -> None:
    """Let `n` cells have ended, one every so many seconds, 5 s after they were sent; the first `failed` failed."""
    identity = RunIdentity.open(job.run_dir, origin=job.spec.api.origin)
    async with CheckpointWriter.open(job.run_dir, identity.run_id) as writer:
        for index in range(n):
            at_ms = _BEGAN_MS + index * every_s * 1000
            cell_id = work_of(job, index, CellState()).cell.cell_id
            intent = make_fact(index, kind=FactKind.INTENT, status=CellStatus.UNKNOWN, attempts=0, prediction_id=None)
            writer.record(replace(intent, cell_id=cell_id, at_ms=at_ms - 5000, completed_at_ms=None))
            status = CellStatus.FAILED if index < failed else CellStatus.COMPLETED
            end = make_fact(index, status=status)
            writer.record(
                replace(end, cell_id=cell_id, at_ms=at_ms, completed_at_ms=at_ms, submitted_at_ms=at_ms - 5000)
            )


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    """A new job has the account levels' times and no forecast; nothing left to do has no need of one."""
    plan = make_plan(_job(tmp_path, n=30))
    assert plan.forecast is None
    assert "none: no run was measured yet" in dict(plan.lines())["forecast"]
    assert "bronze" in dict(plan.lines())["time at least"]


def test_its_own_run_is_measured(tmp_path: Path) -> None:
    """Cells left at the pace of those that ended, the failed too, with the limit that the run met."""
    job = _job(tmp_path, n=4100)
    asyncio.run(_run(job, n=100, every_s=12, failed=10))
    met = Learned(at_ms=1, slots=None, found_by=None, images_per_s=5 / 60, in_flight=1, is_hungry=True)
    write_limits(job.run_dir, met)
    plan = make_plan(job)
    ahead = plan.forecast
    assert ahead is not None
    assert (ahead.cells, ahead.measured_cells, ahead.measured_s) == (4000, 100, 1200)
    assert ahead.p50_s == 4000 * 12 + 5
    assert ahead.p50_s < ahead.p90_s < 2 * ahead.p50_s
    assert 1200 < ahead.night_cells_p90 < ahead.night_cells_p50 == (8 * 3600 - 5) // 12
    lines = dict(plan.lines())
    assert lines["limit"] == plan.limit == "5 images/min (learned from refusals)"
    assert lines["forecast"].startswith("4,000 cells: half of such nights are through in 13 h 20 min, nine in ten in ")
    assert lines["in 8 h"].startswith("2,399 cells (nine in ten nights at least 1,")
    assert lines["measured"] == "100 cells in 20 min at work, here"
    assert json.loads(plan.as_json())["forecast"]["p90_s"] == ahead.p90_s


def test_the_jobs_own_limits_hold_it_back(tmp_path: Path) -> None:
    """A rate below what was measured, or fewer at once than it took, binds and makes the night longer."""
    job = _job(tmp_path, n=200, more="run: {rate_limit: 1/min}\n")
    asyncio.run(_run(job, n=100, every_s=2))
    slow = make_plan(job)
    assert slow.forecast is not None
    assert (slow.limit, slow.forecast.p50_s) == ("your rate_limit, 1 images/min", 100 * 60 + 5)
    few = make_plan(load_job(tmp_path / "job.yaml", {"run.rate_limit": "900/min", "run.concurrency": 1}))
    assert few.forecast is not None
    assert (few.limit, few.forecast.p50_s) == ("your concurrency, 1 at once", 100 * 5 + 5)


def test_a_named_run_is_measured_where_there_is_none_of_its_own(tmp_path: Path) -> None:
    """By `reuse`, and by what it is compared with; whose measurements they are is said."""
    earlier = _job(tmp_path / "a", n=60)
    asyncio.run(_run(earlier, n=60, every_s=3))
    (earlier.run_dir / "job.yaml").write_bytes((tmp_path / "a" / "job.yaml").read_bytes())
    later = _job(tmp_path / "b", n=160, more="reuse: [../a/out]\n")
    reusing = make_plan(later)
    assert reusing.forecast is not None
    assert (reusing.forecast.cells, reusing.forecast.measured_in) == (160 - reusing.reused, str(earlier.run_dir))
    assert dict(reusing.lines())["measured"].startswith("60 cells in 3 min at work, in ")
    other = _job(tmp_path / "c", n=100)
    assert make_plan(other).forecast is None
    compared = make_plan(other, against=earlier).forecast
    assert compared is not None
    assert (compared.p50_s, compared.measured_in) == (100 * 3 + 5, str(earlier.run_dir))
    elsewhere = load_job(tmp_path / "c" / "job.yaml", {"api.base_url": "http://127.0.0.1:9"})
    assert make_plan(elsewhere, against=earlier).forecast is None
