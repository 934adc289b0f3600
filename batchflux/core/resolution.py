"""What a verdict on a lost submission means for its cell: the fact to state, and the state to go on from. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from batchflux.core.history import HistoryItem
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.steps import CellState

__all__ = ["Resolution", "Unresolved", "adopt", "hold", "release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """A lost submission as the cell's books have it: the state before it, its attempt number and its price.

    It left between `sent_at_ms` and `seen_at_ms` of our clock, when it was given up. `clock_offsets_ms` are the least
    and the most that the service's clock was ahead of ours at that time, where an earlier run's answers tell it.
    """

    cell_id: str
    before: CellState
    attempt: int
    price_micro_usd: int
    sent_at_ms: int
    seen_at_ms: int
    clock_offsets_ms: tuple[int, int] | None = None

    @classmethod
    def of(cls, fact: Fact, *, price_micro_usd: int) -> Self:
        """Return the lost submission that an UNANSWERED fact tells of."""
        return cls(
            cell_id=fact.cell_id,
            before=CellState(attempts=fact.attempts, cost_micro_usd=fact.cost_micro_usd - price_micro_usd),
            attempt=fact.attempt,
            price_micro_usd=price_micro_usd,
            sent_at_ms=fact.submitted_at_ms or fact.at_ms,
            seen_at_ms=fact.at_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The fact to state, the cell's state after it, and what it frees of the budget."""

    fact: Fact
    state: CellState
    frees_micro_usd: int = 0


def adopt(lost: Unresolved, item: HistoryItem, *, at_ms: int) -> Resolution:
    """The service had accepted it: the cell is submitted, and is asked for from here on."""
    prediction = item.prediction
    state = CellState(
        attempts=lost.before.attempts + 1,
        cost_micro_usd=lost.before.cost_micro_usd + lost.price_micro_usd,
        prediction_id=prediction.id,
        price_micro_usd=lost.price_micro_usd,
        submitted_at_ms=lost.sent_at_ms,
        created_at_ms=prediction.created_at_ms,
    )
    fact = Fact(
        cell_id=lost.cell_id,
        kind=FactKind.ACCEPTED,
        at_ms=at_ms,
        attempt=lost.attempt,
        status=CellStatus.SUBMITTED,
        attempts=state.attempts,
        cost_micro_usd=state.cost_micro_usd,
        prediction_id=prediction.id,
        submitted_at_ms=lost.sent_at_ms,
        created_at_ms=prediction.created_at_ms,
    )
    return Resolution(fact=fact, state=state)


def release(lost: Unresolved, *, at_ms: int, times: int | None = None) -> Resolution:
    """It is proven not accepted: the cell is pending again, and its price free.

    `times` is how often that was proven, where the run gives the cell up; None where it submits it again.
    """
    error = "not in the service's history: it was not accepted"
    if times is not None:
        error = f"not accepted {times} times while other submissions were answered; the next run tries again"
    fact = Fact(
        cell_id=lost.cell_id,
        kind=FactKind.RELEASED,
        at_ms=at_ms,
        attempt=lost.attempt,
        status=CellStatus.PENDING,
        attempts=lost.before.attempts,
        cost_micro_usd=lost.before.cost_micro_usd,
        error_kind="unknown_outcome",
        error=error,
    )
    return Resolution(fact=fact, state=lost.before, frees_micro_usd=lost.price_micro_usd)


def hold(lost: Unresolved, *, why: str, candidates: Sequence[str], at_ms: int) -> Resolution:
    """It can't be told: the cell stays unknown, and its price counted. The state is one to submit again from, where
    the user says so: what may have been paid stays in the cell's cost."""
    cost = lost.before.cost_micro_usd + lost.price_micro_usd
    named = f"; it could be {' or '.join(candidates[:5])}" if candidates else ""
    more = f" or one of {len(candidates) - 5} more" if len(candidates) > 5 else ""
    fact = Fact(
        cell_id=lost.cell_id,
        kind=FactKind.UNANSWERED,
        at_ms=at_ms,
        attempt=lost.attempt,
        status=CellStatus.UNKNOWN,
        attempts=lost.before.attempts,
        cost_micro_usd=cost,
        submitted_at_ms=lost.sent_at_ms,  # later runs look for it from there on, and not from when it was held
        error_kind="unknown_outcome",
        error=f"{why}{named}{more}",
    )
    return Resolution(fact=fact, state=CellState(attempts=lost.before.attempts, cost_micro_usd=cost))
