"""How many may be in flight: growth by what is completed, small steps where it is refused, bounds whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.window import AUTO_MOST, AUTO_START, Window


def fill(window: Window) -> None:
    while window.has_room():
        window.started()


def test_what_is_accepted_alone_widens_nothing() -> None:
    """A service that queues accepts everything: only what is completed tells that more can be borne."""
    window = Window.learned()
    for number in range(100):
        fill(window)
        window.accepted(sent_at_s=float(number))
    assert window.size == AUTO_START


def test_a_window_that_is_not_in_use_does_not_grow() -> None:
    """Completions tell of the service's limit only where as many were in flight as may be."""
    window = Window.learned()
    for number in range(100):
        window.started()
        window.accepted(sent_at_s=float(number))
        window.completed(latency_s=0.5, worked_s=0.4, now_s=number + 0.5)
        window.ended()
    assert window.size == AUTO_START


@pytest.mark.parametrize("most", [1, 2, 8, 64, 300])
def test_a_stated_concurrency_is_a_cap(most: int) -> None:
    """A number is never passed; it starts there, or at 64 and grows with what is completed."""
    window = Window.capped(most)
    for number in range(4000):
        fill(window)
        assert window.in_flight <= most
        window.accepted(sent_at_s=number / 10)
        window.completed(latency_s=0.5, worked_s=0.4, now_s=number / 10 + 0.5)
        window.ended()
    fill(window)
    assert window.in_flight == most


def test_a_burst_of_refusals_only_tells_what_is_held() -> None:
    """Six of sixteen are refused together: the service holds ten, and no step is taken back besides."""
    window = Window.capped(16)
    fill(window)
    for number in range(6):
        window.refused(sent_at_s=1.0 + number / 100, now_s=2.0 + number / 100)
        window.ended()
    assert window.size == window.in_flight == 10


def test_a_refusal_is_a_small_step_back() -> None:
    """At a limit that is known one refusal takes one from the window, and some acceptances give it back."""
    window = Window.capped(64)
    fill(window)
    window.refused(sent_at_s=1.0, now_s=2.0)
    window.ended()
    assert window.size == 63
    window.refused(sent_at_s=3.0, now_s=4.0)
    window.ended()
    assert window.size == 61
    fill(window)
    for number in range(15):
        window.accepted(sent_at_s=5.0 + number)
    assert 62 < window.size < 64


def test_a_long_quiet_makes_steps_larger() -> None:
    """A limit that was raised tenfold is followed within some hundred acceptances and not within thousands."""
    window = Window.learned()
    fill(window)
    window.refused(sent_at_s=1.0, now_s=2.0)
    window.ended()
    for number in range(500):
        fill(window)
        window.accepted(sent_at_s=3.0 + number)
    assert window.size >= 10 * AUTO_START


def test_cuts_are_forgiven() -> None:
    """Where it turns out that something else was refused, the window is as before the refusals."""
    window = Window.learned()
    fill(window)
    for number in range(10):
        window.refused(sent_at_s=float(number), now_s=number + 0.5)
        window.ended()
    window.forgive()
    assert (window.size, window.found_by) == (AUTO_START, None)


@given(st.lists(st.sampled_from(["start", "accept", "refuse", "end", "forgive"]), max_size=300), st.integers(1, 100))
def test_window_stays_within_its_bounds(steps: list[str], most: int) -> None:
    """No sequence of events lets more start than the cap, or closes the window for good."""
    window = Window.capped(most)
    for now, step in enumerate(steps, start=1):
        match step:
            case "start" if window.has_room():
                window.started()
            case "accept" if window.in_flight:
                window.accepted(sent_at_s=now - 0.5)
            case "refuse" if window.in_flight:
                window.refused(sent_at_s=now - 0.5, now_s=float(now))
            case "end" if window.in_flight:
                window.completed(latency_s=float(now % 7), worked_s=now % 3 or None, now_s=float(now))
                window.ended()
            case "forgive":
                window.forgive()
        assert 1 <= window.size <= most
        assert 0 <= window.in_flight <= most
    assert AUTO_MOST >= 2000
