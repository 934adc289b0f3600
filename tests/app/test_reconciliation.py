"""Lost answers, end to end: a real run against a real sandbox whose own ledger is the truth."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux.app.run import RunOptions
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.canary import CANARY

QUICK = Latency(median_s=0.01, sigma=0.0)


def config(*rules: FaultRule, **knobs: Any) -> SandboxConfig:
    """Return a quick sandbox with faults."""
    return SandboxConfig(latency=QUICK, faults=FaultScript(rules=rules), **knobs)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a key for the sandbox, which takes any."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)


def run(
    folder: Path, sandbox: RunningSandbox, *, cells: int = 40, options: RunOptions | None = None, **settings: object
) -> batchflux.Result:
    """Run a job of so many cells against the sandbox; a second call goes on."""
    table = folder / "p.csv"
    table.write_text("prompt\n" + "".join(f"prompt number {row}\n" for row in range(cells)))
    (folder / "job.yaml").write_text("prompts: {path: p.csv}\noutput: {download: false}\ngrid: {seed: [1]}\n")
    overrides: Mapping[str, object] = {
        "api.base_url": sandbox.base_url,
        "api.settle": "600ms",
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return batchflux.run(batchflux.load_job(folder / "job.yaml", overrides), options)


def created(sandbox: RunningSandbox) -> Counter[int]:
    """Return how many cells the service created once, twice, ..."""
    return Counter(sandbox.behaviour.creations().values())


@pytest.mark.fault("H17")
@pytest.mark.usefixtures("key")
def test_one_answer_in_five_lost_costs_no_cell_and_no_cent(tmp_path: Path) -> None:
    """Connections closed after the prediction was created: every one is found in the history and adopted."""
    with SandboxThread(config(FaultRule(on="submit", do="close", when="after", every=5))) as sandbox:
        result = run(tmp_path, sandbox, cells=60)
        assert created(sandbox) == {1: 60}
    assert result.exit_status == 0
    assert result.standing.completed == 60
    assert result.standing.cost_usd == pytest.approx(60 * 0.08)


@pytest.mark.fault("H16")
@pytest.mark.usefixtures("key")
def test_what_was_never_accepted_is_sent_again_once_that_is_proven(tmp_path: Path) -> None:
    """502 before anything was created: the history doesn't hold them, so they are pending again and then completed."""
    rule = FaultRule(on="submit", do="status", status=502, when="before", at=frozenset({2, 9, 11}))
    with SandboxThread(config(rule)) as sandbox:
        result = run(tmp_path, sandbox)
        assert created(sandbox) == {1: 40}
    assert (result.exit_status, result.standing.completed, result.standing.unknown) == (0, 40, 0)


@pytest.mark.fault("S17")
@pytest.mark.usefixtures("key")
def test_without_inputs_lost_submissions_are_held_with_their_candidates(tmp_path: Path) -> None:
    """Nothing is adopted and nothing sent again; the user's word sends them again, and their first price stays."""
    rule = FaultRule(on="submit", do="close", when="after", at=frozenset({3, 30}))
    with SandboxThread(config(rule, history_inputs="absent")) as sandbox:
        result = run(tmp_path, sandbox)
        assert created(sandbox) == {1: 40}
        assert (result.exit_status, result.standing.completed, result.standing.unknown) == (1, 38, 2)
        assert result.command.endswith("--resubmit-unknown")
        state = batchflux.read_checkpoint(result.run_dir)
        held = state[state["status"] == "unknown"]
        lost = {record.id for record in sandbox.behaviour.everything()} - set(state["prediction_id"].dropna())
        assert len(lost) == 2
        assert all(any(name in words for name in lost) for words in held["error"])
        again = run(tmp_path, sandbox, options=RunOptions(resubmit_unknown=True))
        assert (again.exit_status, again.standing.completed) == (0, 40)
        assert again.standing.cost_usd == pytest.approx(42 * 0.08)
        assert created(sandbox) == {1: 38, 2: 2}


