"""`--budget` is for this time: what an earlier session spent and gets back is no allowance for this one."""

from dataclasses import replace

from batchflux.core.budget import Budget
from batchflux.core.protocol import TransportFault
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import CellState
from tests.engine.small import MODEL, PRICE, START_MS, SmallEngine, answer, now_ms, rfc3339, work
from tests.engine.virtual import run_virtually


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


def test_what_this_session_bought_counts_though_an_earlier_cell_gets_it() -> None:
    """Equal bodies, one lost in each of two sessions, one prediction made in this one: it may be either's, so that
    giving it to the earlier cell allows no further submission."""
    made: list[dict[str, object]] = []

    def submit(body: object) -> object:
        made.append({"id": f"made{len(made)}", "model": MODEL, "created_at": rfc3339(now_ms()), "inputs": body})
        return TransportFault(sent=True, message="reset")

    engine = SmallEngine(
        submit=submit,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
        history=lambda query: answer({"items": made if query["page"] == 1 else []}),
        session_limit_micro_usd=PRICE,
        life_micro_usd=PRICE,
        workers=1,
    )
    earlier = work(0)
    alike = replace(work(1), cell=replace(work(1).cell, body=earlier.cell.body))
    lost = Unresolved(
        cell_id=earlier.cell.cell_id,
        before=CellState(),
        attempt=1,
        price_micro_usd=PRICE,
        sent_at_ms=START_MS - 1000,
        seen_at_ms=START_MS,
    )
    done = run_virtually(engine.run([alike, work(2)], lost=[(earlier, lost)]))
    assert len(engine.posts) == 1
    assert done.admission.budget == Budget(
        life_limit_micro_usd=None, session_limit_micro_usd=PRICE, life_micro_usd=PRICE, session_micro_usd=PRICE
    )
