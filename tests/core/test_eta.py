"""How long the rest takes: right on average, as sure as it says, and never made up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.eta import eta_range


def test_an_even_pace() -> None:
    """Ten cells in each of thirty spans of ten seconds: a thousand cells take a thousand seconds, give or take."""
    found = eta_range([10] * 30, span_s=10, left=1000)
    assert found is not None
    assert found.likely_s == pytest.approx(1000)
    assert 900 < found.soonest_s < 1000 < found.latest_s < 1100


def test_nothing_finished_tells_nothing() -> None:
    """Without a cell there is no rate; without a cell left there is no time."""
    assert eta_range([], span_s=10, left=5) is None
    assert eta_range([0, 0, 0], span_s=10, left=5) is None
    found = eta_range([3], span_s=10, left=0)
    assert found is not None
    assert (found.soonest_s, found.likely_s, found.latest_s) == (0, 0, 0)


def test_bursts_make_it_wider() -> None:
    """The same number of cells in bursts says less."""
    even = eta_range([5] * 20, span_s=10, left=500)
    bursts = eta_range([50, *[0] * 9] * 2, span_s=10, left=500)
    assert even is not None
    assert bursts is not None
    assert bursts.likely_s == even.likely_s
    assert bursts.latest_s > 1.2 * even.latest_s


@pytest.mark.parametrize("burst", [1, 8])
@pytest.mark.parametrize(("per_s", "left"), [(0.05, 8), (0.5, 40), (2.0, 600)])
def test_it_is_as_sure_as_it_says(burst: int, per_s: float, left: int) -> None:
    """Of runs whose cells end by chance, alone or in bursts, about eight in ten end within the range."""
    dice = random.Random(f"{burst} {per_s} {left}")
    inside = drawn = 0
    for _ in range(400):
        ends_s, counts = 0.0, [0] * 30
        while (ends_s := ends_s + dice.expovariate(per_s / burst)) < 300:
            counts[int(ends_s // 10)] += burst
        found = eta_range(counts, span_s=10, left=left)
        if found is None:
            continue
        takes_s = sum(dice.expovariate(per_s / burst) for _ in range(-(-left // burst)))
        drawn += 1
        inside += found.soonest_s <= takes_s <= found.latest_s
    assert drawn > 300
    assert 0.70 <= inside / drawn <= 0.93


@given(st.lists(st.integers(0, 500), max_size=30), st.floats(0.1, 100), st.integers(0, 10**7))
def test_the_range_holds_what_is_likely(finished: list[int], span_s: float, left: int) -> None:
    """Whatever was counted, the three moments are in order and finite."""
    found = eta_range(finished, span_s=span_s, left=left)
    assert (found is None) == (sum(finished) == 0)
    if found is not None:
        assert 0 <= found.soonest_s <= found.likely_s <= found.latest_s < float("inf")
