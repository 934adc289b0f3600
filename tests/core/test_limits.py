"""What may be sent when: growth, one cut a burst, even pacing, the breaker's few lost answers, patience."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.limits import AUTO_MOST, Breaker, Health, Pace, Window
from batchflux.core.model import Fault

SLOW = Fault(kind="rate_limit", message="slow")
HOUR = 3600.0


def fill(window: Window) -> None:
    while window.has_room():
        window.started()


# ---------------------------------------------------------------------------------------------------- window


def test_window_starts_with_four_and_grows_to_sixty_four() -> None:
    """`concurrency: auto` starts with 4 in flight and doubles with each windowful accepted, up to 64."""
    window = Window.learned()
    sizes = []
    fill(window)
    for _ in range(6):
        sizes.append(window.in_flight)
        for _ in range(window.in_flight):
            window.accepted()
            fill(window)
    assert sizes == [4, 8, 16, 32, 64, 64]
    assert AUTO_MOST == 64


def test_a_window_that_is_not_full_does_not_grow() -> None:
    """Acceptances tell of the service's limit only where as many were in flight as may be."""
    window = Window.learned()
    for _ in range(100):
        window.started()
        window.accepted()
        window.ended()
    assert window.size == 4


@pytest.mark.parametrize("most", [1, 2, 8, 64, 300])
def test_a_stated_concurrency_is_a_cap(most: int) -> None:
    """A number is never passed; it starts there, or at 64 and grows."""
    window = Window.capped(most)
    for _ in range(400):
        fill(window)
        assert window.in_flight <= most
        window.accepted()
    assert window.in_flight == most


def test_a_burst_of_refusals_is_one_event() -> None:
    """Sixteen 429s of submissions that left before the first one came back halve the window once."""
    window = Window.capped(16)
    fill(window)
    for number in range(16):
        window.refused(sent_at_s=1.0 + number / 100, now_s=2.0 + number / 100)
        window.ended()
    assert window.size == 7.5
    window.refused(sent_at_s=2.5, now_s=3.0)
    assert window.size < 4


def test_after_a_refusal_growth_is_steady() -> None:
    """Having met the limit, the window grows by one a windowful and not by doubling into it again."""
    window = Window.capped(64)
    fill(window)
    window.refused(sent_at_s=1.0, now_s=2.0)
    window.in_flight = 0
    fill(window)
    before = window.in_flight
    for _ in range(before):
        window.accepted()
    assert int(window.size) - before in (0, 1)


def test_a_refusal_in_an_empty_window_leaves_one() -> None:
    """However often it is cut, one submission may leave, so that the service can be found willing again."""
    window = Window.learned()
    for now in range(1, 50):
        window.started()
        window.refused(sent_at_s=float(now), now_s=now + 0.5)
        window.ended()
    assert window.size == 1.0
    assert window.has_room()


@given(st.lists(st.sampled_from(["start", "accept", "refuse", "end"]), max_size=200), st.integers(1, 100))
def test_window_stays_within_its_bounds(steps: list[str], most: int) -> None:
    """No sequence of events lets more start than the cap, or closes the window for good."""
    window = Window.capped(most)
    for now, step in enumerate(steps, start=1):
        match step:
            case "start" if window.has_room():
                window.started()
            case "accept" if window.in_flight:
                window.accepted()
            case "refuse" if window.in_flight:
                window.refused(sent_at_s=now - 0.5, now_s=float(now))
            case "end" if window.in_flight:
                window.ended()
        assert 1 <= window.size <= most
        assert 0 <= window.in_flight <= most


# ---------------------------------------------------------------------------------------------------- pace


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


def test_pace_counts_images_and_not_submissions() -> None:
    """A submission of four images takes four places."""
    pace = Pace(images_per_s=2.0)
    pace.spend(4, now_s=10.0)
    assert pace.ready_at_s() == 12.0


