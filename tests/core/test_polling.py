"""When to ask: few looks a prediction, and what is done known soon, whatever its latencies are like."""

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core.polling import LatencyBook, PollPace


def simulate(book: LatencyBook, *, latency_s: float, dice: random.Random) -> tuple[int, float]:
    """Follow one prediction; return how many looks it took and how late the last one was."""
    waited_s, before_s, looks = 0.0, 0.0, 0
    while True:
        waited_s += book.wait_s(waited_s, dice=dice.random())
        looks += 1
        if waited_s >= latency_s:
            book.learn(waited_s, before_s=before_s)
            return looks, waited_s - latency_s
        book.saw_running(waited_s, before_s=before_s)
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
    """A service that becomes ten times as fast is asked ever earlier, although only looks tell of it.

    They may come too early for a while: only one that still runs then tells that they do.
    """
    dice, book = random.Random(7), LatencyBook()
    for _ in range(300):
        simulate(book, latency_s=30.0, dice=dice)
    firsts = [book.wait_s(0.0, dice=0.5)]
    for _ in range(6):
        for _ in range(200):
            simulate(book, latency_s=3.0, dice=dice)
        firsts.append(book.wait_s(0.0, dice=0.5))
    assert all(later < 1.1 * max(sooner, 3.0) for sooner, later in pairwise(firsts))
    assert firsts[-1] < 3.5
    assert book.expected_s() < 5.0


def test_first_guesses_are_spread() -> None:
    """Of the first 64 predictions some are asked for within 30 ms, none later than 0.5 s, none twice before that."""
    book = LatencyBook()
    firsts = [book.wait_s(0.0, dice=0.5) for _ in range(64)]
    assert firsts[0] == 0.5
    assert 5 < sum(first_s < 0.03 for first_s in firsts) < 15
    assert all(0.02 <= first_s <= 0.5 for first_s in firsts)
    for first_s in firsts:
        book.saw_running(first_s)
        assert first_s + book.wait_s(first_s, dice=0.5) >= 0.5


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


# ---------------------------------------------------------------------------------------------- what is learned


def taught(*latencies_s: float, times: int = 1) -> LatencyBook:
    """A book that saw these latencies, each dated by its inference time and looked at once."""
    book = LatencyBook()
    for latency_s in latencies_s * times:
        book.learn(latency_s + 0.1, inference_ms=round(latency_s * 1000))
    return book


def first_look_s(book: LatencyBook) -> float:
    return book.wait_s(0.0, dice=0.5)


def test_the_first_look_comes_as_the_first_are_done() -> None:
    """Nobody asks long before anyone can be done, nor after most are."""
    dice = random.Random(7)
    book = taught(*[8 * dice.lognormvariate(0, 0.4) for _ in range(600)])
    assert 8 * 0.45 < first_look_s(book) < 8 * 0.85


def test_looks_come_where_completions_do() -> None:
    """Between the quick and the slow ones nobody asks: a look at 3 s, and the next when the slow ones come."""
    book = taught(2.0, 2.1, 2.2, 20.0, 21.0, times=60)
    assert 2.0 < first_look_s(book) < 2.6
    assert 18.0 < 3.0 + book.wait_s(3.0, dice=0.5) < 21.5


def test_one_latency_is_not_believed() -> None:
    """After a single prediction of 20 s the others are still looked at long before; after many they aren't."""
    assert first_look_s(taught(20.0)) < 12.0
    assert first_look_s(taught(20.0, times=200)) > 17.0


def test_one_straggler_is_not_believed() -> None:
    """One prediction took ten minutes: another one that is late is not left alone until then."""
    book = taught(*[8.0 + step / 100 for step in range(100)])
    book.learn(600.1, inference_ms=600_000)
    for step in range(32):
        book.learn(8.2, inference_ms=8000 + step)
    assert book.wait_s(30.0, dice=0.5) < 30.0


def test_one_that_is_still_running_counts() -> None:
    """A service becomes slower while hundreds are in flight: before anyone is done the old latencies lose their say."""
    book = taught(1.9, 2.0, 2.1, times=100)
    assert 1.7 < first_look_s(book) < 2.1
    for _ in range(100):
        book.saw_running(2.0)
        book.saw_running(4.0, before_s=2.0)
    assert first_look_s(book) < 2.1  # two in three were done by then, so somebody may be
    for _ in range(2000):
        book.saw_running(4.0)
    assert book.wait_s(2.2, dice=0.5) > 0.3


def test_the_first_ones_done_are_not_the_rest() -> None:
    """Ten of a thousand are done at 1 s and the others run on: a twentieth of what the ten alone would say."""
    quick = taught(*[1 + share / 100 for share in range(10)], times=10)
    mixed = taught(*[1 + share / 100 for share in range(10)], times=10)
    for _ in range(10_000):
        mixed.saw_running(5.0)
    for latency_s in range(100):
        mixed.learn(10 + latency_s / 100, before_s=5.0, inference_ms=10_000 + 10 * latency_s)
    assert first_look_s(quick) < 1.2
    assert first_look_s(mixed) > 3.0


