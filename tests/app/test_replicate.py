"""`run.replicate`: drawn cells submitted a second time with the same seed, paid once, and their images compared."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batchflux
from batchflux import RunOptions
from batchflux.app.job import load_job
from batchflux.app.status import read_status
from batchflux.app.verify import verify_run
from batchflux.sandbox import FaultRule, RunningSandbox
from tests.app.service import quick_service, write_spec
from tests.app.test_torn import tear
from tests.cli.driver import wait_until

MAX = "wavespeed-ai/flux-kontext-max/text-to-image"
SLUG = MAX.replace("/", "--")


@pytest.fixture
def service() -> Iterator[RunningSandbox]:
    """A service whose seeds do what they say."""
    with quick_service(image_size=64) as running:
        yield running


def spec_of(folder: Path, service: RunningSandbox, *, rows: int = 10, table: str = "", **keys: Any) -> Path:
    """Write a job of so many prompts and two seeds."""
    folder.mkdir(exist_ok=True)
    table = table or "prompt\n" + "".join(f"a kite over hill {n}\n" for n in range(rows))
    return write_spec(folder, service, table, **{"grid": {"seed": [1, 2]}, "output": {"dir": "out"}, **keys})


def n_bought(service: RunningSandbox) -> int:
    """Return how many predictions the service was asked for."""
    return len(service.behaviour.everything())


def replicates(run_dir: Path, slug: str = SLUG) -> pd.DataFrame:
    """Return the manifest of a run's replicates."""
    return batchflux.read_manifest(run_dir / "replicates" / slug)


def drawn(run_dir: Path) -> set[str]:
    """Return which cells were submitted twice."""
    return set(replicates(run_dir)["replicate_of"])


def test_a_share_is_submitted_twice_and_the_difference_when_it_grows(tmp_path: Path, service: RunningSandbox) -> None:
    """The lowest ids are drawn; again buys nothing; a larger share and more rows keep what was drawn."""
    path = spec_of(tmp_path, service, run={"replicate": "25%"})
    plan = batchflux.plan(load_job(path))
    assert (plan.to_pay, plan.images, plan.replicates, plan.cost_usd, plan.replicates_usd) == (25, 25, 5, 2.0, 0.4)
    assert "submitted twice     5 of these cells are a second submission: $0.40" in str(plan)
    result = batchflux.run(load_job(path))
    assert (result.exit_status, n_bought(service)) == (0, 25)
    assert result.standing.cost_usd == pytest.approx(1.6)
    cells = batchflux.read_manifest(result.run_dir)
    first = drawn(result.run_dir)
    assert first == set(cells["cell_id"].sort_values().head(5))
    again = replicates(result.run_dir).merge(cells, left_on="replicate_of", right_on="cell_id", suffixes=("", "_first"))
    for name in ("prompt", "seed", "cell_id", "sha256"):
        assert list(map(str, again[name])) == list(map(str, again[f"{name}_first"]))
    assert not set(again["prediction_id"]) & set(cells["prediction_id"])
    assert "of 5 cells submitted twice, 5 gave the same pixels (5 the same bytes); that cost $0.40" in str(result)
    assert (batchflux.run(load_job(path)).exit_status, n_bought(service)) == (0, 25)
    assert batchflux.plan(load_job(path)).to_pay == 0
    assert batchflux.run(load_job(path, {"run.replicate": 8})).standing.replicates is not None
    assert (n_bought(service), first < drawn(result.run_dir)) == (28, True)
    more = load_job(spec_of(tmp_path, service, rows=20, run={"replicate": "25%"}))
    assert batchflux.plan(more).to_pay == 20 + 2
    batchflux.run(more)
    assert (n_bought(service), len(drawn(result.run_dir)), first < drawn(result.run_dir)) == (28 + 20 + 2, 10, True)
    found = verify_run(result.run_dir, account=True)
    assert (found.problems, found.files) == ((), 50)


