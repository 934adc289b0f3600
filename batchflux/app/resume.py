"""What an earlier run left, laid over the grid. Decides what is done, in flight, held and to be run.

`reading` makes it of the facts; here nothing is read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.core.arrow import from_ints, numbered
from batchflux.core.cellstates import CellStates
from batchflux.core.forecast import Measured
from batchflux.core.grid import Grid
from batchflux.core.model import CellStatus
from batchflux.core.order import Order
from batchflux.core.progress import STATUS_CODES, StatusArray, count_codes
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import CellState

__all__ = ["Known", "PaceSeen"]

# The longest that a POST can be open (io.client): one whose process died left within this of its intent.
_POST_MS = 60_000

# So many answers tell how far apart the clocks were: one that is odd widens what is listed, and decides nothing.
_NEAREST = 15

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSeen:
    """How fast a run was and how large its images are; None before there is enough to tell by.

    `measured` is of cells that ended, completed or failed, also those that have left the job; `latency_s` is the mean
    from submission to that end.
    """

    measured: Measured | None
    latency_s: float | None
    image_bytes: int | None
    newest_at_ms: int | None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of every cell of a grid, in two bytes each, and the facts of those that aren't final.

    `statuses` (grid indexes,) uint8 hold every cell's status, EXCLUDED where `exclude` leaves an index out. `facts`
    are folded, of the cells that were tried and aren't final, `indexes` (facts,) say which cell each is of.
    `newest_ids` are the predictions last heard of, the oldest first, as many as an engine keeps.
    `clocks` are moments of ours at which submissions left, and how far the service's clock was ahead then, in ms.
    """

    states: CellStates
    statuses: StatusArray
    facts: pa.Table
    indexes: Indexes
    n_retired: int
    spent_micro_usd: int
    pace: PaceSeen
    newest_ids: tuple[str, ...]
    clocks: tuple[Indexes, Indexes]

    def places(self, *statuses: CellStatus) -> Indexes:
        """Return the facts' rows of cells with one of these statuses, none of them final, in grid order."""
        codes = numbered(self.facts["status"], [str(status) for status in statuses], other=-1)
        places = np.flatnonzero(codes >= 0)
        return places[np.argsort(self.indexes[places], kind="stable")]

    def taking_up(self, *statuses: CellStatus) -> "Known":
        """Return the same with the cells of these statuses pending again, as the user said."""
        taken = self.statuses.copy()
        for status in statuses:
            taken[taken == STATUS_CODES[status]] = STATUS_CODES[CellStatus.PENDING]
        return replace(self, statuses=taken)

    @property
    def n_kept(self) -> int:
        """How many cells of the job the checkpoint knows."""
        return self.states.n_touched

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever tried here."""
        return not self.n_kept and not self.n_retired

    def has_open_cells(self) -> bool:
        """Return whether any cell may yet be submitted: pending, in flight, or unknown."""
        counts = count_codes(self.statuses)
        return any(
            counts[STATUS_CODES[status]] for status in (CellStatus.PENDING, CellStatus.SUBMITTED, CellStatus.UNKNOWN)
        )

    def flows(self, places: Indexes) -> Iterator[tuple[int, CellState]]:
        """Yield (grid index, state) of some facts, the state as a flow begins with it."""
        columns = [
            "status",
            "attempts",
            "cost_micro_usd",
            "prediction_id",
            "price_micro_usd",
            "submitted_at",
            "created_at",
        ]
        for first in range(0, len(places), 4096):
            some = places[first : first + 4096]
            rows = self.facts.select(columns).take(from_ints(some)).to_pylist()
            for index, row in zip(self.indexes[some].tolist(), rows, strict=True):
                yield index, _state(row)

    def flow_of(self, index: int) -> CellState:
        """Return the state with which a flow of a cell begins that has no prediction in flight."""
        found = self.states.of(index)
        return CellState(attempts=found.attempts, cost_micro_usd=found.cost_micro_usd)

    def lost(self, *, now_ms: int) -> Iterator[tuple[int, Unresolved]]:
        """Yield (grid index, lost submission) of the cells whose last submission was not answered."""
        places = self.places(CellStatus.UNKNOWN)
        columns = ["cell_id", "attempt", "attempts", "cost_micro_usd", "price_micro_usd", "at", "submitted_at"]
        if not len(places):
            return
        offsets_at = self.clock_offsets()
        for index, row in zip(
            self.indexes[places].tolist(), self.facts.select(columns).take(from_ints(places)).to_pylist(), strict=True
        ):
            price = row["price_micro_usd"] or 0
            at_ms = _epoch_ms(row["at"]) or now_ms
            sent_at_ms = _epoch_ms(row["submitted_at"]) or at_ms - _POST_MS
            yield (
                index,
                Unresolved(
                    cell_id=row["cell_id"],
                    before=CellState(attempts=row["attempts"] or 0, cost_micro_usd=row["cost_micro_usd"] - price),
                    attempt=row["attempt"],
                    price_micro_usd=price,
                    # A fact's own moment is the intent's, or when it was given up: at most a POST's time later.
                    sent_at_ms=sent_at_ms,
                    seen_at_ms=min(now_ms, at_ms + _POST_MS),
                    clock_offsets_ms=offsets_at(sent_at_ms),
                ),
            )

    def clock_offsets(self) -> Callable[[int], tuple[int, int] | None]:
        """Return what tells the least and the most that the service's clock was ahead of ours about a moment of ours,
        in milliseconds; None where no answer tells it."""
        moments, offsets = self.clocks

        def offsets_at(moment_ms: int) -> tuple[int, int] | None:
            nearest = offsets[np.abs(moments - moment_ms).argsort()[:_NEAREST]]
            return (int(nearest.min()), int(nearest.max())) if len(nearest) else None

        return offsets_at

    def pending(self, grid: Grid, order: Order) -> Iterator[int]:
        """Return the indexes of cells that are pending now, in the order of the run.

        `statuses` change while a run goes on: one that becomes pending later has a flow already, and no second one.
        """
        is_pending = self.statuses == STATUS_CODES[CellStatus.PENDING]
        return (index for indexes in grid.in_order(order) for index in indexes[is_pending[indexes]].tolist())


def _state(row: dict[str, Any]) -> CellState:
    is_open = row["status"] == CellStatus.SUBMITTED
    return CellState(
        attempts=row["attempts"] or 0,
        cost_micro_usd=row["cost_micro_usd"] or 0,
        prediction_id=row["prediction_id"] if is_open else None,
        price_micro_usd=(row["price_micro_usd"] or 0) if is_open else 0,
        submitted_at_ms=_epoch_ms(row["submitted_at"]) if is_open else None,
        created_at_ms=_epoch_ms(row["created_at"]) if is_open else None,
    )


def _epoch_ms(moment: Any) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
