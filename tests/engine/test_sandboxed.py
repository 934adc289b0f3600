"""The engine with real sockets: a sandbox in the same loop, the real client, the real checkpoint, real images."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchflux.core import limits, polling
from batchflux.core.limits import Window
from batchflux.core.model import FactKind
from batchflux.core.retry import Backoff
from batchflux.io.checkpoint import CheckpointWriter, read_facts
from batchflux.io.client import ApiKey, Client
from batchflux.io.downloads import Downloader
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig
from tests.canary import CANARY
from tests.engine.fakes import Images, Scene

FAST = Latency(median_s=0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets are real here and so is time: first looks and pauses come a hundred times as soon."""
    monkeypatch.setattr(polling, "_FIRST_GUESS_S", 0.01)
    monkeypatch.setattr(limits, "CONNECT_BACKOFF", Backoff(first_s=0.01, most_s=0.1))


def rehearse(config: SandboxConfig, scene: Scene) -> tuple[Scene, dict[str, Any]]:
    """Play a scene against a sandbox; return it with the sandbox's own counts."""

    async def play() -> tuple[Scene, dict[str, Any]]:
        async with RunningSandbox(config) as sandbox, Client(ApiKey(CANARY)) as client:
            scene.transport, scene.base_url = client, sandbox.base_url
            await scene.play()
            return scene, dict(sandbox.stats)

    return asyncio.run(play())


def faults(*rules: FaultRule, **config: Any) -> SandboxConfig:
    return SandboxConfig(latency=FAST, faults=FaultScript(rules=rules), **config)


@pytest.mark.fault("H01")
def test_every_cell_once_and_its_image() -> None:
    """A whole small run: the sandbox made each cell once, and every image was fetched."""
    scene, stats = rehearse(SandboxConfig(latency=FAST), Scene(cells=40, images=Images()))
    assert scene.statuses == {"completed": 40}
    assert (stats["submissions_accepted"], stats["inputs_created_more_than_once"]) == (40, 0)
    assert len(scene.sink.of(FactKind.FILES)) == 40


def test_a_refusing_sandbox_is_never_overfilled() -> None:
    """Where it refuses what is over three at once, nothing fails and nothing is made twice."""
    config = SandboxConfig(latency=Latency(median_s=0.02, sigma=0), concurrency=3, over_limit="refuse")
    scene, stats = rehearse(config, Scene(cells=12, window=Window.capped(8)))
    assert scene.statuses == {"completed": 12}
    assert stats["peak_in_flight"] <= 3
    assert stats["inputs_created_more_than_once"] == 0


@pytest.mark.fault("H03", "H04", "H05", "H06", "H16", "H17", "N08", "N09", "N11")
@pytest.mark.parametrize(
    ("rule", "made"),
    [
        (FaultRule(on="submit", do="reset", at=frozenset({3})), False),
        (FaultRule(on="submit", do="reset", at=frozenset({3}), when="after"), True),
        (FaultRule(on="submit", do="close", at=frozenset({3}), when="after"), True),
        (FaultRule(on="submit", do="status", status=502, at=frozenset({3}), when="after"), True),
        (FaultRule(on="submit", do="html", at=frozenset({3})), False),
        (FaultRule(on="submit", do="bad_json", at=frozenset({3}), when="after"), True),
        (FaultRule(on="submit", do="truncate", at=frozenset({3})), True),
        (FaultRule(on="submit", do="truncate", at=frozenset({3}), with_length=False), True),
        (FaultRule(on="submit", do="patch", at=frozenset({3}), drop=("id",)), True),
        (FaultRule(on="submit", do="patch", at=frozenset({3}), data={"id": "../../x"}), True),
        (FaultRule(on="submit", do="reuse_id", at=frozenset({3})), True),
    ],
    ids=lambda value: value.do if isinstance(value, FaultRule) else str(value),
)
def test_a_lost_answer_is_found_in_the_history(rule: FaultRule, *, made: bool) -> None:
    """H03 to H06, H17, N08 to N11: made, it is adopted; not made, it is sent again; the clocks are years apart."""
    scene = Scene(cells=6, window=Window.capped(1), most_workers=1, settle_s=0.1)
    scene, stats = rehearse(faults(rule), scene)
    assert scene.statuses == {"completed": 6}
    assert stats["submissions_accepted"] == 6
    assert stats["inputs_created_more_than_once"] == 0
    assert len(scene.sink.of(FactKind.INTENT)) == 7 - made
    assert scene.spent() == scene.budget.life_micro_usd == 6 * scene.price


