"""How a run directory stands, at work, stopped or crashed: read from its facts, without its lock or a trace."""

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from batchflux.app.blocks import read_blocks
from batchflux.app.job import Job, load_job
from batchflux.app.reading import gather, read_known
from batchflux.app.resume import Known
from batchflux.app.rundir import RunIdentity, is_rehearsal
from batchflux.app.sameness import SAMENESS_COLUMNS, Sameness
from batchflux.app.summary import Standing, stand, words_on
from batchflux.app.tally import TALLY_COLUMNS, Tally
from batchflux.core.arrow import from_ints
from batchflux.core.budget import usd
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.engine.observers import duration
from batchflux.io.limitsfile import read_limits
from batchflux.io.lock import is_run_at_work

__all__ = ["Status", "failed_cells", "read_status"]

_RATE_OVER_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run stands now; `rate_per_min` and `eta_s` are None where nothing was completed lately.

    `limit` is what the run learned to hold it back, None where it met nothing.
    """

    name: str
    run_dir: Path
    standing: Standing
    is_at_work: bool
    rate_per_min: float | None
    eta_s: float | None
    newest_at: str | None
    limit: str | None
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
            "limit": self.limit,
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
        if self.limit is not None:
            text.append(f"  limit: {self.limit}")
        return "\n".join([*text, *words_on(standing)])


def read_status(run_dir: Path) -> tuple[Status, Job, Known]:
    """Return how a run directory stands. Raises UsageError, CheckpointDamaged."""
    job = load_job(run_dir)
    identity = RunIdentity.read(run_dir)
    known = read_known(job.grid, run_dir, identity)
    now_s = time.time()
    tally = Tally(since_ms=round((now_s - _RATE_OVER_S) * 1000), now_ms=round(now_s * 1000))
    if not known.is_empty:
        sameness = Sameness(job.grid)
        for block in read_blocks(job.grid, run_dir, identity, columns=(*TALLY_COLUMNS, *SAMENESS_COLUMNS)):
            tally.add(block.facts)
            sameness.add(block)
        if sameness.finds_any:  # only now it can be told which cells they are
            blocks = read_blocks(job.grid, run_dir, identity, columns=SAMENESS_COLUMNS)
            tally.warnings["same_image"] = sum(int(np.count_nonzero(sameness.others(block))) for block in blocks)
    standing = stand(job, known, tally)
    rate = None
    if tally.completed_since >= 2:
        rate = tally.completed_since / max(1.0, now_s - tally.first_since_ms / 1000) * 60
    left = standing.pending + standing.submitted
    is_at_work = is_run_at_work(run_dir)
    limits = read_limits(run_dir)
    newest_ms = known.pace.newest_at_ms
    status = Status(
        name=job.name,
        run_dir=run_dir,
        standing=standing,
        is_at_work=is_at_work,
        rate_per_min=rate,
        eta_s=left / rate * 60 if is_at_work and rate and left else None,
        newest_at=None if newest_ms is None else datetime.fromtimestamp(newest_ms / 1000, UTC).isoformat(),
        limit=limits.binds if limits is not None else None,
        is_rehearsal=is_rehearsal(run_dir),
    )
    return status, job, known


def failed_cells(job: Job, known: Known) -> list[dict[str, Any]]:
    """Return the cells that failed: row (from 1), prompt id, parameters, kind and message."""
    identity = RunIdentity.read(job.run_dir)
    is_failed = known.statuses == STATUS_CODES[CellStatus.FAILED]
    if identity is None or not is_failed.any():
        return []
    facts, indexes = gather(job.grid, job.run_dir, identity, wanted=is_failed, columns=())
    order = np.argsort(indexes, kind="stable")
    rows = facts.select(["error_kind", "error", "cell_id"]).take(from_ints(order)).to_pylist()
    found = []
    for index, fact in zip(indexes[order].tolist(), rows, strict=True):
        row, _ = divmod(index, job.grid.n_combinations)
        cell = job.grid.cell(index, job.rows.part(row))
        params = {name: value for name, value in cell.body.items() if name != "prompt"}
        found.append({"row": row + 1, "prompt_id": cell.prompt_id, "params": params, **fact})
    return found
