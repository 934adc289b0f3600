"""A prediction whose POST is still open belongs to that POST, though the history lists it already."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from batchflux.core.model import Fact, FactKind, JsonValue
from batchflux.core.protocol import HttpAnswer, TransportFault
from tests.engine.small import Facts, SmallEngine, answer, now_ms, rfc3339, work
from tests.engine.virtual import run_virtually


class SlowDisk(Facts):
    """A disk that takes a second for each intent."""

    async def intent(self, fact: Fact) -> None:
        """Keep a fact, a second later."""
        await asyncio.sleep(1)
        self.record(fact)


def test_a_prediction_in_the_making_is_not_adopted_for_an_equal_lost_submission() -> None:
    """Of two equal cells one is lost and never made, the other is made at once and answered only after 25 s."""
    made: dict[str, tuple[int, dict[str, JsonValue]]] = {}
    posts: list[int] = []

    async def submit(body: Mapping[str, JsonValue]) -> HttpAnswer | TransportFault:
        posts.append(now_ms())
        if len(posts) == 1:
            return TransportFault(sent=True, message="reset")
        name = f"made{len(made)}"
        made[name] = (now_ms(), dict(body))
        if name == "made0":
            await asyncio.sleep(25)
        return answer({"id": name, "status": "created", "created_at": rfc3339(made[name][0])})

    def history(query: Mapping[str, JsonValue]) -> HttpAnswer:
        listed = [
            {"id": name, "status": "completed", "created_at": rfc3339(at_ms), "inputs": body}
            for name, (at_ms, body) in made.items()
        ]
        return answer({"items": listed})

    engine = SmallEngine(
        submit=submit,
        history=history,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": [f"https://host/{name}.png"]}),
        sink=SlowDisk(),
        workers=1,
    )
    cells = [work(0), work(1)]
    alike = [replace(item, cell=replace(item.cell, body={"prompt": "An owl", "seed": 7})) for item in cells]
    run_virtually(engine.run(alike))
    accepted = [fact.prediction_id for fact in engine.sink.all if fact.kind is FactKind.ACCEPTED]
    assert sorted(map(str, accepted)) == ["made0", "made1"]
