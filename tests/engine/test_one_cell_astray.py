"""A cell whose submissions alone never reach the service, while others' do: it costs nothing, and has to end."""

import asyncio

from batchflux.core.model import CellStatus, FactKind
from batchflux.core.protocol import HttpAnswer, TransportFault
from tests.engine.small import SmallEngine, answer, now_ms, rfc3339, work
from tests.engine.virtual import run_virtually

_ASTRAY = work(3)


def _engine(astray: HttpAnswer | TransportFault | None, *, good: int = 400) -> SmallEngine:
    """Run an engine whose service completes everything but one cell, whose submissions are answered as told and make
    no prediction; None answers them with the id of the first prediction."""
    made: list[dict[str, object]] = []

    def submit(body: object) -> object:
        if body == dict(_ASTRAY.cell.body):
            return astray or answer({"id": "made0", "status": "created"})
        made.append({"id": f"made{len(made)}", "created_at": rfc3339(now_ms()), "inputs": body})
        return answer({**made[-1], "status": "created"})

    engine = SmallEngine(
        submit=submit,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
        history=lambda query: answer({"items": made if query["page"] == 1 else []}),
        workers=1,
    )
    run_virtually(engine.run([work(index) for index in range(good)]))
    return engine


def _posts_of_it(engine: SmallEngine) -> int:
    intents = [fact for fact in engine.sink.all if fact.kind is FactKind.INTENT]
    return sum(fact.cell_id == _ASTRAY.cell.cell_id for fact in intents)


def test_a_cell_that_is_always_given_anothers_id_is_left_to_the_next_run() -> None:
    """A cache answers it with what an earlier submission was told: eight proofs that nothing was made are enough."""
    engine = _engine(None, good=10)
    last = [fact for fact in engine.sink.all if fact.cell_id == _ASTRAY.cell.cell_id][-1]
    assert (last.status, last.cost_micro_usd) == (CellStatus.PENDING, 0)
    assert last.error == "not accepted 8 times while other submissions were answered; the next run tries again"
    assert _posts_of_it(engine) == 8
    assert len(engine.posts) == 9 + 8


def test_a_cell_that_alone_is_dropped_is_left_to_the_next_run() -> None:
    """A firewall that dislikes one prompt drops it each time, and lets everybody else's through."""
    engine = _engine(TransportFault(sent=True, message="reset"))
    assert _posts_of_it(engine) == 8
    assert len(engine.posts) == 399 + 8


def test_while_nothing_is_answered_no_cell_is_given_up() -> None:
    """The last cell of a run meets two hours of lost answers: that is an outage, and no fault of the cell's."""

    def submit(body: object) -> object:
        is_away = len(engine.posts) > 1 and asyncio.get_running_loop().time() < 2 * 3600
        return TransportFault(sent=True, message="reset") if is_away else answer({"id": f"made{len(engine.posts)}"})

    engine = SmallEngine(
        submit=submit,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
        history=lambda query: answer({"items": []}),
    )
    engine.workers = 1
    run_virtually(engine.run([work(0), work(1)]))
    assert engine.sink.all[-1].status is CellStatus.COMPLETED
    assert len(engine.posts) > 2 + 8
