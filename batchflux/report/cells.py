"""A run's cells as arrays, a few bytes each: what the page's first view and its statistics need. Decides nothing.

Every array runs over the grid's indexes (row times combination of axis values), those left out by `exclude` included,
so that a place in it is arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.arrow import as_flags, as_ints, equals, from_ints, one
from batchflux.core.grid import Grid
from batchflux.core.model import CellStatus
from batchflux.core.progress import EXCLUDED, STATUS_CODES

__all__ = ["Cells", "indexes_of"]

# Longer lists of values are no filter that anybody would choose from.
_MOST_CHOICES = 64
_MOST_REASONS = 250
_REASON_CHARS = 200
NOT_KNOWN = -1


def indexes_of(grid: Grid) -> npt.NDArray[np.int64]:
    """Return the grid indexes of all cells, ascending: the manifest's order."""
    chunks = [indexes[grid.is_cell(indexes)] if grid.excludes_any else indexes for indexes in grid.in_order("rows")]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int64)


class Words:
    """Texts given small numbers in the order of their coming, 0 for none; later ones than `most` share a last one."""

    def __init__(self, most: int) -> None:
        self.texts: list[str] = [""]
        self._places: dict[str, int] = {"": 0}
        self._most = most

    def place(self, text: str) -> int:
        """Return the number of a text."""
        found = self._places.get(text)
        if found is None:
            if len(self.texts) > self._most:
                text = "and others"
                if text in self._places:
                    return self._places[text]
            found = self._places[text] = len(self.texts)
            self.texts.append(text)
        return found


@dataclass(slots=True, kw_only=True)
class Cells:
    """Arrays over the grid's indexes. Times are in ms, -1 where not known; moments are ms since the epoch.

    `status` are codes of `STATUS_CODES`, EXCLUDED where there is no cell; `nsfw` is 1, 0 or -1; `thumb` the first
    eight bytes of the first image's SHA-256, 0 without one; `choices` holds, for parameters that rows bring, the
    place of each cell's value in `values`.
    """

    grid: Grid
    status: npt.NDArray[np.uint8]
    inference_ms: npt.NDArray[np.int64]
    latency_ms: npt.NDArray[np.int64]
    submitted_at_ms: npt.NDArray[np.int64]
    completed_at_ms: npt.NDArray[np.int64]
    cost_micro_usd: npt.NDArray[np.int64]
    nsfw: npt.NDArray[np.int8]
    is_warned: npt.NDArray[np.bool_]
    n_files: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    reason: npt.NDArray[np.uint8]
    thumb: npt.NDArray[np.uint64]
    kinds: Words = field(default_factory=lambda: Words(_MOST_CHOICES))
    reasons: Words = field(default_factory=lambda: Words(_MOST_REASONS))
    choices: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    values: dict[str, Words] = field(default_factory=dict)

    @classmethod
    def empty(cls, grid: Grid) -> "Cells":
        """Return the arrays with nothing known yet: every index left out."""
        n = grid.n_indexes
        return cls(
            grid=grid,
            status=np.full(n, EXCLUDED, dtype=np.uint8),
            inference_ms=np.full(n, NOT_KNOWN, dtype=np.int64),
            latency_ms=np.full(n, NOT_KNOWN, dtype=np.int64),
            submitted_at_ms=np.full(n, NOT_KNOWN, dtype=np.int64),
            completed_at_ms=np.full(n, NOT_KNOWN, dtype=np.int64),
            cost_micro_usd=np.zeros(n, dtype=np.int64),
            nsfw=np.full(n, -1, dtype=np.int8),
            is_warned=np.zeros(n, dtype=np.bool_),
            n_files=np.zeros(n, dtype=np.uint8),
            kind=np.zeros(n, dtype=np.uint8),
            reason=np.zeros(n, dtype=np.uint8),
            thumb=np.zeros(n, dtype=np.uint64),
        )

    def add(self, indexes: npt.NDArray[np.int64], table: pa.Table) -> None:
        """Take in some of the manifest's rows, the cells at these indexes."""
        for status, code in STATUS_CODES.items():
            self.status[indexes[as_flags(equals(table["status"], str(status)))]] = code
        self.inference_ms[indexes] = _numbers(table["inference_ms"], NOT_KNOWN)
        self.latency_ms[indexes] = _numbers(table["latency_ms"], NOT_KNOWN)
        self.submitted_at_ms[indexes] = _numbers(table["submitted_at"].cast(pa.int64()), NOT_KNOWN)
        self.completed_at_ms[indexes] = _numbers(table["completed_at"].cast(pa.int64()), NOT_KNOWN)
        self.cost_micro_usd[indexes] = as_ints(
            pc.round(pc.multiply(table["cost_usd"], one(1e6, pa.float64()))).cast(pa.int64())
        )
        self.is_warned[indexes] = _lengths(table["warnings"]) > 0
        self.n_files[indexes] = np.minimum(_lengths(table["files"]), 255)
        flags, hashes = table["has_nsfw_contents"].to_pylist(), table["sha256"].to_pylist()
        for index, said, sha256 in zip(indexes.tolist(), flags, hashes, strict=True):
            if said:
                self.nsfw[index] = 1 if any(said) else (0 if None not in said else -1)
            if sha256:
                self.thumb[index] = int(sha256[0][:16], 16)
        self._add_reasons(indexes, table)
        self._add_choices(indexes, table)

    def _add_reasons(self, indexes: npt.NDArray[np.int64], table: pa.Table) -> None:
        told = np.flatnonzero(as_flags(pc.is_valid(table["error_kind"])))
        some = table.select(["error_kind", "error"]).take(from_ints(told))
        for index, row in zip(indexes[told].tolist(), some.to_pylist(), strict=True):
            self.kind[index] = self.kinds.place(row["error_kind"])
            self.reason[index] = self.reasons.place((row["error"] or "")[:_REASON_CHARS])

    def _add_choices(self, indexes: npt.NDArray[np.int64], table: pa.Table) -> None:
        for name in self.grid.recipe.row_params:
            if name not in table.column_names:
                continue
            words = self.values.setdefault(name, Words(_MOST_CHOICES))
            codes = self.choices.setdefault(name, np.zeros(self.grid.n_indexes, dtype=np.uint8))
            column = table[name].combine_chunks().dictionary_encode()
            texts = [shown(value) if value is not None else "" for value in column.dictionary.to_pylist()]
            places = np.array([*(words.place(text) for text in texts), 0], dtype=np.uint8)
            codes[indexes] = places[_numbers(column.indices, len(texts))]

    def axis_places(self, name: str) -> npt.NDArray[np.int64]:
        """Return, for every index, the place of its value on an axis."""
        return np.tile(self.grid.value_places(name), self.grid.rows.n_rows)

    def with_status(self, *statuses: CellStatus) -> npt.NDArray[np.bool_]:
        """Return which indexes have one of these statuses."""
        return np.isin(self.status, [STATUS_CODES[status] for status in statuses])


