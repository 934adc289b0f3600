"""What the engine is given of a job: the cells left, lost submissions, images left behind, the ids on record.

Reads what an earlier run left and the grid; decides nothing about money or speed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.job import Job
from batchflux.app.prepare import RunOptions
from batchflux.app.resume import Known
from batchflux.core.flow import CellState
from batchflux.core.model import CellStatus
from batchflux.core.resolution import Unresolved
from batchflux.engine.local import KNOWN_IDS
from batchflux.engine.ports import Download, Work
from batchflux.io.checkpoint import read_facts
from batchflux.io.filecheck import FileCheck, check_files

__all__ = [
    "backlog",
    "harmed_cells",
    "known_ids",
    "lost_submissions",
    "newest_ids",
    "run_clock",
    "work_left",
    "work_of",
]

# The history reaches back a week (documentation), so no older id can be listed.
_WEEK_MS = 7 * 24 * 3600 * 1000


# Goes on while the computer sleeps, as the service's clock does; elsewhere than on Linux the monotonic one does so.
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def run_clock() -> Callable[[], int]:
    """Return the clock of a run, in epoch milliseconds: the wall clock as it is now, carried on by one nobody sets.

    A wall clock that is set in mid-run would let lost submissions be looked for where they can't be, and sent again.
    """
    ahead_ns = time.time_ns() - time.clock_gettime_ns(_STEADY)
    return lambda: (ahead_ns + time.clock_gettime_ns(_STEADY)) // 1_000_000


def work_left(job: Job, known: Known, options: RunOptions) -> Iterator[Work]:
    """Yield what the service knows already, then what is pending, each with what is known of it."""
    pending = known.pending(job.grid, job.spec.run.order)  # before any of those that are in flight can fail
    for index, state in known.states(known.places(CellStatus.SUBMITTED)):
        yield work_of(job, index, state)
    before = dict(known.states(known.places(CellStatus.PENDING, CellStatus.FAILED, CellStatus.UNKNOWN)))
    untried = CellState()
    for index in pending:
        state = before.get(index, untried)
        if options.retry_failed:
            # Failed cells get max_attempts anew; what they have cost stays counted.
            state = replace(state, attempts=0) if state.attempts else state
        yield work_of(job, index, state)


def lost_submissions(job: Job, known: Known, *, now_ms: int) -> list[tuple[Work, Unresolved]]:
    """Return the submissions whose answers an earlier run didn't hear, with their cells."""
    return [(work_of(job, index, lost.before), lost) for index, lost in known.lost(now_ms=now_ms)]


def known_ids(job: Job) -> Callable[[int], Awaitable[Mapping[str, int | None]]]:
    """Return what tells every prediction id that the run was given since a moment, by the service's time of it."""

    def read(since_ms: int) -> dict[str, int | None]:
        facts = read_facts(job.run_dir, columns=["at", "prediction_id", "created_at"])
        since = pa.scalar(since_ms - _WEEK_MS, pa.timestamp("ms", tz="UTC"))
        recent = facts.filter(pc.and_(pc.is_valid(facts["prediction_id"]), pc.greater_equal(facts["at"], since)))
        times = pc.cast(recent["created_at"], pa.int64()).to_pylist()
        return dict(zip(recent["prediction_id"].to_pylist(), times, strict=True))

    async def known_ids(since_ms: int) -> Mapping[str, int | None]:
        return await asyncio.to_thread(read, since_ms)

    return known_ids


def newest_ids(known: Known) -> list[str]:
    """Return the prediction ids of the cells last heard of, the oldest first, as many as an engine keeps."""
    facts = known.facts.select(["at", "prediction_id"])
    facts = facts.filter(pc.is_valid(facts["prediction_id"]))
    newest = pc.select_k_unstable(facts, k=KNOWN_IDS, sort_keys=[("at", "descending")])
    ids: list[str] = facts["prediction_id"].take(newest).to_pylist()
    return ids[::-1]


def work_of(job: Job, index: int, state: CellState) -> Work:
    row, combination = divmod(index, job.grid.n_combinations)
    cell = job.grid.cell(index, job.rows.part(row))
    labels = job.grid.combination_values(combination)
    shown = {
        axis.name: cell.body.get("seed") if axis.kind == "row_seed" else labels[axis.name] for axis in job.grid.axes
    }
    return Work(cell=cell, state=state, labels=shown)


def harmed_cells(job: Job, known: Known) -> pa.Array:
    """Return the ids of completed cells whose images are gone or not as they were saved. Reads every file."""
    cells = known.facts.select(["cell_id", "files", "sha256", "file_bytes"])
    cells = cells.take(known.places(CellStatus.COMPLETED))
    return pa.array({fault.cell_id for fault in check_files(job.run_dir, cells, FileCheck())}, pa.string())


def backlog(job: Job, known: Known, *, harmed: pa.Array) -> Iterator[Download]:
    """Yield the images that an earlier run left: of completed cells without files, and of those that are `harmed`."""
    places = known.places(CellStatus.COMPLETED)
    for first in range(0, len(places), 1024):
        some = places[first : first + 1024]
        cells = known.facts.select(["cell_id", "attempt", "prediction_id", "outputs", "files"]).take(some)
        is_bare = pc.equal(pc.fill_null(pc.list_value_length(cells["files"]), 0), 0)
        has_outputs = pc.greater(pc.fill_null(pc.list_value_length(cells["outputs"]), 0), 0)
        is_wanted = pc.and_(has_outputs, pc.or_(is_bare, pc.is_in(cells["cell_id"], value_set=harmed)))
        wanted = np.flatnonzero(np.asarray(is_wanted, dtype=np.bool_))
        for index, row in zip(known.indexes[some[wanted]].tolist(), cells.take(wanted).to_pylist(), strict=True):
            work = work_of(job, index, CellState())
            yield Download(
                cell=work.cell,
                labels=work.labels,
                attempt=row["attempt"],
                prediction_id=row["prediction_id"] or "",
                urls=tuple(row["outputs"]),
            )
