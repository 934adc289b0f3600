"""Which cells of a job the earlier runs that it names (`reuse:`) have completed, and whether those runs may be used.

Looking writes nothing, there or here; `takeover` makes facts of what is found.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from batchflux.app.job import Job, locate_run_dir, shown_path
from batchflux.app.reading import gather, read_known
from batchflux.app.resume import Known, PaceSeen
from batchflux.app.rundir import SANDBOX_ORIGIN, RunIdentity, is_rehearsal, twin_of
from batchflux.core.arrow import Flags, as_ints
from batchflux.core.errors import CheckpointDamaged, UsageError
from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.io.manifest import RETENTION_MS

__all__ = ["Reuse", "Source", "find_reuse"]

_MOMENTS: Final = ("created_at", "submitted_at", "completed_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An earlier run and the cells, (grid indexes,), that are taken from it."""

    run_dir: Path
    identity: RunIdentity
    cells: Flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What the earlier runs of a job's `reuse` have of it that it lacks; no cell is in two sources.

    `paces` say how fast those runs were that were looked into.
    """

    sources: tuple[Source, ...] = ()
    paces: tuple[tuple[Path, PaceSeen], ...] = ()

    @property
    def n_cells(self) -> int:
        """How many cells are to be taken over."""
        return sum(int(source.cells.sum()) for source in self.sources)

    def over(self, known: Known) -> Known:
        """Return what will be known of the cells once they are taken over."""
        statuses = known.statuses.copy()
        for source in self.sources:
            statuses[source.cells] = STATUS_CODES[CellStatus.COMPLETED]
        return replace(known, statuses=statuses)

    def within(self, known: Known) -> "Reuse":
        """Return the same without cells that are no longer wanted, since more is known of them now."""
        wanted = _wanted(known)
        return replace(self, sources=tuple(replace(source, cells=source.cells & wanted) for source in self.sources))


def find_reuse(job: Job, known: Known, *, origin: str) -> Reuse:
    """Return which cells the job's `reuse` directories have completed and it hasn't. Reads all of their facts.

    A rehearsal takes from those runs' rehearsals. Raises UsageError for a directory that can't be used, with what to
    do about it.
    """
    left = _wanted(known)
    sources: list[Source] = []
    paces: list[tuple[Path, PaceSeen]] = []
    if not left.any():  # what is not needed may be gone
        return Reuse()
    for said in job.spec.reuse:
        found = _open(job, said, origin=origin)
        if found is None or not left.any():
            continue
        place, identity = found
        try:
            theirs = read_known(job.grid, place, identity)
        except CheckpointDamaged as error:
            raise _refused(
                place,
                f"can't be believed: {'; '.join(error.damage[:3])}",
                f"batchflux verify {shown_path(place)} says more; mend it, or take it out of reuse",
            ) from error
        paces.append((place, theirs.pace))
        cells = left & (theirs.statuses == STATUS_CODES[CellStatus.COMPLETED])
        if job.spec.output.download:
            cells &= _is_to_be_had(job, place, identity, theirs, cells)
        left &= ~cells
        if cells.any():
            sources.append(Source(run_dir=place, identity=identity, cells=cells))
    return Reuse(sources=tuple(sources), paces=tuple(paces))


def _wanted(known: Known) -> Flags:
    """Tell which cells would be taken over: those pending, and those whose taking over was cut short."""
    wanted: Flags = known.statuses == STATUS_CODES[CellStatus.PENDING]
    places = known.places(CellStatus.UNKNOWN)
    is_free = as_ints(known.facts["price_micro_usd"])[places] == 0
    indexes = known.indexes[places[is_free]]
    wanted[indexes[known.statuses[indexes] == STATUS_CODES[CellStatus.UNKNOWN]]] = True
    return wanted


def _open(job: Job, said: Path, *, origin: str) -> tuple[Path, RunIdentity] | None:
    """Return an earlier run's directory and identity; None for a rehearsal of a run that was never rehearsed."""
    if not said.exists():
        twin = twin_of(said)
        if origin != SANDBOX_ORIGIN or not twin.exists():
            where = f" (its rehearsal is {shown_path(twin)})" if twin.exists() else ""
            what = f"there is no such run directory{where}"
            raise _refused(said, what, "correct the path, or take it out of reuse")
        said = twin  # rehearsed, and not run yet
    place = locate_run_dir(said)
    if origin == SANDBOX_ORIGIN and not is_rehearsal(place):
        place = twin_of(place)
        if not place.exists():
            return None
    if place.resolve() == job.run_dir.resolve():
        raise _refused(place, "is this run itself, which keeps its own cells anyway", "take it out of reuse")
    identity = RunIdentity.read(place)
    if identity is None:
        raise _refused(place, "no run was begun there", "correct the path, or take it out of reuse")
    if identity.origin != origin:
        raise _refused(
            place,
            f"was run with {identity.origin}, this job is for {origin}",
            "results of one are none of the other; take it out of reuse",
        )
    return place, identity


def _refused(place: Path, what: str, instead: str) -> UsageError:
    return UsageError(f"reuse: {shown_path(place)}: {what}; {instead}")


def _is_to_be_had(job: Job, place: Path, identity: RunIdentity, theirs: Known, cells: Flags) -> Flags:
    """Tell of which cells the images are on record there, or still kept by the service."""
    is_there = theirs.states.is_saved()
    unsaved = cells & ~is_there
    if unsaved.any():
        facts, indexes = gather(job.grid, place, identity, wanted=unsaved, columns=_MOMENTS)
        begun = np.maximum.reduce([as_ints(facts[name]) for name in _MOMENTS])
        is_there[indexes[begun + RETENTION_MS > time.time_ns() // 1_000_000]] = True
    return is_there
