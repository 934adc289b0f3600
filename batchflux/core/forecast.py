"""How long a night takes, from when the cells of an earlier run ended: half of such nights (P50) and nine in ten (P90).

Only time at work counts. Its rate has a part that comes anew in each span (chance, bursts, failures tried again) and
one that wanders; both are measured by how much spans differ that lie near each other and far apart. What a short run
can't have seen of the second is added, so a few minutes promise little about a night. Pure; knows no clock.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchflux.core.arrow import Ints

__all__ = ["Forecast", "Measured", "forecast", "measure"]

_NINE_IN_TEN = 1.2816  # standard deviations above the median that hold nine of ten

# A gap without any cell is an outage, which a night may have too, up to this; a longer one is a pause of the user's.
_PAUSE_S = 600.0
_PAUSE_GAPS = 10.0  # ... and this many usual gaps, for accounts on which cells are rare

_FEWEST_CELLS = 20
_MOST_SPANS = 30  # bursts shorter than a thirtieth of what was measured even out within a span
_CELLS_A_SPAN = 5

# The variance of the wandering that can go unseen within what was measured: a tenth, up or down, looks like chance.
_UNSEEN = 0.01
_MOST_SPREAD = math.log(1000)  # beyond this a forecast says nothing anyway, and stays finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Cells that ended (for good, whatever became of them) in each of the equal spans of a run's time at work."""

    ended: tuple[int, ...]
    span_s: float

    @property
    def per_s(self) -> float:
        """Cells a second."""
        return sum(self.ended) / (len(self.ended) * self.span_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds for the cells left: half of such nights are through by `likely_s`, nine in ten by `nine_in_ten_s`.

    Within `within_s`, half of such nights end at least `likely_cells`, nine in ten at least `nine_in_ten_cells`.
    """

    likely_s: float
    nine_in_ten_s: float
    within_s: float
    likely_cells: int
    nine_in_ten_cells: int


def measure(seconds: Ints, counts: Ints) -> Measured | None:
    """Return what a run's time at work shows; `counts` cells ended in each of the `seconds`, sorted, each once.

    None of fewer than 20 cells, or of cells that all ended in one second.
    """
    total = int(counts.sum())
    if total < _FEWEST_CELLS or len(seconds) < 2:
        return None
    gaps = np.diff(seconds)
    usual_s = float(np.median(gaps))
    gaps = np.where(gaps > max(_PAUSE_S, _PAUSE_GAPS * usual_s), usual_s, gaps)
    at_work = np.concatenate([[0.0], np.cumsum(gaps)])
    lasted_s = float(at_work[-1]) + usual_s
    n_spans = max(1, min(_MOST_SPANS, total // _CELLS_A_SPAN, int(lasted_s)))
    places = np.minimum((at_work * (n_spans / lasted_s)).astype(np.int64), n_spans - 1)
    ended = np.bincount(places, weights=counts, minlength=n_spans)
    return Measured(ended=tuple(int(count) for count in ended), span_s=lasted_s / n_spans)


def forecast(
    measured: Measured, *, left: int, within_s: float, latency_s: float = 0.0, most_per_s: float = math.inf
) -> Forecast:
    """Return how long `left` cells take at the pace that was measured, at most at `most_per_s`.

    `latency_s` passes before the first of them can end.
    """
    per_s = min(measured.per_s, most_per_s)
    spread = _Spread.of(measured)
    likely_s = left / per_s
    open_s = max(0.0, within_s - latency_s)
    likely_cells = min(float(left), open_s * per_s)
    fewest = open_s * per_s / spread.factor(open_s) if open_s else 0.0
    return Forecast(
        likely_s=likely_s + latency_s if left else 0.0,
        nine_in_ten_s=likely_s * spread.factor(likely_s) + latency_s if left else 0.0,
        within_s=within_s,
        likely_cells=int(likely_cells),
        nine_in_ten_cells=int(min(likely_cells, fewest)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """How far the mean rates of what was measured and of what is to come lie apart, as variances of their ratio.

    `anew` is of a single span, `wander` what each further span adds.
    """

    n_spans: int
    span_s: float
    anew: float
    wander: float

    @classmethod
    def of(cls, measured: Measured) -> "_Spread":
        ended, n_spans = np.array(measured.ended, dtype=np.float64), len(measured.ended)
        rates = ended / ended.mean()
        chance = 1 / float(ended.mean())  # no run is more even than this for long
        near, lag = _difference(rates, 1), max(2, n_spans // 3)
        far = _difference(rates, lag)
        return cls(
            n_spans=n_spans,
            span_s=measured.span_s,
            anew=max(chance, near / 2, far / 2),  # the next span may lie within a burst, and so be unlike the mean
            wander=max(0.0, far - near) / (lag - 1) + _UNSEEN / n_spans,
        )

    def factor(self, seconds: float) -> float:
        """Return by how much nine in ten nights that should last so long outlast that at most."""
        spans = seconds / self.span_s
        if spans <= 0:
            return 1.0
        variance = self.anew * (1 / self.n_spans + 1 / spans) + self.wander * (self.n_spans + spans) / 3
        unsure = 1 + 1.4 / max(1, self.n_spans - 1)  # few spans tell little of how much spans differ (Student's t)
        return math.exp(min(_MOST_SPREAD, _NINE_IN_TEN * unsure * math.sqrt(variance)))


def _difference(rates: npt.NDArray[np.float64], lag: int) -> float:
    """Return the mean square by which spans differ that lie `lag` apart."""
    return float(np.mean((rates[lag:] - rates[:-lag]) ** 2)) if lag < len(rates) else 0.0
