"""How the engine asks for results: few looks and soon, the whole run's together, and no storm at a resume."""

import asyncio
import json
import random
import statistics
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from batchflux.core.limits import Window
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.steps import CellState
from tests.core.answers import answer, completed_data
from tests.core.lives import PRICE, START_MS
from tests.engine import virtual
from tests.engine.fakes import Scene, Service


@dataclass(kw_only=True)
class Varied(Service):
    """A service whose predictions take a lognormal time, and that remembers when it was asked for each.

    `told_share` is the share of that time that it says was inference; 0: it says nothing.
    """

    told_share: float = 1.0
    took_s: dict[str, float] = field(default_factory=dict)
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    asked_at_s: dict[str, list[float]] = field(default_factory=dict)

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        loop = asyncio.get_running_loop()
        if request.method == "GET":
            self.asked_at_s.setdefault(request.url.split("/")[-2], []).append(loop.time())
            return await super().send(request)
        raw = await super().send(request)
        assert isinstance(raw, HttpAnswer)
        prediction_id = json.loads(raw.body)["data"]["id"]
        self.took_s[prediction_id] = 8 * self.dice.lognormvariate(0, 0.4)
        self.done_at_s[prediction_id] = loop.time() + self.took_s[prediction_id]
        return raw

    async def _result(self, prediction_id: str) -> HttpAnswer | TransportFault:
        raw = await super()._result(prediction_id)
        if asyncio.get_running_loop().time() < self.done_at_s[prediction_id]:
            return raw
        outputs = [f"https://h.example/{prediction_id}.png"]
        took_ms = round(1000 * self.told_share * self.took_s.get(prediction_id, 0.0))
        return answer(completed_data(id=prediction_id, outputs=outputs, timings={"inference": took_ms}))


@pytest.mark.parametrize("told_share", [1.0, 0.0, 0.25], ids=["told", "not told", "mostly queued"])
def test_a_run_asks_seldom_and_notices_soon(told_share: float) -> None:
    """design.md section 5: at most five looks a prediction, and a tenth of its time unnoticed in the median."""
    service = Varied(told_share=told_share)
    virtual.run(Scene(cells=600, transport=service, window=Window.capped(32), most_workers=32).play())
    learned = list(service.asked_at_s)[100:]
    assert statistics.fmean(len(service.asked_at_s[each]) for each in learned) <= 5
    late_s = [service.asked_at_s[each][-1] - service.done_at_s[each] for each in learned]
    assert statistics.median(late_s) <= 0.8


def test_a_resume_is_no_storm() -> None:
    """S13: a thousand predictions that an earlier run left are asked for from the first moment on, 250 a second."""
    service = Varied(query_s=0.0)
    resumed = {}
    for index in range(1000):
        service.done_at_s[f"left-{index}"], service.codes[f"left-{index}"] = 0.0, 0
        resumed[index] = CellState(
            attempts=1, prediction_id=f"left-{index}", price_micro_usd=PRICE, submitted_at_ms=START_MS - 60_000
        )
    scene = virtual.run(Scene(cells=1000, transport=service, resumed=resumed, most_workers=1000).play())
    asked_at_s = sorted(moments[0] for moments in service.asked_at_s.values())
    assert scene.statuses == {"completed": 1000}
    assert asked_at_s[0] - (asked_at_s[-1] - scene.took_s) < 1.1
    assert asked_at_s[-1] - asked_at_s[0] < 4.1
    assert all(later - sooner > 0.003 for sooner, later in pairwise(asked_at_s))
    assert service.posts == []