def shown(value: object) -> str:
    """Return a value as people write it: 5 rather than 5.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else str(value)


def axis_words(grid: Grid, name: str) -> list[str]:
    """Return the names of an axis's values; those of a seed drawn for each row have only their numbers."""
    axis = next(axis for axis in grid.axes if axis.name == name)
    if axis.kind == "row_seed":
        return [f"no. {place + 1}" for place in range(len(axis.values))]
    return [shown(value) for value in axis.values]


def chunks_of(grid: Grid, indexes: npt.NDArray[np.int64], tables: Iterator[pa.Table]) -> Iterator["Chunk"]:
    """Yield the manifest's rows in pieces that hold whole rows of the table, `rows_a_chunk` of them each."""
    step = rows_a_chunk(grid) * grid.n_combinations
    at = 0
    held: list[pa.Table] = []
    begin = 0
    for table in tables:
        done = 0
        while done < table.num_rows:
            end = int(np.searchsorted(indexes, (indexes[at] // step + 1) * step))
            take = min(end - at, table.num_rows - done)
            held.append(table.slice(done, take))
            at, done = at + take, done + take
            if at == end:
                yield Chunk(int(indexes[begin] // step), indexes[begin:end], pa.concat_tables(held))
                held, begin = [], at
    assert at == len(indexes), "the manifest has as many rows as the job has cells"  # noqa: S101


@dataclass(frozen=True, slots=True)
class Chunk:
    """The manifest's rows of some rows of the prompt table, and which chunk of them it is."""

    number: int
    indexes: npt.NDArray[np.int64]
    table: pa.Table


def rows_a_chunk(grid: Grid) -> int:
    """Return how many rows of the prompt table make a chunk: about 500 cells, what a lightbox can load unnoticed."""
    return max(1, 500 // max(1, grid.n_combinations))


def _numbers(column: pa.ChunkedArray | pa.Array, missing: int) -> npt.NDArray[np.int64]:
    return as_ints(column.cast(pa.int64()), null=missing)


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return _numbers(pc.list_value_length(column), 0)
