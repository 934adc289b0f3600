"""The sweep's statistics, from numpy alone: intervals, and tests of whether an axis shows an effect.

Ranks throughout, since times of a service are skewed and some are wild. Prompts differ from one another far more than
axes do, so where the grid allows it values are compared within blocks (the same prompt, the same other axes). A test's
p is counted out by shuffling where cells are few, and taken from chi-square where they are many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, erfc, exp, lgamma, log, sqrt
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "Test", "chi_square_tail", "compare", "holm", "median_interval", "wilson"]

Floats = npt.NDArray[np.float64]

_Z95 = 1.959964

# Below so many values chi-square is a poor likeness of the statistic, and shuffling costs nothing yet.
_SHUFFLE_BELOW = 200
_SHUFFLES = 1999

# Up to so many cells a median's interval is counted out, beyond it the normal distribution is as good.
_COUNT_OUT_BELOW = 1000

# Of fewer values than twice this nothing can be shown at the levels that are asked for.
_FEWEST = 5

# An axis of more values is a list of samples; comparing them costs the cube of their number, and nobody would ask.
_MOST_GROUPS = 400


Method = Literal["aligned-ranks", "cochran", "kruskal-wallis"]


class Interval(NamedTuple):
    """A 95 % confidence interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Whether groups differ: `p` before any correction, `n` the values compared, and by which test.

    Times are compared within blocks by `aligned-ranks`, yes and no by Cochran's Q; `kruskal-wallis` compares across
    everything, and for yes and no it is chi-square. All are one statistic with different scores and blocks.
    """

    method: Method
    statistic: float
    p: float
    n: int


def wilson(hits: int, n: int) -> Interval | None:
    """Return Wilson's interval for a share, None without observations."""
    if n == 0:
        return None
    z2 = _Z95**2
    middle = (hits + z2 / 2) / (n + z2)
    half = _Z95 / (n + z2) * sqrt(hits * (n - hits) / n + z2 / 4)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def median_interval(ordered: Floats) -> Interval | None:
    """Return the interval of a median from the ranks of ascending values; None where too few to have one."""
    n = len(ordered)
    rank = _outer_rank(n)
    return None if rank < 0 else Interval(float(ordered[rank]), float(ordered[n - 1 - rank]))


def _outer_rank(n: int) -> int:
    """Return the greatest rank (from 0) that the median lies below at most 2.5 % of the time; -1 where none is."""
    if n > _COUNT_OUT_BELOW:
        return int(n / 2 - _Z95 * sqrt(n) / 2)
    below = 0.0
    for rank in range(n):
        below += comb(n, rank) / 2**n
        if below > 0.025:
            return rank - 1
    return -1


def chi_square_tail(x: float, df: int) -> float:
    """Return the probability that chi-square with `df` degrees of freedom exceeds `x`.

    By its finite sums for whole degrees of freedom, term by term in logarithms (Abramowitz and Stegun, 26.4.4 and 5).
    """
    if x <= 0:
        return 1.0
    half = x / 2
    odd = df % 2
    powers = np.arange(df // 2) + (0.5 if odd else 0.0)
    terms = sum(exp(power * log(half) - half - lgamma(power + 1)) for power in powers.tolist())
    return min(1.0, terms + (erfc(sqrt(half)) if odd else 0.0))


def holm(p: Sequence[float]) -> list[float]:
    """Return p corrected for there being so many of them (Holm), in the order given."""
    corrected = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        highest = max(highest, min(1.0, p[place] * (len(p) - rank)))
        corrected[place] = highest
    return corrected


def compare(
    values: Floats, groups: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], n_groups: int, *, is_share: bool
) -> Test | None:
    """Test whether the values differ between groups; None where there is too little to tell by.

    All three are (n,): the value, a time or with `is_share` 0 or 1; its group from 0; and the block in which it is
    comparable with its neighbours. Blocks may lack groups; those of one value say nothing. Where that is most of them,
    the values are compared across blocks instead.
    """
    if n_groups > _MOST_GROUPS:
        return None
    _, blocks = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(blocks)
    is_shared = sizes[blocks] > 1
    if is_shared.sum() < len(values) / 2:
        return _test(values, groups, np.zeros(len(values), dtype=np.int64), method="kruskal-wallis")
    values, groups, blocks = values[is_shared], groups[is_shared], blocks[is_shared]
    if is_share:
        return _test(values, groups, blocks, method="cochran")
    # What is a block's own is taken away, by shares of it, so that blocks can be ranked together (Hodges and Lehmann).
    logs = np.log(np.maximum(values, 1.0))
    means = np.bincount(blocks, weights=logs) / np.maximum(1, np.bincount(blocks))
    # To a billionth, so that equals stay equal whatever their blocks' means.
    return _test(np.round(logs - means[blocks], 9), groups, blocks, method="aligned-ranks")


def _test(
    values: Floats, groups: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], *, method: Method
) -> Test | None:
    """Return how unlikely it is that scores, dealt anew within their blocks, differ between groups as much as these."""
    n = len(values)
    if n < 2 * _FEWEST or len(np.unique(groups)) < 2:
        return None
    order = np.argsort(blocks, kind="stable")
    scores = values if method == "cochran" else _ranks(values)
    scores, groups, blocks = scores[order], groups[order], blocks[order]
    _, blocks = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(blocks)
    scores = scores - (np.bincount(blocks, weights=scores) / sizes)[blocks]
    spreads = np.bincount(blocks, weights=scores**2) / np.maximum(1, sizes - 1)
    told = spreads[blocks] > 0  # a block of equals says nothing
    if not told.any():
        return Test(method=method, statistic=0.0, p=1.0, n=n)
    scores, groups = scores[told], np.unique(groups[told], return_inverse=True)[1]
    kept, blocks = np.unique(blocks[told], return_inverse=True)
    spreads, sizes = spreads[kept], sizes[kept]
    members = np.zeros((len(kept), int(groups.max()) + 1))
    members[blocks, groups] = 1
    if method == "kruskal-wallis":
        members[0] = np.bincount(groups)
    # The sums' covariance over all ways to deal the scores within their blocks.
    weights = (spreads / sizes)[:, None] * members
    covariance = np.diag((spreads[:, None] * members).sum(axis=0)) - members.T @ weights
    inverse: Floats = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True).astype(np.float64)
    found = float(_statistic(scores[None], groups, inverse)[0])
    if len(scores) <= _SHUFFLE_BELOW:
        dealt = np.argsort(blocks + np.random.default_rng(0).random((_SHUFFLES, len(scores))), axis=1)
        p = _share_at_least(found, _statistic(scores[dealt], groups, inverse))
    else:
        p = chi_square_tail(found, int(np.linalg.matrix_rank(covariance, rtol=1e-9, hermitian=True)))
    return Test(method=method, statistic=found, p=p, n=n)


def _statistic(scores: Floats, groups: npt.NDArray[np.int64], inverse: Floats) -> Floats:
    """Return how far the groups' sums of scores lie from nothing, for each row of scores."""
    sums = scores @ np.equal.outer(groups, np.arange(len(inverse))).astype(np.float64)
    found: Floats = np.einsum("ij,jk,ik->i", sums, inverse, sums)
    return found


def _share_at_least(found: float, shuffled: Floats) -> float:
    """Return the share of shuffles as extreme as what was found, itself counted among them."""
    return float((1 + (shuffled >= found * (1 - 1e-9)).sum()) / (1 + len(shuffled)))


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
