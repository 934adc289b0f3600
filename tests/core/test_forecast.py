"""A night's forecast: ordered, finite, and as sure as it says on runs that drift, meet a cap or come in bursts."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.forecast import Measured, forecast, measure

Floats = npt.NDArray[np.float64]
Dice = np.random.Generator

_MANY_S = 40_000
_MEASURED_S, _LEFT = (900, 3600, 9000), (60, 2000, 12_000)


def test_an_even_run() -> None:
    """One cell a second for an hour: a night of eight hours takes about eight hours, at most a fifth more."""
    measured = measure(np.arange(3600), np.ones(3600, dtype=np.int64))
    assert measured is not None
    found = forecast(measured, left=28_800, within_s=3600, latency_s=3)
    assert found.likely_s == pytest.approx(28_803)
    assert 28_803 < found.nine_in_ten_s < 1.5 * 28_803
    assert found.likely_cells == 3597
    assert 3000 < found.nine_in_ten_cells < 3597


def test_pauses_between_sessions_are_no_work() -> None:
    """Two sessions with a day between them have the rate of each; an outage of five minutes counts."""
    session = np.arange(0, 1000, 2)
    ones = np.ones(1000, dtype=np.int64)
    apart = measure(np.concatenate([session, session + 90_000]), ones)
    assert apart is not None
    assert apart.per_s == pytest.approx(0.5)
    outage = measure(np.concatenate([session, session + 1300]), ones)
    assert outage is not None
    assert outage.per_s == pytest.approx(1000 / 2300, rel=0.01)


def test_too_little_tells_nothing() -> None:
    """Fewer than 20 cells, or all at once, are no rate."""
    assert measure(np.arange(19), np.ones(19, dtype=np.int64)) is None
    assert measure(np.array([5]), np.array([500])) is None
    assert measure(np.arange(20), np.ones(20, dtype=np.int64)) is not None


def test_a_limit_holds_it_back() -> None:
    """No faster than what is allowed, however fast the measured run was; nothing left takes no time."""
    measured = Measured(ended=(600,) * 30, span_s=60)
    assert forecast(measured, left=600, within_s=0, most_per_s=1).likely_s == 600
    assert forecast(measured, left=0, within_s=60, latency_s=9).nine_in_ten_s == 0


def test_less_measured_is_less_sure() -> None:
    """The same rate over three spans promises less than over thirty."""
    long, short = (forecast(Measured(ended=(600,) * n, span_s=60), left=36_000, within_s=0) for n in (30, 3))
    assert short.likely_s == long.likely_s
    assert short.nine_in_ten_s > 1.5 * long.nine_in_ten_s


_MEASURED = st.builds(
    lambda ended, span_s: Measured(ended=tuple(ended), span_s=span_s),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any),
    st.floats(0.01, 1e5),
)


@given(_MEASURED, st.integers(0, 10**8), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(1e-3, 1e5))
def test_order_and_finiteness(
    measured: Measured, left: int, within_s: float, latency_s: float, most_per_s: float
) -> None:
    """Nine in ten take at least as long as half, and end at most as many cells, which is never more than are left."""
    found = forecast(measured, left=left, within_s=within_s, latency_s=latency_s, most_per_s=most_per_s)
    assert 0 <= found.likely_s <= found.nine_in_ten_s < math.inf
    assert 0 <= found.nine_in_ten_cells <= found.likely_cells <= left


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 50)), min_size=1, max_size=60))
def test_measuring_loses_no_cell(moments: list[tuple[int, int]]) -> None:
    """Every cell is in a span, and the time at work is never longer than the time that passed."""
    seconds, counts = np.cumsum([gap for gap, _ in moments]), np.array([count for _, count in moments])
    measured = measure(seconds, counts)
    if measured is not None:
        assert sum(measured.ended) == counts.sum()
        lasted_s = measured.span_s * len(measured.ended)
        assert 0 < lasted_s <= seconds[-1] - seconds[0] + np.median(np.diff(seconds)) + 1e-6


# ------------------------------------------------------------------------------------------- as sure as it says


def _drifting(dice: Dice) -> Floats:
    """A random walk of the rate's logarithm: about a third up or down in an hour."""
    return 2.0 * np.exp(np.cumsum(dice.normal(0, 0.3 / 60, _MANY_S)))


def _capped(dice: Dice) -> Floats:
    """A demand that wanders and comes back within an hour or so, under a limit that it mostly exceeds."""
    decay = np.exp(-np.arange(_MANY_S) / 3600)
    steps = dice.normal(0, 0.3 * np.sqrt(2 / 3600), _MANY_S)
    wander = decay * (dice.normal(0, 0.3) + np.cumsum(steps / decay))
    return np.minimum(1.7, 2.0 * np.exp(wander))


def _in_bursts(dice: Dice) -> Floats:
    """Two minutes of much and two of little, as long as chance has it."""
    is_on = np.cumsum(dice.random(_MANY_S) < 1 / 120) % 2 == 0
    return np.where(is_on, 3.0, 0.3)


def _nights(rates: Floats, dice: Dice) -> Iterator[tuple[float, float]]:
    """Yield the ratios of P50 and of P90 to what the rest of a run took in truth, each length measured and left."""
    # A tenth of what ends was refused or failed first and is tried again: it ends 30 s later.
    made = dice.poisson(rates)
    again = dice.binomial(made, 0.1)
    ended = made - again
    ended[30:] += again[:-30]
    for measured_s, left in product(_MEASURED_S, _LEFT):
        seconds = np.flatnonzero(ended[:measured_s])
        measured = measure(seconds, ended[seconds])
        assert measured is not None
        took_s = int(np.searchsorted(np.cumsum(ended[measured_s:]), left)) + 1
        # A night longer than all that was drawn is one that no forecast met.
        took_s = took_s if took_s < _MANY_S - measured_s else _MANY_S * 1000
        found = forecast(measured, left=left, within_s=0)
        yield found.likely_s / took_s, found.nine_in_ten_s / took_s


@pytest.mark.parametrize("rates", [_drifting, _capped, _in_bursts])
def test_it_is_as_sure_as_it_says(rates: Callable[[Dice], Floats]) -> None:
    """Of 200 runs about half are through by P50 (35 to 65 %), and at least eight in ten by P90."""
    dice = np.random.default_rng(7)
    ratios = np.array([list(_nights(rates(dice), dice)) for _ in range(200)])
    likely, nine_in_ten = np.moveaxis(np.mean(ratios >= 1, axis=0), -1, 0)
    assert ((likely >= 0.35) & (likely <= 0.65)).all(), likely
    assert (nine_in_ten >= 0.8).all(), nine_in_ten
