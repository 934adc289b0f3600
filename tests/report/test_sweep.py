"""The sweep's figures and sentences: an effect that was planted is found and said, one that wasn't is not."""

import numpy as np
import pytest

from batchflux.app.job import Job
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.report.cells import Cells
from batchflux.report.sentences import tell
from batchflux.report.sweep import Effect, Sweep, build_sweep
from tests.report.made import BEGIN_MS, lognormal, made_job

_COMPLETED, _FAILED = STATUS_CODES[CellStatus.COMPLETED], STATUS_CODES[CellStatus.FAILED]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Eighteen prompts, four guidances, three seeds."""
    prompts = [f"a kite over hill {place}" for place in range(18)]
    return made_job(
        tmp_path_factory.mktemp("sweep"), prompts=prompts, grid={"guidance_scale": [2, 4, 6, 8], "seed": [1, 2, 3]}
    )


def _cells(job: Job, seed: int, *, guidance: float = 0.0) -> Cells:
    """Return cells whose prompts differ; a step of guidance takes so much longer, as a share."""
    cells = Cells.empty(job.grid)
    n = job.grid.n_cells
    prompts = np.repeat(np.random.default_rng(seed + 1000).lognormal(0, 0.5, 18), 12)
    cells.status[:] = _COMPLETED
    cells.nsfw[:] = 0
    cells.inference_ms[:] = lognormal(n, seed) * prompts * (1 + guidance * cells.axis_places("guidance_scale"))
    cells.latency_ms[:] = cells.inference_ms + 100
    cells.submitted_at_ms[:] = BEGIN_MS + np.arange(n) * 100
    cells.completed_at_ms[:] = cells.submitted_at_ms + cells.latency_ms
    cells.cost_micro_usd[:] = 80_000
    return cells


def _effect(sweep: Sweep, axis: str, metric: str) -> Effect:
    (found,) = [part for part in sweep.axes if part.name == axis]
    return next(effect for effect in found.effects if effect.metric == metric)


def test_a_planted_effect_is_found_and_said(job: Job) -> None:
    """Where each step of guidance takes a tenth longer, the sentence says so, and of no other axis."""
    sweep = build_sweep(_cells(job, 1, guidance=0.15))
    found = _effect(sweep, "guidance_scale", "inference_ms")
    assert found.is_effect is True
    assert found.p is not None
    assert found.p < 0.05
    assert found.sentence.startswith("Inference time ")
    assert " at 2 to " in found.sentence or "differs between its values" in found.sentence
    assert _effect(sweep, "seed", "inference_ms").is_effect is False
    assert _effect(sweep, "seed", "inference_ms").sentence.startswith("No effect on inference time shows")


def test_effects_are_found_again_and_again(job: Job) -> None:
    """Of twenty such runs the effect is found in nearly all."""
    found = [
        _effect(build_sweep(_cells(job, seed, guidance=0.15)), "guidance_scale", "inference_ms").is_effect
        for seed in range(20)
    ]
    assert sum(map(bool, found)) >= 18


def test_a_page_without_effects_says_none(job: Job) -> None:
    """Of 80 runs on which nothing hangs on anything, hardly more than one in twenty has any effect on its page."""
    alarms = sum(
        any(effect.is_effect for axis in build_sweep(_cells(job, seed)).axes for effect in axis.effects)
        for seed in range(80)
    )
    assert alarms <= 12  # 5 % is 4; four standard deviations more


def test_failures_that_hang_on_an_axis_are_found(job: Job) -> None:
    """Where the strongest guidance fails half of the time, the failure rate's sentence says from what to what."""
    cells = _cells(job, 3)
    strongest = np.flatnonzero(cells.axis_places("guidance_scale") == 3)
    cells.status[strongest[::2]] = _FAILED
    sweep = build_sweep(cells)
    found = _effect(sweep, "guidance_scale", "failed")
    assert found.is_effect is True
    assert "from 0.0 % at 2 to 50.0 % at 8" in found.sentence
    assert sweep.failed is not None
    assert sweep.failed.hits == 27
    assert sweep.failed_cells == strongest[::2].tolist()
    assert _effect(sweep, "guidance_scale", "nsfw").sentence == "None of 189 cells is flagged NSFW."


def test_figures_are_those_of_the_cells(job: Job) -> None:
    """Counts, medians and the slowest are what a hand would count; in flight and spent add up over the run's time."""
    cells = _cells(job, 4)
    sweep = build_sweep(cells)
    times = np.asarray(cells.inference_ms, dtype=np.float64)
    assert (sweep.cells, sweep.by_status["completed"]) == (216, 216)
    assert sweep.cost_usd == pytest.approx(17.28)
    assert sweep.inference_ms is not None
    assert sweep.inference_ms.median == np.median(times)
    assert sweep.slowest == np.argsort(-times, kind="stable")[:20].tolist()
    timeline = sweep.timeline
    assert timeline is not None
    length_ms = timeline.bin_ms * len(timeline.in_flight)
    assert sum(timeline.completed_per_min) * timeline.bin_ms / 60_000 == pytest.approx(216)
    assert sum(timeline.in_flight) * timeline.bin_ms == pytest.approx(float(cells.latency_ms.sum()))
    assert length_ms == pytest.approx(int(cells.completed_at_ms.max()) - BEGIN_MS)
    assert timeline.spent_usd[-1] == pytest.approx(17.28)
    assert timeline.spent_usd == sorted(timeline.spent_usd)


def test_nothing_known_is_said_so(job: Job) -> None:
    """A run that has just begun has no figure made up."""
    cells = Cells.empty(job.grid)
    cells.status[:] = STATUS_CODES[CellStatus.PENDING]
    sweep = build_sweep(cells)
    assert (sweep.inference_ms, sweep.failed, sweep.timeline, sweep.slowest) == (None, None, None, [])
    said = {effect.sentence for axis in sweep.axes for effect in axis.effects}
    assert all(sentence.startswith("Nothing is known of ") for sentence in said)


def test_words_of_all_kinds() -> None:
    """Direction, size and chance each have their words."""
    rising = [("2", 1000.0, 10), ("4", 1500.0, 10), ("6", 2000.0, 10)]
    assert tell("inference_ms", rising, is_effect=True, p=0.0004) == (
        "Inference time rises with it, from a median of 1.00 s at 2 to 2.00 s at 6, +100 % (p < 0.001, 30 cells)."
    )
    falling = [("2", 0.5, 10), ("4", 0.25, 10)]
    assert "falls with it, from 50.0 % at 2 to 25.0 % at 4 (p = 0.012" in tell(
        "failed", falling, is_effect=True, p=0.012
    )
    named = [("noir", 900.0, 10), ("gouache", 50.0, 10)]
    said = tell("latency_ms", named, is_effect=True, p=0.02)
    assert said.startswith("Latency differs between its values, from a median of 50 ms at gouache to 0.90 s at noir")
    hair = [("a", 1000.0, 9000), ("b", 1010.0, 9000)]
    assert tell("latency_ms", hair, is_effect=True, p=0.0).endswith("A small difference, though a certain one.")
    assert "too few" in tell("latency_ms", named, is_effect=None, p=None)
    assert tell("failed", [("a", 1.0, 3)], is_effect=None, p=None) == "All of 3 cells have failed."
    assert "nothing to compare" in tell("latency_ms", hair[:1], is_effect=None, p=None)
