"""A run's numbers while it goes on: cells by status, in flight, images, money, rate, and an honest ETA.

A byte a cell; counts are kept by what changes, never by looking at all cells. `now_s` is any monotonic clock.
"""

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchflux.core.model import CellStatus, Fact, FactKind

__all__ = ["STATUS_CODES", "Progress", "StatusArray", "count_codes"]

StatusArray = npt.NDArray[np.uint8]

# One byte a cell; 255 marks an index that `exclude` leaves out.
STATUS_CODES: dict[CellStatus, int] = {status: code for code, status in enumerate(CellStatus)}
_STATUSES = tuple(CellStatus)
EXCLUDED = 255

_RATE_WINDOW_S = 120.0

_CELLS_AT_ONCE = 1 << 19


def count_codes(statuses: StatusArray) -> npt.NDArray[np.int64]:
    """Return how many cells have each code, (256,): some at a time, since numpy makes 8 bytes of each to count it."""
    counts = np.zeros(EXCLUDED + 1, dtype=np.int64)
    for first in range(0, len(statuses), _CELLS_AT_ONCE):
        counts += np.bincount(statuses[first : first + _CELLS_AT_ONCE], minlength=EXCLUDED + 1)
    return counts


@dataclass(slots=True, kw_only=True)
class Progress:
    """The state of every cell of the grid, (indexes,) uint8, and what follows from it."""

    statuses: StatusArray
    counts: Counter[CellStatus]
    errors: Counter[str] = field(default_factory=Counter)
    spent_micro_usd: int = 0
    is_rehearsal: bool = False
    in_flight: int = 0
    submitted_now: int = 0
    images_saved: int = 0
    downloads_waiting: int = 0
    finished: deque[float] = field(default_factory=deque)

    @classmethod
    def of(cls, statuses: StatusArray) -> "Progress":
        """Count an array of statuses once."""
        counted = count_codes(statuses)
        return cls(statuses=statuses, counts=Counter({s: int(counted[c]) for s, c in STATUS_CODES.items()}))

    @property
    def n_cells(self) -> int:
        """How many cells the job has."""
        return sum(self.counts.values())

    @property
    def n_done(self) -> int:
        """How many cells are final."""
        return self.counts[CellStatus.COMPLETED] + self.counts[CellStatus.FAILED]

    def apply(self, index: int, fact: Fact, *, now_s: float) -> None:
        """Take in a fact about the cell at an index. An intent changes nothing that can be seen yet."""
        if fact.kind is FactKind.FILES:
            self.images_saved += len(fact.files)
            return
        if fact.kind is FactKind.INTENT:
            return
        if fact.kind is FactKind.ACCEPTED:
            self.submitted_now += 1
        before = _STATUSES[self.statuses[index]]
        if before is not fact.status:
            self.counts[before] -= 1
            self.counts[fact.status] += 1
            self.statuses[index] = STATUS_CODES[fact.status]
        if fact.status in (CellStatus.COMPLETED, CellStatus.FAILED):
            self.finished.append(now_s)
            self._forget(now_s)  # here too: who watches may never ask for the rate
        if fact.error_kind is not None and fact.status is not CellStatus.PENDING:
            self.errors[fact.error_kind] += 1

    def rate_per_s(self, now_s: float) -> float | None:
        """Return the cells finished a second over the last two minutes, or None before there is one to speak of."""
        self._forget(now_s)
        if len(self.finished) < 3 or now_s - self.finished[0] < 1:
            return None
        return len(self.finished) / (now_s - self.finished[0])

    def _forget(self, now_s: float) -> None:
        while self.finished and self.finished[0] < now_s - _RATE_WINDOW_S:
            self.finished.popleft()

    def eta_s(self, now_s: float) -> float | None:
        """Return how long the rest takes at the present rate, in seconds, or None where that isn't known."""
        rate = self.rate_per_s(now_s)
        left = self.counts[CellStatus.PENDING] + self.counts[CellStatus.SUBMITTED]
        return left / rate if rate else None
