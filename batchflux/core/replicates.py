"""Which cells are submitted a second time, and what is said of the pairs of images that come of it. Pure.

Cells are drawn by their ids, the lowest first: ids are hashes, so that is a sample, the same for whoever draws it, and
a larger one begins with the smaller. What was bought stays drawn. Looks at no pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from batchflux.core.arrow import Flags, Ints
from batchflux.core.budget import usd
from batchflux.core.grid import Grid
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES, StatusArray
from batchflux.core.rows import NO_SEED
from batchflux.core.units import SomeCells

__all__ = [
    "PAIR_SCHEMA",
    "Agreement",
    "Verdict",
    "by_cell",
    "draw_cells",
    "has_own_seed",
    "n_asked",
    "sum_up",
]

Verdict = Literal["same_bytes", "same_pixels", "different", "not_compared"]

# One row an image of a cell that was submitted twice; `image` counts from 1, and is 0 where there is none to compare.
# `mean_difference` is of all pixels and channels, in levels of 0 to 255.
PAIR_SCHEMA: Final = pa.schema(
    [
        ("cell_id", pa.string()),
        ("image", pa.int64()),
        ("verdict", pa.string()),
        ("mean_difference", pa.float64()),
        ("note", pa.string()),
        ("prediction_id", pa.string()),
        ("replicate_prediction_id", pa.string()),
        ("file", pa.string()),
        ("replicate_file", pa.string()),
        ("sha256", pa.string()),
        ("replicate_sha256", pa.string()),
    ]
)

_SERVICE_DRAWS: Final = -1  # the seed by which a request leaves it to the service


def n_asked(asked: SomeCells, n_cells: int) -> int:
    """Return how many cells are asked for of so many: of a share that is anything at all, one at least."""
    if asked.share is None:
        return min(asked.cells or 0, n_cells)
    return min(n_cells, max(1, round(asked.share * n_cells))) if asked.share and n_cells else 0


def has_own_seed(grid: Grid, indexes: Ints) -> Flags:
    """Return which cells say their seed, (n,); of one that leaves it to the service nothing can be asked twice."""
    axis = next((axis for axis in grid.axes if axis.name == "seed" and axis.kind == "parameter"), None)
    if axis is not None:
        says = np.array([value != _SERVICE_DRAWS for value in axis.values], dtype=np.bool_)
        return np.asarray(says[grid.value_places("seed")[indexes % grid.n_combinations]], dtype=np.bool_)
    own = grid.rows.own_seed[indexes // grid.n_combinations]
    stated = grid.recipe.params.get("seed")
    return np.asarray(np.where(own == NO_SEED, stated != _SERVICE_DRAWS, own != _SERVICE_DRAWS), dtype=np.bool_)


def draw_cells(grid: Grid, statuses: StatusArray, *, n: int, without: Ints) -> Ints:
    """Return the indexes of the `n` completed cells with the lowest ids, lowest first, (n,) or as many as there are.

    `without` are indexes that are not to be drawn. About 0.15 s for a million cells, 10 s where each draws its seed.
    """
    lanes, indexes = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    if n <= 0:
        return indexes
    taken = np.zeros(len(statuses), dtype=np.bool_)
    taken[without] = True
    for piece in grid.slices():
        is_free = (statuses[piece.indexes] == STATUS_CODES[CellStatus.COMPLETED]) & ~taken[piece.indexes]
        is_free &= has_own_seed(grid, piece.indexes)
        lanes = np.concatenate([lanes, piece.keys[is_free, 0]])
        indexes = np.concatenate([indexes, piece.indexes[is_free]])
        if len(lanes) > n:
            lowest = np.argsort(lanes, kind="stable")[:n]
            lanes, indexes = lanes[lowest], indexes[lowest]
    return indexes[np.argsort(lanes, kind="stable")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What came of cells that were submitted twice, each counted once: of one with several images the worst tells.

    `same_pixels` holds those of `same_bytes` too. The mean differences are the least and the greatest of the
    `different` cells, in levels of 0 to 255; None where there is none. `cost_usd` is of the second submissions.
    """

    cells: int
    same_bytes: int
    same_pixels: int
    different: int
    not_compared: int
    least_difference: float | None
    greatest_difference: float | None
    cost_usd: float

    def lines(self) -> list[str]:
        """Return it as people read it."""
        many = "cell" if self.cells == 1 else "cells"
        bytes_too = f" ({self.same_bytes:,} the same bytes)" if self.same_pixels else ""
        others = f" and {self.different:,} another image" if self.different else ""
        text = [
            f"of {self.cells:,} {many} submitted twice, {self.same_pixels:,} gave the same pixels{bytes_too}{others}; "
            f"that cost {usd(round(self.cost_usd * 1e6))}"
        ]
        if self.least_difference is not None and self.greatest_difference is not None:
            low, high = f"{self.least_difference:.3g}", f"{self.greatest_difference:.3g}"
            text.append(f"  mean pixel difference {low if low == high else f'{low} to {high}'} of 255")
        if self.not_compared:
            text.append(f"  {self.not_compared:,} could not be compared: replicates.parquet says why")
        return text


def by_cell(pairs: pa.Table) -> Iterator[tuple[str, Verdict, list[float]]]:
    """Yield each cell of PAIR_SCHEMA with the worst verdict on its images, and the differences of those that differ."""
    cells: dict[str, tuple[list[Verdict], list[float]]] = {}
    columns = (pairs[name].to_pylist() for name in ("cell_id", "verdict", "mean_difference"))
    for cell_id, verdict, difference in zip(*columns, strict=True):
        verdicts, differences = cells.setdefault(cell_id, ([], []))
        verdicts.append(verdict)
        if verdict == "different" and difference is not None:
            differences.append(difference)
    worst_first: tuple[Verdict, ...] = ("different", "not_compared", "same_pixels", "same_bytes")
    for cell_id, (verdicts, differences) in cells.items():
        yield cell_id, next(each for each in worst_first if each in verdicts), differences


def sum_up(pairs: pa.Table, *, cost_usd: float) -> Agreement:
    """Return what pairs (PAIR_SCHEMA) say together."""
    found = list(by_cell(pairs))
    counts = {name: sum(verdict == name for _, verdict, _ in found) for name in ("same_bytes", "same_pixels")}
    differences = [each for _, _, some in found for each in some]
    return Agreement(
        cells=len(found),
        same_bytes=counts["same_bytes"],
        same_pixels=counts["same_bytes"] + counts["same_pixels"],
        different=sum(verdict == "different" for _, verdict, _ in found),
        not_compared=sum(verdict == "not_compared" for _, verdict, _ in found),
        least_difference=min(differences, default=None),
        greatest_difference=max(differences, default=None),
        cost_usd=cost_usd,
    )