@pytest.mark.fault("H17", "S18")
def test_a_lost_answer_without_a_history_is_one_unknown_cell() -> None:
    """Nobody tells what became of it: the cell is unknown, keeps its price, and is not sent again."""
    lost = FaultRule(on="submit", do="close", at=frozenset({3}), when="after")
    silent = FaultRule(on="history", do="status", status=404)
    scene = Scene(cells=6, window=Window.capped(1), most_workers=1, settle_s=0.1)
    scene, stats = rehearse(faults(lost, silent), scene)
    assert scene.statuses == {"completed": 5, "unknown": 1}
    assert stats["submissions_accepted"] == 6
    assert scene.spent() == scene.budget.life_micro_usd == 6 * scene.price


@pytest.mark.fault("N14")
def test_stale_answers_reach_nobody() -> None:
    """N14: an answer sent once more on an idle connection is never taken for another cell's."""
    rule = FaultRule(on="submit", do="stale", every=1, seconds=0.0)
    scene, stats = rehearse(faults(rule), Scene(cells=20))
    assert scene.statuses == {"completed": 20}
    ids = [fact.prediction_id for fact in scene.sink.of(FactKind.ACCEPTED)]
    assert len(set(ids)) == 20 == stats["submissions_accepted"]


@pytest.mark.fault("S01", "S12")
def test_failing_queries_cost_nothing() -> None:
    """S01, S12: resets, pages, 404 and 500 on every prediction's first queries lead to no second submission."""
    rules = (
        FaultRule(on="result", do="reset", at=frozenset({1, 2}), per_prediction=True, probability=0.3),
        FaultRule(on="result", do="status", status=404, at=frozenset({1}), per_prediction=True, probability=0.5),
        FaultRule(on="result", do="html", at=frozenset({1}), per_prediction=True),
    )
    scene, stats = rehearse(faults(*rules), Scene(cells=8))
    assert scene.statuses == {"completed": 8}
    assert stats["submissions_accepted"] == 8


@pytest.mark.fault("H20")
def test_a_redirected_submission_stops_the_run() -> None:
    """H20: the sandbox's redirect is not followed, and the run says where it pointed."""
    rule = FaultRule(on="submit", do="redirect", every=1, location="http://127.0.0.1:9/x")
    scene, stats = rehearse(faults(rule), Scene(cells=50, window=Window.capped(1), most_workers=1))
    assert scene.stop is not None
    assert "http://127.0.0.1:9/x" in scene.stop.message
    assert (scene.statuses, stats["submissions_accepted"]) == ({"unknown": 1, "pending": 49}, 0)


@pytest.mark.fault("H10", "H11")
def test_a_refused_key_and_no_credit() -> None:
    """H10, H11: the sandbox's own words for both stop the run with every cell pending."""
    for config, kind in (
        (SandboxConfig(require_key="another-key-altogether"), "auth"),
        (SandboxConfig(balance_usd=0.0), "credit"),
    ):
        scene, _ = rehearse(config, Scene(cells=50))
        assert scene.stop is not None
        assert scene.stop.fault is not None
        assert scene.stop.fault.kind == kind
        assert scene.statuses == {"pending": 50}
        assert scene.budget.life_micro_usd == 0


def test_with_the_real_checkpoint_and_files(tmp_path: Path) -> None:
    """The real sink and the real downloader in the fakes' places: facts read back, files as they say."""

    async def play() -> Scene:
        config = SandboxConfig(latency=FAST, image_size=64)
        async with (
            RunningSandbox(config) as sandbox,
            Client(ApiKey(CANARY)) as client,
            Downloader(tmp_path, allow_loopback=True) as downloader,
        ):
            writer = CheckpointWriter.open(tmp_path, "job")
            scene = Scene(cells=10, transport=client, base_url=sandbox.base_url)
            scene.sink, scene.images = writer, downloader  # type: ignore[assignment]
            return await scene.play()

    scene = asyncio.run(play())
    facts = read_facts(tmp_path).to_pylist()
    assert len(facts) == 40
    saved = [fact for fact in facts if fact["kind"] == "files"]
    assert len(saved) == 10
    for fact in saved:
        assert [(tmp_path / path).stat().st_size for path in fact["files"]] == fact["file_bytes"]
    assert scene.progress.images_saved == 10
