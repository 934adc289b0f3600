"""Adds up what became of cells, some at a time: images, files, errors by kind, times. Exact, in little memory."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.arrow import Flags, Ints, as_ints, from_flags, list_lengths, numbered
from batchflux.core.model import CellStatus
from batchflux.core.sanity import WARNING_KINDS, kind_of
from batchflux.io.manifest import RETENTION_MS

__all__ = ["TALLY_COLUMNS", "Tally"]

# The manifest and the facts call them alike.
TALLY_COLUMNS: Final = (
    "status",
    "outputs",
    "files",
    "inference_ms",
    "latency_ms",
    "completed_at",
    "error_kind",
    "warnings",
    "created_at",
    "submitted_at",
)

_NEVER: Final = 2**62
_DAY_MS: Final = 24 * 3600 * 1000


class Tally:
    """Takes folded cells in; what was completed since `since_ms` (our clock) is counted by itself.

    Of the images that aren't on the disk, `expired` are those that the service had deleted by `now_ms`, `expiring`
    those that it will have within a day, the first of them at `expires_at_ms`. `warnings` counts cells by kind.
    """

    def __init__(self, *, since_ms: int, now_ms: int) -> None:
        self.images = self.files = self.images_since = self.completed_since = 0
        self.expired = self.expiring = 0
        self.expires_at_ms = _NEVER
        self.warnings: dict[str, int] = {}
        self._now_ms = now_ms
        self._late: list[Ints] = []
        self.first_since_ms = _NEVER
        self.errors: dict[str, int] = {}
        self.inference_ms = _Counted()
        self.latency_ms = _Counted()
        self._since_ms = since_ms

    def add(self, cells: pa.Table) -> None:
        """Take in some cells, with TALLY_COLUMNS."""
        if cells.num_rows == 0:
            return
        is_completed = numbered(cells["status"], [str(CellStatus.COMPLETED)], other=-1) >= 0
        images, files = list_lengths(cells["outputs"]), list_lengths(cells["files"])
        times = as_ints(cells["completed_at"], null=-1)
        is_late = times >= self._since_ms
        self.images += int(images[is_completed].sum())
        self.files += int(files[is_completed].sum())
        self.images_since += int(images[is_late].sum())
        self.completed_since += int(is_late.sum())
        if is_late.any():
            self.first_since_ms = min(self.first_since_ms, int(times[is_late].min()))
            self._late.append(times[is_late])
        is_pending = numbered(cells["status"], [str(CellStatus.PENDING)], other=-1) >= 0
        self._add_errors(cells["error_kind"], ~is_pending)
        self.inference_ms.add(cells["inference_ms"], is_completed)
        self.latency_ms.add(cells["latency_ms"], is_completed)
        self._add_expiry(cells, np.where(is_completed, np.maximum(images - files, 0), 0))
        self._add_warnings(cells["warnings"])

    def finished_in_spans(self, *, span_ms: int) -> list[int]:
        """Return how many cells ended in each whole span back from now, the oldest first, since the first of them."""
        spans = (self._now_ms - max(self._since_ms, self.first_since_ms)) // span_ms
        if spans <= 0:
            return []
        ages = (self._now_ms - np.concatenate(self._late)) // span_ms
        ages = ages[(ages >= 0) & (ages < spans)]
        counts: list[int] = np.bincount(ages, minlength=spans)[::-1].tolist()
        return counts

    def _add_expiry(self, cells: pa.Table, missing: Ints) -> None:
        begun = as_ints(pc.coalesce(cells["created_at"], cells["submitted_at"]), null=_NEVER - RETENTION_MS)
        expires = begun + RETENTION_MS
        self.expired += int(missing[expires <= self._now_ms].sum())
        is_soon = (missing > 0) & (expires > self._now_ms) & (expires <= self._now_ms + _DAY_MS)
        if is_soon.any():
            self.expiring += int(missing[is_soon].sum())
            self.expires_at_ms = min(self.expires_at_ms, int(expires[is_soon].min()))

    def _add_warnings(self, column: Any) -> None:
        lines = pc.list_flatten(column)
        if len(lines) == 0:
            return
        rows = np.repeat(np.arange(len(column)), list_lengths(column))
        names = list(WARNING_KINDS)
        texts = pc.unique(lines).to_pylist()
        kinds = np.array([names.index(kind_of(text or "")) for text in texts])[numbered(lines, texts, other=0)]
        pairs = np.unique(rows * len(names) + kinds)  # a cell counts once, whatever its images
        for kind, count in zip(*np.unique(pairs % len(names), return_counts=True), strict=True):
            self.warnings[names[kind]] = self.warnings.get(names[kind], 0) + int(count)

    def _add_errors(self, kinds: Any, is_said: Flags) -> None:
        for item in pc.value_counts(kinds.filter(from_flags(is_said))).to_pylist():
            if item["values"] is not None:
                self.errors[item["values"]] = self.errors.get(item["values"], 0) + item["counts"]


class _Counted:
    """Whole numbers, each distinct one once with how often it came."""

    def __init__(self) -> None:
        self._values: Ints = np.empty(0, dtype=np.int64)
        self._counts: Ints = np.empty(0, dtype=np.int64)

    def add(self, column: Any, where: Flags) -> None:
        """Take in the values of a column where a mask holds, without nulls."""
        values = as_ints(column, null=_NEVER)[where]
        values, counts = np.unique(values[values != _NEVER], return_counts=True)
        merged, places = np.unique(np.concatenate([self._values, values]), return_inverse=True)
        sums = np.zeros(len(merged), dtype=np.int64)
        np.add.at(sums, places, np.concatenate([self._counts, counts]))
        self._values, self._counts = merged, sums

    def quantile(self, share: float) -> float | None:
        """Return a quantile, between the two nearest values in proportion; None of nothing."""
        if len(self._values) == 0:
            return None
        ends = np.cumsum(self._counts)
        place = share * (int(ends[-1]) - 1)
        low, high = (self._values[np.searchsorted(ends, int(step), "right")] for step in (place, np.ceil(place)))
        return float(low + (high - low) * (place - int(place)))
