"""Durations, rates, money and shares: from how a person writes them to exact numbers, and back.

Decides what counts as a duration, a rate, an amount of money. Arithmetic is decimal or rational until the last step,
so that what `format_` writes `parse_` reads as the equal value. Every refusal is a `BadValue` that says what to write.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from batchflux.core.findings import BadValue, describe

__all__ = [
    "DURATION_PATTERN",
    "MONEY_PATTERN",
    "RATE_PATTERN",
    "SHARE_PATTERN",
    "SomeCells",
    "format_duration",
    "format_rate",
    "format_some_cells",
    "format_usd",
    "parse_duration_s",
    "parse_micro_usd",
    "parse_positive_duration_s",
    "parse_rate_per_s",
    "parse_some_cells",
]

_NUMBER = r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,40})?"
DURATION_PATTERN = rf"^{_NUMBER}(ms|s|m|h)$"
RATE_PATTERN = rf"^{_NUMBER}/(s|min|h)$"
MONEY_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6}0*)?$"
SHARE_PATTERN = rf"^{_NUMBER}%$"

_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_RATE = re.compile(rf"({_NUMBER})/(s|min|h)")
_MONEY = re.compile(_NUMBER)
_SHARE = re.compile(rf"({_NUMBER})%")

_UNIT_S = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
_PER_S = {"s": 1, "min": 60, "h": 3600}

_LONGEST_S = 366 * 24 * 3600  # nothing here is waited for longer than a year; more is a slip of the pen
_MOST_PER_S = 1e6
_MICRO = 1_000_000
_MOST_USD = 1_000_000_000  # below this an amount has at most 15 digits, which a float holds exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeCells:
    """How many cells of a job: a number of `cells`, or a `share` of all (0 to 1)."""

    cells: int | None = 0
    share: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether these are any cells of a job that has some."""
        return bool(self.cells or self.share)


def parse_duration_s(value: object) -> float:
    """Return a duration like 500ms, 30s, 10m, 2h in seconds; raises BadValue."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise BadValue(f"must be a duration, is {describe(value)}", _duration_hint(value))
    seconds = float(Fraction(match[1]) * _UNIT_S[match[2]])
    if seconds > _LONGEST_S:
        raise BadValue(f"{value} is longer than a year", "write a shorter duration")
    return seconds


def _duration_hint(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"say the unit, for example {value}s (of ms, s, m, h)"
    return "write a number and a unit of ms, s, m, h, for example 500ms, 30s, 10m or 2h"


def parse_positive_duration_s(value: object) -> float:
    """Return a duration in seconds that is more than nothing; raises BadValue."""
    seconds = parse_duration_s(value)
    if seconds <= 0:
        raise BadValue(f"must be longer than nothing, is {value}", "write a duration like 30m")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration as `parse_duration_s` reads it back, in the largest unit that keeps it a whole number."""
    exact = Fraction(Decimal(repr(seconds)))
    for unit, unit_s in _UNIT_S.items():
        if (exact / unit_s).denominator == 1 and (exact != 0 or unit == "s"):
            return f"{exact / unit_s}{unit}"
    return f"{Decimal(repr(seconds)):f}s"


def parse_rate_per_s(value: object) -> float:
    """Return a rate like 10/s, 500/min or 20000/h as a number a second; raises BadValue."""
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        says_number = isinstance(value, int | float) and not isinstance(value, bool)
        hint = f"say per what: {value}/min" if says_number else "write N/s, N/min or N/h, for example 500/min"
        raise BadValue(f"must be a rate, is {describe(value)}", hint)
    per_s = float(Fraction(match[1]) / _PER_S[match[2]])
    if not 0 < per_s <= _MOST_PER_S:
        raise BadValue(f"{value} is no rate to work at", "write one above 0 and up to a million a second")
    return per_s


def format_rate(per_s: float) -> str:
    """Return a rate as `parse_rate_per_s` reads it back, by the unit that makes it a whole number if one does."""
    for unit, seconds in _PER_S.items():
        count = round(per_s * seconds)
        if count > 0 and float(Fraction(count, seconds)) == per_s:
            return f"{count}/{unit}"
    return f"{Decimal(repr(per_s)):f}/s"


def parse_micro_usd(value: object) -> int:
    """Return an amount of US dollars, as a number or as decimal text, in whole micro-dollars; raises BadValue."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # repr is the shortest text that gives the same float: what was written, as far as a float can tell.
    text = f"{Decimal(str(value)):f}" if is_number else value
    if not isinstance(text, str) or not _MONEY.fullmatch(text):
        raise BadValue(f"must be an amount in US dollars, is {describe(value)}", "write it plainly, for example 25.00")
    micro = Decimal(text) * _MICRO
    if micro != micro.to_integral_value():
        raise BadValue(f"{text} is finer than a millionth of a dollar", "write at most six decimals")
    if micro >= _MOST_USD * _MICRO:
        raise BadValue(f"{text} is a billion dollars or more", "write the amount in US dollars")
    return int(micro)


def format_usd(micro_usd: int) -> float:
    """Return micro-dollars as the number of US dollars that `parse_micro_usd` reads back exactly."""
    return float(Decimal(micro_usd) / _MICRO)


def parse_some_cells(value: object) -> SomeCells:
    """Return how many cells are said: a whole number of them, or a share of all like 2%; raises BadValue."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return SomeCells(cells=value)
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        hint = "write a number of cells like 10, or a share like 2%"
        raise BadValue(f"must be a number of cells or a share of them, is {describe(value)}", hint)
    share = Fraction(match[1]) / 100
    if share > 1:
        raise BadValue(f"{value} is more than all cells", "write a share from 0% to 100%")
    return SomeCells(cells=None, share=float(share))


def format_some_cells(allowed: SomeCells) -> int | str:
    """Return what `parse_some_cells` reads back as the equal value."""
    if allowed.share is None:
        return allowed.cells or 0
    text = f"{Decimal(repr(allowed.share)) * 100:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"
