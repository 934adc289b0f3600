"""Durations, rates, money and shares read and written."""

import contextlib
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core import units
from batchflux.core.findings import BadValue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30.0), ("10m", 600.0), ("2h", 7200.0), ("1.5h", 5400.0), ("0s", 0.0), ("0.1ms", 0.0001)],
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    """Every unit of the interface gives seconds."""
    assert units.parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "value", ["30", "30 s", "1d", "-1s", "s", "", "1e3s", "٣s", "1_0s", "007s", 30, None, True, ["1s"]]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    """A number without a unit, an unknown unit or another type is never guessed at."""
    with pytest.raises(BadValue):
        units.parse_duration_s(value)


def test_a_bare_number_is_told_to_say_its_unit() -> None:
    """The refusal shows the person's own number with a unit."""
    with pytest.raises(BadValue, match="must be a duration, is the number 30") as caught:
        units.parse_duration_s(30)
    assert caught.value.instead == "say the unit, for example 30s (of ms, s, m, h)"


@given(st.floats(min_value=0, max_value=366 * 24 * 3600 - 1))
def test_a_written_duration_reads_back_equal(seconds: float) -> None:
    """Whatever float of seconds a run holds survives its job.yaml."""
    seconds = max(seconds, 1e-20) if seconds else 0.0
    assert units.parse_duration_s(units.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(1800.0, "30m"), (7200.0, "2h"), (90.0, "90s"), (0.25, "250ms"), (0.0, "0s")]
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    """job.yaml says 30m, as a person would."""
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "per_s"), [("10/s", 10.0), ("500/min", 500 / 60), ("20000/h", 20000 / 3600), ("0.5/s", 0.5)]
)
def test_rates_are_read_a_second(text: str, per_s: float) -> None:
    """Every unit of the interface gives images a second."""
    assert units.parse_rate_per_s(text) == per_s


@pytest.mark.parametrize("value", ["500", "500/day", "0/s", "-1/s", "500 / min", 500, None, "/min", "2000000/s"])
def test_what_is_no_rate_is_refused(value: object) -> None:
    """A rate says per what, and is one that can be worked at."""
    with pytest.raises(BadValue):
        units.parse_rate_per_s(value)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_written_rate_reads_back_equal(per_s: float) -> None:
    """Whatever rate a run holds survives its job.yaml."""
    assert units.parse_rate_per_s(units.format_rate(per_s)) == per_s


@given(st.integers(min_value=1, max_value=100_000), st.sampled_from(["s", "min", "h"]))
def test_a_whole_rate_is_written_with_whole_numbers(count: int, unit: str) -> None:
    """500/min is written as whole numbers again, not as 8.333333333333334/s."""
    text = units.format_rate(units.parse_rate_per_s(f"{count}/{unit}"))
    assert re.fullmatch(r"[0-9]+/(s|min|h)", text)


@pytest.mark.parametrize(
    ("value", "micro"),
    [(25.00, 25_000_000), ("25.00", 25_000_000), (0.08, 80_000), (0, 0), ("0.000001", 1), (1e3, 10**9), (1e-6, 1)],
)
def test_money_is_exact(value: object, micro: int) -> None:
    """Numbers and decimal texts give whole micro-dollars; no binary fraction is lost or won."""
    assert units.parse_micro_usd(value) == micro


@pytest.mark.parametrize(
    "value", ["$25", "25 USD", "1e3", "25,00", "", -1, "-1", 1e-7, "0.0000001", True, None, 10**9, "NaN", [1]]
)
def test_what_is_no_money_is_refused(value: object) -> None:
    """Signs, currencies, exponents in text and amounts finer than a micro-dollar are not guessed at."""
    with pytest.raises(BadValue):
        units.parse_micro_usd(value)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_written_money_reads_back_equal(micro: int) -> None:
    """Every amount survives job.yaml, where it is a plain number."""
    assert units.parse_micro_usd(units.format_usd(micro)) == micro


@given(st.decimals(min_value=0, max_value=10**6, places=6))
def test_money_as_text_is_the_decimal_it_says(amount: Decimal) -> None:
    """Decimal text is multiplied, never rounded."""
    assert units.parse_micro_usd(f"{amount:f}") == int(amount * 1_000_000)


def test_failures_are_cells_or_a_share() -> None:
    """10 is ten cells, 2% a fiftieth of them."""
    assert units.parse_some_cells(10) == units.SomeCells(cells=10)
    assert units.parse_some_cells("2%") == units.SomeCells(cells=None, share=0.02)


@pytest.mark.parametrize("value", [-1, "10", "101%", 0.5, True, None, "2 %", "-2%"])
def test_what_is_no_number_of_failures_is_refused(value: object) -> None:
    """Text without a percent sign, fractions of cells and more than all are refused."""
    with pytest.raises(BadValue):
        units.parse_some_cells(value)


@given(st.one_of(st.integers(0, 10**9), st.decimals(0, 100, places=3).map(lambda share: f"{share:f}%")))
def test_written_failures_read_back_equal(value: object) -> None:
    """Cells and shares survive job.yaml."""
    allowed = units.parse_some_cells(value)
    assert units.parse_some_cells(units.format_some_cells(allowed)) == allowed


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes a reader fail in another way than by its own refusal."""
    for read in (units.parse_duration_s, units.parse_rate_per_s, units.parse_micro_usd, units.parse_some_cells):
        with contextlib.suppress(BadValue):
            read(text)
