"""What a verdict leaves on record must be enough for a later run to ask the same question again."""

from batchflux.core.resolution import Unresolved, hold
from batchflux.core.steps import CellState

LOST = Unresolved(
    cell_id="0" * 32,
    before=CellState(attempts=1, cost_micro_usd=5),
    attempt=2,
    price_micro_usd=80_000,
    sent_at_ms=1_000_000,
    seen_at_ms=1_030_000,
)


def test_a_held_submission_keeps_the_moment_when_it_left() -> None:
    """Held hours later, it is looked for where it was made: after that moment the history lacks it, and lies."""
    held = hold(LOST, why="it was not answered", candidates=("a",), at_ms=9_000_000)
    assert held.fact.submitted_at_ms == LOST.sent_at_ms
    assert held.fact.cost_micro_usd == 80_005
