"""Every example plans as its comments say, and every config is what its level's page says."""

import re
from pathlib import Path

import pytest
import yaml

import batchflux
from batchflux.app.plan import LEVELS, make_plan
from batchflux.core.model import Cell
from tests.docs.checkout import ROOT, Checkout

JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCHEMA_LINE = "# yaml-language-server: $schema=../batchflux/core/job.schema.json"

# Cells and dollars by arithmetic of their own: rows x axes, less what is excluded, at 8 cents.
EXPECTED = {
    "quickstart": (4, 4 * 3 * 2),
    "guidance-sweep": (6, 6 * 4 * 5 * 2 - 6 * 4),
    "dataset": (36, 36 * 3),
}


def test_the_examples_are_these() -> None:
    """Every job of the folder is expected here, so that none goes unplanned."""
    assert {path.stem for path in JOBS} == set(EXPECTED)
    assert {path.stem for path in CONFIGS} == set(LEVELS)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_plan(path: Path) -> None:
    """A job of the folder plans without a warning, with the cells and the cost that its axes make, below its budget."""
    plan = make_plan(job := batchflux.load_job(path))
    rows, cells = EXPECTED[path.stem]
    assert (plan.rows, plan.cells, plan.to_pay) == (rows, cells, cells)
    assert plan.cost_usd == pytest.approx(cells * 0.08)
    assert plan.warnings == []
    budget = job.spec.run.budget_micro_usd
    assert budget is None or budget >= cells * 80_000


@pytest.mark.parametrize("path", [*JOBS, *CONFIGS], ids=lambda path: path.stem)
def test_editors_find_the_schema(path: Path) -> None:
    """The first line of each file names the schema, which is there; and no file holds anything like a key."""
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == SCHEMA_LINE
    assert (path.parent / SCHEMA_LINE.partition("=")[2]).is_file()
    assert not re.search(r"[A-Za-z0-9]{24}", text)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_their_levels(path: Path) -> None:
    """A level's file paces at what `plan` reckons with for it, says nothing but the pace, and can be extended."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(said) == {"run"}
    assert set(said["run"]) == {"rate_limit", "concurrency"}
    job = batchflux.load_job(ROOT / "jobs/quickstart.yaml", overrides={"extends": str(path)})
    assert job.spec.run.rate_limit_per_s == pytest.approx(LEVELS[path.stem] / 60)
    assert job.spec.run.concurrency == said["run"]["concurrency"]


def test_the_sweep_leaves_out_what_it_says() -> None:
    """Every scene and style has two seeds at each guidance but the strongest, which has one."""
    requests = [cell.body for cell in _cells(ROOT / "jobs/guidance-sweep.yaml")]
    assert {body["guidance_scale"] for body in requests} == {2, 4, 6, 8, 10}
    assert {body["seed"] for body in requests if body["guidance_scale"] == 10} == {1}
    assert len({body["prompt"] for body in requests}) == 6 * 4


def test_the_dataset_brings_ratios_and_draws_seeds_by_row() -> None:
    """Each row's requests have its own ratio and three seeds that no other row has."""
    requests = [cell.body for cell in _cells(ROOT / "jobs/dataset.yaml")]
    assert len({body["seed"] for body in requests}) == len(requests)
    assert {body["aspect_ratio"] for body in requests} >= {"1:1", "21:9", "9:21", "2:3"}
    assert not any("guidance_scale" in body for body in requests)


def _cells(path: Path) -> list[Cell]:
    job = batchflux.load_job(path)
    width = job.grid.n_combinations
    indexes = (index for piece in job.grid.slices() for index in piece.indexes.tolist())
    return [job.grid.cell(index, job.rows.part(index // width)) for index in indexes]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guidance-sweep", "dataset"])
def test_the_longer_examples_run(name: str, tmp_path: Path) -> None:
    """The other examples run to their end on the sandbox at the pace of the level that they extend."""
    checkout = Checkout(tmp_path)
    done = checkout.shell(f"batchflux run jobs/{name}.yaml --sandbox --quiet")
    assert done.returncode == 0, done.stderr
    cells = batchflux.read_manifest(checkout.root / f"jobs/runs/{name}-sandbox")
    assert len(cells) == EXPECTED[name][1]
    assert (cells["status"] == "completed").all()
