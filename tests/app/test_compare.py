"""`plan --against`: kept, new and gone, in all and by value of each axis, against the same counted one by one."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.app.compare import compare
from batchflux.app.job import Job, load_job
from tests.app.service import write_spec

_PROMPTS = ["a kite", "a crow", "an orchard", "a lighthouse"]


def _job(folder: Path, *, prompts: list[str], **keys: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return load_job(write_spec(folder, None, "prompt\n" + "".join(f"{text}\n" for text in prompts), **keys))


def test_a_value_more_and_a_row_less(tmp_path: Path) -> None:
    """The sums, the rows and the value that makes the difference are said with their dollars."""
    here = _job(tmp_path / "a", prompts=_PROMPTS, grid={"guidance_scale": [2.5, 7.5], "seed": [1, 2]})
    there = _job(tmp_path / "b", prompts=[*_PROMPTS[1:], "a fox"], grid={"guidance_scale": [2.5, 5], "seed": [1, 2]})
    found = compare(here, there)
    assert (found.both, found.only_this, found.only_other, found.rows_new, found.rows_gone) == (6, 10, 10, 1, 1)
    assert (found.only_this_usd, found.only_other_usd) == (0.8, 0.8)
    by_value = {each.value: (each.both, each.only_this, each.only_other) for each in found.axes["guidance_scale"]}
    assert by_value == {2.5: (6, 2, 2), 7.5: (0, 8, 0), 5: (0, 0, 8)}
    assert found.lines() == [
        "against the other: 6 cells in both, 10 only here ($0.80), 10 only there ($0.80)",
        "rows: 1 new, 1 gone",
        "guidance_scale 2.5: 2 new ($0.16), 2 gone ($0.16)",
        "guidance_scale 7.5: 8 new ($0.64)",
        "guidance_scale 5: 8 gone ($0.64)",
    ]


def test_a_job_against_itself_says_no_more(tmp_path: Path) -> None:
    """Nothing new, nothing gone, no lines about values; and a constant that becomes an axis is the same cell."""
    here = _job(tmp_path / "a", prompts=_PROMPTS, params={"guidance_scale": 5}, grid={"seed": [1]})
    there = _job(tmp_path / "b", prompts=_PROMPTS[::-1], grid={"guidance_scale": [5.0], "seed": [1]})
    found = compare(here, there)
    assert (found.both, found.only_this, found.only_other, found.rows_new, found.rows_gone) == (4, 0, 0, 0, 0)
    assert len(found.lines()) == 1


def test_many_values_are_cut(tmp_path: Path) -> None:
    """A line for each of a thousand new seeds would bury what matters."""
    here = _job(tmp_path / "a", prompts=["a kite"], grid={"seed": {"count": 1000}})
    there = _job(tmp_path / "b", prompts=["a kite"], grid={"seed": {"count": 1}})
    assert compare(here, there).lines()[-1] == "and 987 more values; --json has them all"


_JOBS = st.fixed_dictionaries(
    {
        "prompts": st.lists(st.sampled_from(_PROMPTS), min_size=1, max_size=5),
        "seeds": st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
        "scales": st.none() | st.lists(st.sampled_from([2.5, 3.5, 5]), min_size=1, max_size=2, unique=True),
        "count": st.sampled_from([None, 1, 2]),
    }
)


def _draw(folder: Path, said: dict[str, Any]) -> Job:
    grid = {"seed": said["seeds"], **({"guidance_scale": said["scales"]} if said["scales"] else {})}
    params = {"num_images": said["count"]} if said["count"] else {}
    return _job(folder, prompts=said["prompts"], grid=grid, params=params)


def _cells(job: Job) -> dict[str, dict[str, Any]]:
    indexes = [index for piece in job.grid.slices() for index in piece.indexes.tolist()]
    cells = [job.grid.cell(index, job.rows.part(index // job.grid.n_combinations)) for index in indexes]
    return {cell.cell_id: {**cell.body, "images": cell.images} for cell in cells}


@settings(max_examples=25)
@given(one=_JOBS, two=_JOBS)
def test_any_two_jobs(one: dict[str, Any], two: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the jobs, the counts and dollars are those of their cells' ids compared as sets."""
    folder = tmp_path_factory.mktemp("jobs")
    here, there = _draw(folder / "a", one), _draw(folder / "b", two)
    ours, theirs = _cells(here), _cells(there)
    found = compare(here, there)
    new, gone = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    assert (found.both, found.only_this, found.only_other) == (len(ours.keys() & theirs.keys()), len(new), len(gone))
    assert found.only_this_usd == pytest.approx(0.08 * sum(ours[name]["images"] for name in new))
    assert found.only_other_usd == pytest.approx(0.08 * sum(theirs[name]["images"] for name in gone))
    assert found.rows_new == (Counter(one["prompts"]) - Counter(two["prompts"])).total()
    assert found.rows_gone == (Counter(two["prompts"]) - Counter(one["prompts"])).total()
    by_seed = {each.value: (each.only_this, each.only_other) for each in found.axes["seed"]}
    assert by_seed == {
        seed: (sum(ours[name]["seed"] == seed for name in new), sum(theirs[name]["seed"] == seed for name in gone))
        for seed in {*one["seeds"], *two["seeds"]}
    }