def test_without_a_rate_only_refusals_hold_back() -> None:
    """No stated rate is no pause, until the service refuses: 0.5 s, doubling, forgotten with the next acceptance."""
    pace = Pace(images_per_s=None)
    pace.spend(1, now_s=5.0)
    assert pace.ready_at_s() <= 5.0
    waits = []
    for now in (10.0, 20.0, 30.0):
        pace.pause(SLOW, sent_at_s=now - 1, now_s=now)
        waits.append(pace.ready_at_s() - now)
    assert waits == [0.5, 1.0, 2.0]
    pace.accepted()
    pace.pause(SLOW, sent_at_s=99.0, now_s=100.0)
    assert pace.ready_at_s() == 100.5


def test_a_burst_of_refusals_pauses_once() -> None:
    """What was refused of one burst doesn't double the pause sixteen times."""
    pace = Pace(images_per_s=None)
    for number in range(16):
        pace.pause(SLOW, sent_at_s=1.0, now_s=2.0 + number / 1000)
    assert pace.ready_at_s() == pytest.approx(2.515)


@pytest.mark.fault("H14")
def test_retry_after_is_honoured() -> None:
    """What the service advises is waited, and a later shorter advice doesn't shorten it."""
    pace = Pace(images_per_s=None)
    pace.pause(Fault(kind="rate_limit", message="slow", retry_after_s=30.0), sent_at_s=1.0, now_s=2.0)
    pace.pause(Fault(kind="rate_limit", message="slow", retry_after_s=1.0), sent_at_s=1.0, now_s=2.0)
    assert pace.ready_at_s() == 32.0


@pytest.mark.fault("H15")
def test_an_hour_of_429_is_asked_about_once_a_minute() -> None:
    """H15: without Retry-After an hour of refusals costs a few dozen tries."""
    pace, now_s, tries = Pace(images_per_s=None), 0.0, 0
    while now_s < HOUR:
        tries += 1
        pace.pause(SLOW, sent_at_s=now_s, now_s=now_s + 0.1)
        now_s = pace.ready_at_s()
    assert tries <= 70


# ---------------------------------------------------------------------------------------------------- breaker


def play(
    breaker: Breaker, *, lost: object, seconds: float, per_s: float = 83.0, answer_s: float = 0.0
) -> tuple[int, int]:
    """Submit at a rate for a time, as the breaker allows; return (submissions, those whose answers were lost)."""
    assert callable(lost)
    now_s, sent, n_lost = 0.0, 0, 0
    open_posts: list[tuple[float, float, bool]] = []

    def settle(until_s: float) -> None:
        nonlocal n_lost
        while open_posts and open_posts[0][0] <= until_s:
            at_s, sent_at_s, is_lost = open_posts.pop(0)
            if is_lost:
                n_lost += 1
                breaker.unanswered(sent_at_s=sent_at_s, now_s=at_s)
            else:
                breaker.answered()

    while now_s < seconds:
        settle(now_s)
        if len(open_posts) < 16 and breaker.may_send(now_s):
            breaker.sent(now_s)
            sent += 1
            open_posts.append((now_s + answer_s, now_s, bool(lost())))
        now_s += 1 / per_s
    settle(float("inf"))
    return sent, n_lost


@pytest.mark.fault("H18")
def test_half_an_hour_of_lost_answers_costs_a_dozen() -> None:
    """H18: three lost answers open it, ten probes from 5 s to 5 min fill half an hour: thirteen cells are unknown."""
    sent, lost = play(Breaker(), lost=lambda: True, seconds=1800.0)
    assert sent == lost == 13


@pytest.mark.fault("H18")
def test_half_an_hour_of_lost_answers_amid_a_run() -> None:
    """H18: good answers before don't keep it closed: three lost in a row open it as well."""
    breaker = Breaker()
    play(breaker, lost=lambda: False, seconds=10.0)
    assert play(breaker, lost=lambda: True, seconds=1800.0)[1] == 13


@pytest.mark.fault("H18")
def test_half_an_hour_of_lost_answers_with_posts_open() -> None:
    """H18: with sixteen POSTs open when the line goes, those sixteen and ten probes are lost, and no more."""
    breaker = Breaker()
    play(breaker, lost=lambda: False, seconds=10.0, answer_s=0.2)
    assert play(breaker, lost=lambda: True, seconds=1800.0, answer_s=0.2)[1] <= 16 + 3 + 10


