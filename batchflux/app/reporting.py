"""The page of a run, at its end or whenever asked for: from the manifest where that is up to date, else from the facts.

Needs no lock and disturbs nobody; beside a live run and after a crash it shows what is known so far.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from batchflux.app.job import Job, load_job, shown_path
from batchflux.app.publish import is_manifest_current, manifest_source
from batchflux.app.rundir import RunIdentity, is_rehearsal
from batchflux.core.errors import StorageError
from batchflux.io.facts import list_journals
from batchflux.io.journal import scan_journal
from batchflux.io.manifest import MANIFEST, iter_tables, manifest_tables
from batchflux.io.storage import read_bytes
from batchflux.report.cells import Cells
from batchflux.report.pagefiles import Source, read_cells, write_page
from batchflux.report.sweep import build_sweep

__all__ = ["MOST_CELLS_BY_ITSELF", "Report", "page_source", "report_at_end", "report_json", "write_report"]

# What `run` writes by itself must not keep anybody waiting: beyond this the page is made when it is asked for.
MOST_CELLS_BY_ITSELF = 10_000
_THUMBNAILS_AT_END_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a run's page lies, and how many cells it shows."""

    path: Path
    cells: int

    def __str__(self) -> str:
        return f"{self.cells:,} cells: {shown_path(self.path)}"


def write_report(
    run_dir: Path, *, thumbnails_s: float | None = None, on_thumbnails: Callable[[int], None] | None = None
) -> Report:
    """Write a run's page, all of it or only those thumbnails that take so long. Raises UsageError, StorageError."""
    job = load_job(run_dir)
    path = write_page(run_dir, page_source(job, run_dir), thumbnails_s=thumbnails_s, on_thumbnails=on_thumbnails)
    return Report(path=path, cells=job.grid.n_cells)


def report_json(run_dir: Path) -> str:
    """Return the sweep's figures as one JSON object. Raises UsageError."""
    job = load_job(run_dir)
    cells = read_cells(page_source(job, run_dir))
    sweep = build_sweep(cells)
    slowest = [_named(job, index) | _times(cells, index) for index in sweep.slowest]
    failed = [_named(job, index) for index in sweep.failed_cells]
    figures = sweep.as_mapping() | {"slowest": slowest, "failed_cells": failed}
    return json.dumps({"name": job.name, "run_dir": str(run_dir), **figures}, ensure_ascii=False)


def report_at_end(job: Job, on_notice: Callable[[str], None] | None) -> Path | None:
    """Write the page that a run leaves, where its job wants one and is not too large.

    A disk that takes no page is told of and nothing more: what was paid for is safe, and it can be made at any time.
    """
    if not job.spec.output.report or job.grid.n_cells > MOST_CELLS_BY_ITSELF:
        return None
    try:
        return write_report(job.run_dir, thumbnails_s=_THUMBNAILS_AT_END_S).path
    except StorageError as error:
        if on_notice is not None:
            on_notice(f"warning: the run's page is left out: {error}")
        return None


def page_source(job: Job, run_dir: Path) -> Source:
    """Return what a run's page is made of, as it is known now; it can be gone through once."""
    identity = RunIdentity.read(run_dir)
    return Source(
        name=job.name,
        run_id=identity.run_id if identity is not None else job.name,
        is_rehearsal=is_rehearsal(run_dir),
        made_at=datetime.now(UTC),
        grid=job.grid,
        tables=_tables(job, run_dir, identity),
    )


def _tables(job: Job, run_dir: Path, identity: RunIdentity | None) -> Iterable[pa.Table]:
    if is_manifest_current(run_dir) and not _has_news(run_dir):
        return iter_tables(run_dir / MANIFEST)
    return manifest_tables(manifest_source(job, identity, base_url=job.spec.api.base_url, stamp=""))


def _has_news(run_dir: Path) -> bool:
    """Return whether a journal holds facts: a manifest is as good as the parts, and knows nothing of a few facts."""
    try:
        return any(scan_journal(read_bytes(path)).payloads for path in list_journals(run_dir).values())
    except FileNotFoundError:
        return True  # sealed while it was being read


def _named(job: Job, index: int) -> dict[str, object]:
    """Return which cell an index is, as people name it."""
    row, combination = divmod(index, job.grid.n_combinations)
    cell = job.grid.cell(index, job.rows.part(row))
    values = job.grid.combination_values(combination)
    return {"cell_id": cell.cell_id, "prompt_id": cell.prompt_id, "row": row + 1, "axes": values}


def _times(cells: Cells, index: int) -> dict[str, object]:
    """Return how long a cell took, in ms; None where that isn't known."""
    times = {"inference_ms": int(cells.inference_ms[index]), "latency_ms": int(cells.latency_ms[index])}
    return {name: ms if ms >= 0 else None for name, ms in times.items()}
