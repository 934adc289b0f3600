"""A run's facts into what is known of its cells: streamed once, a part at a time, in the memory of a few bytes a cell.

What comes in is matched with the grid column by column; only cells that aren't final, and those that have left the
job, keep their facts. Whoever needs another column of some cells gathers it (`gather`) or asks for all (`blocks`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.resume import Known, PaceSeen
from batchflux.app.rundir import RunIdentity, has_facts
from batchflux.core.arrow import Flags, Ints, as_ints, from_flags, from_ints, list_lengths, numbered, places_of
from batchflux.core.cellstates import STATE_COLUMNS, CellIndex, CellStates
from batchflux.core.errors import CheckpointDamaged
from batchflux.core.forecast import measure
from batchflux.core.grid import Grid
from batchflux.core.ledger import FOLD_COLUMNS, compact, fold
from batchflux.core.model import CellStatus
from batchflux.core.progress import EXCLUDED
from batchflux.engine.hearing import KNOWN_IDS
from batchflux.io.facts import stream_facts
from batchflux.io.parts import FACT_SCHEMA, empty_table

__all__ = ["Held", "gather", "gather_retired", "lay_over", "read_known"]

_OPEN_COLUMNS: Final = (
    *FOLD_COLUMNS,
    "at",
    "attempts",
    "cost_micro_usd",
    "price_micro_usd",
    "prediction_id",
    "submitted_at",
    "created_at",
)
_RETIRED_COLUMNS: Final = (*FOLD_COLUMNS, "cost_micro_usd")
_COLUMNS: Final = tuple(dict.fromkeys([*STATE_COLUMNS, *_OPEN_COLUMNS, "completed_at", "file_bytes"]))

# Facts held before what is no longer needed of them is dropped, of some 200 bytes each.
_TIDY_ABOVE_ROWS: Final = 100_000
_UNTOLD: Final = -(2**63)
# A prediction is spoken of when it is accepted, when it ends and when its files are saved.
_MENTIONS: Final = 3
# What facts leave of freed memory between two that are kept is given back now and then: it takes a millisecond.
_RELEASE_EVERY_ROWS: Final = 500_000
# Seconds in which cells ended come in pieces, one a table; so many are made one, which costs a sort.
_PIECES: Final = 64


def read_known(grid: Grid, run_dir: Path, identity: RunIdentity | None) -> Known:
    """Return what a run's facts say of a grid's cells, nothing where none was begun.

    About 1 s for a million facts. Raise CheckpointDamaged, StorageError.
    """
    reading = _Reading(grid)

    def begin() -> Callable[[pa.Table], None]:
        nonlocal reading
        reading = _Reading(grid)
        return reading.add

    if identity is not None and has_facts(run_dir):
        damage = stream_facts(run_dir, columns=_COLUMNS, begin=begin, job_id=identity.run_id)
        if damage:
            raise CheckpointDamaged(run_dir, damage=damage)
    known = reading.known()
    del reading
    pa.default_memory_pool().release_unused()
    return known


def lay_over(grid: Grid, *tables: pa.Table) -> Known:
    """Return what facts, as they were written, say of a grid's cells; for few of them."""
    reading = _Reading(grid)
    for facts in tables:
        reading.add(facts.select(_COLUMNS))
    return reading.known()


def gather(
    grid: Grid, run_dir: Path, identity: RunIdentity, *, wanted: Flags, columns: Sequence[str]
) -> tuple[pa.Table, Ints]:
    """Return the folded facts of the wanted cells (grid indexes,), and each one's index: in the memory of those cells.

    Raise CheckpointDamaged, StorageError.
    """
    index = CellIndex(grid)

    def is_wanted(facts: pa.Table) -> Flags:
        cells = index.find(facts["cell_id"])
        chosen: Flags = (cells >= 0) & wanted[cells]
        return chosen

    found = _folded(run_dir, identity, columns=columns, keeps=is_wanted)
    return found, index.find(found["cell_id"])


def gather_retired(grid: Grid, run_dir: Path, identity: RunIdentity) -> pa.Table:
    """Return the folded facts of the cells that were run and have left the job, with all columns."""
    index = CellIndex(grid)
    return _folded(run_dir, identity, columns=FACT_SCHEMA.names, keeps=lambda facts: index.find(facts["cell_id"]) < 0)


