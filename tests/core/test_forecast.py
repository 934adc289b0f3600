"""What a night brings: P50 and P90 hold on services that are even, capped, bursty or drifting."""

import math
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.forecast import LEAST_CELLS, forecast


def _even(dice: random.Random) -> Iterator[int]:
    while True:
        yield _drawn(dice, 8.0)


def _capped(dice: random.Random) -> Iterator[int]:
    while True:
        yield min(10, _drawn(dice, 11.0))


def _bursts(dice: random.Random) -> Iterator[int]:
    while True:
        yield 40 * (dice.random() < 0.2)


def _drifting(dice: random.Random) -> Iterator[int]:
    level = 0.0
    while True:
        level = 0.999 * level + dice.gauss(0.0, 0.02)
        yield _drawn(dice, 8.0 * math.exp(level))


def _two_speeds(dice: random.Random) -> Iterator[int]:
    is_slow = False
    while True:
        is_slow = is_slow ^ (dice.random() < 0.01)
        yield _drawn(dice, 3.0 if is_slow else 12.0)


def _drawn(dice: random.Random, mean: float) -> int:
    """Draw from a Poisson distribution."""
    count, product, floor = 0, dice.random(), math.exp(-mean)
    while product > floor:
        count, product = count + 1, product * dice.random()
    return count


@pytest.mark.parametrize(
    ("kind", "spans", "left"),
    [
        *((kind, *night) for kind in (_even, _capped, _bursts) for night in ((60, 4000), (360, 8000), (1000, 20000))),
        # Ten minutes can't tell how a service drifts in the hours to come.
        *((kind, *night) for kind in (_drifting, _two_speeds) for night in ((360, 8000), (1000, 20000))),
    ],
)
def test_nights_are_as_they_were_told(kind: Callable[[random.Random], Iterator[int]], spans: int, left: int) -> None:
    """Of nights that go on as the measured time did, about half are through by P50, nine in ten by P90."""
    by_half = by_nine = enough = nights = 0
    for night in range(120):
        counts = kind(random.Random(f"{kind.__name__} {spans} {left} {night}"))
        told = forecast([next(counts) for _ in range(spans)], span_s=10, left=left, horizon_s=1800)
        if told is None:
            continue
        done = span = after_horizon = 0
        while done < left:
            done, span = done + next(counts), span + 1
            if span == 180:
                after_horizon = done
        nights += 1
        by_half += span * 10 <= told.half_s + 10
        by_nine += span * 10 <= told.nine_in_ten_s + 10
        enough += (after_horizon if span > 180 else left) >= told.cells_nine_in_ten
    assert nights > 100
    assert 0.30 <= by_half / nights <= 0.72
    # What drifts without end can't be told by an hour of it as surely as it is said.
    least = 0.75 if kind in (_drifting, _two_speeds) else 0.85
    assert by_nine / nights >= least
    assert enough / nights >= least


def test_an_even_pace_is_told_closely() -> None:
    """Ten cells every ten seconds for an hour: ten thousand take 10,000 s, and hardly more in nine of ten nights."""
    told = forecast([10] * 360, span_s=10, left=10_000, horizon_s=3600)
    assert told is not None
    assert told.half_s == pytest.approx(10_000)
    assert told.half_s < told.nine_in_ten_s < 1.05 * told.half_s
    assert told.cells_half == 3600
    assert 3400 < told.cells_nine_in_ten < 3600


def test_too_little_tells_nothing() -> None:
    """Some first cells are no pace."""
    assert forecast([], span_s=10, left=5, horizon_s=60) is None
    assert forecast([LEAST_CELLS - 1], span_s=10, left=5, horizon_s=60) is None


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(0, 10**7), st.floats(1, 1e6))
def test_it_is_always_in_order(finished: list[int], left: int, horizon_s: float) -> None:
    """Finite, P90 not before P50, no more cells than there are, and not more of them for sure than likely."""
    told = forecast(finished, span_s=10, left=left, horizon_s=horizon_s)
    if told is None:
        assert sum(finished) < LEAST_CELLS
        return
    assert 0 <= told.half_s <= told.nine_in_ten_s < math.inf
    assert 0 <= told.cells_nine_in_ten <= left
    assert 0 <= told.cells_half <= left
    assert told.cells_nine_in_ten <= told.cells_half or told.nine_in_ten_s <= horizon_s
