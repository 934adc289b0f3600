"""Hours that go wrong, in virtual time: a computer asleep, listings with holes, very many to ask for."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from batchflux.core.limits import Window
from batchflux.core.model import CellStatus, FactKind, JsonValue
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.steps import CellState
from tests.core.lives import PRICE, accepted, done, failed, live, seen
from tests.engine import small
from tests.engine.fakes import Scene, Service, times_submitted
from tests.engine.small import SmallEngine, answer, rfc3339, work
from tests.engine.virtual import VirtualLoop, run, run_virtually

LOST = TransportFault(sent=True, message="reset")


# ---------------------------------------------------------------------------------------------------- asleep


class _ClosedWhileAsleep(Service):
    """The client's own limits in front of the service: no answer is waited for longer than a minute."""

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        try:
            async with asyncio.timeout(60):
                return await super().send(request)
        except TimeoutError:
            return LOST


@pytest.mark.fault("N22")
@pytest.mark.parametrize("asleep_s", [600.0, 3600.0])
def test_a_computer_that_sleeps(asleep_s: float) -> None:
    """Open POSTs may be lost by it; predictions aren't all given up when it wakes, but asked for once more."""

    async def sleep(scene: Scene) -> None:
        await asyncio.sleep(3.05)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        in_flight.append(scene.admission.window.in_flight)
        open_posts.append(scene.admission.open_posts)
        loop._jumping.now_s += asleep_s

    in_flight: list[int] = []
    open_posts: list[int] = []
    service = _ClosedWhileAsleep(work_s=20.0, post_s=0.2)
    scene = run(Scene(cells=60, transport=service, window=Window.capped(30), timeout_s=1800.0, during=sleep).play())
    assert in_flight[0] >= 20, "nobody was at work"
    assert scene.statuses["unknown"] <= open_posts[0]
    assert scene.statuses["completed"] == 60 - scene.statuses["unknown"]
    assert set(times_submitted(service).values()) == {1}


# ---------------------------------------------------------------------------------------------------- queries


@pytest.mark.fault("S04")
def test_the_first_ending_is_the_one() -> None:
    """A prediction that would be at work again, or good after all, at the next look isn't looked at again."""
    for first, status in ((done(), CellStatus.COMPLETED), (failed(1200), CellStatus.FAILED)):
        life = live([accepted()], [seen(), first, seen(), done()])
        assert life.last.status is status
        assert len(life.polls) == 2


@pytest.mark.fault("S13")
def test_very_many_predictions_in_flight_are_not_asked_for_at_once() -> None:
    """A thousand that an earlier run left are asked for by as many as may be in flight, and each a few times."""
    cells, workers = 1000, 16
    states = {
        index: CellState(attempts=1, cost_micro_usd=PRICE, prediction_id=f"old-{index}", price_micro_usd=PRICE)
        for index in range(cells)
    }
    at_once = peak = 0

    class Counting(Service):
        async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
            nonlocal at_once, peak
            at_once += 1
            peak = max(peak, at_once)
            try:
                return await super().send(request)
            finally:
                at_once -= 1

    names = [f"old-{index}" for index in range(cells)]
    service = Counting(done_at_s=dict.fromkeys(names, 1005.0), codes=dict.fromkeys(names, 0))
    scene = run(Scene(cells=cells, transport=service, resumed=states, most_workers=workers).play())
    assert scene.statuses == {"completed": cells}
    assert service.posts == []
    assert peak <= workers
    assert service.queries.total() <= cells + 25 * workers


# ---------------------------------------------------------------------------------------------------- listings


class _Listing:
    """A history of eight predictions in pages of three, the lost one on the third page."""

    def __init__(self, spoil: Callable[[int, int, list[dict[str, JsonValue]]], HttpAnswer | None]) -> None:
        self.items: list[dict[str, JsonValue]] = []
        self.asked: Counter[int] = Counter()
        self._spoil = spoil

    def submit(self, body: Mapping[str, JsonValue]) -> HttpAnswer | TransportFault:
        """Make a prediction, and lose the first one's answer."""
        number = len(self.items)
        self.items.append(
            {"id": f"made{number}", "status": "completed", "created_at": rfc3339(small.now_ms()), "inputs": dict(body)}
        )
        return LOST if number == 0 else answer({"id": f"made{number}", "created_at": self.items[-1]["created_at"]})

    def history(self, query: Mapping[str, JsonValue]) -> HttpAnswer:
        """Give a page, newest first."""
        page = int(json.dumps(query["page"]))
        self.asked[page] += 1
        newest = self.items[::-1]
        return self._spoil(page, self.asked[page], newest) or answer({"items": newest[3 * page - 3 : 3 * page]})


def _fails_once(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer(None, status=500) if (page, times) == (3, 1) else None


def _fails_always(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer(None, status=500) if page == 3 else None


def _overlaps(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer({"items": newest[2 * page - 2 : 2 * page + 1]})


def _ignores_the_page(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer({"items": newest, "total": 999_999})


def _lies_about_the_total(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer({"items": newest[3 * page - 3 : 3 * page], "total": 3, "has_more": False})


def _lacks_one_at_first(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    there = newest[3 * page - 3 : 3 * page]
    return answer({"items": [item for item in there if item["id"] != "made0"]}) if times == 1 and page < 3 else None


def _comes_late(page: int, times: int, newest: list[dict[str, JsonValue]]) -> HttpAnswer | None:
    return answer({"items": []}) if (page, times) == (1, 1) else None


@pytest.mark.fault("S16")
@pytest.mark.parametrize(
    "spoil",
    [
        _fails_once,
        _fails_always,
        _overlaps,
        _ignores_the_page,
        _lies_about_the_total,
        _lacks_one_at_first,
        _comes_late,
    ],
)
def test_a_listing_with_holes(spoil: Callable[[int, int, list[dict[str, JsonValue]]], HttpAnswer | None]) -> None:
    """A listing that may lack something decides nothing: the lost one is found, or held, and never sent again."""
    listing = _Listing(spoil)
    engine = SmallEngine(
        submit=listing.submit,
        history=listing.history,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": [f"https://host/{name}.png"]}),
        workers=1,
    )
    run_virtually(engine.run([work(number) for number in range(8)]))
    assert len(engine.posts) == 8, "a submission was sent again"
    told = [fact for fact in engine.sink.all if fact.cell_id == work(0).cell.cell_id][-1]
    if spoil is _fails_always:
        assert told.status is CellStatus.UNKNOWN
    else:
        assert (told.status, told.prediction_id) == (CellStatus.COMPLETED, "made0")
    assert sum(fact.kind is FactKind.OUTCOME for fact in engine.sink.all) >= 7
