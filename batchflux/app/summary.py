"""How a run stands, from its durable facts: counts, money, timings, errors by kind. The closing words and `status`."""

import json
import shlex
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from batchflux.app.advice import advice_for
from batchflux.app.family import run_command
from batchflux.app.job import Job, shown_path
from batchflux.app.resume import Known
from batchflux.app.rundir import is_rehearsal
from batchflux.app.tally import TALLY_COLUMNS, Tally
from batchflux.core.budget import usd
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES, count_codes
from batchflux.core.replicates import Agreement
from batchflux.core.sanity import WARNING_KINDS
from batchflux.engine.observers import duration
from batchflux.engine.ports import StopReason
from batchflux.io.manifest import MANIFEST, iter_tables

__all__ = ["Result", "Standing", "stand", "summarise", "words_on"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The cells of a job by status and what became of them. Money in USD, times in milliseconds; None is not known.

    `errors` counts cells by error kind, `warnings` by kind of warning; `images` are those made, `images_missing` those
    of completed cells that aren't on the disk though the job asks for them. Of those not on the disk, asked for or
    not, the service has deleted `images_expired`, and within a day deletes `images_expiring`, from `expires_at` on.
    `replicates` is what came of cells that were submitted twice.
    """

    cells: int
    pending: int
    submitted: int
    completed: int
    failed: int
    unknown: int
    images: int
    images_missing: int
    cost_usd: float
    errors: dict[str, int]
    inference_ms_p50: float | None
    inference_ms_p95: float | None
    latency_ms_p50: float | None
    warnings: dict[str, int]
    images_expired: int
    images_expiring: int
    expires_at: str | None
    replicates: Agreement | None = None


def words_on(standing: Standing) -> list[str]:
    """Return what is said of any run, ended or at work: timings, missing images, and advice on each failure."""
    text = []
    if standing.inference_ms_p50 is not None and standing.inference_ms_p95 is not None:
        text.append(
            f"  inference {standing.inference_ms_p50 / 1000:.2f} s in the median, "
            f"{standing.inference_ms_p95 / 1000:.2f} s at the 95th percentile"
        )
    if standing.images_missing:
        text.append(f"  {standing.images_missing:,} images are not on the disk yet")
    if standing.images_expired:
        text.append(
            f"  {standing.images_expired:,} images that aren't on the disk have expired: the service deletes them "
            "after 7 days"
        )
    if standing.images_expiring:
        text.append(
            f"  {standing.images_expiring:,} images that aren't on the disk expire within a day, the first at "
            f"{standing.expires_at}: fetch them with run --download-only, at no cost"
        )
    text += [f"  {count:,} × {kind}: {advice_for(kind)}" for kind, count in standing.errors.items()]
    for kind, count in standing.warnings.items():
        text.append(f"  {count:,} cell{'s' if count > 1 else ''} with a warning: {WARNING_KINDS[kind]}")
    if standing.replicates is not None:
        text += [f"  {line}" for line in standing.replicates.lines()]
    return text


def stand(job: Job, known: Known, tally: Tally, *, replicates: Agreement | None) -> Standing:
    """Return how the job's cells stand; `tally` is of all of them."""
    counts = count_codes(known.statuses)
    by_status = {status: int(counts[code]) for status, code in STATUS_CODES.items()}
    return Standing(
        cells=job.grid.n_cells,
        pending=by_status[CellStatus.PENDING],
        submitted=by_status[CellStatus.SUBMITTED],
        completed=by_status[CellStatus.COMPLETED],
        failed=by_status[CellStatus.FAILED],
        unknown=by_status[CellStatus.UNKNOWN],
        images=tally.images,
        images_missing=tally.images - tally.files if job.spec.output.download else 0,
        cost_usd=known.spent_micro_usd / 1e6,
        errors=dict(sorted(tally.errors.items())),
        inference_ms_p50=tally.inference_ms.quantile(0.5),
        inference_ms_p95=tally.inference_ms.quantile(0.95),
        latency_ms_p50=tally.latency_ms.quantile(0.5),
        warnings={kind: tally.warnings[kind] for kind in WARNING_KINDS if kind in tally.warnings},
        images_expired=tally.expired,
        images_expiring=tally.expiring,
        expires_at=_moment(tally.expires_at_ms) if tally.expiring else None,
        replicates=replicates,
    )


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended. `exit_status` is what the command line ends with; `stop` says why it ended early, if it did.

    The money of a rehearsal (`--sandbox`) is play money. `redone` is how the runs ended that drew flagged cells anew,
    `replicated` those that submitted cells a second time.
    """

    name: str
    run_dir: Path
    standing: Standing
    stop: StopReason | None
    seconds: float
    spent_now_usd: float
    images_now: int
    exit_status: int
    is_rehearsal: bool = False
    report: Path | None = None
    redone: tuple["Result", ...] = ()
    replicated: tuple["Result", ...] = ()

    @property
    def manifest(self) -> Path:
        """Where the result table lies."""
        return self.run_dir / MANIFEST

    @property
    def command(self) -> str:
        """The command that comes next."""
        here = shown_path(self.run_dir)
        if self.exit_status == 0:
            return f"batchflux export {here} {shlex.quote(f'{self.name}-results.csv')} --format csv"
        run = run_command(self.run_dir)
        standings = [self.standing, *(again.standing for again in self.replicated)]
        failed, unknown = (any(getattr(each, name) for each in standings) for name in ("failed", "unknown"))
        if any(each.pending or each.submitted for each in standings):
            return run
        if any(each.images_missing for each in standings) and not failed:
            return f"{run} --download-only"
        if failed and not unknown:
            return f"{run} --retry-failed"
        return f"{run} --resubmit-unknown" if unknown else run

    def as_json(self) -> str:
        """Return the closing summary as one JSON object."""
        from dataclasses import asdict

        summary = {
            "name": self.name,
            "run_dir": str(self.run_dir),
            "manifest": str(self.manifest),
            "report": None if self.report is None else str(self.report),
            **asdict(self.standing),
            "stopped": None if self.stop is None else self.stop.message,
            "seconds": round(self.seconds, 3),
            "spent_now_usd": self.spent_now_usd,
            "rehearsal": self.is_rehearsal,
            "exit_status": self.exit_status,
            "redone": [json.loads(redone.as_json()) for redone in self.redone],
            "replicated": [json.loads(again.as_json()) for again in self.replicated],
        }
        return json.dumps(summary, ensure_ascii=False)

    def lines(self) -> list[str]:
        """Return the closing words."""
        standing = self.standing
        counts = [f"{standing.completed:,} of {standing.cells:,} cells completed"]
        for status in (CellStatus.FAILED, CellStatus.UNKNOWN, CellStatus.SUBMITTED, CellStatus.PENDING):
            if count := getattr(standing, status):
                counts.append(f"{count:,} {status}")
        text = [f"{self.name}: {', '.join(counts)}"]
        speed = f", {self.images_now / self.seconds * 60:,.0f} images a minute" if self.images_now else ""
        now = "of play money now" if self.is_rehearsal else "spent now"
        spent = f"{usd(round(self.spent_now_usd * 1e6))} {now}, {usd(round(standing.cost_usd * 1e6))} in all"
        text.append(f"  {duration(self.seconds)}{speed}; {standing.images:,} images; {spent}")
        text += words_on(standing)
        if self.stop is not None:
            text.append(f"  stopped: {self.stop.message}")
            if self.stop.fault is not None and self.stop.fault.kind not in standing.errors:
                text.append(f"  {advice_for(self.stop.fault.kind)}")
        text.append(
            f"  results: {shown_path(self.manifest)}"
            + (" and images/ beside it" if (self.run_dir / "images").is_dir() else "")
        )
        if self.report is not None:
            text.append(f"  report: {shown_path(self.report)}")
        for redone in self.redone:
            text += [f"  flagged, drawn anew: {redone.lines()[0]}", f"    {shown_path(redone.manifest)}"]
        for again in self.replicated:
            if again.exit_status:
                text += [f"  submitted twice: {again.lines()[0]}", f"    {shown_path(again.manifest)}"]
            if again.stop is not None:
                text.append(f"    stopped: {again.stop.message}")
        text.append(f"  next: {self.command}")
        return text

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        from html import escape

        return "<pre>" + escape(str(self)) + "</pre>"

    def with_redone(self, redone: "Result") -> "Result":
        """Return the same with a run that drew its flagged cells anew; the graver exit status is that of both."""
        # A signal (129 and more) outranks 4, 4 outranks 3, 3 outranks 1.
        return replace(self, redone=(*self.redone, redone), exit_status=max(self.exit_status, redone.exit_status))

    def with_replicated(self, again: tuple["Result", ...]) -> "Result":
        """Return the same with the runs that submitted its cells a second time, as with `with_redone`."""
        status = max([self.exit_status, *(each.exit_status for each in again)])
        return replace(self, replicated=again, exit_status=status)


def summarise(
    job: Job,
    known: Known,
    *,
    stop: StopReason | None,
    started: float,
    spent_before: int,
    ended: float | None = None,
    replicates: Agreement | None = None,
) -> Result:
    """Return how a run ended, with its exit status (interface: exit status of `run`); its manifest is written.

    `started` and `ended` (default: now) are moments of the monotonic clock.
    """
    now_s, since_s = time.time(), time.monotonic() - started
    seconds = max(since_s if ended is None else ended - started, 1e-3)
    tally = Tally(since_ms=round((now_s - since_s) * 1000), now_ms=round(now_s * 1000))
    for cells in iter_tables(job.run_dir / MANIFEST, columns=TALLY_COLUMNS):
        tally.add(cells)
    standing = stand(job, known, tally, replicates=replicates)
    spent_now = known.spent_micro_usd - spent_before
    return Result(
        name=job.name,
        run_dir=job.run_dir,
        standing=standing,
        stop=stop,
        seconds=seconds,
        spent_now_usd=spent_now / 1e6,
        images_now=tally.images_since,
        exit_status=_exit_status(job, standing, stop),
        is_rehearsal=is_rehearsal(job.run_dir),
    )


def _exit_status(job: Job, standing: Standing, stop: StopReason | None) -> int:
    if stop is not None and stop.kind == "signal":
        return 128 + (stop.signal or 15)
    if stop is not None and stop.kind == "trouble":
        return 4
    if stop is not None:
        return 3
    run = job.spec.run
    allowed = run.max_failed if run.max_failed is not None else int((run.max_failed_share or 0.0) * standing.cells)
    is_whole = not (standing.pending or standing.submitted or standing.unknown or standing.images_missing)
    return 0 if is_whole and standing.failed <= allowed else 1
