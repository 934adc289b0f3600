"""Predictions that a run has no record of, given to the pending cells that ask for just that."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from batchflux.app.job import Job, load_job
from batchflux.app.work import work_of
from batchflux.core.claims import claim
from batchflux.core.history import HistoryItem
from batchflux.core.model import CellStatus, JsonValue, Prediction
from batchflux.core.progress import STATUS_CODES
from batchflux.core.steps import CellState

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"


def job_of(
    folder: Path, *, prompts: str = "An owl\nA fox\nAn owl\n", more: str = "grid: {guidance_scale: [2, 3.5]}\n"
) -> Job:
    """Return a job over a table with two equal rows."""
    (folder / "p.csv").write_text(f"prompt\n{prompts}")
    (folder / "job.yaml").write_text(f"prompts: {{path: p.csv}}\nparams: {{seed: 7}}\n{more}")
    return load_job(folder / "job.yaml")


def item(name: str, inputs: Mapping[str, JsonValue] | None, *, model: str | None = MODEL) -> HistoryItem:
    """Return a prediction of the history."""
    return HistoryItem(prediction=Prediction(id=name, status="completed", model=model), inputs=inputs)


def asked(job: Job, index: int) -> dict[str, JsonValue]:
    """Return what a cell sends."""
    return dict(work_of(job, index, CellState()).cell.body)


def claimed(job: Job, *items: HistoryItem, gone: tuple[int, ...] = ()) -> dict[str, int]:
    """Return whose each prediction is, the cells `gone` being no longer pending."""
    statuses = np.zeros(job.grid.n_indexes, dtype=np.uint8)
    statuses[list(gone)] = STATUS_CODES[CellStatus.SUBMITTED]
    found = claim(items, job.grid, statuses, listed_params={})
    assert not found.unclear
    return {each.prediction.id: index for index, each in found.found}


@pytest.mark.parametrize("index", range(6))
def test_a_cell_is_found_by_what_it_asks(tmp_path: Path, index: int) -> None:
    """Whatever the history adds of its own, and whether or not it states a default."""
    job = job_of(tmp_path)
    inputs = asked(job, index) | {"enable_sync_mode": False}
    first = index % 2 if index >= 4 else index  # rows 0 and 2 ask for the same
    assert claimed(job, item("a", inputs)) == {"a": first}
    inputs.setdefault("num_images", 1)
    assert claimed(job, item("a", inputs)) == {"a": first}


def test_equal_cells_are_given_one_each(tmp_path: Path) -> None:
    """Two predictions of the same body go to the two rows that ask for it; a third is nobody's."""
    job = job_of(tmp_path)
    inputs = asked(job, 0)
    assert claimed(job, item("a", inputs), item("b", inputs), item("c", inputs)) == {"a": 0, "b": 4}
    assert claimed(job, item("a", inputs), gone=(0,)) == {"a": 4}
    assert claimed(job, item("a", inputs), gone=(0, 4)) == {}


def test_drawn_seeds(tmp_path: Path) -> None:
    """Where the job gives no seed, each cell is known by the one that was drawn for it."""
    (tmp_path / "p.csv").write_text("prompt\nAn owl\nAn owl\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv}\n")
    job = load_job(tmp_path / "job.yaml")
    assert claimed(job, item("b", asked(job, 1)), item("a", asked(job, 0))) == {"a": 0, "b": 1}


def test_what_others_made_is_nobodys(tmp_path: Path) -> None:
    """Another prompt, another value, another model."""
    job = job_of(tmp_path)
    inputs = asked(job, 0)
    others = [
        item("a", inputs | {"prompt": "A cat"}),
        item("b", inputs | {"seed": 8}),
        item("c", inputs, model="other/model"),
    ]
    assert claimed(job, *others) == {}


def test_without_inputs_it_could_be_any_cells(tmp_path: Path) -> None:
    """Nothing is given on a guess."""
    job = job_of(tmp_path)
    statuses = np.zeros(job.grid.n_indexes, dtype=np.uint8)
    told = claim([item("a", None), item("b", None, model="other/model")], job.grid, statuses, listed_params={})
    assert (told.found, [each.prediction.id for each in told.unclear]) == ((), ["a"])


def test_a_parameter_that_the_service_drops_makes_it_unclear(tmp_path: Path) -> None:
    """Then the history doesn't look as what was sent, and what looks like one cell may be another's."""
    job = job_of(tmp_path)
    statuses = np.zeros(job.grid.n_indexes, dtype=np.uint8)
    inputs = {name: value for name, value in asked(job, 0).items() if name != "guidance_scale"}
    told = claim([item("a", inputs)], job.grid, statuses, listed_params={MODEL: {"prompt", "seed"}})
    assert (told.found, [each.prediction.id for each in told.unclear]) == ((), ["a"])
