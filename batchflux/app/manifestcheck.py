"""Holds a manifest against the grid and the checkpoint: every cell once, in its place, with the state it has.

Block by block, in the memory of some cells. What differs becomes a Python object, the rest doesn't.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchflux.app.blocks import Block, block_piles, with_cells
from batchflux.core.arrow import Ints, as_ints, from_flags, from_ints, one
from batchflux.core.cellstates import CellIndex
from batchflux.core.grid import Grid
from batchflux.core.ledger import cell_ids, cell_keys
from batchflux.io.spill import Piles

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


def check_manifest(path: Path, grid: Grid, blocks: Iterator[Block]) -> ManifestCheck:
    """Return what differs between a manifest and a run's facts, by blocks of its grid. Raises FileNotFoundError."""
    check = ManifestCheck()
    with block_piles(grid, path.parent) as piles:
        try:
            _sort_rows(path, grid, piles, check)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            return ManifestCheck(unreadable=f"can't be read: {error}")
        pa.default_memory_pool().release_unused()  # of what sorting took, before the facts are sorted
        if check.unreadable is None:
            for number, block in enumerate(blocks):
                _compare(piles.of(number), block, check)
    return check


def _sort_rows(path: Path, grid: Grid, piles: Piles, check: ManifestCheck) -> None:
    """Put the manifest's rows on piles, by the cells that they seem to be of."""
    file = pq.ParquetFile(path, pre_buffer=False)  # else these columns of all rows are fetched at once
    lacking = [name for name in ("cell_id", *_STATE_NAMES) if name not in file.schema_arrow.names]
    if lacking:
        check.unreadable = f"has no column {', '.join(lacking)}"
        return
    index = CellIndex(grid)
    before = -1
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["cell_id", *_STATE_NAMES], use_threads=False):
        rows = pa.Table.from_batches([batch])
        cells = index.find(rows["cell_id"])
        _note(rows.filter(from_flags(cells < 0)), check.foreign)
        check.n_foreign += int((cells < 0).sum())
        ours = np.concatenate([[before], cells[cells >= 0]])
        check.is_in_order &= bool((np.diff(ours) >= 0).all())
        before = int(ours[-1])
        piles.add(with_cells(rows, cells))


def _compare(rows: pa.Table | None, block: Block, check: ManifestCheck) -> None:
    """Hold the manifest's rows of a block against its cells: every cell once, each with the state it has."""
    piece = block.piece
    times = np.zeros(len(piece.indexes), dtype=np.int64)
    if rows is not None:
        cells, keys = as_ints(rows["cell"]), cell_keys(rows["cell_id"])
        places = np.searchsorted(piece.indexes, cells)
        # An index tells an id by most of its digits; here all of them count.
        is_cell = (piece.keys[places] == keys).all(axis=1)
        check.n_foreign += int((~is_cell).sum())
        _note(rows.filter(from_flags(~is_cell)), check.foreign)
        np.add.at(times, places[is_cell], 1)
        _compare_states(rows.filter(from_flags(is_cell)), cells[is_cell], block, check)
    for many, names in ((times == 0, check.missing), (times > 1, check.doubled)):
        names.extend(cell_ids(piece.keys[many][: max(0, _MOST_NAMED - len(names))]).to_pylist())
    check.n_missing += int((times == 0).sum())
    check.n_doubled += int((times > 1).sum())


def _compare_states(said: pa.Table, cells: Ints, block: Block, check: ManifestCheck) -> None:
    places = np.searchsorted(block.cells, cells)
    is_tried = np.zeros(len(cells), dtype=np.bool_)
    if len(block.cells):
        places = np.minimum(places, len(block.cells) - 1)
        is_tried = block.cells[places] == cells
    state = _state(block.facts.select(COMPARED_COLUMNS).take(from_ints(places, is_null=~is_tried)))
    for row, column in _differing(said, state):
        check.n_altered += 1
        if len(check.altered) < _MOST_NAMED:
            said_text, known_text = str(said[column][row].as_py()), str(state[column][row].as_py())
            cell_id = said["cell_id"][row].as_py()
            check.altered.append(Altered(cell_id=cell_id, column=column, said=said_text, known=known_text))


def _note(rows: pa.Table, names: list[str]) -> None:
    names += rows["cell_id"].slice(0, max(0, _MOST_NAMED - len(names))).to_pylist()


def _state(facts: pa.Table) -> pa.Table:
    """Return the state as a manifest tells it, of facts with nulls for cells that nobody has tried."""
    none = one([], pa.list_(pa.string()))
    zero = one(0, pa.int64())
    return pa.table(
        {
            "status": pc.fill_null(facts["status"], one("pending", pa.string())),
            "prediction_id": facts["prediction_id"],
            "attempts": pc.fill_null(facts["attempts"], zero),
            "cost_usd": pc.divide(
                pc.cast(pc.fill_null(facts["cost_micro_usd"], zero), pa.float64()), one(1e6, pa.float64())
            ),
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
