"""A run's facts by blocks of its grid, so that all columns of all cells are seen in the memory of some cells.

Facts lie in the order in which they came; a block's cells stand together in the grid. What belongs to later blocks is
set down in a file of its own meanwhile. Nothing of cells that have left the job is here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from batchflux.app.rundir import RunIdentity, has_facts
from batchflux.core.arrow import Ints, as_ints, from_flags, from_ints, from_values
from batchflux.core.cellstates import CellIndex
from batchflux.core.errors import CheckpointDamaged
from batchflux.core.grid import Grid, GridSlice
from batchflux.core.ledger import FOLD_COLUMNS, compact, fold
from batchflux.io.facts import stream_facts
from batchflux.io.parts import empty_table
from batchflux.io.spill import Piles

__all__ = ["Block", "block_piles", "read_blocks", "with_cells"]

_BLOCK_CELLS: Final = 1 << 14  # of two kilobytes each while a manifest is made of them
_CELL: Final = "cell"


class Block(NamedTuple):
    """Cells that stand together in the grid, and their facts: the index of each fact's cell is in `cells`.

    Facts are folded and in grid order, one a cell that was tried.
    """

    piece: GridSlice
    facts: pa.Table
    cells: Ints

    def warned(self, lines: Mapping[int, str]) -> "Block":
        """Return the same with a line more in the `warnings` of some rows of the facts."""
        if not lines:
            return self
        said: list[list[str] | None] = self.facts["warnings"].to_pylist()
        for row, line in lines.items():
            said[row] = [*(said[row] or ()), line]
        place = self.facts.column_names.index("warnings")
        warnings = from_values(said, pa.list_(pa.string()))
        return self._replace(facts=self.facts.set_column(place, self.facts.schema.field(place), warnings))


def read_blocks(grid: Grid, run_dir: Path, identity: RunIdentity | None, *, columns: Sequence[str]) -> Iterator[Block]:
    """Yield every cell of the grid once, in grid order, in blocks with the folded facts of those that were tried.

    Raise CheckpointDamaged, StorageError.
    """
    names = tuple(dict.fromkeys([*FOLD_COLUMNS, *columns]))
    with ExitStack() as stack:
        piles = None
        if identity is not None and has_facts(run_dir):
            piles = _sort_facts(grid, run_dir, identity, stack, names=names)
            pa.default_memory_pool().release_unused()  # of what that took; the blocks need as much again
        for number, piece in enumerate(grid.slices(_BLOCK_CELLS)):
            facts = None if piles is None else piles.of(number)
            if facts is None:
                yield Block(piece, empty_table(names), np.empty(0, dtype=np.int64))
                continue
            facts = fold(facts)
            facts = facts.take(from_ints(np.argsort(as_ints(facts[_CELL]), kind="stable")))
            yield Block(piece, facts.drop_columns([_CELL]), as_ints(facts[_CELL]))


def _sort_facts(grid: Grid, run_dir: Path, identity: RunIdentity, stack: ExitStack, *, names: Sequence[str]) -> Piles:
    piles = _pile_up(grid, run_dir, identity, stack, names=names)
    pa.default_memory_pool().release_unused()  # the blocks need as much again
    return piles


def _pile_up(grid: Grid, run_dir: Path, identity: RunIdentity, stack: ExitStack, *, names: Sequence[str]) -> Piles:
    index = CellIndex(grid)
    piles = stack.enter_context(block_piles(grid, run_dir, tidy=compact))

    def begin() -> Callable[[pa.Table], None]:
        nonlocal piles
        piles = stack.enter_context(block_piles(grid, run_dir, tidy=compact))
        return lambda facts: piles.add(with_cells(facts, index.find(facts["cell_id"])))

    damage = stream_facts(run_dir, columns=names, begin=begin, job_id=identity.run_id)
    if damage:
        raise CheckpointDamaged(run_dir, damage=damage)
    return piles


def block_piles(grid: Grid, run_dir: Path, *, tidy: Callable[[pa.Table], pa.Table] = lambda table: table) -> Piles:
    """Return piles for rows `with_cells`, one a block of the grid."""
    indexes = grid.rows_at_once(_BLOCK_CELLS) * grid.n_combinations
    count = -(-grid.n_indexes // indexes)
    return Piles(run_dir, count, number_of=lambda table: as_ints(table[_CELL]) // indexes, tidy=tidy)


def with_cells(table: pa.Table, cells: Ints) -> pa.Table:
    """Return the rows that are of cells of the grid, with each one's index beside it."""
    is_ours = cells >= 0
    if not is_ours.all():
        table, cells = table.filter(from_flags(is_ours)), cells[is_ours]
    return table.append_column(_CELL, from_ints(cells))
