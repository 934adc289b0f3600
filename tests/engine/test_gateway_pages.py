"""Pages of a gateway, in virtual time: they are not the service's word, so they end no run and no cell."""

import asyncio

import pytest

from batchflux.core.model import CellStatus
from batchflux.core.protocol import HttpAnswer, HttpRequest
from batchflux.core.steps import CellState
from tests.core.lives import PRICE
from tests.engine.fakes import Scene, Service
from tests.engine.virtual import run

_PAGE = b"<html>Denied by the firewall</html>"


def _page(status: int, *, retry_after: str | None = None) -> HttpAnswer:
    return HttpAnswer(status=status, body=_PAGE, retry_after=retry_after)


@pytest.mark.fault("N19")
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_page_for_every_query_for_ten_minutes_ends_nothing(status: int) -> None:
    """A firewall that turns queries away is not the service that refuses the key, or has forgotten the predictions."""

    def look(prediction_id: str) -> HttpAnswer | None:
        return _page(status) if 1003 < asyncio.get_running_loop().time() < 1603 else None

    scene = run(Scene(cells=60, transport=Service(work_s=5.0, look=look)).play())
    assert scene.stop is None
    assert scene.statuses == {"completed": 60}
    assert len(scene.transport.posts) == 60


@pytest.mark.parametrize("status", [401, 403])
def test_a_page_for_every_query_ends_with_the_patience(status: int) -> None:
    """A firewall that never lets go is a service that is gone: predictions stay submitted with their ids."""
    service = Service(work_s=5.0, look=lambda prediction_id: _page(status))
    scene = run(Scene(cells=60, transport=service, patience_s=600.0, timeout_s=3600.0).play())
    assert scene.stop is not None
    assert scene.stop.kind == "trouble"
    assert "gone" in scene.stop.message
    assert set(scene.statuses) <= {"submitted", "pending"}
    assert 600 <= scene.took_s <= 700


def test_a_prediction_that_only_pages_deny_stays_submitted() -> None:
    """What was paid is not given up for a page: a later run asks again."""
    old = CellState(attempts=1, cost_micro_usd=PRICE, prediction_id="old", price_micro_usd=PRICE)
    service = Service(look=lambda prediction_id: _page(404))
    scene = run(Scene(cells=1, transport=service, resumed={0: old}, timeout_s=900.0).play())
    assert scene.statuses == {CellStatus.SUBMITTED: 1}
    assert service.posts == []


@pytest.mark.fault("H14")
def test_a_page_that_asks_to_wait_is_heeded_by_all() -> None:
    """After a gateway's 429 with "wait 30 s" no submission leaves for thirty seconds; only its own cell is unknown."""

    def reply(number: int, request: HttpRequest) -> HttpAnswer | None:
        return _page(429, retry_after="30") if number == 5 else None

    service = Service(reply=reply, post_s=0.1, work_s=0.5)
    scene = run(Scene(cells=40, transport=service, most_workers=4).play())
    assert scene.statuses == {"completed": 39, "unknown": 1}
    refused_s = service.posts[4][0] + service.post_s
    assert not [at_s for at_s, _ in service.posts if refused_s < at_s < refused_s + 30]


def test_a_page_that_asks_to_wait_narrows_the_window() -> None:
    """Fewer predictions are let in flight, as after the service's own refusal."""
    service = Service(reply=lambda number, request: _page(429) if number == 20 else None, work_s=60.0)
    scene = Scene(cells=24, transport=service, most_workers=24)
    scene.window.size = 24.0
    sizes: list[float] = []

    async def watch(scene: Scene) -> None:
        await asyncio.sleep(5.0)
        sizes.append(scene.window.size)

    scene.during = watch
    run(scene.play())
    assert sizes[0] < 23.5