def _folded(
    run_dir: Path, identity: RunIdentity, *, columns: Sequence[str], keeps: Callable[[pa.Table], Flags]
) -> pa.Table:
    names = tuple(dict.fromkeys([*FOLD_COLUMNS, *columns]))
    held = Held(names)

    def begin() -> Callable[[pa.Table], None]:
        nonlocal held
        held = Held(names)
        return add

    def add(facts: pa.Table) -> None:
        held.add(facts.take(places_of(keeps(facts))))
        held.tidy()

    damage = stream_facts(run_dir, columns=names, begin=begin, job_id=identity.run_id)
    if damage:
        raise CheckpointDamaged(run_dir, damage=damage)
    return held.folded()


class Held:
    """Facts that are kept for a fold, and tidied where they become many."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._tables = [empty_table(columns)]
        self._rows = self._rows_when_tidy = 0

    def add(self, facts: pa.Table) -> None:
        """Keep facts that come after those kept so far."""
        if facts.num_rows:
            self._tables.append(facts.select(self._tables[0].column_names))
            self._rows += facts.num_rows

    def tidy(self, keeps: Callable[[pa.Table], Flags] | None = None, *, always: bool = False) -> None:
        """Drop what a later fold can't need and what `keeps` doesn't, where there is much of it."""
        if self._rows > 2 * self._rows_when_tidy + _TIDY_ABOVE_ROWS or (always and self._rows):
            table = compact(pa.concat_tables(self._tables))
            if keeps is not None:
                table = table.take(places_of(keeps(table)))
            self._tables = [table]
            self._rows = self._rows_when_tidy = table.num_rows

    def folded(self) -> pa.Table:
        """Return the state of every cell of which facts are kept."""
        return fold(pa.concat_tables(self._tables))


class _Reading:
    """Takes a run's facts in, and keeps what `Known` holds of them."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._index: CellIndex | None = None
        self._states = CellStates(grid.n_indexes)
        self._open = Held(_OPEN_COLUMNS)
        self._retired = Held(_RETIRED_COLUMNS)
        self._pace = _Pace()
        self._newest = _Newest()
        self._clocks = _Clocks()
        self._rows = 0

    def add(self, facts: pa.Table) -> None:
        """Take in the next facts, with _COLUMNS."""
        if facts.num_rows == 0:
            return
        if self._index is None:
            self._index = CellIndex(self._grid)
        self._newest.add(facts)
        self._clocks.add(facts)
        self._pace.add(facts)  # of cells that have left the job too: they took their time
        cells = self._index.find(facts["cell_id"])
        is_ours = cells >= 0
        if not is_ours.all():
            self._retired.add(facts.filter(from_flags(~is_ours)))
            self._retired.tidy()
            facts, cells = facts.filter(from_flags(is_ours)), cells[is_ours]
        self._states.add(cells, facts)
        self._open.add(facts.take(places_of(self._states.is_open(cells))))
        self._open.tidy(self._is_open)
        self._rows += len(cells)
        if self._rows >= _RELEASE_EVERY_ROWS:
            self._rows = 0
            pa.default_memory_pool().release_unused()

    def known(self) -> Known:
        """Return what is known after all facts."""
        self._open.tidy(self._is_open, always=True)
        facts, retired = self._open.folded(), self._retired.folded()
        statuses = self._states.statuses()
        if self._grid.excludes_any:
            for indexes in self._grid.in_order("rows"):
                statuses[indexes[~self._grid.is_cell(indexes)]] = EXCLUDED
        return Known(
            states=self._states,
            statuses=statuses,
            facts=facts,
            indexes=self._find(facts),
            n_retired=int((numbered(retired["status"], [str(CellStatus.PENDING)], other=-1) < 0).sum()),
            spent_micro_usd=self._states.cost_micro_usd + int(as_ints(retired["cost_micro_usd"]).sum()),
            pace=self._pace.seen(),
            newest_ids=self._newest.ids(),
            clocks=self._clocks.told(),
        )

    def _find(self, facts: pa.Table) -> Ints:
        return np.empty(0, dtype=np.int64) if self._index is None else self._index.find(facts["cell_id"])

    def _is_open(self, facts: pa.Table) -> Flags:
        return self._states.is_open(self._find(facts))


