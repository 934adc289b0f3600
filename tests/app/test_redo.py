"""`--redo` and `on_nsfw`: picked and flagged cells drawn anew, bounded and within the budget, first results kept."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux import RunOptions
from batchflux.app.job import load_job
from batchflux.app.verify import verify_run
from batchflux.sandbox import RunningSandbox
from tests.app.service import quick_service, write_spec


@pytest.fixture
def service() -> Iterator[RunningSandbox]:
    """A service whose ledger counts what is bought."""
    with quick_service(image_size=64) as running:
        yield running


def _spec(folder: Path, service: RunningSandbox, **keys: Any) -> Path:
    """Write a job of five prompts, two scales and two seeds: 20 cells."""
    table = "prompt,shape\n" + "".join(f"a kite over hill {n},{['3:2', ''][n % 2]}\n" for n in range(5))
    prompts = {"columns": {"prompt": "prompt", "aspect_ratio": "shape"}}
    grid = {"guidance_scale": [2.5, 5], "seed": [1, 2]}
    folder.mkdir(exist_ok=True)
    return write_spec(folder, service, table, prompts, **{"grid": grid, "output": {"dir": "out"}, **keys})


def _bought(service: RunningSandbox) -> int:
    return len(service.behaviour.everything())


def _picks(folder: Path, run_dir: Path, places: list[int], marks: list[str] | None = None) -> Path:
    ids = [batchflux.read_manifest(run_dir)["cell_id"][place] for place in places]
    path = folder / "picks.csv"
    lines = ["cell_id", *ids] if marks is None else ["cell_id,mark", *map(",".join, zip(ids, marks, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_picked_cells_are_drawn_anew_once(tmp_path: Path, service: RunningSandbox) -> None:
    """Each rejected cell is bought once more, with its request but for the seed; again, nothing; more, only those."""
    job = load_job(_spec(tmp_path, service))
    first = batchflux.run(job).run_dir
    before = (first / "manifest.parquet").read_bytes()
    marks = ["reject", "win", "Rejected", ""]
    picks = _picks(tmp_path, first, [0, 3, 7, 8], marks)
    result = batchflux.run(job, RunOptions(redo=picks))
    assert (result.exit_status, result.run_dir, _bought(service)) == (0, tmp_path / "out-redo", 22)
    redone = batchflux.read_manifest(result.run_dir)
    cells = batchflux.read_manifest(first).set_index("cell_id")
    assert len(redone) == 2
    for _, row in redone.iterrows():
        origin = cells.loc[row["redo_of"]]
        for name in ("prompt", "guidance_scale"):
            assert row[name] == origin[name]
        assert (row["aspect_ratio"] == "3:2") == (origin["aspect_ratio"] == "3:2")
        assert row["seed"] not in (origin["seed"], 1, 2)
        assert row["redo_round"] == 1
    assert (first / "manifest.parquet").read_bytes() == before
    assert batchflux.run(job, RunOptions(redo=picks)).spent_now_usd == 0
    assert _bought(service) == 22
    batchflux.run(job, RunOptions(redo=_picks(tmp_path, first, [0, 1, 2])))
    assert _bought(service) == 24
    # One that was drawn anew can be drawn anew itself, in the same place.
    again = batchflux.run(load_job(result.run_dir), RunOptions(redo=_picks(tmp_path, result.run_dir, [0])))
    assert (again.run_dir, _bought(service)) == (result.run_dir, 25)
    rounds = batchflux.read_manifest(result.run_dir)["redo_round"]
    assert sorted(rounds) == [1, 1, 1, 1, 2]
    assert batchflux.run(load_job(result.run_dir)).spent_now_usd == 0
    for run_dir in (first, result.run_dir):
        assert verify_run(run_dir).problems == ()


def test_the_budget_is_one_for_both(tmp_path: Path, service: RunningSandbox) -> None:
    """What the run has cost leaves the rest of run.budget to its redo, and the redo's cost is gone for the run."""
    job = load_job(_spec(tmp_path, service, run={"budget": 1.8}))  # 20 cells are $1.60, so two are left
    first = batchflux.run(job).run_dir
    picks = _picks(tmp_path, first, [0, 1, 2, 3])
    result = batchflux.run(job, RunOptions(redo=picks))
    assert (result.exit_status, _bought(service), round(result.standing.cost_usd, 6)) == (3, 22, 0.16)
    assert batchflux.run(load_job(result.run_dir)).exit_status == 3
    more = load_job(_spec(tmp_path, service, run={"budget": 1.8}, grid={"guidance_scale": [2.5, 5], "seed": [1, 2, 3]}))
    assert batchflux.run(more).exit_status == 3
    assert _bought(service) == 22


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stranger", "1 of the cells picked are none of"),
        ("unfinished", "are not completed"),
        ("no-run", "there is no run yet"),
    ],
)
def test_picks_that_can_not_be(tmp_path: Path, service: RunningSandbox, change: str, words: str) -> None:
    """What is no completed cell of the run is refused by name, and nothing is begun beside it."""
    job = load_job(_spec(tmp_path, service))
    picks = tmp_path / "picks.csv"
    picks.write_text(f"cell_id\n{'0' * 32}\n")
    if change != "no-run":
        batchflux.run(job, RunOptions(limit=1))
    if change == "unfinished":
        _picks(tmp_path, job.run_dir, [0, 19])
    before = _bought(service)
    with pytest.raises(batchflux.UsageError, match=words):
        batchflux.run(job, RunOptions(redo=picks))
    assert _bought(service) == before
    assert not (tmp_path / "out-redo").exists()


