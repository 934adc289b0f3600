"""`--budget` is for this time: what an earlier session spent and gets back is no allowance for this one."""

from batchflux.core.flow import CellState
from batchflux.core.resolution import Unresolved
from tests.engine.small import PRICE, START_MS, SmallEngine, answer, work
from tests.simulation.virtual import run_virtually


def quick(*, session_limit_micro_usd: int, life_micro_usd: int) -> SmallEngine:
    """Return an engine whose service completes all but the prediction of an earlier session, and has no others."""
    made: list[str] = []

    def submit(body: object) -> object:
        made.append(f"made{len(made)}")
        return answer({"id": made[-1], "status": "created"})

    def poll(name: str) -> object:
        if name == "earlier":
            return answer({"id": name, "status": "failed", "error": "busy", "code": 5000})
        return answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]})

    return SmallEngine(
        submit=submit,
        poll=poll,
        history=lambda query: answer({"items": []}),
        session_limit_micro_usd=session_limit_micro_usd,
        life_micro_usd=life_micro_usd,
    )


def test_a_refund_of_an_earlier_sessions_prediction_allows_nothing_more() -> None:
    """With money for one submission this time, one leaves, though the earlier one is paid back meanwhile."""
    engine = quick(session_limit_micro_usd=PRICE, life_micro_usd=PRICE)
    before = CellState(
        attempts=1, cost_micro_usd=PRICE, prediction_id="earlier", price_micro_usd=PRICE, submitted_at_ms=START_MS - 900
    )
    run_virtually(engine.run([work(0, before), work(1), work(2)]))
    assert len(engine.posts) == 1


def test_an_earlier_sessions_lost_submission_that_cost_nothing_allows_nothing_more() -> None:
    """The same where it is proven that the service never accepted it."""
    engine = quick(session_limit_micro_usd=PRICE, life_micro_usd=PRICE)
    lost = Unresolved(
        cell_id=work(0).cell.cell_id,
        before=CellState(),
        attempt=1,
        price_micro_usd=PRICE,
        sent_at_ms=START_MS - 60_000,
        seen_at_ms=START_MS - 50_000,
    )
    run_virtually(engine.run([work(1), work(2)], lost=[(work(0), lost)]))
    assert len(engine.posts) == 1