class _Newest:
    """Keeps the predictions that facts spoke of last."""

    def __init__(self) -> None:
        self._tables: deque[pa.Table] = deque()
        self._rows = 0

    def add(self, facts: pa.Table) -> None:
        """Take in the next facts, and let go of those before the newest."""
        facts = facts.select(["at", "prediction_id"])
        self._tables.append(facts.filter(pc.is_valid(facts["prediction_id"])))
        self._rows += self._tables[-1].num_rows
        while self._rows - self._tables[0].num_rows >= _MENTIONS * KNOWN_IDS:
            self._rows -= self._tables.popleft().num_rows

    def ids(self) -> tuple[str, ...]:
        """Return them, each once, the oldest first."""
        if not self._rows:
            return ()
        table = pa.concat_tables(self._tables)
        table = table.take(from_ints(np.argsort(as_ints(table["at"]), kind="stable")))
        encoded = pc.dictionary_encode(pa.concat_arrays(table["prediction_id"].chunks))
        last = np.zeros(len(encoded.dictionary), dtype=np.int64)
        last[as_ints(encoded.indices)] = np.arange(table.num_rows)
        return tuple(table["prediction_id"].take(from_ints(np.sort(last)[-KNOWN_IDS:])).to_pylist())


class _Clocks:
    """Keeps how far the service's clock was ahead of ours: of the answers of a second the least and the most."""

    def __init__(self) -> None:
        self._moments: list[Ints] = []
        self._offsets: list[Ints] = []
        self._rows = self._rows_when_tidy = 0

    def add(self, facts: pa.Table) -> None:
        ours, theirs = (as_ints(facts[name], null=_UNTOLD) for name in ("submitted_at", "created_at"))
        is_told = (ours != _UNTOLD) & (theirs != _UNTOLD)
        self._moments.append(ours[is_told])
        self._offsets.append(theirs[is_told] - self._moments[-1])
        self._rows += len(self._moments[-1])
        if self._rows > 2 * self._rows_when_tidy + _TIDY_ABOVE_ROWS:
            self._tidy()

    def told(self) -> tuple[Ints, Ints]:
        """Return the moments on our clock and the offsets, each pair once."""
        if not self._moments:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        if self._rows > _TIDY_ABOVE_ROWS:
            self._tidy()
        pairs = np.unique(np.stack([np.concatenate(self._moments), np.concatenate(self._offsets)], axis=1), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _tidy(self) -> None:
        """Keep of each second the least and the most, at its first moment."""
        moments, offsets = np.concatenate(self._moments), np.concatenate(self._offsets)
        order = np.argsort(moments, kind="stable")  # nearly sorted as they come
        moments, offsets = moments[order], offsets[order]
        firsts = np.flatnonzero(np.append(True, np.diff(moments // 1000) != 0))
        self._moments = [moments[firsts], moments[firsts]]
        self._offsets = [np.minimum.reduceat(offsets, firsts), np.maximum.reduceat(offsets, firsts)]
        self._rows = self._rows_when_tidy = 2 * len(firsts)


class _Pace:
    """Adds up when cells ended, how long they took and how large their images are."""

    def __init__(self) -> None:
        self._ended: list[tuple[Ints, Ints]] = []
        self._n_timed = self._latency_ms = self._files = self._file_bytes = 0
        self._newest_ms: int | None = None

    def add(self, facts: pa.Table) -> None:
        self._newest_ms = max(self._newest_ms or 0, int(as_ints(facts["at"]).max()))
        sizes = list_lengths(facts["file_bytes"])
        if sizes.any():
            self._files += int(sizes.sum())
            self._file_bytes += sum(int(as_ints(chunk.flatten()).sum()) for chunk in facts["file_bytes"].chunks)
        finals = [str(CellStatus.COMPLETED), str(CellStatus.FAILED)]
        ended, begun = (as_ints(facts[name]) for name in ("completed_at", "submitted_at"))
        is_final = (numbered(facts["status"], finals, other=-1) >= 0) & (ended > 0)
        if is_final.any():
            self._ended.append(np.unique(ended[is_final] // 1000, return_counts=True))
            if len(self._ended) >= _PIECES:
                self._ended = [self._merged()]
            is_timed = is_final & (begun > 0) & (begun <= ended)
            self._n_timed += int(is_timed.sum())
            self._latency_ms += int((ended[is_timed] - begun[is_timed]).sum())

    def _merged(self) -> tuple[Ints, Ints]:
        """Return the seconds in which cells ended, each once, and how many did."""
        seconds, places = np.unique(np.concatenate([seconds for seconds, _ in self._ended]), return_inverse=True)
        counts = np.zeros(len(seconds), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([counts for _, counts in self._ended]))
        return seconds, counts

    def seen(self) -> PaceSeen:
        """Return how many cells ended in each span of the time at work, and the means of latencies and image sizes."""
        image_bytes = self._file_bytes // self._files if self._files else None
        return PaceSeen(
            measured=measure(*self._merged()) if self._ended else None,
            latency_s=self._latency_ms / self._n_timed / 1000 if self._n_timed else None,
            image_bytes=image_bytes or None,
            newest_at_ms=self._newest_ms,
        )
