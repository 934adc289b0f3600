"""Finds cells of a request whose images are the same bytes though their seeds differ: the service ignored the seed.

Looks at what is on record, in blocks of the grid, and not while images come: so nothing is forgotten between runs,
and the same facts always say the same. Eight bytes an image; no pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from batchflux.app.blocks import Block
from batchflux.core.arrow import Ints, from_flags, list_lengths
from batchflux.core.grid import Grid
from batchflux.core.sanity import same_image_warning
from batchflux.io.filecheck import hashes_of

__all__ = ["SAMENESS_COLUMNS", "Sameness", "with_sameness"]

SAMENESS_COLUMNS: Final = ("sha256", "fetched_sha256")

# A mark tells a request without its seed, and an image's bytes: cells of equal marks are what is looked for.
_Marks = npt.NDArray[np.uint64]


class Sameness:
    """Takes in all blocks, with SAMENESS_COLUMNS, and then tells how many other cells have a cell's image."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._repeated = grid.repeated()  # the seed too is that of another cell: such may well have the same image
        self._marks: list[_Marks] = []
        self._values: _Marks | None = None
        self._counts: Ints = np.empty(0, dtype=np.int64)

    def add(self, block: Block) -> None:
        """Take in a block, each once."""
        self._marks.append(self._marks_of(block)[0])
        self._values = None

    def others(self, block: Block) -> Ints:
        """Return for each fact of a block how many other cells have its image, after all blocks: (facts,)."""
        values, counts = self._shared()
        others = np.zeros(block.facts.num_rows, dtype=np.int64)
        if len(values):
            marks, rows = self._marks_of(block)
            places = np.minimum(np.searchsorted(values, marks), len(values) - 1)
            is_shared = values[places] == marks
            np.maximum.at(others, rows[is_shared], counts[places[is_shared]] - 1)
        return others

    @property
    def finds_any(self) -> bool:
        """Whether any cell has the image of another, after all blocks."""
        return len(self._shared()[0]) > 0

    def _shared(self) -> tuple[_Marks, Ints]:
        """Return the marks of several cells, sorted, and of how many each is."""
        if self._values is None:
            marks = np.concatenate([np.empty(0, dtype=np.uint64), *self._marks])
            self._marks = [marks]
            marks.sort()
            is_first = np.append(True, marks[1:] != marks[:-1])[: len(marks)]
            starts = np.flatnonzero(is_first)
            counts = np.diff(np.append(starts, len(marks)))
            self._values, self._counts = marks[starts[counts > 1]], counts[counts > 1]
        return self._values, self._counts

    def _marks_of(self, block: Block) -> tuple[_Marks, Ints]:
        """Return each image's mark, once a cell, and the row of its fact in the block."""
        hashes, fetched = block.facts["sha256"], block.facts["fetched_sha256"]
        hashes = pc.if_else(from_flags(list_lengths(fetched) > 0), fetched, hashes)
        rows = np.repeat(np.arange(len(block.cells)), list_lengths(hashes))
        images = hashes_of(pc.list_flatten(hashes).to_pylist()).view(np.uint64)
        if len(self._repeated):
            is_first = ~np.isin(block.cells, self._repeated)[rows]
            rows, images = rows[is_first], images[is_first]
        marks = self._grid.seedless_keys(block.cells)[rows, 0] + images
        order = np.lexsort((marks, rows))
        rows, marks = rows[order], marks[order]
        is_new = np.append(True, (rows[1:] != rows[:-1]) | (marks[1:] != marks[:-1]))[: len(rows)]
        return marks[is_new], rows[is_new]


def with_sameness(
    grid: Grid, read: Callable[[tuple[str, ...]], Iterable[Block]], *, columns: Sequence[str]
) -> Iterator[Block]:
    """Yield blocks with these columns, those cells warned of that share their images with other seeds.

    `read` yields all blocks with the columns that it is given; it is called twice.
    """
    sameness = Sameness(grid)
    for block in read(SAMENESS_COLUMNS):
        sameness.add(block)
    for block in read((*columns, *SAMENESS_COLUMNS)):
        others = sameness.others(block)
        lines = {row: same_image_warning(int(others[row])) for row in np.flatnonzero(others).tolist()}
        yield block.warned(lines)
