"""Cells of earlier runs become facts of this one, at no cost: `reuse` says which.

For each an intent of price nothing, the outcome that the other run heard, and the files that lie here by then: killed
between any two of them, the next start finds the cell again.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, Self

import numpy as np

from batchflux.app.job import Job
from batchflux.app.reading import gather
from batchflux.app.resume import Known
from batchflux.app.reuse import Reuse, Source
from batchflux.app.work import work_of
from batchflux.core.arrow import Flags, from_ints
from batchflux.core.flagged import dropped_note, unflagged
from batchflux.core.flow import intent_fact
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.naming import image_path
from batchflux.core.protocol import encode_body
from batchflux.core.steps import FlowRules
from batchflux.engine.ports import Work
from batchflux.io.checkpoint import CheckpointWriter
from batchflux.io.takeover import take_file

__all__ = ["take_over"]

_THREADS: Final = 4  # hashing lets other threads run, and more only make a disk seek
_CELLS_AT_ONCE: Final = 1 << 14
_FILES_AT_ONCE: Final = 64  # what a kill may leave brought and not stated, to be brought again
_COLUMNS: Final = (
    "prediction_id",
    "submitted_at",
    "completed_at",
    "latency_ms",
    "created_at",
    "inference_ms",
    "outputs",
    "has_nsfw_contents",
    "files",
    "sha256",
    "warnings",
)


async def take_over(job: Job, known: Known, reuse: Reuse, sink: CheckpointWriter) -> int:
    """Bring the cells' files and state them as completed; returns how many. Raises StorageError, CheckpointDamaged."""
    taken = 0
    clock = asyncio.get_running_loop().time
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="batchflux-reuse") as pool:
        for source in reuse.sources:
            for some in _by_some(source.cells):
                rows = await asyncio.to_thread(_read, job, known, source, some)
                for first in range(0, len(rows), _FILES_AT_ONCE):
                    cells = [_Taken.of(job, source, row, work) for row, work in rows[first : first + _FILES_AT_ONCE]]
                    brought = await asyncio.to_thread(list, pool.map(partial(_bring, job, source), cells))
                    for cell, sizes in zip(cells, brought, strict=True):
                        for fact in cell.facts(sizes):
                            sink.record(fact)
                    taken += len(cells)
                    await sink.seal_if_due(clock())
    await sink.flushed()
    return taken


def _by_some(wanted: Flags) -> Iterator[Flags]:
    """Yield the wanted cells some at a time, each time as a mask over all."""
    places = np.flatnonzero(wanted)
    for first in range(0, len(places), _CELLS_AT_ONCE):
        mask = np.zeros_like(wanted)
        mask[places[first : first + _CELLS_AT_ONCE]] = True
        yield mask


def _read(job: Job, known: Known, source: Source, wanted: Flags) -> list[tuple[dict[str, Any], Work]]:
    """Return what the other run knows of some cells, with the cells as this one has them, in grid order."""
    facts, indexes = gather(job.grid, source.run_dir, source.identity, wanted=wanted, columns=_COLUMNS)
    order = np.argsort(indexes, kind="stable")
    rows = facts.take(from_ints(order)).to_pylist()
    return [
        (row, work_of(job, index, known.flow_of(index)))
        for index, row in zip(indexes[order].tolist(), rows, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file of the other run, and where it is to lie here."""

    name: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A cell that is taken over: its intent, its outcome, and the files to bring."""

    intent: Fact
    outcome: Fact
    files: tuple[_File, ...]

    @classmethod
    def of(cls, job: Job, source: Source, row: dict[str, Any], work: Work) -> Self:
        """Return what the other run's facts of a cell are here."""
        intent = _intent(work, at_ms=time.time_ns() // 1_000_000)
        outputs, flags = tuple(row["outputs"]), tuple(row["has_nsfw_contents"])
        places = tuple(range(len(outputs)))
        kept = unflagged(len(outputs), flags) if job.spec.run.on_nsfw == "drop" else places
        outcome = replace(
            intent,
            kind=FactKind.OUTCOME,
            status=CellStatus.COMPLETED,
            prompt_id=None,
            model=None,
            body=None,
            price_micro_usd=None,
            error_kind=None,
            error=None,
            prediction_id=row["prediction_id"],
            submitted_at_ms=_epoch_ms(row["submitted_at"]),
            completed_at_ms=_epoch_ms(row["completed_at"]),
            latency_ms=row["latency_ms"],
            created_at_ms=_epoch_ms(row["created_at"]),
            inference_ms=row["inference_ms"],
            outputs=tuple(outputs[place] for place in kept),
            has_nsfw_contents=tuple(flags[place] for place in kept if place < len(flags)),
            warnings=(*row["warnings"], *dropped_note(len(outputs), len(kept))),
            reused_from=source.run_dir.name,
        )
        files = []
        if len(row["files"]) == len(row["sha256"]) == len(outputs):
            for number, place in enumerate(kept):
                extension = PurePosixPath(row["files"][place]).suffix.removeprefix(".")
                path = image_path(work.cell, work.labels, number=number + 1, extension=extension)
                files.append(_File(name=row["files"][place], path=path, sha256=row["sha256"][place]))
        return cls(intent=intent, outcome=outcome, files=tuple(files))

    def facts(self, sizes: list[int] | None) -> Iterator[Fact]:
        """Yield the facts to state, in order; `sizes` are those of the files, None where they were not brought."""
        yield self.intent
        yield self.outcome
        if sizes:
            yield Fact(
                cell_id=self.outcome.cell_id,
                kind=FactKind.FILES,
                at_ms=self.outcome.at_ms,
                attempt=self.outcome.attempt,
                status=CellStatus.COMPLETED,
                prediction_id=self.outcome.prediction_id,
                files=tuple(each.path for each in self.files),
                sha256=tuple(each.sha256 for each in self.files),
                file_bytes=tuple(sizes),
            )


def _intent(work: Work, *, at_ms: int) -> Fact:
    """Return what a cell is known by where it has left the job one day; nothing is sent, so nothing is its price."""
    cell = work.cell
    rules = FlowRules(max_attempts=1, timeout_s=0.0, price_micro_usd=0)
    return intent_fact(cell, body_json=encode_body(cell.body).decode(), state=work.state, rules=rules, at_ms=at_ms)


def _bring(job: Job, source: Source, cell: _Taken) -> list[int] | None:
    """Bring a cell's files; returns their sizes, None where any isn't there as hashed: then all come from the URLs."""
    if not job.spec.output.download:
        return None
    sizes = []
    for each in cell.files:
        size_bytes = take_file(source.run_dir, each.name, job.run_dir, each.path, sha256=each.sha256)
        if size_bytes is None:
            return None
        sizes.append(size_bytes)
    return sizes


def _epoch_ms(moment: Any) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