def test_the_inference_time_dates_a_completion() -> None:
    """Found done at 60 s and told 2 s: the next are asked for at about 2 s; queued ones aren't taken for quick."""
    book = LatencyBook()
    for _ in range(40):
        book.learn(60.0, inference_ms=2000)
    assert 1.4 < first_look_s(book) < 2.3
    queued = LatencyBook()
    for _ in range(40):
        queued.saw_running(50.0)
        queued.learn(60.0, before_s=50.0, inference_ms=2000)
    assert first_look_s(queued) > 20.0
    for _ in range(40):
        queued.learn(60.0, inference_ms=2000)
    assert first_look_s(queued) > 10.0, "nor is one that was done by its first look"


def test_looks_leave_a_trip_earlier() -> None:
    """A look sees the service a trip after it left, counted from an answer that was itself on its way."""
    near, far = LatencyBook(), LatencyBook()
    for book, trip_s in ((near, 0.0), (far, 0.4)):
        for _ in range(200):
            book.learn(8.0, inference_ms=8000, trip_s=trip_s)
    assert first_look_s(near) - first_look_s(far) == pytest.approx(0.4)
    assert near.wait_s(20.0, dice=0.5) - far.wait_s(20.0, dice=0.5) == pytest.approx(0.4)


def test_a_quick_service_is_asked_at_once() -> None:
    """Where all are done at their first look it comes ever earlier, though no inference time says by how much."""
    book = LatencyBook()
    for _ in range(1500):
        book.learn(book.wait_s(0.0, dice=0.5))
    assert first_look_s(book) < 0.01


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 5000), st.booleans(), st.floats(0, 5000)), max_size=80))
def test_any_history_gives_a_plan(history: list[tuple[float, float, bool, float]]) -> None:
    """Whatever is seen in whatever order, the next look lies ahead, hardly beyond the oldest that one was done at."""
    book = LatencyBook()
    for one_s, other_s, is_done, told_s in history:
        before_s, looked_s = sorted((one_s, other_s))
        if is_done:
            book.learn(looked_s, before_s=before_s, inference_ms=round(told_s * 1000), trip_s=told_s)
        else:
            book.saw_running(looked_s, before_s=before_s)
    ages = [0.01 * 1.3**power for power in range(60)]
    oldest_s = max((max(one_s, other_s) for one_s, other_s, is_done, _ in history if is_done), default=0.0)
    for age_s in ages:
        assert age_s < age_s + book.wait_s(age_s, dice=0.5) <= max(1.3 * oldest_s, age_s + 15.0)
    assert 0 < first_look_s(book) <= max(0.5, 1.3 * oldest_s)


@given(st.floats(0, 1), st.floats(0.0, 100.0))
def test_looks_are_jittered(luck: float, waited_s: float) -> None:
    """Predictions submitted together are not looked at together: every wait lies within a tenth of the plain one."""
    book = taught(*[8.0 + step / 10 for step in range(40)])
    plain_s, wait_s = book.wait_s(waited_s, dice=0.5), book.wait_s(waited_s, dice=luck)
    assert wait_s == pytest.approx(plain_s * (0.9 + 0.2 * luck), rel=0.01)


# ---------------------------------------------------------------------------------------------- the pace


def test_steps_widen_with_how_many_are_looked_at() -> None:
    """Five thousand to be looked at again, 250 a second: each one's steps are twenty seconds as long as that holds."""
    pace = PollPace()
    book, lone_s = LatencyBook(pace), LatencyBook().wait_s(8.0, dice=0.5)
    for number in range(5000):
        pace.again(f"prediction-{number}")
        pace.again(f"prediction-{number}")
    assert book.wait_s(8.0, dice=0.0) == 20.0
    assert book.wait_s(8.0, dice=1.0) == 24.0
    assert book.wait_s(0.0, dice=0.5) == 0.5  # a first look is as rare as a submission
    for number in range(5000):
        pace.ended(f"prediction-{number}")
    pace.ended("never counted")
    assert book.wait_s(8.0, dice=0.5) == lone_s


def test_turns_are_evenly_spaced() -> None:
    """A thousand resumed at once take four seconds; one that comes alone has its turn at once."""
    pace = PollPace()
    turns = [pace.turn_s(100.0) for _ in range(1000)]
    assert turns[0] == 0.0
    assert turns[-1] == pytest.approx(999 / 250)
    assert all(later - sooner == pytest.approx(1 / 250) for sooner, later in pairwise(turns))
    assert pace.turn_s(102.0) == pytest.approx(2.0)
    assert pace.turn_s(200.0) == 0.0