def test_models_have_redos_of_their_own(tmp_path: Path, service: RunningSandbox) -> None:
    """Where the model is an axis, picks of one model go to a directory of its name, and picks of two are refused."""
    models = ["wavespeed-ai/flux-kontext-max/text-to-image", "wavespeed-ai/flux-kontext-pro/text-to-image"]
    job = load_job(_spec(tmp_path, service, grid={"model": models}, run={"price": 0.08}))
    first = batchflux.run(job).run_dir
    result = batchflux.run(job, RunOptions(redo=_picks(tmp_path, first, [1, 3])))
    assert result.run_dir.name == "out-redo-wavespeed-ai-flux-kontext-pro-text-to-image"
    assert set(batchflux.read_manifest(result.run_dir)["model"]) == {models[1]}
    with pytest.raises(batchflux.UsageError, match="several models"):
        batchflux.run(job, RunOptions(redo=_picks(tmp_path, first, [0, 1])))


def test_flagged_cells_are_drawn_anew_so_often(tmp_path: Path) -> None:
    """Where all is flagged, `reseed` buys each cell once more a round and no more, though the run is repeated."""
    with quick_service(image_size=64, nsfw_share=1.0) as service:
        keys: dict[str, Any] = {"grid": {"seed": [1]}, "run": {"on_nsfw": "reseed"}}
        path = _spec(tmp_path, service, **keys)
        for rounds, bought in ((1, 10), (1, 10), (2, 15)):
            result = batchflux.run(load_job(path, {"run.max_redo": rounds}))
            assert (result.exit_status, _bought(service), len(result.redone)) == (0, bought, rounds)
        redone = batchflux.read_manifest(tmp_path / "out-redo")
        assert redone["redo_round"].value_counts().to_dict() == {1: 5, 2: 5}
        assert str(result).count("flagged, drawn anew: job-redo: 10 of 10 cells completed") == 1
        assert len(batchflux.read_manifest(tmp_path / "out")["files"].explode().dropna()) == 5


def test_only_what_is_flagged_is_drawn_anew(tmp_path: Path) -> None:
    """Some are flagged: just those are bought again, and a budget that ends in between is kept."""
    with quick_service(image_size=64, nsfw_share=0.4) as service:
        path = _spec(tmp_path, service, run={"on_nsfw": "reseed", "budget": 1.76})
        result = batchflux.run(load_job(path))
        cells = batchflux.read_manifest(tmp_path / "out")
        flagged = {row["cell_id"] for _, row in cells.iterrows() if any(row["has_nsfw_contents"])}
        assert 2 < len(flagged) < 20
        assert (result.exit_status, _bought(service)) == (3, 22)
        result = batchflux.run(load_job(path, {"run.budget": 10}))
        assert (result.exit_status, _bought(service)) == (0, 20 + len(flagged))
        assert set(batchflux.read_manifest(tmp_path / "out-redo")["redo_of"]) == flagged


def test_a_no_to_more_keeps_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redrawing is asked about by itself; who says no has the first run's result, and a status that says it stopped."""
    monkeypatch.setattr("batchflux.app.prepare.is_loopback_host", lambda host: False)
    answers = iter([True, False])
    with quick_service(nsfw_share=1.0) as service:
        output = {"dir": "out", "download": False}
        job = load_job(_spec(tmp_path, service, run={"on_nsfw": "reseed"}, output=output))
        result = asyncio.run(batchflux.run_async(job, ask=lambda question: next(answers)))
        assert (result.exit_status, result.standing.completed, result.redone, _bought(service)) == (3, 20, (), 20)
        assert "flagged cells were not drawn anew: nothing was submitted" in str(result)
        assert list(answers) == []


def test_dropped_images_are_neither_saved_nor_listed(tmp_path: Path) -> None:
    """`drop` keeps the other images of a cell, in line with their flags, and says in the cell what it left out."""
    with quick_service(image_size=64, nsfw_share=0.5) as service:
        path = _spec(tmp_path, service, run={"on_nsfw": "drop"}, params={"num_images": 3})
        result = batchflux.run(load_job(path))
        assert (result.exit_status, _bought(service)) == (0, 20)
        cells = batchflux.read_manifest(result.run_dir)
        kept = 0
        for _, row in cells.iterrows():
            assert len(row["files"]) == len(row["outputs"]) == len(row["has_nsfw_contents"]) <= 3
            assert not any(row["has_nsfw_contents"])
            dropped = 3 - len(row["outputs"])
            assert [note for note in row["warnings"] if "flagged" in note] == (
                [f"{dropped} of 3 images flagged by the service and dropped"] if dropped else []
            )
            kept += len(row["outputs"])
        assert 0 < kept < 60
        assert len(list((result.run_dir / "images").glob("*/*.png"))) == kept
        assert verify_run(result.run_dir).problems == ()
        # Taken over by another job, they are as they were here; of a run that kept them, they are dropped on the way.
        kept_all = _spec(tmp_path / "all", service, run={"on_nsfw": "keep"}, params={"num_images": 3})
        earlier = batchflux.run(load_job(kept_all)).run_dir
        before = _bought(service)
        taking = _spec(
            tmp_path / "taking", service, run={"on_nsfw": "drop"}, params={"num_images": 3}, reuse=str(earlier)
        )
        taken = batchflux.run(load_job(taking))
        assert (taken.exit_status, _bought(service) - before) == (0, 0)
        mine = batchflux.read_manifest(taken.run_dir)
        assert [list(hashes) for hashes in mine["sha256"]] == [list(hashes) for hashes in cells["sha256"]]
        assert len(list((taken.run_dir / "images").glob("*/*.png"))) == kept
        assert verify_run(taken.run_dir).problems == ()
