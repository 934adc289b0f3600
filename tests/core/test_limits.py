"""What may be sent when: the breaker's few lost answers, patience."""

import random

import pytest

from batchflux.core.limits import Breaker, Health

HOUR = 3600.0


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