def test_another_image_is_warned_of_everywhere(tmp_path: Path) -> None:
    """Where the service ignores a seed, the pair is in the manifest's warnings, the summary, `status` and the file."""
    with quick_service(image_size=64, drift_share=0.3) as service:
        path = spec_of(tmp_path, service, run={"replicate": "100%"}, params={"num_images": 2})
        result = batchflux.run(load_job(path))
        assert n_bought(service) == 40
        found = result.standing.replicates
        assert found is not None
        assert (found.cells, found.not_compared, found.same_pixels + found.different) == (20, 0, 20)
        assert 0 < found.different < 20
        assert f"and {found.different} another image" in str(result)
        assert "mean pixel difference" in str(result)
        pairs = pd.read_parquet(result.run_dir / "replicates.parquet")
        assert pairs["image"].value_counts().to_dict() == {1: 20, 2: 20}
        differing = set(pairs[pairs["verdict"] == "different"]["cell_id"])
        assert all(pairs[pairs["verdict"] == "different"]["mean_difference"] > 1)
        cells = batchflux.read_manifest(result.run_dir)
        warned = {row["cell_id"] for _, row in cells.iterrows() if any("same seed" in line for line in row["warnings"])}
        assert warned == differing
        assert len(warned) == found.different == result.standing.warnings["replicate"]
        status = read_status(result.run_dir)[0].standing
        assert (status.replicates, status.warnings) == (found, result.standing.warnings)
        assert json.loads(result.as_json())["replicates"]["different"] == found.different


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_lost_answers_are_told_apart_from_the_first_submissions(tmp_path: Path, when: str) -> None:
    """The history holds the run's own prediction of each request: no replicate takes it for its own."""
    rule = FaultRule(on="submit", do="close", when=when, every=4)  # type: ignore[arg-type]
    with quick_service(rule, image_size=64) as service:
        result = batchflux.run(load_job(spec_of(tmp_path, service, run={"replicate": "100%"})))
        assert result.exit_status == 0
        assert Counter(service.behaviour.creations().values()) == {2: 20}
        ids = [*batchflux.read_manifest(result.run_dir)["prediction_id"], *replicates(result.run_dir)["prediction_id"]]
        assert len(set(ids)) == 40 == n_bought(service)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_run_does_not_take_a_replicate_for_its_own(tmp_path: Path, when: str) -> None:
    """A submission that was held while its twin was replicated: the next run finds its own prediction, or sends it."""
    rules = (
        FaultRule(on="submit", do="close", when=when, at=frozenset({2})),  # type: ignore[arg-type]
        FaultRule(on="history", do="status", status=404, times=1),
    )
    with quick_service(*rules, image_size=64) as service:
        spec = spec_of(
            tmp_path, service, table="prompt\nthe same\nthe same\n", grid={"seed": [1]}, run={"replicate": 1}
        )
        job = load_job(spec, {"run.concurrency": 1})
        result = batchflux.run(job)
        assert (result.standing.completed, result.standing.unknown, len(replicates(result.run_dir))) == (1, 1, 1)
        result = batchflux.run(job)
        assert (result.exit_status, n_bought(service)) == (0, 3)
        ids = {*batchflux.read_manifest(result.run_dir)["prediction_id"], *replicates(result.run_dir)["prediction_id"]}
        assert ids == {record.id for record in service.behaviour.everything()}
        assert verify_run(result.run_dir, account=True).problems == ()


@pytest.mark.parametrize("where", ["the run's", "the replicates'"])
def test_a_torn_end_does_not_take_the_others_predictions(tmp_path: Path, service: RunningSandbox, where: str) -> None:
    """What a torn journal may have held is looked for in the history, where each request stands twice already."""
    keys: dict[str, Any] = {"grid": {"seed": [1]}, "run": {"replicate": 1}}
    result = batchflux.run(load_job(spec_of(tmp_path, service, table="prompt\nkite\nhill\n", **keys)))
    assert n_bought(service) == 3
    if where == "the run's":
        # Rows that ask for what was replicated: their cells are pending, and no prediction is theirs.
        tear(result.run_dir / "journal")
        job = load_job(spec_of(tmp_path, service, table="prompt\nkite\nhill\nkite\nhill\n", **keys))
        bought = 5
    else:
        tear(result.run_dir / "replicates")
        job = load_job(tmp_path / "job.yaml", {"run.replicate": 2})
        bought = 4
    assert (batchflux.run(job).exit_status, n_bought(service)) == (0, bought)
    assert verify_run(result.run_dir, account=True).problems == ()


