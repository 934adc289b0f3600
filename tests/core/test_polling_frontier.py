"""What the polling must show: at the same polls a prediction less unnoticed time than others, on every shape."""

import numpy as np
import pytest

from batchflux.core.polling import LatencyBook, PollPace
from tests.benchmarks.polling import (
    SHAPES,
    STATIONARY,
    draw_latencies,
    exponential,
    fixed,
    follow,
    looks_of,
    planned,
    tuned,
)

FIRST = 200
COUNT = 2000


@pytest.mark.parametrize("trip_s", [0.005, 0.15])
@pytest.mark.parametrize("shape", SHAPES)
def test_less_goes_unnoticed_at_the_same_polls(shape: str, trip_s: float) -> None:
    """issue 4: fixed and doubling intervals, turned to the same polls, notice later, in the mean and in the median."""
    latencies = draw_latencies(shape, count=COUNT)
    ours = follow(latencies, book=LatencyBook(), trip_s=trip_s, skip=FIRST)
    late = latencies[FIRST:]
    even = tuned(lambda knob: fixed(late, knob, trip_s=trip_s), polls=ours.polls)
    doubling = tuned(lambda knob: exponential(late, knob, trip_s=trip_s), polls=ours.polls)
    assert even.polls == pytest.approx(ours.polls)
    assert ours.mean_s < 0.85 * even.mean_s
    assert ours.median_s < 0.85 * even.median_s
    assert ours.mean_s < 0.5 * doubling.mean_s
    assert ours.median_s < 0.5 * doubling.median_s


@pytest.mark.parametrize("shape", STATIONARY)
def test_less_goes_unnoticed_at_the_polls_of_the_sdk(shape: str) -> None:
    """A look a second is nine to fifteen looks at a median of 8 s: with no more of them ours notices sooner."""
    latencies = draw_latencies(shape, count=1000)
    sdk = fixed(latencies[FIRST:], 1.0, trip_s=0.005)
    ours = tuned(
        lambda price: follow(latencies, book=LatencyBook(look_price=price), skip=FIRST),
        polls=sdk.polls,
        tries=4,
        low=0.0005,
        high=0.0175,
    )
    assert ours.polls == pytest.approx(sdk.polls)
    assert ours.mean_s < 0.9 * sdk.mean_s
    assert ours.median_s < 0.9 * sdk.median_s


@pytest.mark.parametrize("is_timed", [True, False])
@pytest.mark.parametrize("median_s", [2.0, 8.0, 60.0])
def test_by_default(median_s: float, *, is_timed: bool) -> None:
    """design.md section 5: at most 5 polls a prediction with a median of at most a tenth of its time unnoticed."""
    latencies = draw_latencies("lognormal 0.4", count=COUNT, median_s=median_s)
    ours = follow(latencies, book=LatencyBook(), is_timed=is_timed, skip=FIRST)
    assert ours.polls <= 5
    assert ours.median_s <= 0.10 * float(np.median(latencies))


@pytest.mark.parametrize("shape", STATIONARY)
def test_near_what_is_possible(shape: str) -> None:
    """A dynamic programme that knows the true latencies notices at most a fifth sooner at the same polls."""
    latencies, known = draw_latencies(shape, count=COUNT), draw_latencies(shape, count=20_000, seed=8)
    ours = follow(latencies, book=LatencyBook(), skip=FIRST)
    best = tuned(
        lambda price_s: planned(latencies[FIRST:], price_s, known=known, trip_s=0.005), polls=ours.polls, tries=18
    )
    assert ours.mean_s < 1.25 * best.mean_s


@pytest.mark.parametrize("in_flight", [50, 500])
def test_a_service_that_becomes_four_times_as_slow(in_flight: int) -> None:
    """Those in flight then are not asked madly, and those after them as few times as ever: looks, not ends, tell."""
    latencies = draw_latencies("lognormal 0.4", count=4000)
    latencies[2000:] *= 4
    polls, unnoticed = looks_of(latencies, book=LatencyBook(), in_flight=in_flight)
    assert polls[2000 : 2000 + in_flight].mean() < 25
    assert polls[2000:].max() < 45
    assert polls[3200:].mean() < 5
    assert unnoticed[2000 : 2000 + in_flight].mean() < 0.1 * latencies[2000:].mean()


@pytest.mark.parametrize("is_timed", [True, False])
def test_a_service_that_becomes_ten_times_as_fast(*, is_timed: bool) -> None:
    """Within three rounds of what is in flight it is as quickly noticed as ever, inference times told or not."""
    latencies = draw_latencies("lognormal 0.4", count=3000)
    latencies[1500:] /= 10
    _, unnoticed = looks_of(latencies, book=LatencyBook(), is_timed=is_timed)
    assert unnoticed[1800:].mean() < 0.12 * latencies[1500:].mean()


def test_the_total_rate_is_capped() -> None:
    """Two thousand in flight at sixty looks a second: at no time more, and first looks besides, and all get done."""
    latencies = draw_latencies("lognormal 0.4", count=6000, median_s=60.0)
    moments: list[tuple[float, bool]] = []
    polls, _ = looks_of(latencies, book=LatencyBook(PollPace(per_s=60.0)), in_flight=2000, moments=moments)
    again_s = np.array([at_s for at_s, is_first in moments if not is_first])
    in_ten_seconds = np.histogram(again_s, bins=np.arange(0, again_s[-1], 10.0))[0]
    assert in_ten_seconds.max() <= 60 * 10 * 1.25
    assert polls.mean() < 4
    assert len(moments) == polls.sum()