def test_a_burst_of_lost_answers_is_one_event() -> None:
    """What was open when the line went doesn't double the wait: the first probe leaves after five seconds."""
    breaker = Breaker()
    for _ in range(16):
        breaker.sent(0.0)
    for number in range(16):
        breaker.unanswered(sent_at_s=0.0, now_s=1.0 + number / 100)
    assert breaker.retry_at_s() == pytest.approx(6.02)
    assert not breaker.may_send(6.0)
    assert breaker.may_send(6.1)


def test_one_probe_at_a_time() -> None:
    """While open, a probe that is under way keeps others back, and late losses of the burst don't let more go."""
    breaker = Breaker()
    for _ in range(3):
        breaker.unanswered(sent_at_s=0.0, now_s=1.0)
    breaker.sent(6.5)
    assert not breaker.may_send(7.0)
    breaker.unanswered(sent_at_s=0.5, now_s=8.0)
    assert not breaker.may_send(8.1)
    breaker.unanswered(sent_at_s=6.5, now_s=9.0)
    assert not breaker.may_send(18.9)
    assert breaker.may_send(19.0)


def test_a_probe_that_did_not_leave_tells_nothing() -> None:
    """No connection is no lost answer: the next probe may leave at once."""
    breaker = Breaker()
    for _ in range(3):
        breaker.unanswered(sent_at_s=0.0, now_s=1.0)
    breaker.sent(6.5)
    breaker.not_sent()
    assert breaker.may_send(6.6)


def test_any_answer_closes_it() -> None:
    """A refusal is an answer too: the line works, and the waits begin anew."""
    breaker = Breaker()
    for _ in range(3):
        breaker.unanswered(sent_at_s=0.0, now_s=1.0)
    breaker.answered()
    assert breaker.may_send(1.1)
    assert breaker.retry_at_s() is None


def test_a_line_that_drops_one_in_five_only_slows_down() -> None:
    """Half an hour at one lost answer in five still sends thousands, and as many are lost as the line loses."""
    dice = random.Random(3)
    sent, lost = play(Breaker(), lost=lambda: dice.random() < 0.2, seconds=1800.0)
    assert sent > 10_000
    assert 0.15 < lost / sent < 0.25


# ---------------------------------------------------------------------------------------------------- health


def test_a_service_that_never_answered_is_borne_a_minute() -> None:
    """A wrong address shows within a minute."""
    health = Health(patience_s=None, began_at_s=100.0)
    health.silent(110.0)
    assert not health.is_gone(160.0)
    assert health.is_gone(160.1)


def test_a_service_that_answered_is_borne_twelve_hours() -> None:
    """One that has answered before is waited for, however long the night."""
    health = Health(patience_s=None, began_at_s=0.0)
    health.heard(10.0)
    health.silent(20.0)
    assert not health.is_gone(20.0 + 12 * HOUR)
    assert health.is_gone(21.0 + 12 * HOUR)


def test_stated_patience() -> None:
    """`patience` is both; a shorter one than a minute holds for a service that never answered too."""
    health = Health(patience_s=30.0, began_at_s=0.0)
    health.silent(10.0)
    assert health.is_gone(30.1)
    health.heard(40.0)
    assert not health.is_gone(1000.0)
    health.silent(50.0)
    assert not health.is_gone(80.0)
    assert health.is_gone(80.1)


def test_silence_begins_when_something_was_asked() -> None:
    """Hours in which nothing was asked (a slow rate, a long prediction) are no silence of the service's."""
    health = Health(patience_s=60.0, began_at_s=0.0)
    health.heard(1.0)
    health.silent(500.0)
    assert not health.is_gone(500.0)
    assert not health.is_gone(560.0)
    assert health.is_gone(560.1)


def test_waits_of_a_silent_service_grow_and_are_forgotten() -> None:
    """Knocking begins at about a second, ends at half a minute, and begins anew once it has answered."""
    health = Health(patience_s=None, began_at_s=0.0)
    waits = [health.silent(float(now)) for now in range(8)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(1.1)
    assert waits[-1] == pytest.approx(33.0)
    health.heard(100.0)
    assert health.silent(101.0) == pytest.approx(1.1)
