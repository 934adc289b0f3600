"""Waits between tries: doubling up to a bound, jittered, and as the service advises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import Fault
from batchflux.core.retry import ATTEMPT_BACKOFF, CONNECT_BACKOFF, POLL_BACKOFF, REFUSAL_BACKOFF, Backoff

ALL = [ATTEMPT_BACKOFF, CONNECT_BACKOFF, POLL_BACKOFF, REFUSAL_BACKOFF]
dice = st.floats(0, 1)


def test_refusals_double_from_half_a_second_to_a_minute() -> None:
    """Without Retry-After a refusal waits 0.5 s doubling to 60 s."""
    waits = [REFUSAL_BACKOFF.wait_s(tries, dice=0.5) for tries in range(1, 10)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_jitter_stretches() -> None:
    """The dice stretch a wait by up to its share, and never shorten it."""
    backoff = Backoff(first_s=1.0, most_s=10.0, jitter=0.5)
    assert [backoff.wait_s(2, dice=share) for share in (0.0, 0.5, 1.0)] == [2.0, 2.5, 3.0]


@pytest.mark.fault("H14")
@pytest.mark.parametrize(("advised_s", "wait_s"), [(2.0, 2.0), (300.0, 300.0), (0.0, 0.5), (None, 4.0)])
def test_retry_after_goes_first(advised_s: float | None, wait_s: float) -> None:
    """H14: what the service advises is waited, whatever the count of tries, but never nothing at all."""
    fault = Fault(kind="rate_limit", message="slow", retry_after_s=advised_s)
    assert REFUSAL_BACKOFF.wait_for(fault, 4, dice=0.0) == wait_s


@given(st.sampled_from(ALL), st.integers(1, 10**9), dice)
def test_waits_are_bounded(backoff: Backoff, tries: int, luck: float) -> None:
    """After any number of tries a wait is at least the first and at most the longest with its jitter."""
    assert backoff.first_s <= backoff.wait_s(tries, dice=luck) <= backoff.most_s * (1 + backoff.jitter)


@given(st.sampled_from(ALL), st.integers(1, 100))
def test_waits_never_shrink(backoff: Backoff, tries: int) -> None:
    """One more failed try never waits less, for equal dice."""
    assert backoff.wait_s(tries + 1, dice=0.3) >= backoff.wait_s(tries, dice=0.3)
