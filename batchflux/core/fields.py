"""Loose fields of an answer to values that can't be wrong: nothing here raises, whatever the service sent.

A field that is absent, of another type or out of any believable range is None; text is bounded, valid UTF-8 and free
of control characters, so that it may stand in a file, a log line and a terminal.
"""

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = [
    "as_code",
    "as_inference_ms",
    "as_list",
    "as_micro_usd",
    "as_moment_ms",
    "clip",
    "parse_object",
    "retry_after_s",
]

MAX_TEXT_CHARS = 512
MAX_RETRY_AFTER_S = 300.0


def parse_object(body: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None: no input makes this raise (huge integers and deep nesting are ValueErrors too)."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_inference_ms(value: Any) -> int | None:
    """[page] integer milliseconds; 0 until done. What can't be a time is null, never made up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        return None
    return round(value)


def as_code(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


_NEVER_MS = 7_258_118_400_000  # the year 2200
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?\s*(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)


def as_moment_ms(value: Any) -> int | None:
    """Return an RFC 3339 moment as UTC milliseconds; [seen] fractions have 3 or 9 digits; without a zone it is UTC.

    What databases and languages write for no moment at all (year 1, the epoch's first second, 9999) is None: taken for
    the service's clock, it would let lost submissions be looked for where they can't be.
    """
    found = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    at_ms = int(moment.timestamp()) * 1000 + int(((fraction or "") + "000")[:3])
    return at_ms if 0 < at_ms < _NEVER_MS else None


def as_micro_usd(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return None
    return round(value * 1_000_000)


def retry_after_s(text: str | None, *, date: str | None) -> float | None:
    """Return a Retry-After in seconds, up to five minutes; an HTTP date counts from the answer's own `Date`.

    [docs] limits reset each minute and no source documents the header, so what is far off is not believed.
    """
    if text is None or len(text) > 64:
        return None
    plain = text.strip()  # of more than `int` takes for space
    if plain.isdecimal():
        return float(min(int(plain), MAX_RETRY_AFTER_S))
    try:
        wait_s = (parsedate_to_datetime(text) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def clip(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Return text fit for a file, a log line and a terminal: bounded, valid UTF-8, control characters escaped."""
    whole = text.encode("utf-8", "replace").decode()
    if len(whole) <= limit and whole.isprintable():
        return whole
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in whole[:limit])
    return shown if len(whole) <= limit else shown + "…"
