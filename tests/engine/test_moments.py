"""The moments on record are those from which a lost submission can be found again."""

import asyncio
from collections.abc import Mapping

from batchflux.core.model import FactKind, JsonValue
from batchflux.core.protocol import HttpAnswer, TransportFault
from tests.engine.small import START_MS, SmallEngine, answer, now_ms, rfc3339, work
from tests.engine.virtual import run_virtually


def test_an_intent_is_dated_when_its_submission_leaves() -> None:
    """After a refusal the second submission waits two minutes; its intent must not say that it left before that."""
    replies = [
        answer(None, status=429, retry_after="120"),
        answer({"id": "one", "status": "created"}),
    ]
    engine = SmallEngine(
        submit=lambda body: replies.pop(0),
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
    )
    run_virtually(engine.run([work()]))
    moments = [fact.at_ms for fact in engine.sink.all if fact.kind is FactKind.INTENT]
    assert (
        [round((moment - START_MS) / 1000) for moment in moments] == [round(at_s) for at_s in engine.posts] == [0, 120]
    )


def test_a_slow_answer_does_not_move_the_span_that_is_searched() -> None:
    """An answer 25 s late says little of the service's clock: what it made just before is still looked for there."""
    made: dict[str, tuple[int, dict[str, JsonValue]]] = {}

    async def submit(body: Mapping[str, JsonValue]) -> HttpAnswer | TransportFault:
        name = f"made{len(made)}"
        made[name] = (now_ms(), dict(body))
        if name == "made1":
            return TransportFault(sent=True, message="reset")
        await asyncio.sleep(25)
        return answer({"id": name, "status": "created", "created_at": rfc3339(made[name][0])})

    def history(query: Mapping[str, JsonValue]) -> HttpAnswer:
        inside = [
            {"id": name, "status": "completed", "created_at": rfc3339(at_ms), "inputs": body}
            for name, (at_ms, body) in made.items()
            if str(query["created_after"]) <= rfc3339(at_ms) <= str(query["created_before"])
        ]
        return answer({"items": inside})

    engine = SmallEngine(
        submit=submit,
        history=history,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": [f"https://host/{name}.png"]}),
    )
    run_virtually(engine.run([work(0), work(1)]))
    assert len(engine.posts) == 2
    assert [fact.kind for fact in engine.sink.all if fact.cell_id == work(1).cell.cell_id] == [
        FactKind.INTENT,
        FactKind.UNANSWERED,
        FactKind.ACCEPTED,
        FactKind.OUTCOME,
    ]
