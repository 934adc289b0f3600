"""What the history no longer holds is proof of nothing."""

import pytest

from batchflux.core.model import CellStatus, FactKind
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import CellState
from tests.engine.small import PRICE, START_MS, SmallEngine, answer, work
from tests.engine.virtual import run_virtually

DAY_MS = 24 * 3600 * 1000


@pytest.mark.fault("S03")
@pytest.mark.parametrize(
    ("age_ms", "kind", "status"),
    [
        (8 * DAY_MS, FactKind.UNANSWERED, CellStatus.UNKNOWN),
        (6 * DAY_MS, FactKind.RELEASED, CellStatus.PENDING),
    ],
)
def test_a_submission_older_than_the_history_is_held(age_ms: int, kind: FactKind, status: CellStatus) -> None:
    """An empty listing proves that one of six days ago was not accepted, and of eight days ago nothing at all."""
    engine = SmallEngine(
        submit=lambda body: answer(
            {"id": f"again{body['prompt'] == work(0).cell.body['prompt']}", "status": "created"}
        ),
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
        history=lambda query: answer({"items": []}),
    )
    lost = [
        (work(index), Unresolved(
            cell_id=work(index).cell.cell_id,
            before=CellState(),
            attempt=1,
            price_micro_usd=PRICE,
            sent_at_ms=START_MS - age,
            seen_at_ms=START_MS - age + 60_000,
        ))
        for index, age in enumerate((age_ms, DAY_MS))
    ]  # fmt: skip
    run_virtually(engine.run([], lost=lost))
    told = {fact.cell_id: fact for fact in reversed(engine.sink.all)}  # the first of each cell's
    assert (told[work(0).cell.cell_id].kind, told[work(0).cell.cell_id].status) == (kind, status)
    assert told[work(1).cell.cell_id].kind is FactKind.RELEASED
