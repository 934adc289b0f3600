"""What a night brings, from what earlier sessions of a run measured: when half of such nights are through, and nine in
ten. Pure arithmetic on counts of cells that were finished in equal spans of time at work.

Counts of spans vary more than by chance, and the longer the spans the more so where a service drifts: how their
dispersion (variance over mean) grows from short spans to long ones is carried on to the length of the night.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEAST_CELLS", "Forecast", "forecast"]

LEAST_CELLS = 20  # of fewer nothing is told: the first seconds of a run are not its pace
_NINE_IN_TEN = 1.2816  # standard deviations that nine of ten stay below
_LEAST_BLOCKS = 4  # fewer blocks of spans have no variance to speak of
_UNSEEN_DRIFT = 4.0  # found with the nights of tests/core/test_forecast.py: P90 then holds on drifting services too
_MOST_SPREAD = 1.2  # of the logarithm: beyond a factor of three or so a forecast says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds until the cells left are done, in half of such nights (P50) and in nine of ten (P90); and how many are
    done after `horizon_s` seconds, in half of them and at least in nine of ten."""

    half_s: float
    nine_in_ten_s: float
    horizon_s: float
    cells_half: int
    cells_nine_in_ten: int


def forecast(finished: Sequence[int], *, span_s: float, left: int, horizon_s: float) -> Forecast | None:
    """Return what is to be expected of `left` cells; `finished` counts those of each span at work, the oldest first.

    None where fewer than LEAST_CELLS were finished.
    """
    total = sum(finished)
    if total < LEAST_CELLS:
        return None
    mean = total / len(finished)
    half_s = left / mean * span_s
    nine_s = half_s * math.exp(_NINE_IN_TEN * _spread(finished, left=left))
    within = min(left, int(mean * horizon_s / span_s))
    sure = within / math.exp(_NINE_IN_TEN * _spread(finished, left=within))
    return Forecast(
        half_s=half_s,
        nine_in_ten_s=nine_s,
        horizon_s=horizon_s,
        cells_half=within,
        cells_nine_in_ten=left if nine_s <= horizon_s else min(within, int(sure)),
    )


def _spread(finished: Sequence[int], *, left: int) -> float:
    """Return the standard deviation of the logarithm of how long `left` cells take."""
    if not left:
        return 0.0
    total, mean = sum(finished), sum(finished) / len(finished)
    sizes = [1]
    while len(finished) // (2 * sizes[-1]) >= _LEAST_BLOCKS:
        sizes.append(2 * sizes[-1])
    found = [_dispersion(finished, size) for size in sizes]
    longest, largest = sizes[-1], max(found)
    growth = 0.0
    if longest > 1 and largest > found[0]:
        growth = min(1.0, math.log(largest / found[0]) / math.log(longest))
    # Where it drifts, a few long spans around their own mean show less of it than there is.
    largest *= 1 + _UNSEEN_DRIFT * growth
    of_past = largest * max(1.0, len(finished) / longest) ** growth
    of_night = largest * max(1.0, left / mean / longest) ** growth
    return min(_MOST_SPREAD, math.sqrt(of_past / total + of_night / left))


def _dispersion(finished: Sequence[int], size: int) -> float:
    """Return the variance of sums of `size` spans over their mean, at least 1: that of pure chance."""
    sums = [sum(finished[first : first + size]) for first in range(0, len(finished) - size + 1, size)]
    mean = sum(sums) / len(sums)
    if len(sums) < 2 or not mean:
        return 1.0
    return max(1.0, sum((each - mean) ** 2 for each in sums) / (len(sums) - 1) / mean)
