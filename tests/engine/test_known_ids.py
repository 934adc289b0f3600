"""Which prediction ids the engine remembers, to tell an answer that was meant for another submission."""

import pytest

from batchflux.core.limits import Window
from batchflux.core.protocol import HttpAnswer, HttpRequest
from tests.core.answers import answer, prediction_data
from tests.engine import virtual
from tests.engine.fakes import Scene, Service


def test_the_newest_ids_are_remembered_and_the_oldest_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for three, an answer that brings one of them again is not believed; an older id passes for fresh."""
    monkeypatch.setattr("batchflux.engine.hearing.KNOWN_IDS", 3)

    def reply(number: int, request: HttpRequest) -> HttpAnswer | None:
        again = {5: 3, 9: 1}.get(number)
        return None if again is None else answer(prediction_data(id=f"prediction-{again}"))

    scene = virtual.run(Scene(cells=10, transport=Service(reply=reply), most_workers=1, window=Window.capped(1)).play())
    assert scene.statuses == {"completed": 9, "unknown": 1}
