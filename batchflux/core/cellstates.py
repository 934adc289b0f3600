"""What facts say of every cell of a grid, in two bytes a cell: where each stands, what it cost, whether it is saved.

`CellIndex` tells which cell of the grid an id is, `CellStates` takes facts in as they come and keeps what `fold`
would say. Cells differ in little: the same status, attempts and cost are one entry of a small table, and a cell holds
its number. Arrow columns and numpy alone; pandas must not be loaded on the way.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.arrow import Ints, as_ints, list_lengths, numbered
from batchflux.core.grid import Grid
from batchflux.core.ledger import cell_keys
from batchflux.core.model import CellStatus, FactKind
from batchflux.core.progress import STATUS_CODES

__all__ = ["STATE_COLUMNS", "CellIndex", "CellStates", "Standpoint"]

STATE_COLUMNS: Final = ("cell_id", "kind", "attempt", "status", "attempts", "cost_micro_usd", "files")

_CELLS_AT_ONCE: Final = 1 << 19
_CELLS_A_BUCKET: Final = 4  # at most so many on average, half of them at least
# Above so many cells an index is made in shares: they would take 16 bytes a cell at once.
_CELLS_SORTED: Final = 1 << 22
_SHARES: Final = 4
_STATUS_NAMES: Final = tuple(str(status) for status in CellStatus)
_KINDS: Final = tuple(str(kind) for kind in FactKind)
_IS_INTENT: Final = _KINDS.index(FactKind.INTENT)
_IS_FILES: Final = _KINDS.index(FactKind.FILES)
_UNKNOWN: Final = STATUS_CODES[CellStatus.UNKNOWN]


class CellIndex:
    """Which cell of a grid an id is, in about 6 bytes a cell: each bucket of the keys' first lane lists its cells.

    A cell's whole key is made anew to be compared, by arithmetic. Where seeds are drawn that is a hash, so the second
    lane of each is kept: two ids are then taken for one where it and the bucket agree (84 bits of two million cells).
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        bits = max(1, (grid.n_cells // _CELLS_A_BUCKET).bit_length())
        self._shift = np.uint64(64 - bits)
        self._cells = np.empty(grid.n_cells, dtype=np.uint32)  # a grid has fewer than 2**32 indexes (app.table)
        self._starts = np.empty((1 << bits) + 1, dtype=np.uint32)
        self._lanes = np.empty(grid.n_indexes, dtype=np.uint64) if grid.hashes_cells else None
        # Sorted a share at a time, which costs a look at every key each, and takes that share's room alone.
        shares = 1 if grid.hashes_cells or grid.n_cells < _CELLS_SORTED else min(_SHARES, 1 << bits)
        first = 0
        for share in range(shares):
            words = self._sorted(share, shares)
            last = first + len(words)
            buckets = slice(*((share + end << bits) // shares for end in (0, 1)))
            tops = np.arange(buckets.start, buckets.stop, dtype=np.uint64) << self._shift
            self._starts[buckets] = first + np.searchsorted(words, tops)
            words &= self._index_mask  # in place: they are 20 MB of ten million cells
            self._cells[first:last] = words
            del words, tops  # else the next share's are made beside them
            first = last
        self._starts[-1] = first

    @property
    def _index_mask(self) -> np.uint64:
        return np.uint64((1 << max(1, (self._grid.n_indexes - 1).bit_length())) - 1)

    def _sorted(self, share: int, shares: int) -> npt.NDArray[np.uint64]:
        """Return the cells of one share of all keys, sorted: the top of a key's first lane, the index below it."""
        words = np.empty(self._grid.n_cells // shares + 1, dtype=np.uint64)
        end = 0
        for piece in self._grid.slices():
            lanes, indexes = piece.keys[:, 0], piece.indexes.astype(np.uint64)
            if self._lanes is not None:
                self._lanes[piece.indexes] = piece.keys[:, 1]
            if shares > 1:
                is_here = lanes >> np.uint64(65 - shares.bit_length()) == share
                lanes, indexes = lanes[is_here], indexes[is_here]
            begin, end = end, end + len(lanes)
            if end > len(words):  # a share is never just its part of all
                words.resize(end + len(words) // 16, refcheck=False)
            words[begin:end] = (lanes & ~self._index_mask) | indexes
        words = words[:end]
        words.sort()
        return words

    def find(self, ids: pa.ChunkedArray) -> Ints:
        """Return the index of each cell id, -1 for one that is no cell of the grid. Raise ValueError for no id."""
        chunks = [chunk for chunk in ids.chunks if len(chunk)]
        if not chunks:
            return np.empty(0, dtype=np.int64)
        encoded = pc.dictionary_encode(pa.concat_arrays(chunks))
        codes = np.frombuffer(encoded.indices.buffers()[1], dtype=np.int32)[encoded.indices.offset :][: len(ids)]
        if encoded.indices.null_count:
            raise ValueError("a fact without a cell id")
        return self.find_keys(cell_keys(encoded.dictionary))[codes]

    def find_keys(self, keys: npt.NDArray[np.uint64]) -> Ints:
        """Return the index of the cell of each key (n, 2), -1 for one that is no cell of the grid."""
        found = np.full(len(keys), -1, dtype=np.int64)
        buckets = keys[:, 0] >> self._shift
        places, ends = self._starts[buckets].astype(np.int64), self._starts[buckets + np.uint64(1)].astype(np.int64)
        left = np.flatnonzero(places < ends)
        while len(left):  # as often as the fullest bucket has cells
            cells = self._cells[places[left]].astype(np.int64)
            is_it = self._is(cells, keys[left])
            found[left[is_it]] = cells[is_it]
            left = left[~is_it]
            places[left] += 1
            left = left[places[left] < ends[left]]
        return found

    def _is(self, cells: Ints, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_]
        if self._lanes is not None:
            found = self._lanes[cells] == keys[:, 1]
        else:
            found = (self._grid.keys_of(cells) == keys).all(axis=1)
        return found


class Standpoint(NamedTuple):
    """What many cells have in common. `is_told` is False where only files are on record, not how they came."""

    status: int
    attempt: int
    attempts: int
    cost_micro_usd: int
    is_told: bool


class CellStates:
    """The state of every cell of a grid after the facts taken in so far, as `fold` has it."""

    def __init__(self, n_indexes: int) -> None:
        self._codes: npt.NDArray[Any] = np.zeros(n_indexes, dtype=np.uint16)
        self._standpoints: list[Standpoint] = [Standpoint(0, 0, 0, 0, False)]
        self._code_of: dict[Standpoint, int] = {self._standpoints[0]: 0}
        # Twice the attempt that the last files are of, and 1 where there were any; none where no fact speaks of files.
        self._files: Ints | npt.NDArray[np.uint16] | None = None
        self._other_files: dict[tuple[int, int], bool] = {}

    def add(self, cells: Ints, facts: pa.Table) -> None:
        """Take in the next facts, which have STATE_COLUMNS; `cells` are their indexes, none of them -1."""
        if facts.num_rows == 0:
            return
        kinds = numbered(facts["kind"], _KINDS, other=-1)
        attempts = as_ints(facts["attempt"])
        statuses = numbered(facts["status"], _STATUS_NAMES, other=0)
        is_files = kinds == _IS_FILES
        statuses[(kinds == _IS_INTENT) | is_files] = _UNKNOWN
        codes = self._encode(
            statuses, attempts, as_ints(facts["attempts"]), as_ints(facts["cost_micro_usd"]), ~is_files
        )
        rows = np.flatnonzero(is_files)
        if len(rows):
            is_told = np.array([each.is_told for each in self._standpoints])
            untold = rows[~is_told[self._codes[cells[rows]]]]
            self._codes[cells[untold]] = codes[untold]
            self._add_files(cells[rows], attempts[rows], list_lengths(facts["files"])[rows] > 0)
        rows = np.flatnonzero(~is_files)
        self._codes[cells[rows]] = codes[rows]  # numpy keeps the last of repeated assignments

    def _encode(
        self, statuses: Ints, attempts: Ints, accepted: Ints, costs: Ints, is_told: npt.NDArray[np.bool_]
    ) -> Ints:
        """Number the standpoints of rows, new ones added."""
        packed = statuses * 2 + is_told
        for column in (attempts, accepted, costs):
            values, places = np.unique(column, return_inverse=True)
            _, packed = np.unique(packed, return_inverse=True)
            packed = packed * len(values) + places
        _, firsts, places = np.unique(packed, return_index=True, return_inverse=True)
        found = []
        for row in firsts.tolist():
            each = Standpoint(
                int(statuses[row]), int(attempts[row]), int(accepted[row]), int(costs[row]), bool(is_told[row])
            )
            code = self._code_of.setdefault(each, len(self._standpoints))
            if code == len(self._standpoints):
                self._standpoints.append(each)
            found.append(code)
        if len(self._standpoints) > np.iinfo(self._codes.dtype).max:
            self._codes = self._codes.astype(np.uint32)
        return np.array(found, dtype=np.int64)[places]

    def _add_files(self, cells: Ints, attempts: Ints, has_any: npt.NDArray[np.bool_]) -> None:
        if self._files is None:
            self._files = np.zeros(len(self._codes), dtype=np.uint16)
        if len(attempts) and attempts.max() >= 1 << 15:
            self._files = self._files.astype(np.int64)
        values = attempts * 2 + has_any
        # Almost always a cell has files of one attempt; those of another are kept until its state says which count.
        before = self._files[cells]
        self._files[cells] = values
        after = self._files[cells]
        is_other = ((before != 0) & (before >> 1 != attempts)) | (after >> 1 != attempts)
        for said in (before, values):
            for row in np.flatnonzero(is_other).tolist():
                self._other_files[int(cells[row]), int(said[row]) >> 1] = bool(said[row] & 1)

    def statuses(self) -> npt.NDArray[np.uint8]:
        """Return every cell's status as a code of `progress.STATUS_CODES`; one without facts is pending."""
        by_code = np.array([each.status for each in self._standpoints], dtype=np.uint8)
        found = np.empty(len(self._codes), dtype=np.uint8)
        for some in self._steps():  # numpy makes 8 bytes of each index
            found[some] = by_code[self._codes[some]]
        return found

    def is_open(self, cells: Ints) -> npt.NDArray[np.bool_]:
        """Tell which cells were tried and aren't final: pending again, in flight, or unknown."""
        final = (STATUS_CODES[CellStatus.COMPLETED], STATUS_CODES[CellStatus.FAILED])
        is_open = np.array([code > 0 and each.status not in final for code, each in enumerate(self._standpoints)])
        found: npt.NDArray[np.bool_] = is_open[self._codes[cells]]
        return found

    def is_saved(self) -> npt.NDArray[np.bool_]:
        """Tell which cells have their files on record."""
        saved = np.zeros(len(self._codes), dtype=np.bool_)
        if self._files is None:
            return saved
        attempts = np.array([each.attempt for each in self._standpoints])
        for some in self._steps():
            saved[some] = self._files[some] == attempts[self._codes[some]] * 2 + 1
        for (cell, attempt), has_any in self._other_files.items():
            if attempt == attempts[self._codes[cell]] and self._files[cell] >> 1 != attempt:
                saved[cell] = has_any
        return saved

    def of(self, cell: int) -> Standpoint:
        """Return what is known of a cell; all zero of one that nobody has tried."""
        return self._standpoints[int(self._codes[cell])]

    @property
    def n_touched(self) -> int:
        """How many cells any fact speaks of."""
        return int(np.count_nonzero(self._codes))

    @property
    def cost_micro_usd(self) -> int:
        """What all cells have cost so far."""
        counts = sum(np.bincount(self._codes[some], minlength=len(self._standpoints)) for some in self._steps())
        pairs = zip(self._standpoints, np.atleast_1d(counts).tolist(), strict=True)
        return sum(each.cost_micro_usd * count for each, count in pairs)

    def _steps(self) -> Iterator[slice]:
        for first in range(0, len(self._codes), _CELLS_AT_ONCE):
            yield slice(first, first + _CELLS_AT_ONCE)
