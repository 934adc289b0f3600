"""Takes lost submissions in, and carries out what the reconciler finds: states the fact, frees the money, gives the
cell back to the workers or holds it. The books of what is unresolved are kept here, and nowhere else.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from batchflux.core.model import Fault
from batchflux.core.progress import Progress
from batchflux.core.reconcile import LostSubmission, Verdicts
from batchflux.core.resolution import Resolution, Unresolved, adopt, hold, release
from batchflux.engine.control import Admission
from batchflux.engine.ports import Observer, Sink, Work
from batchflux.engine.reconciling import KNOWN_SKEW_MS, Reconciler
from batchflux.engine.source import WorkSource

__all__ = ["Resolver"]

# A line that drops one submission in five loses eight of one cell in a row once in 400,000 cells.
_MOST_ABSENCES = 8


@dataclass(kw_only=True)
class Resolver:
    """What the engine knows of submissions without an answer. `resubmits` is the user's word to send again what
    can't be told, though it may be paid twice."""

    sink: Sink
    observer: Observer
    admission: Admission
    progress: Progress
    reconciler: Reconciler
    wall_ms: Callable[[], int]
    resubmits: bool
    _began_ms: int = field(init=False)
    _unresolved: dict[str, tuple[Work, Unresolved]] = field(default_factory=dict)
    _open_since_ms: list[int] = field(default_factory=list)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _source: WorkSource | None = None
    _named_at_ms: int = 0  # when an answer to a submission last named a prediction
    _absences: Counter[str] = field(default_factory=Counter)  # by cell: absent although others were answered

    def __post_init__(self) -> None:
        self._began_ms = self.wall_ms()

    def give_to(self, source: WorkSource) -> None:
        """Say where cells go that are to be run on."""
        self._source = source

    def saw_named(self, at_ms: int) -> None:
        """Take in that an answer to a submission named a prediction, its own or another's: submissions pass."""
        self._named_at_ms = at_ms

    @contextmanager
    def open_post(self, sent_at_ms: int) -> Iterator[None]:
        """Keep a POST on the books while it is open."""
        self._open_since_ms.append(sent_at_ms)
        try:
            yield
        finally:
            self._open_since_ms.remove(sent_at_ms)
            self._closed.set()

    def learn_clock(self, created_at_ms: int | None, *, sent_at_ms: int, heard_at_ms: int) -> None:
        """Take in one answer's moment on the service's clock; it lies between the two of ours, the closer the better.

        A slow answer tells less than a quick one did, unless the two contradict each other: then a clock was set.
        """
        if created_at_ms is None:
            return
        clocks = self.reconciler
        offset_ms, error_ms = created_at_ms - (sent_at_ms + heard_at_ms) // 2, (heard_at_ms - sent_at_ms + 1) // 2
        before_ms = clocks.clock_offset_ms
        is_contradiction = before_ms is not None and abs(offset_ms - before_ms) > (
            error_ms + clocks.clock_error_ms + KNOWN_SKEW_MS
        )
        if before_ms is None or error_ms <= clocks.clock_error_ms or is_contradiction:
            clocks.clock_offset_ms, clocks.clock_error_ms = offset_ms, error_ms

    def add(self, item: Work, lost: Unresolved) -> None:
        """Take in a submission without an answer."""
        self._unresolved[lost.cell_id] = (item, lost)
        self.admission.unresolved = len(self._unresolved)
        self.reconciler.add(
            LostSubmission(
                cell_id=lost.cell_id,
                index=item.cell.index,
                model=item.cell.model,
                body=json.loads(json.dumps(dict(item.cell.body))),
                sent_at_ms=lost.sent_at_ms,
                seen_at_ms=lost.seen_at_ms,
                clock_offsets_ms=lost.clock_offsets_ms,
            )
        )

    async def run(self) -> None:
        """Resolve what is lost, batch by batch, until cancelled."""
        while True:
            batch, found = await self.reconciler.next_verdicts(self._quiet_before)
            if isinstance(found, Fault):
                for each in batch:
                    self._hold(each, why=f"it was not answered, and the history can't tell: {found.message}")
            else:
                self._carry_out(found)
            self.observer.note("reconciled", submissions=len(batch), unresolved=len(self._unresolved))

    async def _quiet_before(self, moment_ms: int) -> None:
        while any(since_ms <= moment_ms for since_ms in self._open_since_ms):
            self._closed.clear()
            await self._closed.wait()

    def _carry_out(self, verdicts: Verdicts) -> None:
        at_ms = self.wall_ms()
        for adopted in verdicts.adopted:
            item, lost = self._unresolved[adopted.lost.cell_id]
            if item.is_paid_before and self.reconciler.may_be_made_since(self._began_ms, adopted.item):
                # Equal bodies match in any order, so what this session bought may be given to an earlier one's cell,
                # and its own submission be found absent: then that frees what is counted here.
                self.admission.budget.count_for_session(lost.price_micro_usd)
            self._settle(item, adopt(lost, adopted.item, at_ms=at_ms), goes_on=True)
        for each in verdicts.absent:
            self._release(each, at_ms=at_ms)
        for held in verdicts.held:
            self._hold(held.lost, why="it was not answered", candidates=held.candidates)

    def _release(self, each: LostSubmission, *, at_ms: int) -> None:
        """Give a cell back that was proven not accepted; one that alone never comes through is left to the next run."""
        item, lost = self._unresolved[each.cell_id]
        self._absences[each.cell_id] += self._named_at_ms >= lost.sent_at_ms
        times = self._absences[each.cell_id]
        goes_on = times < _MOST_ABSENCES
        resolution = release(lost, at_ms=at_ms, times=None if goes_on else times)
        self._settle(item, resolution, goes_on=goes_on)

    def _hold(self, each: LostSubmission, *, why: str, candidates: tuple[str, ...] = ()) -> None:
        item, lost = self._unresolved[each.cell_id]
        resolution = hold(lost, why=why, candidates=candidates, at_ms=self.wall_ms())
        self._settle(item, resolution, goes_on=self.resubmits)

    def _settle(self, item: Work, resolution: Resolution, *, goes_on: bool) -> None:
        """State what was found and take the submission off the books; the cell goes on, or is held."""
        fact = resolution.fact
        self.sink.record(fact)
        if resolution.frees_micro_usd:
            self.admission.budget.release(resolution.frees_micro_usd, of_this_session=not item.is_paid_before)
        self.progress.spent_micro_usd = self.admission.budget.life_micro_usd
        self.progress.apply(item.cell.index, fact, now_s=asyncio.get_running_loop().time())
        self.observer.fact(fact)
        del self._unresolved[fact.cell_id]
        self.admission.unresolved = len(self._unresolved)
        if self._source is not None:
            if goes_on:
                self._source.give_back(replace(item, state=resolution.state, is_again=True))
            self._source.wake()
        self.admission.changed()
