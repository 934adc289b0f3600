"""How a run directory stands, at work, stopped or crashed: read from its facts, without its lock or a trace."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.job import Job, load_job
from batchflux.app.resume import Known, lay_over
from batchflux.app.rundir import RunIdentity, is_rehearsal, read_facts_of
from batchflux.app.summary import Standing, stand, words_on
from batchflux.core.budget import usd
from batchflux.core.model import CellStatus
from batchflux.engine.observers import duration
from batchflux.io.lock import is_run_at_work

__all__ = ["Status", "failed_cells", "read_status"]

_RATE_OVER_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run stands now; `rate_per_min` and `eta_s` are None where nothing was completed lately."""

    name: str
    run_dir: Path
    standing: Standing
    is_at_work: bool
    rate_per_min: float | None
    eta_s: float | None
    newest_at: str | None
    is_rehearsal: bool = False

    def as_json(self) -> str:
        """Return it as one JSON object."""
        rest = {
            "name": self.name,
            "run_dir": str(self.run_dir),
            "at_work": self.is_at_work,
            "rate_per_min": self.rate_per_min,
            "eta_s": self.eta_s,
            "newest_at": self.newest_at,
            "rehearsal": self.is_rehearsal,
        }
        return json.dumps({**asdict(self.standing), **rest}, ensure_ascii=False)

    def __str__(self) -> str:
        standing = self.standing
        state = "at work" if self.is_at_work else "not at work"
        text = [f"{self.name}: {state}, {self.run_dir}"]
        pairs = [(str(status), getattr(standing, status)) for status in CellStatus]
        text += [f"  {name:<10} {count:>12,}" for name, count in [("cells", standing.cells), *pairs]]
        text.append(f"  {'images':<10} {standing.images:>12,}")
        text.append(
            f"  {'cost':<10} {usd(round(standing.cost_usd * 1e6)):>12}"
            + ("  (play money)" if self.is_rehearsal else "")
        )
        if self.rate_per_min is not None:
            left = f", about {duration(self.eta_s)} left" if self.eta_s is not None else ""
            text.append(f"  {self.rate_per_min:,.1f} cells a minute over the last five minutes{left}")
        return "\n".join([*text, *words_on(standing)])


def read_status(run_dir: Path) -> tuple[Status, Job, Known]:
    """Return how a run directory stands. Raises UsageError, CheckpointDamaged."""
    job = load_job(run_dir)
    known = lay_over(job.grid, read_facts_of(run_dir, RunIdentity.read(run_dir)))
    standing = stand(job, known)
    rate = _rate_per_min(known.facts)
    left = standing.pending + standing.submitted
    is_at_work = is_run_at_work(run_dir)
    newest = pc.max(known.facts["at"]).as_py() if known.facts.num_rows else None
    status = Status(
        name=job.name,
        run_dir=run_dir,
        standing=standing,
        is_at_work=is_at_work,
        rate_per_min=rate,
        eta_s=left / rate * 60 if is_at_work and rate and left else None,
        newest_at=newest.isoformat() if newest is not None else None,
        is_rehearsal=is_rehearsal(run_dir),
    )
    return status, job, known


def _rate_per_min(facts: pa.Table) -> float | None:
    if not facts.num_rows:
        return None
    since = pa.scalar(round((time.time() - _RATE_OVER_S) * 1000), pa.timestamp("ms", tz="UTC"))
    times = facts["completed_at"].filter(pc.greater_equal(facts["completed_at"], since))
    if len(times) < 2:
        return None
    span = max(1.0, time.time() - pc.min(times).as_py().timestamp())
    return float(len(times) / span * 60)


def failed_cells(job: Job, known: Known) -> list[dict[str, Any]]:
    """Return the cells that failed: row (from 1), prompt id, parameters, kind and message."""
    places = known.places(CellStatus.FAILED)
    rows = known.facts.select(["error_kind", "error", "cell_id"]).take(pa.array(places)).to_pylist()
    found = []
    for index, fact in zip(known.indexes[places].tolist(), rows, strict=True):
        row, _ = divmod(index, job.grid.n_combinations)
        cell = job.grid.cell(index, job.rows.part(row))
        params = {name: value for name, value in cell.body.items() if name != "prompt"}
        found.append({"row": row + 1, "prompt_id": cell.prompt_id, "params": params, **fact})
    return found
