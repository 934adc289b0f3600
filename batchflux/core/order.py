"""In which order a grid's cells are run: as they stand, or so that any prefix is spread evenly."""

from math import gcd
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Order", "balanced"]

Order = Literal["rows", "balanced"]

# The golden ratio's fraction: multiples of it fill an interval evenly from the first few on.
_GOLDEN = 0.6180339887498949


def balanced(steps: npt.NDArray[np.int64], n_rows: int, n_combinations: int) -> npt.NDArray[np.int64]:
    """Map steps to indexes (n,) so that any prefix is spread evenly over the rows and over each axis."""
    passes, places = np.divmod(steps, n_rows)
    rows = places * _stride(n_rows) % n_rows
    combinations = (passes + places) * _stride(n_combinations) % n_combinations
    result: npt.NDArray[np.int64] = rows * n_combinations + combinations
    return result


def _stride(size: int) -> int:
    """Return the number nearest the golden section of a size that has no factor in common with it."""
    wanted = max(1, round(size * _GOLDEN))
    return next(
        step
        for distance in range(size + 1)
        for step in (wanted + distance, wanted - distance)
        if step > 0 and gcd(step, size) == 1
    )
