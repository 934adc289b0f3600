"""Money: exact in any order of reserving and giving back, and shown as people read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.budget import Budget, usd

prices = st.lists(st.integers(0, 320_000), max_size=60)


def test_limits_are_reached_and_not_passed() -> None:
    """$1.00 buys twelve images at $0.08, and not a thirteenth."""
    budget = Budget(life_limit_micro_usd=1_000_000, session_limit_micro_usd=None, life_micro_usd=0)
    bought = 0
    while budget.can_reserve(80_000):
        budget.reserve(80_000)
        bought += 1
    assert (bought, budget.life_micro_usd) == (12, 960_000)
    exact = Budget(life_limit_micro_usd=960_000, session_limit_micro_usd=None, life_micro_usd=880_000)
    assert exact.can_reserve(80_000)


def test_either_limit_holds() -> None:
    """The run's and the session's limit are asked both; what an earlier session spent counts in the run's alone."""
    life = Budget(life_limit_micro_usd=100, session_limit_micro_usd=None, life_micro_usd=95)
    assert not life.can_reserve(6)
    session = Budget(life_limit_micro_usd=None, session_limit_micro_usd=10, life_micro_usd=95)
    assert session.can_reserve(10)
    session.reserve(10)
    assert not session.can_reserve(1)
    assert session.can_reserve(0)


def test_a_refund_of_an_earlier_session_is_no_allowance_for_this_one() -> None:
    """Money that an earlier session spent and gets back frees the run's budget, not `--budget` of this time."""
    budget = Budget(life_limit_micro_usd=200, session_limit_micro_usd=100, life_micro_usd=150)
    budget.release(80, of_this_session=False)
    assert (budget.life_micro_usd, budget.session_micro_usd) == (70, 0)
    assert budget.can_reserve(100)
    assert not budget.can_reserve(101)


@given(st.lists(st.tuples(st.integers(1, 400_000), st.booleans()), max_size=80), st.integers(0, 3_000_000))
def test_no_order_passes_a_limit(steps: list[tuple[int, bool]], limit: int) -> None:
    """Reserved only when allowed, and given back at any moment, the sum is exact and never beyond the limit."""
    budget = Budget(life_limit_micro_usd=limit, session_limit_micro_usd=limit, life_micro_usd=0)
    held: list[int] = []
    for price, gives_back in steps:
        if gives_back and held:
            budget.release(held.pop(0))
        elif budget.can_reserve(price):
            budget.reserve(price)
            held.append(price)
        assert budget.life_micro_usd == budget.session_micro_usd == sum(held) <= limit


@given(prices, prices)
def test_no_limit_never_refuses(spent: list[int], more: list[int]) -> None:
    """Where nothing is said anything may be spent, and is counted all the same."""
    budget = Budget(life_limit_micro_usd=None, session_limit_micro_usd=None, life_micro_usd=sum(spent))
    for price in more:
        assert budget.can_reserve(price)
        budget.reserve(price)
    assert budget.life_micro_usd == sum(spent) + sum(more)
    assert budget.session_micro_usd == sum(more)


@pytest.mark.parametrize(
    ("micro_usd", "text"),
    [
        (80_000, "$0.08"),
        (0, "$0.00"),
        (1_234_500_000, "$1,234.50"),
        (72_500, "$0.0725"),
        (1, "$0.000001"),
        (-80_000, "-$0.08"),
        (25_000_000, "$25.00"),
    ],
)
def test_amounts_as_people_read_them(micro_usd: int, text: str) -> None:
    """Cents always, fractions of a cent only where there are any, thousands apart."""
    assert usd(micro_usd) == text
