"""Loose fields to values: what is absent, mistyped or beyond belief is None, and nothing raises."""

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.fields import (
    as_code,
    as_inference_ms,
    as_list,
    as_micro_usd,
    as_moment_ms,
    clip,
    parse_object,
    retry_after_s,
)

DATE = "Sun, 22 Nov 2026 10:00:00 GMT"

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fault("S15")
@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("2026-11-22T10:00:00.684Z", 1_795_341_600_684),
        ("2026-11-22T10:00:00.684123999Z", 1_795_341_600_684),
        ("2026-11-22T10:00:00.6Z", 1_795_341_600_600),
        ("2026-11-22T10:00:00Z", 1_795_341_600_000),
        ("2026-11-22t10:00:00z", 1_795_341_600_000),
        (" 2026-11-22 10:00:00 ", 1_795_341_600_000),
        ("2026-11-22T12:00:00+02:00", 1_795_341_600_000),
        ("2026-11-22T04:30:00.001-0530", 1_795_341_600_001),
        ("1970-01-01T00:00:00.250Z", 250),
    ],
)
def test_moments(text: str, moment_ms: int) -> None:
    """Fractions of any length, zones in both spellings and none at all are read to the millisecond."""
    assert as_moment_ms(text) == moment_ms


@pytest.mark.fault("S15")
@pytest.mark.parametrize(
    "value",
    [
        None,
        1_700_000_000,
        "",
        "soon",
        "2026-13-01T00:00:00Z",
        "2026-11-22",
        "10:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_moments_that_are_none(value: Any) -> None:
    """What is no moment is None, not an error."""
    assert as_moment_ms(value) is None


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    ("value", "inference_ms"),
    [(2500, 2500), (25729.4, 25729), (0, None), (-5, None), (1e18, None), ("fast", None), (None, None), (True, None)],
)
def test_inference_times(value: Any, inference_ms: int | None) -> None:
    """S14: a time that can't be one is null; 0 means that the prediction isn't done."""
    assert as_inference_ms(value) == inference_ms


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, True, "1", 1e10, 10**400])
def test_amounts_that_are_none(value: Any) -> None:
    """An amount of money is a number of dollars that can be believed, or None."""
    assert as_micro_usd(value) is None


def test_amounts() -> None:
    """Dollars become micro-dollars by rounding, never by cutting: 0.29 dollars are no cent less."""
    assert [as_micro_usd(value) for value in (0.08, 0.29, 25, 0)] == [80_000, 290_000, 25_000_000, 0]


@pytest.mark.fault("H14")
@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("0", 0.0),
        ("1000000000", 300.0),
        ("9" * 60, 300.0),
        ("9" * 65, None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Sun, 22 Nov 2026 10:00:42 GMT", 42.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2027 10:00:00 GMT", 300.0),
        ("Thu, 01 Jan 99999999999 00:00:00 GMT", None),
        ("0\x1f", 0.0),  # a space to str.strip and not to int
    ],
)
def test_retry_after(text: str | None, wait_s: float | None) -> None:
    """H14: seconds and HTTP dates are believed up to five minutes, garbage is passed over."""
    assert retry_after_s(text, date=DATE) == wait_s


@pytest.mark.fault("H14", "P12")
def test_retry_after_date_needs_the_answers_own_date() -> None:
    """A date means nothing against our clock: without a usable `Date` it isn't believed."""
    later = format_datetime(datetime(2026, 11, 22, 10, 0, 42, tzinfo=UTC), usegmt=True)
    assert retry_after_s(later, date=None) is None
    assert retry_after_s(later, date="yesterday") is None


@given(st.text(max_size=70), st.none() | st.text(max_size=70))
def test_retry_after_never_raises(text: str, date: str | None) -> None:
    """No header whatever makes reading it fail, or give a wait beyond five minutes."""
    wait_s = retry_after_s(text, date=date)
    assert wait_s is None or 0 <= wait_s <= 300


@given(json_values)
def test_readers_never_raise(value: Any) -> None:
    """Any JSON value passes through every reader, to a value of the right type or None."""
    assert isinstance(as_list(value), list)
    for number in (as_inference_ms(value), as_code(value), as_micro_usd(value), as_moment_ms(value)):
        assert number is None or type(number) is int


@given(st.text(st.characters(), max_size=2000), st.integers(1, 600))
def test_clipped_text_is_harmless(text: str, limit: int) -> None:
    """Clipped text is bounded, printable and valid UTF-8, whatever it was."""
    shown = clip(text, limit)
    assert shown.isprintable()
    assert len(shown) <= 10 * limit + 1
    shown.encode()


def test_clip_keeps_plain_words_and_escapes_the_terminals() -> None:
    """Words stay as they are, control characters show as escapes, a cut shows as one."""
    assert clip("Größe – ok") == "Größe – ok"
    assert clip("\x1b]0;owned\x07\nnext") == "\\x1b]0;owned\\x07\\nnext"
    assert clip("abcdef", 3) == "abc…"
    assert clip("\ud800") == "?"


@pytest.mark.fault("H07")
@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"1" * 5000, b"[" * 100_000, b"{" * 100, b"\xff\xfe\xfd", b'{"a":', b"<!doctype html>"],
)
def test_bodies_that_are_no_object(body: bytes) -> None:
    """H07: huge numbers, endless nesting, cut JSON and other things than objects are None."""
    assert parse_object(body) is None


def test_bodies_that_are_one() -> None:
    """A byte order mark is passed over, as are NaN and numbers beyond doubles, which other readers then refuse."""
    assert parse_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert json.dumps(parse_object(b'{"a": NaN, "b": 1e400}')) == '{"a": NaN, "b": Infinity}'