def test_killed_at_it_goes_on_without_buying_twice(tmp_path: Path) -> None:
    """`kill -9` while cells are submitted again: the same command ends it, and each request was bought twice."""
    with quick_service(image_size=64) as service:
        path = spec_of(tmp_path, service, rows=30, run={"replicate": "100%", "concurrency": 2})
        for bought in (70, 95):
            process = _begin(path)
            _wait_until(service, bought, process)
            process.kill()
            process.wait()
        result = batchflux.run(load_job(path))
        assert (result.exit_status, n_bought(service)) == (0, 120)
        assert Counter(service.behaviour.creations().values()) == {2: 60}
        assert verify_run(result.run_dir, account=True).problems == ()


def test_a_signal_stops_it(tmp_path: Path) -> None:
    """SIGINT while cells are submitted again ends the run with 130, and its own cells have their manifest."""
    with quick_service(image_size=64) as service:
        path = spec_of(tmp_path, service, rows=30, run={"replicate": "100%", "concurrency": 2})
        process = _begin(path)
        _wait_until(service, 70, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert set(batchflux.read_manifest(tmp_path / "out")["status"]) == {"completed"}
        assert (batchflux.run(load_job(path)).exit_status, n_bought(service)) == (0, 120)


def _begin(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "batchflux", "run", str(path), "--quiet"],
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )


def _wait_until(service: RunningSandbox, bought: int, process: "subprocess.Popen[bytes]") -> None:
    def is_bought() -> bool:
        assert process.poll() is None
        return n_bought(service) >= bought

    wait_until(is_bought, f"{bought} bought")


def test_the_budget_is_one(tmp_path: Path, service: RunningSandbox) -> None:
    """run.budget bears both, in either order; --budget of this time too."""
    path = spec_of(tmp_path, service, run={"replicate": "50%", "budget": 1.84})  # 20 cells are $1.60
    assert (batchflux.run(load_job(path)).exit_status, n_bought(service)) == (3, 23)
    more = load_job(spec_of(tmp_path, service, rows=11, run={"replicate": "50%", "budget": 1.84}))
    assert (batchflux.run(more).exit_status, n_bought(service)) == (3, 23)
    job = load_job(path, {"run.budget": 9})
    assert (batchflux.run(job, RunOptions(budget_micro_usd=160_000)).exit_status, n_bought(service)) == (3, 25)
    assert (batchflux.run(job).exit_status, n_bought(service)) == (0, 22 + 11)


def test_a_session_budget_is_left_by_what_the_run_spent(tmp_path: Path, service: RunningSandbox) -> None:
    """--budget bears the run's cells first, and what is left of it the second submissions."""
    job = load_job(spec_of(tmp_path, service, run={"replicate": "50%"}))
    assert (batchflux.run(job, RunOptions(budget_micro_usd=1_760_000)).exit_status, n_bought(service)) == (3, 22)


def test_it_is_asked_about_once_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question holds both; asked for later it has a question of its own, and a no leaves the run's result."""
    monkeypatch.setattr("batchflux.app.prepare.is_loopback_host", lambda host: False)
    monkeypatch.setattr("batchflux.io.downloads.Downloader", _loopback_downloader())
    asked: list[Any] = []
    says = [True, False]

    def ask(question: Any) -> bool:
        asked.append(question)
        return says[len(asked) - 1]

    with quick_service(image_size=64) as service:
        path = spec_of(tmp_path, service, run={"replicate": 4})
        asyncio.run(batchflux.run_async(load_job(path), ask=ask))
        assert [(each.plan.to_pay, each.plan.replicates, each.cost_micro_usd) for each in asked] == [(24, 4, 1_920_000)]
        asyncio.run(batchflux.run_async(load_job(path), ask=ask))
        assert (len(asked), n_bought(service)) == (1, 24)
        result = asyncio.run(batchflux.run_async(load_job(path, {"run.replicate": 6}), ask=ask))
        assert (result.exit_status, n_bought(service), asked[1].cost_micro_usd) == (3, 24, 160_000)
        assert "cells were not submitted a second time: nothing was submitted" in str(result)
        assert result.standing.completed == 20


def _loopback_downloader() -> Any:
    from functools import partial

    from batchflux.io.downloads import Downloader

    def make(run_dir: Path, **said: Any) -> Downloader:
        return partial(Downloader, run_dir)(**{**said, "allow_loopback": True})

    return make


