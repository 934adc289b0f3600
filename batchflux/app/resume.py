"""What an earlier run left: the folded facts laid over the grid. Decides what is done, in flight, held and to be run.

Ids are matched column-wise: the facts' keys are sorted once, and every slice of the grid looks itself up in them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.flow import CellState
from batchflux.core.grid import Grid, Order
from batchflux.core.ledger import cell_keys
from batchflux.core.model import CellStatus
from batchflux.core.progress import EXCLUDED, STATUS_CODES, StatusArray
from batchflux.core.resolution import Unresolved

__all__ = ["Known", "lay_over"]

# The longest that a POST can be open (io.client): one whose process died left within this of its intent.
_POST_MS = 60_000

# So many answers tell how far apart the clocks were: one that is odd widens what is listed, and decides nothing.
_NEAREST = 15

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """The facts over the grid: `indexes` (facts,) say which cell each fact is of, -1 for those that left the job.

    `statuses` (grid indexes,) uint8 hold every cell's status, EXCLUDED where `exclude` leaves an index out.
    """

    facts: pa.Table
    indexes: Indexes
    statuses: StatusArray

    def places(self, *statuses: CellStatus) -> Indexes:
        """Return the facts' rows of cells of the job with one of these statuses, in grid order."""
        codes = pc.is_in(self.facts["status"], pa.array([str(status) for status in statuses]))
        places = np.flatnonzero(np.asarray(codes, dtype=np.bool_) & (self.indexes >= 0))
        return places[np.argsort(self.indexes[places], kind="stable")]

    def taking_up(self, *statuses: CellStatus) -> "Known":
        """Return the same with the cells of these statuses pending again, as the user said."""
        taken = self.statuses.copy()
        taken[self.indexes[self.places(*statuses)]] = STATUS_CODES[CellStatus.PENDING]
        return replace(self, statuses=taken)

    @property
    def n_kept(self) -> int:
        """How many cells of the job the checkpoint knows."""
        return int((self.indexes >= 0).sum())

    @property
    def n_retired(self) -> int:
        """How many cells were run and have left the job."""
        gone = self.facts.filter(pa.array(self.indexes < 0))
        return int(pc.sum(pc.not_equal(gone["status"], str(CellStatus.PENDING))).as_py() or 0)

    @property
    def spent_micro_usd(self) -> int:
        """What the run has cost in its whole life, retired cells and unknown ones included."""
        return int(pc.sum(self.facts["cost_micro_usd"]).as_py() or 0)

    def has_open_cells(self) -> bool:
        """Return whether any cell may yet be submitted: pending, in flight, or unknown."""
        open_codes = [STATUS_CODES[status] for status in (CellStatus.PENDING, CellStatus.SUBMITTED, CellStatus.UNKNOWN)]
        return bool(np.isin(self.statuses, open_codes).any())

    def states(self, places: Indexes) -> Iterator[tuple[int, CellState]]:
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
            rows = self.facts.select(columns).take(pa.array(some)).to_pylist()
            for index, row in zip(self.indexes[some].tolist(), rows, strict=True):
                yield index, _state(row)

    def lost(self, *, now_ms: int) -> Iterator[tuple[int, Unresolved]]:
        """Yield (grid index, lost submission) of the cells whose last submission was not answered."""
        places = self.places(CellStatus.UNKNOWN)
        columns = ["cell_id", "attempt", "attempts", "cost_micro_usd", "price_micro_usd", "at", "submitted_at"]
        if not len(places):
            return
        offsets_at = self.clock_offsets()
        for index, row in zip(
            self.indexes[places].tolist(), self.facts.select(columns).take(pa.array(places)).to_pylist(), strict=True
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
        ours, theirs = (pc.cast(self.facts[name], pa.int64()) for name in ("submitted_at", "created_at"))
        told = pc.and_(pc.is_valid(ours), pc.is_valid(theirs))
        moments, made = (np.asarray(each.filter(told), dtype=np.int64) for each in (ours, theirs))

        def offsets_at(moment_ms: int) -> tuple[int, int] | None:
            nearest = (made - moments)[np.abs(moments - moment_ms).argsort()[:_NEAREST]]
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


def lay_over(grid: Grid, facts: pa.Table) -> Known:
    """Match folded facts with the grid's cells. Cost: one look at every cell's key where there are facts at all."""
    statuses = np.zeros(grid.n_indexes, dtype=np.uint8)
    if grid.excludes_any:
        for indexes in grid.in_order("rows"):
            statuses[indexes[~grid.is_cell(indexes)]] = EXCLUDED
    if facts.num_rows == 0:
        return Known(facts, np.zeros(0, dtype=np.int64), statuses)
    keys = cell_keys(facts["cell_id"])
    order = np.argsort(keys[:, 0], kind="stable")
    lane0, lane1 = keys[order, 0], keys[order, 1]
    found = np.full(len(keys), -1, dtype=np.int64)
    for piece in grid.slices():
        places = np.minimum(np.searchsorted(lane0, piece.keys[:, 0]), len(lane0) - 1)
        hits = (lane0[places] == piece.keys[:, 0]) & (lane1[places] == piece.keys[:, 1])
        found[places[hits]] = piece.indexes[hits]
    indexes = np.full(len(keys), -1, dtype=np.int64)
    indexes[order] = found
    codes = np.zeros(len(keys), dtype=np.uint8)
    status = facts["status"]
    for name, code in STATUS_CODES.items():
        codes[np.asarray(pc.equal(status, str(name)), dtype=np.bool_)] = code
    known = indexes >= 0
    statuses[indexes[known]] = codes[known]
    return Known(facts, indexes, statuses)
