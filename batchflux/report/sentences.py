"""Plain sentences on whether an axis shows an effect. Words only: what is said is decided in `sweep`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

__all__ = ["tell"]

_NAMES = {
    "inference_ms": "inference time",
    "latency_ms": "latency",
    "failed": "the share of failed cells",
    "nsfw": "the share of images flagged NSFW",
}


def tell(
    metric: Literal["inference_ms", "latency_ms", "failed", "nsfw"],
    middles: Sequence[tuple[str, float | None, int]],
    *,
    is_effect: bool | None,
    p: float | None,
) -> str:
    """Return a sentence on an axis, given (value, median or share, cells) of each of its values.

    `is_effect` is None where there is too little to tell by; `p` is the corrected one.
    """
    known = [(value, middle) for value, middle, _ in middles if middle is not None]
    count = sum(n for _, _, n in middles)
    name = _NAMES[metric]
    if not known:
        return f"Nothing is known of {name} yet."
    low, high = min(known, key=_by_middle), max(known, key=_by_middle)
    if is_effect is None or p is None:
        return _untold(metric, known, count)
    if not is_effect:
        ends = [_show(metric, low[1]), _show(metric, high[1])]
        where = f"between {' and '.join(ends)}" if ends[0] != ends[1] else f"at {ends[0]}"
        what = "medians lie" if metric.endswith("_ms") else "shares lie"
        return f"No effect on {name} shows in {count:,} cells: {what} {where} (p {_chance(p)})."
    direction = _direction(known)
    first, last = (known[0], known[-1]) if direction else (low, high)
    change = _change(metric, first[1], last[1])
    begin = f"{_capital(name)} {direction} with it" if direction else f"{_capital(name)} differs between its values"
    of = "from a median of" if metric.endswith("_ms") else "from"
    size = " A small difference, though a certain one." if _is_small(metric, low[1], high[1]) else ""
    return (
        f"{begin}, {of} {_show(metric, first[1])} at {first[0]} to {_show(metric, last[1])} at {last[0]}"
        f"{change} (p {_chance(p)}, {count:,} cells).{size}"
    )


def _untold(metric: str, known: Sequence[tuple[str, float]], count: int) -> str:
    name = _NAMES[metric]
    shares = {middle for _, middle in known}
    if not metric.endswith("_ms") and shares <= {0.0}:
        none = "has failed" if metric == "failed" else "is flagged NSFW"
        return f"None of {count:,} cells {none}."
    if not metric.endswith("_ms") and shares <= {1.0}:
        every = "have failed" if metric == "failed" else "are flagged NSFW"
        return f"All of {count:,} cells {every}."
    if len(known) < 2:
        return f"There is one value only, so nothing to compare {name} with."
    return f"{count:,} cells are too few to tell whether {name} hangs on it."


def _by_middle(pair: tuple[str, float]) -> float:
    return pair[1]


def _direction(known: Sequence[tuple[str, float]]) -> str | None:
    """Return "rises" or "falls" where an axis of numbers in order has medians that do so from value to value."""
    try:
        scale = [float(value) for value, _ in known]
    except ValueError:
        return None
    middles = [middle for _, middle in known]
    if len(known) < 2 or scale != sorted(scale):
        return None
    if all(before <= after for before, after in pairwise(middles)):
        return "rises"
    return "falls" if all(before >= after for before, after in pairwise(middles)) else None


def _show(metric: str, middle: float) -> str:
    if not metric.endswith("_ms"):
        return f"{middle * 100:.1f} %"
    return f"{middle:.0f} ms" if middle < 100 else f"{middle / 1000:.2f} s"


def _change(metric: str, first: float, last: float) -> str:
    if not metric.endswith("_ms") or first <= 0:
        return ""
    return f", {(last / first - 1) * 100:+.0f} %"


def _is_small(metric: str, low: float, high: float) -> bool:
    """Two per cent of a time, or a hundredth of all cells, matter to nobody, however surely they are seen."""
    return high < low * 1.02 if metric.endswith("_ms") else high - low < 0.01


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