def test_what_can_not_be_compared_is_no_difference(tmp_path: Path) -> None:
    """A damaged file and a second submission that failed are told as that; --download-only mends the file."""
    rule = FaultRule(on="submit", do="fail", code=1200, at=frozenset({21}))
    with quick_service(rule, image_size=64) as service:
        path = spec_of(tmp_path, service, run={"replicate": 4, "concurrency": 1})
        result = batchflux.run(load_job(path))
        assert result.exit_status == 1
        assert "submitted twice: job-replicates: 3 of 4 cells completed, 1 failed" in str(result)
        assert result.command == f"batchflux run {result.run_dir} --retry-failed"
        found = result.standing.replicates
        assert found is not None
        assert (found.same_bytes, found.different, found.not_compared) == (3, 0, 1)
        image = next((result.run_dir / "replicates" / SLUG / "images").glob("*/*.png"))
        image.write_bytes(image.read_bytes()[:-20])
        (problem,) = verify_run(result.run_dir).problems
        assert problem.startswith(f"replicates/{SLUG}: damaged file")
        assert f"batchflux run {result.run_dir} --download-only" in problem
        batchflux.run(load_job(path), RunOptions(download_only=True))
        assert (verify_run(result.run_dir).problems, n_bought(service)) == ((), 24)
        result = batchflux.run(load_job(path), RunOptions(retry_failed=True))
        assert (result.exit_status, n_bought(service)) == (0, 25)
        assert "of 4 cells submitted twice, 4 gave the same pixels (4 the same bytes); that cost $0.40" in str(result)


def test_embedded_metadata_makes_no_difference(tmp_path: Path, service: RunningSandbox) -> None:
    """The bytes that the service gave are compared, whatever was written into the files."""
    output = {"dir": "out", "embed_metadata": True}
    result = batchflux.run(load_job(spec_of(tmp_path, service, run={"replicate": 3}, output=output)))
    found = result.standing.replicates
    assert found is not None
    assert found.same_bytes == 3


def test_models_are_drawn_from_alike(tmp_path: Path) -> None:
    """Of a job over models each has its replicates in a directory of its own, and lost answers are found in both."""
    models = [MAX, "wavespeed-ai/flux-kontext-pro/text-to-image"]
    rule = FaultRule(on="submit", do="close", when="after", at=frozenset({3, 15}))
    with quick_service(rule, image_size=64) as service:
        keys: dict[str, Any] = {"grid": {"model": models, "seed": [1]}, "run": {"price": 0.08, "replicate": "100%"}}
        result = batchflux.run(load_job(spec_of(tmp_path, service, rows=5, **keys)))
        assert (result.exit_status, n_bought(service)) == (0, 20)
        assert Counter(service.behaviour.creations().values()) == {2: 10}
        for model in models:
            assert set(replicates(result.run_dir, model.replace("/", "--"))["model"]) == {model}


def test_what_is_not_drawn(tmp_path: Path, service: RunningSandbox) -> None:
    """Cells that leave the seed to the service, and those that repeat another's request."""
    path = spec_of(tmp_path, service, table="prompt\nkite\nkite\n", grid={"seed": [-1, 3]}, run={"replicate": "100%"})
    assert batchflux.plan(load_job(path)).replicates == 1
    result = batchflux.run(load_job(path))
    assert (result.exit_status, n_bought(service), list(replicates(result.run_dir)["seed"])) == (0, 5, [3])


def test_it_is_run_with_its_run_alone(tmp_path: Path, service: RunningSandbox) -> None:
    """The directory of replicates is refused by name; another run's, put in its place, too."""
    job = load_job(spec_of(tmp_path, service, run={"replicate": 1}))
    place = batchflux.run(job).run_dir / "replicates" / SLUG
    with pytest.raises(batchflux.UsageError, match="is run with it: batchflux run"):
        batchflux.run(load_job(place))
    paper = place / "replicate.json"
    paper.write_text(paper.read_text().replace('"run_id": "', '"run_id": "0'))
    with pytest.raises(batchflux.UsageError, match="holds another run's replicates"):
        batchflux.run(job)
    assert n_bought(service) == 21


def test_it_needs_images(tmp_path: Path, service: RunningSandbox) -> None:
    """Nothing can be compared of URLs alone."""
    path = spec_of(tmp_path, service, run={"replicate": 1}, output={"dir": "out", "download": False})
    with pytest.raises(batchflux.JobSpecError, match=r"run\.replicate: images are to be compared"):
        load_job(path)
