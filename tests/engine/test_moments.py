"""The moments on record are those from which a lost submission can be found again."""

from batchflux.core.model import FactKind
from tests.engine.small import START_MS, SmallEngine, answer, work
from tests.simulation.virtual import run_virtually


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
    assert [round((moment - START_MS) / 1000) for moment in moments] == [round(at_s) for at_s in engine.posts] == [0, 120]
