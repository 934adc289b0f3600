"""What the engine is given of a job: the cells left, lost submissions, images left behind, the ids on record.

Reads what an earlier run left and the grid; decides nothing about money or speed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.blocks import read_blocks
from batchflux.app.family import kin_of
from batchflux.app.job import Job
from batchflux.app.prepare import RunOptions
from batchflux.app.reading import gather
from batchflux.app.resume import Known
from batchflux.app.rundir import RunIdentity
from batchflux.core.arrow import Flags, Ints, as_ints, from_flags, from_ints, list_lengths
from batchflux.core.errors import CheckpointDamaged
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import CellState
from batchflux.engine.ports import Download, Work
from batchflux.io.facts import stream_facts
from batchflux.io.filecheck import FileCheck, check_files

__all__ = [
    "backlog",
    "downloads_of",
    "harmed_cells",
    "known_ids",
    "lost_submissions",
    "run_clock",
    "work_left",
    "work_of",
]

# The history reaches back a week (documentation), so no older id can be listed.
_WEEK_MS = 7 * 24 * 3600 * 1000

# Cells whose URLs are in memory at a time; fetching so many takes far longer than finding the next.
_BACKLOG_CELLS = 1 << 16
_BACKLOG_COLUMNS = ["attempt", "prediction_id", "outputs"]
_FILE_COLUMNS = ["files", "sha256", "file_bytes"]


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
    for index, state in known.flows(known.places(CellStatus.SUBMITTED)):
        yield work_of(job, index, state)
    for index in pending:
        state = known.flow_of(index)
        if options.retry_failed:
            # Failed cells get max_attempts anew; what they have cost stays counted.
            state = replace(state, attempts=0) if state.attempts else state
        yield work_of(job, index, state)


def lost_submissions(job: Job, known: Known, *, now_ms: int) -> list[tuple[Work, Unresolved]]:
    """Return the submissions whose answers an earlier run didn't hear, with their cells."""
    return [(work_of(job, index, lost.before), lost) for index, lost in known.lost(now_ms=now_ms)]


def known_ids(job: Job) -> Callable[[int], Awaitable[Mapping[str, int | None]]]:
    """Return what tells every prediction id that the run was given since a moment, by the service's time of it.

    Those of its replicates, or of the run that it replicates, too: they are of the same requests, and no lost ones.
    """

    def read(since_ms: int) -> dict[str, int | None]:
        ids: dict[str, int | None] = {}

        def add(facts: pa.Table) -> None:
            is_recent = as_ints(facts["at"]) >= since_ms - _WEEK_MS
            recent = facts.filter(pc.and_(pc.is_valid(facts["prediction_id"]), from_flags(is_recent)))
            times = recent["created_at"].cast(pa.int64()).to_pylist()
            ids.update(zip(recent["prediction_id"].to_pylist(), times, strict=True))

        columns = ["at", "prediction_id", "created_at"]
        for run_dir in kin_of(job.run_dir):
            damage = stream_facts(run_dir, columns=columns, begin=lambda: add)
            if damage:
                raise CheckpointDamaged(run_dir, damage=damage)
        return ids

    async def known_ids(since_ms: int) -> Mapping[str, int | None]:
        return await asyncio.to_thread(read, since_ms)

    return known_ids


def work_of(job: Job, index: int, state: CellState) -> Work:
    row, combination = divmod(index, job.grid.n_combinations)
    cell = job.grid.cell(index, job.rows.part(row))
    labels = job.grid.combination_values(combination)
    shown = {
        axis.name: cell.body.get("seed") if axis.kind == "row_seed" else labels[axis.name] for axis in job.grid.axes
    }
    return Work(cell=cell, state=state, labels=shown)


def harmed_cells(job: Job, known: Known) -> Flags:
    """Return which completed cells have images that are gone or not as they were saved. Reads every file."""
    harmed = np.zeros(len(known.statuses), dtype=np.bool_)
    if not known.states.is_saved().any():
        return harmed
    for block in read_blocks(job.grid, job.run_dir, RunIdentity.read(job.run_dir), columns=_FILE_COLUMNS):
        is_completed = known.statuses[block.cells] == STATUS_CODES[CellStatus.COMPLETED]
        cells = block.facts.filter(from_flags(is_completed))
        names = {fault.cell_id for fault in check_files(job.run_dir, cells, FileCheck())}
        if names:
            ids = block.facts["cell_id"].to_pylist()
            harmed[block.cells[[place for place, name in enumerate(ids) if name in names]]] = True
    return harmed


def backlog(job: Job, known: Known, *, harmed: Flags) -> Iterator[Download]:
    """Return the images that an earlier run left: of completed cells without files, and of those that are `harmed`."""
    is_completed = known.statuses == STATUS_CODES[CellStatus.COMPLETED]
    return downloads_of(job, np.flatnonzero(is_completed & (harmed | ~known.states.is_saved())))


def downloads_of(job: Job, cells: Ints) -> Iterator[Download]:
    """Return the images of completed cells, by their grid indexes: of what is durable of them, beside a live run too.

    The first ones are looked up before this returns, those after the next few ten thousand in a thread meanwhile.
    """
    found = _found(job, cells)
    return chain(list(islice(found, 1)), found)


def _found(job: Job, cells: Ints) -> Iterator[Download]:
    identity = RunIdentity.read(job.run_dir)
    if identity is None or not len(cells):
        return
    look_up = partial(gather, job.grid, job.run_dir, identity, columns=_BACKLOG_COLUMNS)
    masks = _by_some(cells, of=job.grid.n_indexes)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batchflux-backlog") as reader:
        coming: Future[tuple[pa.Table, Ints]] | None = reader.submit(look_up, wanted=next(masks))
        while coming is not None:
            facts, indexes = coming.result()
            mask = next(masks, None)
            coming = None if mask is None else reader.submit(look_up, wanted=mask)
            yield from _downloads(job, facts, indexes)


def _downloads(job: Job, facts: pa.Table, indexes: Ints) -> Iterator[Download]:
    order = np.argsort(indexes, kind="stable")
    order = order[list_lengths(facts["outputs"])[order] > 0]
    for first in range(0, len(order), 1024):
        places = order[first : first + 1024]
        rows = facts.select(_BACKLOG_COLUMNS).take(from_ints(places)).to_pylist()
        for index, row in zip(indexes[places].tolist(), rows, strict=True):
            work = work_of(job, index, CellState())
            yield Download(
                cell=work.cell,
                labels=work.labels,
                attempt=row["attempt"],
                prediction_id=row["prediction_id"] or "",
                urls=tuple(row["outputs"]),
            )


def _by_some(cells: Ints, *, of: int) -> Iterator[Flags]:
    """Yield cells some at a time, each time as a mask over all."""
    for first in range(0, len(cells), _BACKLOG_CELLS):
        mask = np.zeros(of, dtype=np.bool_)
        mask[cells[first : first + _BACKLOG_CELLS]] = True
        yield mask
