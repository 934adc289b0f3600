"""How long the rest of a run takes, and how sure that is: from what was finished in equal spans of its last minutes.

Says what holds if it goes on as it did. Cells come in as a renewal process: counts of spans vary `dispersion` times as
much as they would by pure chance, both those that were counted and those that are to come, which gives the spread.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["EtaRange", "eta_range"]

_EIGHT_IN_TEN = 1.2816  # standard deviations to either side that hold eight of ten


@dataclass(frozen=True, slots=True, kw_only=True)
class EtaRange:
    """Seconds from now: as likely as not by `likely_s`; in eight of ten cases between the other two."""

    soonest_s: float
    likely_s: float
    latest_s: float


def eta_range(finished: Sequence[int], *, span_s: float, left: int) -> EtaRange | None:
    """Return how long `left` cells take; `finished` counts those of each of the last spans, each of `span_s` seconds.

    None where nothing was finished in them. Cells that finish less evenly than by chance make the range wider, none
    makes it narrower than chance.
    """
    total = sum(finished)
    if not total or not finished:
        return None
    mean = total / len(finished)
    dispersion = 1.0
    if len(finished) > 1:
        variance = sum((count - mean) ** 2 for count in finished) / (len(finished) - 1)
        dispersion = max(1.0, variance / mean)
    likely_s = left / mean * span_s
    if not left:
        return EtaRange(soonest_s=0.0, likely_s=0.0, latest_s=0.0)
    spread = math.exp(_EIGHT_IN_TEN * math.sqrt(dispersion / total + dispersion / left))
    return EtaRange(soonest_s=likely_s / spread, likely_s=likely_s, latest_s=likely_s * spread)
