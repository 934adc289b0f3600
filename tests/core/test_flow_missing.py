"""A prediction that the service no longer knows ends its cell, however short the timeout."""

from batchflux.core.steps import CellState
from tests.core.lives import MISSING, PRICE, START_MS, live


def test_a_missing_prediction_is_believed_although_the_timeout_is_shorter_than_that_takes() -> None:
    """Given up at the timeout, the cell would be submitted in every later run, too, and never final."""
    state = CellState(
        attempts=1, cost_micro_usd=PRICE, prediction_id="first", price_micro_usd=PRICE, submitted_at_ms=START_MS
    )
    life = live((), lambda now_s: MISSING, state=state, timeout_s=60.0)
    assert (life.last.status, life.last.error_kind) == ("failed", "not_found")
    assert 120.0 <= life.now_s <= 140.0
