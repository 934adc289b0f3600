"""How a run directory stands, at work, stopped or crashed: read from its facts, without its lock or a trace."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from batchflux.app.blocks import Block, read_blocks
from batchflux.app.job import Job, load_job
from batchflux.app.pairs import read_agreement
from batchflux.app.reading import gather, read_known
from batchflux.app.resume import Known
from batchflux.app.rundir import RunIdentity, is_rehearsal
from batchflux.app.sameness import SAMENESS_COLUMNS, Sameness
from batchflux.app.summary import Standing, stand, words_on
from batchflux.app.tally import TALLY_COLUMNS, Tally
from batchflux.core.arrow import as_ints, from_ints, numbered
from batchflux.core.budget import usd
from batchflux.core.eta import EtaRange, eta_range
from batchflux.core.model import CellStatus, FactKind
from batchflux.core.progress import STATUS_CODES
from batchflux.engine.observers import duration
from batchflux.io.limitsfile import read_limits
from batchflux.io.lock import is_run_at_work

__all__ = ["Status", "failed_cells", "read_status"]

_RATE_OVER_S = 300
_SPAN_S = 10
_POST_MS = 60_000  # the longest that a submission can be open (io.client)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a run stands now; `rate_per_min` and `eta` are None where nothing was completed lately.

    `limit` is what the run learned to hold it back, None where it met nothing; `budget_usd` is the spec's, for the
    run's whole life.
    """

    name: str
    run_dir: Path
    standing: Standing
    is_at_work: bool
    rate_per_min: float | None
    eta: EtaRange | None
    newest_at: str | None
    limit: str | None
    budget_usd: float | None
    is_rehearsal: bool = False

    def as_json(self) -> str:
        """Return it as one JSON object."""
        rest = {
            "name": self.name,
            "run_dir": str(self.run_dir),
            "at_work": self.is_at_work,
            "rate_per_min": self.rate_per_min,
            "eta_s": None if self.eta is None else self.eta.likely_s,
            "eta_range_s": None if self.eta is None else [self.eta.soonest_s, self.eta.latest_s],
            "newest_at": self.newest_at,
            "rehearsal": self.is_rehearsal,
            "limit": self.limit,
            "budget_usd": self.budget_usd,
        }
        return json.dumps({**asdict(self.standing), **rest}, ensure_ascii=False)

    def __str__(self) -> str:
        standing = self.standing
        state = "at work" if self.is_at_work else "not at work"
        text = [f"{self.name}: {state}, {self.run_dir}"]
        pairs = [(str(status), getattr(standing, status)) for status in CellStatus]
        text += [f"  {name:<10} {count:>12,}" for name, count in [("cells", standing.cells), *pairs]]
        text.append(f"  {'images':<10} {standing.images:>12,}")
        of = "" if self.budget_usd is None else f"  of {usd(round(self.budget_usd * 1e6))}"
        text.append(
            f"  {'cost':<10} {usd(round(standing.cost_usd * 1e6)):>12}{of}"
            + ("  (play money)" if self.is_rehearsal else "")
        )
        if self.rate_per_min is not None:
            text.append(f"  {self.rate_per_min:,.1f} cells a minute over the last five minutes")
        if self.eta is not None:
            soonest, likely, latest = map(duration, (self.eta.soonest_s, self.eta.likely_s, self.eta.latest_s))
            text.append(f"  about {likely} left, {soonest} to {latest} in eight of ten cases if it goes on so")
        if self.limit is not None:
            text.append(f"  limit: {self.limit}")
        return "\n".join([*text, *words_on(standing)])


def read_status(
    run_dir: Path, *, columns: Sequence[str] = (), on_block: Callable[[Block], None] | None = None
) -> tuple[Status, Job, Known]:
    """Return how a run directory stands. Raises UsageError, CheckpointDamaged.

    `on_block` is shown every block that is read on the way, with `columns` besides those needed here.
    """
    job = load_job(run_dir)
    identity = RunIdentity.read(run_dir)
    known = read_known(job.grid, run_dir, identity)
    now_s = time.time()
    tally = Tally(since_ms=round((now_s - _RATE_OVER_S) * 1000), now_ms=round(now_s * 1000))
    if not known.is_empty:
        sameness = Sameness(job.grid)
        for block in read_blocks(job.grid, run_dir, identity, columns=(*TALLY_COLUMNS, *SAMENESS_COLUMNS, *columns)):
            tally.add(block.facts)
            sameness.add(block)
            if on_block is not None:
                on_block(block)
        if sameness.finds_any:  # only now it can be told which cells they are
            blocks = read_blocks(job.grid, run_dir, identity, columns=SAMENESS_COLUMNS)
            tally.warnings["same_image"] = sum(int(np.count_nonzero(sameness.others(block))) for block in blocks)
    replicates = read_agreement(run_dir)
    if replicates is not None and replicates.different:
        tally.warnings["replicate"] = replicates.different
    is_at_work = is_run_at_work(run_dir)
    standing = stand(job, known, tally, replicates=replicates)
    if is_at_work:
        standing = _with_open_posts(standing, known, now_ms=round(now_s * 1000))
    rate = None
    if tally.completed_since >= 2:
        rate = tally.completed_since / max(1.0, now_s - tally.first_since_ms / 1000) * 60
    eta = None
    if is_at_work and (left := standing.pending + standing.submitted):
        eta = eta_range(tally.finished_in_spans(span_ms=_SPAN_S * 1000), span_s=_SPAN_S, left=left)
    limits = read_limits(run_dir)
    newest_ms = known.pace.newest_at_ms
    status = Status(
        name=job.name,
        run_dir=run_dir,
        standing=standing,
        is_at_work=is_at_work,
        rate_per_min=rate,
        eta=eta,
        newest_at=None if newest_ms is None else datetime.fromtimestamp(newest_ms / 1000, UTC).isoformat(),
        limit=limits.binds if limits is not None else None,
        budget_usd=None if job.spec.run.budget_micro_usd is None else job.spec.run.budget_micro_usd / 1e6,
        is_rehearsal=is_rehearsal(run_dir),
    )
    return status, job, known


def _with_open_posts(standing: Standing, known: Known, *, now_ms: int) -> Standing:
    """Count what a run at work has just sent as submitted: it is unknown only where the run ends before the answer."""
    facts = known.facts
    is_intent = numbered(facts["kind"], [str(FactKind.INTENT)], other=-1) == 0
    n_open = int(np.count_nonzero(is_intent & (as_ints(facts["at"]) > now_ms - _POST_MS)))
    errors = {**standing.errors, "unknown_outcome": standing.errors.get("unknown_outcome", 0) - n_open}
    return replace(
        standing,
        submitted=standing.submitted + n_open,
        unknown=standing.unknown - n_open,
        errors={kind: count for kind, count in errors.items() if count > 0},
    )


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
