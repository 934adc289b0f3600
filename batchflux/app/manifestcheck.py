"""Holds a manifest against the grid and the checkpoint: every cell once, in its place, with the state it has.

Streams the manifest; holds 40 bytes a cell beside the facts. What differs becomes a Python object, the rest doesn't.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchflux.app.resume import Known
from batchflux.core.grid import Grid
from batchflux.core.ledger import cell_ids, cell_keys

__all__ = ["COMPARED_COLUMNS", "Altered", "ManifestCheck", "check_manifest"]

# The facts' columns that the manifest's state is made of, as far as it is compared.
COMPARED_COLUMNS: Final = (
    "status",
    "prediction_id",
    "attempts",
    "cost_micro_usd",
    "error_kind",
    "files",
    "sha256",
)
_STATE_NAMES: Final = ("status", "prediction_id", "attempts", "cost_usd", "error_kind", "files", "sha256")
_ROWS_AT_ONCE: Final = 65_536
_MOST_NAMED: Final = 1000

_Ints = npt.NDArray[np.int64]
_Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """A cell of which the manifest says something else than the checkpoint, in the first column that differs."""

    cell_id: str
    column: str
    said: str
    known: str


@dataclass(slots=True, kw_only=True)
class ManifestCheck:
    """What is wrong with a manifest: the cells by id, the first thousand of each kind, and how many there are."""

    unreadable: str | None = None
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    altered: list[Altered] = field(default_factory=list)
    n_missing: int = 0
    n_doubled: int = 0
    n_foreign: int = 0
    n_altered: int = 0
    is_in_order: bool = True

    @property
    def n_wrong(self) -> int:
        """How many cells aren't as they should be."""
        return self.n_missing + self.n_doubled + self.n_foreign + self.n_altered


def check_manifest(path: Path, grid: Grid, known: Known) -> ManifestCheck:
    """Return what differs between a manifest and a run's facts over its grid. Raises FileNotFoundError."""
    check = ManifestCheck()
    try:
        file = pq.ParquetFile(path)
        lacking = [name for name in ("cell_id", *_STATE_NAMES) if name not in file.schema_arrow.names]
        if lacking:
            return ManifestCheck(unreadable=f"has no column {', '.join(lacking)}")
        keys = [cell_keys(batch.column(0)) for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["cell_id"])]
        indexes = _match(np.concatenate([*keys, np.empty((0, 2), dtype=np.uint64)]), grid, check)
        _compare(file, indexes, known, check)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        return ManifestCheck(unreadable=f"can't be read: {error}")
    return check


def _match(keys: _Keys, grid: Grid, check: ManifestCheck) -> _Ints:
    """Return which cell of the grid each row of the manifest is, -1 for one that is none; notes what is wrong."""
    pieces = list(grid.slices())
    wanted = np.concatenate([piece.keys for piece in pieces])
    indexes = np.concatenate([piece.indexes for piece in pieces])
    if wanted.shape == keys.shape and bool((wanted == keys).all()):
        return indexes
    order = np.lexsort((wanted[:, 1], wanted[:, 0]))
    texts = _texts(wanted)[order]
    places = np.minimum(np.searchsorted(texts, _texts(keys)), len(texts) - 1)
    is_cell = texts[places] == _texts(keys)
    rows = np.where(is_cell, order[places], -1)
    times = np.bincount(rows[is_cell], minlength=len(wanted))
    check.n_missing, check.missing = _named(wanted[times == 0])
    check.n_doubled, check.doubled = _named(wanted[times > 1])
    check.n_foreign, check.foreign = _named(keys[~is_cell])
    check.is_in_order = bool((np.diff(rows[is_cell]) >= 0).all())
    return np.where(is_cell, indexes[rows], -1)


def _compare(file: Any, indexes: _Ints, known: Known, check: ManifestCheck) -> None:
    """Compare the state of every row with that of its cell."""
    place_of = np.full(len(known.statuses), -1, dtype=np.int64)
    is_known = known.indexes >= 0
    place_of[known.indexes[is_known]] = np.flatnonzero(is_known)
    first = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["cell_id", *_STATE_NAMES]):
        rows = indexes[first : first + batch.num_rows]
        first += batch.num_rows
        places = np.where(rows >= 0, place_of[rows], -1)
        state = _state(known.facts.select(COMPARED_COLUMNS).take(pa.array(places, mask=places < 0)))
        said = pa.Table.from_batches([batch])
        for row, column in _differing(said, state):
            if rows[row] < 0:
                continue
            check.n_altered += 1
            if len(check.altered) < _MOST_NAMED:
                said_text, known_text = str(said[column][row].as_py()), str(state[column][row].as_py())
                cell_id = said["cell_id"][row].as_py()
                check.altered.append(Altered(cell_id=cell_id, column=column, said=said_text, known=known_text))


def _state(facts: pa.Table) -> pa.Table:
    """Return the state as a manifest tells it, of facts with nulls for cells that nobody has tried."""
    none = pa.scalar([], pa.list_(pa.string()))
    return pa.table(
        {
            "status": pc.fill_null(facts["status"], "pending"),
            "prediction_id": facts["prediction_id"],
            "attempts": pc.fill_null(facts["attempts"], 0),
            "cost_usd": pc.divide(pc.cast(pc.fill_null(facts["cost_micro_usd"], 0), pa.float64()), 1e6),
            "error_kind": facts["error_kind"],
            "files": pc.coalesce(facts["files"], none),
            "sha256": pc.coalesce(facts["sha256"], none),
        }
    )


def _differing(said: pa.Table, state: pa.Table) -> Iterator[tuple[int, str]]:
    """Yield each row that differs, once, with the first column in which it does."""
    seen: set[int] = set()
    for name in _STATE_NAMES:
        one, other = said[name], state[name]
        if one.equals(other):
            continue
        for row, (left, right) in enumerate(zip(one.to_pylist(), other.to_pylist(), strict=True)):
            if left != right and row not in seen:
                seen.add(row)
                yield row, name


def _named(keys: _Keys) -> tuple[int, list[str]]:
    return len(keys), cell_ids(keys[:_MOST_NAMED]).to_pylist()


def _texts(keys: _Keys) -> npt.NDArray[np.bytes_]:
    """Return keys as bytes that sort and compare like them."""
    return np.ascontiguousarray(keys.astype(">u8")).view("S16").reshape(-1)
