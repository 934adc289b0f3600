"""What `plan` says of a night: from what was measured in this run directory, else in one that the job reuses."""

import json
from pathlib import Path

import batchflux
from batchflux.app.plan import make_plan
from batchflux.app.rundir import SANDBOX_ORIGIN
from batchflux.core.learned import Learned
from batchflux.io.limitsfile import write_limits
from tests.report.made import Drawn, lognormal, made_job, made_run

_PROMPTS = [f"a kite over harbour {place}" for place in range(60)]


def _measured(folder: Path) -> Path:
    """Return a run directory of 240 cells that were completed one by one."""
    job = made_job(folder, prompts=_PROMPTS, grid={"seed": [1, 2, 3, 4]})
    run_dir = made_run(job, Drawn(inference_ms=lognormal(240, 4)), are_links=True)
    learned = Learned(at_ms=1, slots=None, found_by=None, images_per_s=500 / 60, in_flight=3, is_hungry=True)
    write_limits(run_dir, learned)
    return run_dir


def test_what_was_measured_here_is_carried_on(tmp_path: Path) -> None:
    """Cells that were added take as long as those before them did; the limit that held them is named."""
    run_dir = _measured(tmp_path)
    nothing_left = make_plan(batchflux.load_job(tmp_path / "job.yaml"))
    assert (nothing_left.to_pay, nothing_left.forecast) == (0, None)
    plan = make_plan(batchflux.load_job(tmp_path / "job.yaml", {"grid.seed": [1, 2, 3, 4, 5, 6]}))
    assert plan.to_pay == 120
    told = plan.forecast
    assert told is not None
    assert plan.forecast_from == str(run_dir)
    assert 0 < told.half_s <= told.nine_in_ten_s
    assert "in half of such nights" in str(plan)
    assert "500 images/min (learned from refusals)" in str(plan)
    assert json.loads(plan.as_json())["forecast"]["half_s"] == told.half_s


def test_what_a_reused_run_measured_serves_a_new_one(tmp_path: Path) -> None:
    """A job without a run of its own is told by the run that it reuses, which is named; without one, nothing is."""
    run_dir = _measured(tmp_path / "before")
    papers = run_dir / "run.json"
    papers.write_text(papers.read_text().replace(SANDBOX_ORIGIN, "https://api.wavespeed.ai"))
    made_job(tmp_path / "now", prompts=["a new prompt"], grid={"seed": [1, 2]})
    job = tmp_path / "now" / "job.yaml"
    plan = make_plan(batchflux.load_job(job))
    assert (plan.forecast, plan.forecast_from, plan.limit) == (None, None, None)
    assert "forecast" not in str(plan)
    plan = make_plan(batchflux.load_job(job, {"reuse": [str(run_dir)]}))
    assert plan.forecast is not None
    assert plan.forecast_from == str(run_dir)
    assert "(measured by " in str(plan)
    assert plan.limit is not None
