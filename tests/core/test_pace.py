"""When the next submission may leave: even pacing, one event a burst, bounded advice, a rate that doesn't collapse."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import Fault
from batchflux.core.pace import LONGEST_ADVICE_S, Pace

SLOW = Fault(kind="rate_limit", message="slow")
HOUR = 3600.0


def advice(seconds: float) -> Fault:
    return Fault(kind="rate_limit", message="slow", retry_after_s=seconds)


def test_pace_spaces_images_evenly() -> None:
    """500/min is one image each 120 ms from the first on, without a burst at the start or after a pause."""
    pace, now_s, left = Pace(images_per_s=500 / 60), 100.0, []
    for _ in range(501):
        now_s = max(now_s, pace.ready_at_s())
        left.append(now_s)
        pace.spend(1, now_s=now_s)
    assert left[0] == 100.0
    assert left[-1] == pytest.approx(160.0)
    assert max(b - a for a, b in pairwise(left)) == pytest.approx(0.12)
    pace.spend(1, now_s=500.0)
    assert pace.ready_at_s() == pytest.approx(500.12)


def test_a_late_timer_costs_no_rate() -> None:
    """A loop that wakes 20 ms late each time sends 5,000 a minute all the same."""
    pace, now_s = Pace(images_per_s=5000 / 60), 10.0
    for _ in range(5000):
        now_s = max(now_s, pace.ready_at_s() + 0.02 if pace.ready_at_s() > now_s else now_s)
        pace.spend(1, now_s=now_s)
    assert now_s == pytest.approx(70.0, abs=0.1)


def test_pace_counts_images_and_not_submissions() -> None:
    """A submission of four images takes four places."""
    pace = Pace(images_per_s=2.0)
    pace.spend(4, now_s=10.0)
    assert pace.ready_at_s() == 12.0


def test_nothing_holds_back_before_the_first_refusal() -> None:
    """Without a stated rate there is none until the service teaches one."""
    pace = Pace(images_per_s=None)
    for number in range(1000):
        pace.spend(1, now_s=5.0)
        pace.accepted(1, sent_at_s=5.0, now_s=5.0 + number / 1000)
    assert pace.ready_at_s() <= 5.0
    assert pace.rate_per_s() is None


def test_refusals_in_a_row_wait_longer_and_longer() -> None:
    """Half a second where nothing was ever accepted, doubling to a minute, and begun anew by an acceptance."""
    pace, now_s, waits = Pace(images_per_s=None), 10.0, []
    for _ in range(9):
        pace.refused(SLOW, sent_at_s=now_s, now_s=now_s + 0.1)
        waits.append(pace.ready_at_s() - now_s - 0.1)
        now_s = pace.ready_at_s()
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60])


def test_a_burst_of_refusals_pauses_once() -> None:
    """What was refused of one burst doesn't double the pause sixteen times."""
    pace = Pace(images_per_s=None)
    for number in range(16):
        pace.refused(SLOW, sent_at_s=1.0, now_s=2.0 + number / 1000)
    assert pace.ready_at_s() == 2.5


@pytest.mark.fault("H14")
def test_retry_after_is_honoured() -> None:
    """What the service advises is waited up to five minutes, and a later shorter advice doesn't shorten it."""
    pace = Pace(images_per_s=None)
    pace.refused(advice(30.0), sent_at_s=1.0, now_s=2.0)
    pace.refused(advice(1.0), sent_at_s=1.0, now_s=2.0)
    assert pace.ready_at_s() == 32.0
    pace.refused(advice(1e9), sent_at_s=40.0, now_s=41.0)
    assert pace.ready_at_s() == 41.0 + LONGEST_ADVICE_S
    pace.refused(advice(0.0), sent_at_s=400.0, now_s=401.0)
    assert pace.ready_at_s() == 401.5


@pytest.mark.fault("H15")
def test_an_hour_of_429_is_asked_about_once_a_minute() -> None:
    """H15: without Retry-After an hour of refusals costs a few dozen tries."""
    pace, now_s, tries = Pace(images_per_s=None), 0.0, 0
    while now_s < HOUR:
        tries += 1
        pace.refused(SLOW, sent_at_s=now_s, now_s=now_s + 0.1)
        now_s = pace.ready_at_s()
    assert tries <= 70


def test_a_rate_is_not_learned_from_an_empty_minute() -> None:
    """One image was accepted long ago and the next is refused: that says nothing about a rate of 8 a second."""
    pace = Pace(images_per_s=None, learned_per_s=8.0, trust=500.0, is_minute=True)
    pace.accepted(1, sent_at_s=-0.1, now_s=0.0)
    pace.refused(SLOW, sent_at_s=200.0, now_s=200.1)
    assert pace.learned_per_s == 8.0


def test_a_stated_rate_stays_a_cap() -> None:
    """However long nothing is refused, what was learned never passes what the spec says."""
    pace = Pace(images_per_s=2.0, learned_per_s=1.0)
    for number in range(1000):
        pace.accepted(1, sent_at_s=number - 0.1, now_s=float(number))
    assert pace.rate_per_s() == 2.0


def test_what_was_learned_is_never_made_up() -> None:
    """While the slots are what binds, the pace rises out of the way; the rate told to people stays the measured one."""
    pace = Pace(images_per_s=None, learned_per_s=8.0, trust=50.0)
    for number in range(100_000):
        pace.accepted(1, sent_at_s=number / 4 - 0.1, now_s=number / 4)
    assert pace.learned_per_s == 8.0
    assert (pace.rate_per_s() or 0.0) > 1000


@given(st.lists(st.tuples(st.sampled_from(["accept", "refuse", "advise"]), st.floats(0, 100)), max_size=200))
def test_no_sequence_of_answers_stops_it_for_good(steps: list[tuple[str, float]]) -> None:
    """Whatever comes in whatever order, a submission may leave within minutes, and the rate is a positive number."""
    pace, now_s = Pace(images_per_s=None), 0.0
    for step, wait_s in steps:
        now_s += wait_s
        pace.spend(1, now_s=now_s)
        match step:
            case "accept":
                pace.accepted(1, sent_at_s=now_s - 0.1, now_s=now_s)
            case "refuse":
                pace.refused(SLOW, sent_at_s=now_s, now_s=now_s)
            case _:
                pace.refused(advice(wait_s), sent_at_s=now_s, now_s=now_s)
        rate = pace.rate_per_s()
        assert rate is None or 0 < rate < 1e9
        assert pace.paused_until_s <= now_s + LONGEST_ADVICE_S
