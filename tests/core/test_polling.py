"""When to ask: few looks a prediction, and what is done known soon, whatever its latencies are like."""

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.polling import LatencyBook


def simulate(book: LatencyBook, *, latency_s: float, dice: random.Random) -> tuple[int, float]:
    """Follow one prediction; return how many looks it took and how late the last one was."""
    waited_s, before_s, looks = 0.0, 0.0, 0
    while True:
        waited_s += book.wait_s(waited_s, dice=dice.random())
        looks += 1
        if waited_s >= latency_s:
            book.learn(waited_s, before_s=before_s)
            return looks, waited_s - latency_s
        before_s = waited_s


@pytest.mark.parametrize(("median_s", "sigma"), [(2.5, 0.25), (8.0, 0.3), (12.0, 0.35), (26.0, 0.2), (90.0, 0.3)])
def test_few_looks_and_small_delay(median_s: float, sigma: float) -> None:
    """design.md section 5: at most 5 looks a prediction, and a median of a tenth of its time unnoticed."""
    dice, book = random.Random(7), LatencyBook()
    runs = [(latency, simulate(book, latency_s=latency, dice=dice)) for latency in _latencies(dice, median_s, sigma)]
    learned = runs[50:]
    assert statistics.fmean(looks for _, (looks, _) in learned) <= 5
    assert statistics.median(late_s / latency_s for latency_s, (_, late_s) in learned) <= 0.10


def _latencies(dice: random.Random, median_s: float, sigma: float) -> list[float]:
    return [median_s * dice.lognormvariate(0, sigma) for _ in range(600)]


def test_follows_a_service_that_drifts() -> None:
    """A service that becomes ten times as fast is asked ever earlier, although only looks tell of it."""
    dice, book = random.Random(7), LatencyBook()
    for _ in range(300):
        simulate(book, latency_s=30.0, dice=dice)
    firsts = [book.wait_s(0.0, dice=0.5)]
    for _ in range(6):
        for _ in range(200):
            simulate(book, latency_s=3.0, dice=dice)
        firsts.append(book.wait_s(0.0, dice=0.5))
    assert all(later < 1.1 * sooner for sooner, later in pairwise(firsts))
    assert firsts[-1] < 3.5
    assert book.expected_s() < 5.0


def test_before_anything_is_known() -> None:
    """Without latencies the first look comes soon and the guess of a whole prediction is a long one."""
    book = LatencyBook()
    assert 0.4 < book.wait_s(0.0, dice=0.5) < 0.6
    assert book.expected_s() == 30.0
    for _ in range(7):
        book.learn(1.0, inference_ms=1000)
    assert book.expected_s() == 30.0
    book.learn(1.0, inference_ms=1000)
    assert book.expected_s() == 1.0


def test_expected_is_where_nine_in_ten_are_done() -> None:
    """What `--until` plans with is a late quantile, not the mean."""
    book = LatencyBook()
    for latency_s in range(1, 101):
        book.learn(float(latency_s), inference_ms=latency_s * 1000)
    assert book.expected_s() == 91.0


@given(st.lists(st.floats(0.0, 10_000.0), max_size=60), st.floats(0.0, 100_000.0), st.floats(0, 1))
def test_every_wait_is_a_sane_one(latencies: list[float], waited_s: float, luck: float) -> None:
    """No history makes a wait that floods, nor one of more than some seconds for a prediction that is late."""
    book = LatencyBook()
    for latency_s in latencies:
        book.learn(latency_s)
    wait_s = book.wait_s(waited_s, dice=luck)
    assert wait_s > 0
    if waited_s > 10_000.0:
        assert 13.0 <= wait_s <= 17.0


@given(st.floats(0.01, 300.0), st.floats(0, 1))
def test_looks_never_double(latency_s: float, luck: float) -> None:
    """However late a prediction is, the next look is at most 16.5 s or a sixth of its age away."""
    book, waited_s = LatencyBook(), 0.0
    while waited_s < latency_s:
        wait_s = book.wait_s(waited_s, dice=luck)
        assert waited_s == 0.0 or wait_s <= max(0.5, min(16.5, 0.18 * waited_s))
        waited_s += wait_s
