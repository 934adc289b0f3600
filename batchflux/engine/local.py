"""Runs the cells of a job on this machine: workers that pull cells, drive their flows, and stop as asked.

Never one task a cell: a fixed number of workers share one iterator. What befalls a cell is a value; only what ends the
job is raised (StorageError), and not before open submissions are heard out. Submissions leave by `_submit` alone, after
their intent is durable, and nothing around it sends one again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import assert_never

from batchflux.core.errors import BatchfluxError
from batchflux.core.flow import cell_flow
from batchflux.core.model import CellStatus, Fact, FactKind, Fault, Prediction
from batchflux.core.polling import LatencyBook, PollPace
from batchflux.core.progress import Progress
from batchflux.core.protocol import NotSent, build_result, build_submit, decipher_result, encode_body
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import Answered, Event, FlowRules, Looked, NoMore, Poll, Record, Submit, Wait
from batchflux.engine.control import Admission
from batchflux.engine.downloading import DownloadPool
from batchflux.engine.hearing import Hearing
from batchflux.engine.ports import Download, Observer, Sink, StopReason, Transport, Work
from batchflux.engine.reconciling import Reconciler
from batchflux.engine.resolving import Resolver
from batchflux.engine.source import WorkSource

__all__ = ["Engine"]

PULSE_S = 1.0
# How long open POSTs are waited for at a stop, and where nobody asked for one: as long as a POST may take (io.client).
_DRAIN_S = 10.0
_DRAIN_AFTER_FAILURE_S = 60.0


class _Abandoned(Exception):
    """Ends the task group when nothing in flight is to be waited for."""


@dataclass(kw_only=True)
class Engine:
    """One run. `wall_ms` is the wall clock in epoch milliseconds, `dice` draws from 0..1.

    `price_of` gives a cell's price in micro-USD; `downloads` is None where images aren't wanted. `most_workers` bounds
    the predictions in flight together with the admission's window. `ids_before` are the newest prediction ids of
    earlier sessions, the oldest first: an answer that brings one of them was not meant for its submission.
    """

    transport: Transport
    sink: Sink
    observer: Observer
    admission: Admission
    progress: Progress
    downloads: DownloadPool | None
    base_url: str
    max_attempts: int
    timeout_s: float
    most_workers: int
    price_of: Callable[[Work], int]
    wall_ms: Callable[[], int]
    dice: Callable[[], float]
    pulse: Callable[[], Awaitable[None]]
    settle_s: float
    known_ids: Callable[[int], Awaitable[Mapping[str, int | None]]]
    listed_params: Mapping[str, frozenset[str]] | None = None
    resubmits_unknown: bool = False
    drops_flagged: bool = False
    ids_before: Iterable[str] = ()

    _start_worker: Callable[[], asyncio.Task[None]] = field(init=False, repr=False)
    _now_s: Callable[[], float] = field(init=False, repr=False)  # the loop's clock

    def __post_init__(self) -> None:
        pace = PollPace()
        self.books: defaultdict[str, LatencyBook] = defaultdict(lambda: LatencyBook(pace))
        self.resolver = Resolver(
            sink=self.sink,
            observer=self.observer,
            admission=self.admission,
            progress=self.progress,
            wall_ms=self.wall_ms,
            resubmits=self.resubmits_unknown,
            reconciler=Reconciler(
                transport=self.transport,
                observer=self.observer,
                base_url=self.base_url,
                settle_s=self.settle_s,
                listed_params=self.listed_params,
                known_ids=self.known_ids,
                wall_ms=self.wall_ms,
                dice=self.dice,
            ),
        )
        self._hearing = Hearing(
            admission=self.admission,
            resolver=self.resolver,
            observer=self.observer,
            base_url=self.base_url,
            wall_ms=self.wall_ms,
        )
        for prediction_id in self.ids_before:
            self._hearing.remember(prediction_id)
        self._workers: list[asyncio.Task[None]] = []
        self._driving = 0
        self._failure: BatchfluxError | None = None

    async def run(self, work: Iterator[Work], lost: Sequence[tuple[Work, Unresolved]] = ()) -> StopReason | None:
        """Run all work to its end, or until the admission's switch is turned; returns why it stopped early, if it did.

        `lost` are submissions that an earlier run left without an answer: they are resolved while this one goes on.
        Raises StorageError where the disk refuses; what was durable stays durable.
        """
        self._now_s = asyncio.get_running_loop().time
        source = WorkSource(work, admission=self.admission)
        self.resolver.give_to(source)
        for item, unresolved in lost:
            self.resolver.add(replace(item, is_paid_before=True), unresolved)
        try:
            async with asyncio.TaskGroup() as group:
                attend = (self._watch_for_abandon, self._beat, self.sink.run, self.resolver.run)
                attendants = [group.create_task(self._guard(attendant)) for attendant in attend]
                fetch = self.downloads.fetchers() if self.downloads is not None else []
                fetchers = [group.create_task(self._guard(fetcher)) for fetcher in fetch]
                self._start_worker = lambda: group.create_task(self._guard(partial(self._work, source)))
                self._workers.append(self._start_worker())
                while at_work := {worker for worker in self._workers if not worker.done()}:
                    await asyncio.wait(at_work)
                if self.downloads is not None:
                    self.downloads.close()
                    await asyncio.wait(fetchers)
                for attendant in attendants:
                    attendant.cancel()
        except* _Abandoned:
            pass
        if self._failure is not None:
            raise self._failure
        return self.admission.switch.reason

    def expected_s(self) -> float:
        """Return how long a submission made now is likely to take, in seconds: nine in ten are done by then."""
        return max((book.expected_s() for book in self.books.values()), default=LatencyBook().expected_s())

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one of the run's tasks. What ends the job, as a full disk does, ends it only when POSTs are heard out."""
        try:
            await task()
        except BatchfluxError as error:
            if self._failure is None:
                self._failure = error
                self.observer.note("failing", error=str(error), open_posts=self.admission.open_posts)
            self.admission.switch.stop(StopReason(kind="trouble", message=str(error)), abandon=True)

    async def _watch_for_abandon(self) -> None:
        await self.admission.switch.abandoned.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S if self._failure is None else _DRAIN_AFTER_FAILURE_S):
                await self.admission.no_open_posts.wait()
        raise _Abandoned

    async def _beat(self) -> None:
        """Once a second, for as long as the run lasts, let the house be kept: seals, disk, progress, manifest."""
        while True:
            await asyncio.sleep(PULSE_S)
            self.progress.in_flight = self.admission.window.in_flight
            await self.pulse()

    async def _work(self, source: WorkSource) -> None:
        while (item := await source.next()) is not None:
            try:
                if item.state.prediction_id is not None:
                    self._hearing.remember(item.state.prediction_id)
                    item = replace(item, is_paid_before=item.is_paid_before or not item.is_again)
                    self.admission.window.started()
                    await self._drive_with_relief(item, admitted=False)
                elif await self._admit(item, is_new_cell=not item.is_again):
                    await self._drive_with_relief(item, admitted=True)
            finally:
                source.finished()

    async def _drive_with_relief(self, item: Work, *, admitted: bool) -> None:
        """Drive a cell while another worker stands ready for the next one: as many are started as are needed."""
        self._driving += 1
        if self._driving == len(self._workers) < self.most_workers:
            self._workers.append(self._start_worker())
        try:
            await self._drive(item, admitted=admitted)
        finally:
            self._driving -= 1

    async def _admit(self, item: Work, *, is_new_cell: bool) -> bool:
        price = self.price_of(item)
        return await self.admission.admit(price_micro_usd=price, images=item.cell.images, is_new_cell=is_new_cell)

    async def _drive(self, item: Work, *, admitted: bool) -> None:
        """Drive one cell's flow to its end. A slot is held from admission until the flow lets go of it."""
        body = encode_body(item.cell.body)
        rules = FlowRules(
            max_attempts=self.max_attempts,
            timeout_s=self.timeout_s,
            price_micro_usd=self.price_of(item),
            drops_flagged=self.drops_flagged,
        )
        flow = cell_flow(
            item.cell,
            body_json=body.decode(),
            rules=rules,
            book=self.books[item.cell.model],
            state=item.state,
            start=self._looked(),
        )
        event: Event | None = None
        holds, has_submitted = True, False
        final: Fact | None = None
        try:
            while True:
                try:
                    command = next(flow) if event is None else flow.send(event)
                except StopIteration as end:
                    final = end.value
                    break
                match command:
                    case Submit():
                        if not admitted:
                            if holds:
                                self.admission.slot_freed()
                                holds = False
                            holds = await self._admit(item, is_new_cell=False)
                            if not holds:
                                event = NoMore()
                                continue
                        admitted = False
                        has_submitted = True
                        if item.is_paid_before:
                            item = replace(item, is_paid_before=False)
                        event = await self._submit(item, command, body)
                    case Poll(prediction_id=prediction_id):
                        event = await self._poll(prediction_id)
                    case Wait(seconds=seconds):
                        await asyncio.sleep(seconds)
                        event = self._looked()
                    case Record(fact=fact, frees_micro_usd=freed):
                        self._record(item, fact, freed_micro_usd=freed)
                        event = self._looked()
                    case _:
                        assert_never(command)
        finally:
            flow.close()
            if holds:
                self.admission.slot_freed()
        if final is not None and has_submitted and final.status is CellStatus.COMPLETED:
            self.admission.window.completed(
                latency_s=(final.latency_ms or 0) / 1000,
                worked_s=final.inference_ms / 1000 if final.inference_ms else None,
                now_s=self._now_s(),
            )
        if final is not None and final.kind is FactKind.UNANSWERED:
            self.resolver.add(item, Unresolved.of(final, price_micro_usd=rules.price_micro_usd))
        if final is not None and final.error_kind == "credit":
            # The next ones would be accepted and fail just so: the account is empty, not the cell wrong.
            fault = Fault(kind="credit", message=final.error or "no credit")
            self.admission.switch.stop(StopReason(kind="trouble", message=fault.message, fault=fault))
        if final is not None and final.status is CellStatus.COMPLETED and self.downloads is not None:
            self.downloads.put(
                Download(
                    cell=item.cell,
                    labels=item.labels,
                    attempt=final.attempt,
                    prediction_id=final.prediction_id or "",
                    urls=final.outputs,
                )
            )

    def _record(self, item: Work, fact: Fact, *, freed_micro_usd: int) -> None:
        self.sink.record(fact)
        if freed_micro_usd:
            self.admission.budget.release(freed_micro_usd, of_this_session=not item.is_paid_before)
            self.admission.changed()
        self.progress.spent_micro_usd = self.admission.budget.life_micro_usd
        self.progress.apply(item.cell.index, fact, now_s=self._now_s())
        self.observer.fact(fact)

    def _looked(self, result: Prediction | Fault | None = None) -> Looked:
        return Looked(at_ms=self.wall_ms(), now_s=self._now_s(), dice=self.dice(), result=result)

    # ------------------------------------------------------------------------------------------ submissions

    async def _submit(self, item: Work, command: Submit, body: bytes) -> Answered:
        """Make the intent durable, send the POST once, and tell the limits what came of it."""
        request = build_submit(self.base_url, item.cell.model, body)
        try:
            # Dated when it leaves: it may have waited long for its place, and is looked for from this moment on.
            intent, at_ms = command.intent, self.wall_ms()
            await self.sink.intent(intent if intent.at_ms == at_ms else replace(intent, at_ms=at_ms))
            sent_at_ms, sent_at_s = self.wall_ms(), self._now_s()
            if self.admission.switch.abandoned.is_set():
                # It was let in before a signal came, or before the disk failed: from then on nothing leaves.
                self.admission.breaker.not_sent()
                withdrawn = NotSent(fault=Fault(kind="network", message="the run was stopped before this was sent"))
                return Answered(answer=withdrawn, sent_at_ms=sent_at_ms, at_ms=sent_at_ms, now_s=sent_at_s)
            with self.resolver.open_post(sent_at_ms):
                raw = await self.transport.send(request)
        finally:
            self.admission.post_closed()
        now_s = self._now_s()
        answer = self._hearing.submitted(item, raw, sent_at_ms=sent_at_ms, sent_at_s=sent_at_s, now_s=now_s)
        return Answered(answer=answer, sent_at_ms=sent_at_ms, at_ms=self.wall_ms(), now_s=now_s)

    # ------------------------------------------------------------------------------------------ queries

    async def _poll(self, prediction_id: str) -> Looked:
        """Ask once for a prediction's result; what goes wrong is the service's health, never the cell's fate."""
        raw = await self.transport.send(build_result(self.base_url, prediction_id))
        result = decipher_result(raw, prediction_id)
        self._hearing.queried(prediction_id, result, now_s=self._now_s())
        return self._looked(result)
