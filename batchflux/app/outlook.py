"""A plan's forecast: whose measurements it rests on, which limit binds, and how long the cells left take by them.

A run's own measurements come first, then those of runs that `reuse` names or that it is compared with. Reads no facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchflux.app.job import Job, shown_path
from batchflux.app.resume import PaceSeen
from batchflux.core.forecast import Measured, forecast
from batchflux.engine.observers import duration
from batchflux.io.limitsfile import read_limits

__all__ = ["NIGHT_H", "Outlook", "look_ahead"]

NIGHT_H: Final = 8
_NEARLY = 0.8  # of a limit's rate: a run that came so near was held back by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """How long the cells left take: half of such nights `p50_s`, nine in ten at most `p90_s`.

    In a night of 8 hours half end `night_cells_p50` cells or more, nine in ten at least `night_cells_p90`. `limit` is
    what holds the run back, None where nothing was met; `measured_in` the run directory that this was learned from.
    """

    cells: int
    p50_s: float
    p90_s: float
    night_cells_p50: int
    night_cells_p90: int
    limit: str | None
    measured_in: str
    measured_cells: int
    measured_s: float

    def lines(self, *, run_dir: str) -> list[tuple[str, str]]:
        """Return it as (what, how much) pairs for people."""
        half, nine = duration(self.p50_s), duration(self.p90_s)
        pairs = [
            ("forecast", f"{self.cells:,} cells: half of such nights are through in {half}, nine in ten in {nine}")
        ]
        if self.p90_s > NIGHT_H * 3600:
            least = f"nine in ten nights at least {self.night_cells_p90:,}"
            pairs.append((f"in {NIGHT_H} h", f"{self.night_cells_p50:,} cells ({least})"))
        whose = "here" if self.measured_in == run_dir else f"in {shown_path(Path(self.measured_in))}"
        measured = f"{self.measured_cells:,} cells in {duration(self.measured_s)} at work, {whose}"
        return [*pairs, ("measured", measured)]


def look_ahead(job: Job, paces: Sequence[tuple[Path, PaceSeen]], *, cells: int, images: int) -> Outlook | None:
    """Return what the first of some runs that measured anything says of the cells left; None where none did."""
    for run_dir, pace in paces:
        if cells and pace.measured is not None:
            return _look_ahead(job, pace, pace.measured, run_dir=run_dir, cells=cells, images=images)
    return None


def _look_ahead(job: Job, pace: PaceSeen, measured: Measured, *, run_dir: Path, cells: int, images: int) -> Outlook:
    latency_s = pace.latency_s or 0.0
    limits = _limits(job, latency_s=latency_s, images_a_cell=images / cells)
    said, most_per_s = min(limits, key=lambda limit: limit[1], default=("", float("inf")))
    learned = read_limits(run_dir)
    binds = learned.binds if learned is not None else None
    # What this job allows itself comes first where it is below what was measured, and where nothing else was met.
    if most_per_s <= measured.per_s or (binds is None and _NEARLY * most_per_s <= measured.per_s):
        binds = said
    found = forecast(measured, left=cells, within_s=NIGHT_H * 3600, latency_s=latency_s, most_per_s=most_per_s)
    return Outlook(
        cells=cells,
        p50_s=found.likely_s,
        p90_s=found.nine_in_ten_s,
        night_cells_p50=found.likely_cells,
        night_cells_p90=found.nine_in_ten_cells,
        limit=binds,
        measured_in=str(run_dir),
        measured_cells=sum(measured.ended),
        measured_s=measured.span_s * len(measured.ended),
    )


def _limits(job: Job, *, latency_s: float, images_a_cell: float) -> list[tuple[str, float]]:
    """Return the limits that the job sets itself, each in words and as cells a second."""
    limits = []
    if (rate := job.spec.run.rate_limit_per_s) is not None:
        limits.append((f"your rate_limit, {rate * 60:,.3g} images/min", rate / images_a_cell))
    if (at_once := job.spec.run.concurrency) is not None and latency_s:
        limits.append((f"your concurrency, {at_once:,} at once", at_once / latency_s))
    return limits
