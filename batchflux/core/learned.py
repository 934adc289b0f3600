"""What a run has learned of its account's limits: remembered for the next start, shared with runs beside it, told.

Pure values and arithmetic. What is remembered is a guess to begin with: it is loaded with little trust, the less the
older it is, and from the first answers on the run learns for itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchflux.core.throttle import Throttle
from batchflux.core.window import FoundBy

__all__ = ["Learned", "learned_of", "parse_learned", "recall", "share"]

_VERSION = 1
# Account levels change by top-ups, and what bound yesterday may have been another run.
_FRESH_S, _STALE_S = 3600.0, 7 * 86400.0
_TRUST_S = 60.0  # of its own images: less would be refused at each start, more would follow a raised limit late
_FOOT = 0.1  # of another's part: what a newcomer begins with, who is drawn level from there
_PULL = 0.2  # of the difference, each second: even within a quarter of a minute, without a jolt


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The limits as one run holds them: `slots` and `images_per_s` are its own part, None where nothing was met.

    `binds` names the one that holds it back now; `is_hungry` is whether it would take more if there were more. The
    stated ones are the caps that the spec, or for predictions at once the program, sets upon what may be learned.
    """

    at_ms: int
    slots: float | None
    found_by: FoundBy
    images_per_s: float | None
    in_flight: int
    is_hungry: bool
    stated_slots: int | None = None
    stated_per_s: float | None = None

    def as_mapping(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"version": _VERSION, **asdict(self)}

    @property
    def binds(self) -> str | None:
        """The limit that holds the run back, in words for people; None where none was met."""
        slots = rate = None
        if self.slots is not None and self.found_by is not None:
            slots = f"{round(self.slots):,} predictions at once (learned from {self.found_by})"
        elif self.stated_slots is not None and self.in_flight >= self.stated_slots:
            slots = f"{self.stated_slots:,} predictions at once (the run's own cap: nothing was refused)"
        if self.stated_per_s is not None and self.stated_per_s <= (self.images_per_s or math.inf):
            rate = f"{_per_min(self.stated_per_s)} images/min (run.rate_limit)"
        elif self.images_per_s is not None:
            rate = f"{_per_min(self.images_per_s)} images/min (learned from refusals)"
        if rate is None or slots is None:
            return rate or slots
        return slots if self.in_flight >= 0.9 * (self.slots or self.stated_slots or math.inf) else rate


def _per_min(per_s: float) -> str:
    per_min = per_s * 60
    return f"{per_min:,.0f}" if per_min >= 10 else f"{per_min:.1f}".removesuffix(".0")


def parse_learned(found: Any) -> Learned | None:
    """Return what a file holds, or None for anything that this program didn't write."""
    if not isinstance(found, Mapping) or found.get("version") != _VERSION:
        return None
    slots, rate, at_ms = found.get("slots"), found.get("images_per_s"), found.get("at_ms")
    found_by, in_flight = found.get("found_by"), found.get("in_flight")
    if found_by not in (None, "refusals", "a queue"):
        return None
    if not isinstance(at_ms, int) or not isinstance(in_flight, int) or not 0 <= at_ms < 1 << 53:
        return None
    stated_slots, stated_per_s = found.get("stated_slots"), found.get("stated_per_s")
    if not (stated_slots is None or isinstance(stated_slots, int)):
        return None
    if not all(each is None or _is_amount(each) for each in (slots, rate, stated_slots, stated_per_s)):
        return None
    return Learned(
        at_ms=at_ms,
        slots=slots,
        found_by=found_by,
        images_per_s=rate,
        in_flight=in_flight,
        is_hungry=found.get("is_hungry") is True,
        stated_slots=stated_slots,
        stated_per_s=stated_per_s,
    )


def _is_amount(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 1e-4 <= value <= 1e6


def learned_of(throttle: Throttle, *, at_ms: int, is_hungry: bool) -> Learned:
    """Return what a run has learned by now."""
    window, pace = throttle.window, throttle.pace
    return Learned(
        at_ms=at_ms,
        slots=window.size if window.found_by is not None else None,
        found_by=window.found_by,
        images_per_s=pace.learned_per_s,
        in_flight=window.in_flight,
        is_hungry=is_hungry,
        stated_slots=window.most,
        stated_per_s=pace.images_per_s,
    )


def recall(throttle: Throttle, remembered: Learned, *, now_ms: int) -> None:
    """Begin with what an earlier run learned: wholly where it is fresh, carefully where it is old."""
    age_s = (now_ms - remembered.at_ms) / 1000
    if not 0 <= age_s < _STALE_S:
        return
    part = 1.0 if age_s < _FRESH_S else 0.7
    if remembered.slots is not None:
        throttle.window.begin_with(part * remembered.slots, found_by=remembered.found_by)
    if remembered.images_per_s is not None:
        throttle.pace.begin_with(part * remembered.images_per_s, trust=_TRUST_S * remembered.images_per_s)


def share(throttle: Throttle, others: Sequence[Learned], gone: Sequence[Learned] = ()) -> None:
    """Draw level with the runs beside this one that want more too, and take over a part of what others left.

    What all of them hold together stays as it is: the service's answers say whether that is too much.
    """
    window, pace = throttle.window, throttle.pace
    hungry = [other for other in others if other.is_hungry]
    slots = [other.slots for other in hungry if other.slots is not None]
    if slots and window.found_by is None:
        window.begin_with(_FOOT * max(slots), found_by="refusals")
    elif slots:
        window.move_to(_drawn(window.size, slots))
    rates = [other.images_per_s for other in hungry if other.images_per_s is not None]
    if rates and pace.learned_per_s is None:
        pace.begin_with(_FOOT * max(rates), trust=60 * max(rates))
    elif rates and pace.learned_per_s is not None:
        pace.move_to(_drawn(pace.learned_per_s, rates))
    for left in gone:
        if left.slots is not None and window.found_by is not None:
            window.move_to(window.size + left.slots / (1 + len(hungry)))
        if left.images_per_s is not None and pace.learned_per_s is not None:
            pace.move_to(pace.learned_per_s + left.images_per_s / (1 + len(hungry)))


def _drawn(mine: float, others: Sequence[float]) -> float:
    mean = (mine + sum(others)) / (1 + len(others))
    return mine + _PULL * (mean - mine)