@pytest.mark.fault("S18")
@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("status", [404, 403])
def test_without_a_history_lost_submissions_are_held(tmp_path: Path, status: int) -> None:
    """No listing to ask: nothing is decided, and a later run of the same job asks again."""
    rules = (
        FaultRule(on="submit", do="close", when="after", at=frozenset({3})),
        FaultRule(on="history", do="status", status=status, times=1),
    )
    with SandboxThread(config(*rules)) as sandbox:
        first = run(tmp_path, sandbox)
        assert (first.exit_status, first.standing.unknown) == (1, 1)
        second = run(tmp_path, sandbox)
        assert (second.exit_status, second.standing.completed) == (0, 40)
        assert created(sandbox) == {1: 40}


@pytest.mark.fault("S16")
@pytest.mark.usefixtures("key")
def test_a_listing_that_lacks_our_own_predictions_proves_nothing(tmp_path: Path) -> None:
    """An empty page where our predictions should be listed is no proof that a submission was not accepted."""
    rules = (
        FaultRule(on="submit", do="close", when="after", at=frozenset({20})),
        FaultRule(on="history", do="patch", data={"items": []}, first=4),
    )
    with SandboxThread(config(*rules)) as sandbox:
        result = run(tmp_path, sandbox)
        assert created(sandbox) == {1: 40}
        assert (result.exit_status, result.standing.completed) == (0, 40)


@pytest.mark.usefixtures("key")
def test_equal_rows_are_told_apart_by_count(tmp_path: Path) -> None:
    """Cells of the very same body, some lost: as many are adopted as the history holds, the rest are sent again."""
    rules = (
        FaultRule(on="submit", do="close", when="after", at=frozenset({2, 5})),
        FaultRule(on="submit", do="close", when="before", at=frozenset({3})),
    )
    table = tmp_path / "p.csv"
    table.write_text("prompt\n" + "the same\n" * 12)
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv}\noutput: {download: false}\ngrid: {seed: [1]}\n")
    with SandboxThread(config(*rules)) as sandbox:
        overrides = {"api.base_url": sandbox.base_url, "api.settle": "600ms"}
        result = batchflux.run(batchflux.load_job(tmp_path / "job.yaml", overrides))
        assert created(sandbox) == {12: 1}
    assert (result.exit_status, result.standing.completed) == (0, 12)
    ids = batchflux.read_manifest(result.run_dir)["prediction_id"]
    assert ids.nunique() == 12


@pytest.mark.usefixtures("key")
def test_an_id_of_an_earlier_session_is_no_answer(tmp_path: Path) -> None:
    """H05 across sessions: the id of a cell that is long done is no answer, and the history finds the right one."""
    rule = FaultRule(on="submit", do="reuse_id", at=frozenset({2}))
    with SandboxThread(config(rule)) as sandbox:
        assert run(tmp_path, sandbox, cells=2, options=RunOptions(limit=1)).exit_status == 3
        result = run(tmp_path, sandbox, cells=2)
        assert created(sandbox) == {1: 2}
    assert (result.exit_status, result.standing.completed) == (0, 2)
    assert batchflux.read_manifest(result.run_dir)["prediction_id"].nunique() == 2
    assert '"event": "mixed_up"' in (result.run_dir / "run.log").read_text()


@pytest.mark.usefixtures("key")
def test_a_lost_answer_of_one_of_two_models(tmp_path: Path) -> None:
    """The listing that shows a lost submission must hold the predictions of the run's other model too."""
    rule = FaultRule(on="submit", do="close", when="after", at=frozenset({9}))
    with SandboxThread(config(rule)) as sandbox:
        models = ["wavespeed-ai/flux-kontext-max/text-to-image", "wavespeed-ai/flux-kontext-pro/text-to-image"]
        result = run(tmp_path, sandbox, cells=6, grid__model=models, run__price=0.08)
        assert created(sandbox) == {1: 12}
    assert (result.exit_status, result.standing.completed, result.standing.unknown) == (0, 12, 0)
