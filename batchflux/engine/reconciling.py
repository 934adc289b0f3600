"""Finds out what became of submissions that nobody answered, together, while the run goes on.

It waits until the service must have settled, lists the account's history twice, and hands the settled listing to
`core.reconcile`. Submits nothing: adopted cells and proven absences go back to the workers, the rest is held.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from batchflux.core.history import PAGE_SIZE, HistoryItem, build_history, decipher_history
from batchflux.core.model import Fault
from batchflux.core.reconcile import LostSubmission, Verdicts, judge
from batchflux.core.retry import Backoff
from batchflux.engine.ports import Observer, Transport

__all__ = ["KNOWN_SKEW_MS", "Found", "Reconciler"]

# Where no answer has told how far the service's clock is from ours.
_UNKNOWN_SKEW_MS = 15 * 60_000
KNOWN_SKEW_MS = 5_000
# An earlier run's answers tell its clock's offset to within the time that a POST may take.
_EARLIER_SKEW_MS = 60_000 + KNOWN_SKEW_MS
# The service keeps predictions for a week (documentation): what left before it, less an hour, no listing can prove.
_REACH_MS = (7 * 24 - 1) * 3600 * 1000
_BEYOND_REACH = Fault(kind="unknown_outcome", message="the history reaches back a week only")
_MAX_PAGES = 1000
_TRIES = 6
_BACKOFF = Backoff(first_s=2.0, most_s=60.0, jitter=0.3)


_Told = TypeVar("_Told")
_Listing = tuple[HistoryItem, ...]


class _Sent(NamedTuple):
    """When something was sent and when given up, on our clock; the offsets are as in `Unresolved`."""

    sent_ms: int
    seen_ms: int
    clock_offsets_ms: tuple[int, int] | None


class Found(NamedTuple):
    """What the history holds: predictions that this run has no record of, oldest first, and those that it made."""

    strangers: _Listing
    ours: _Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """When what is looked for was sent."""

    sent: tuple[_Sent, ...]

    @property
    def first_ms(self) -> int:
        """When the first of them was sent."""
        return min(each.sent_ms for each in self.sent)

    @property
    def last_ms(self) -> int:
        """When the last of them was given up."""
        return max(each.seen_ms for each in self.sent)


@dataclass(kw_only=True)
class Reconciler:
    """One run's reconciliation. `settle_s` is how long the service may still be at work on a lost submission.

    `known_ids(since_ms)` gives every prediction id that this run was ever given since a moment of our clock, with
    the service's time of it; `clock_offset_ms` is the service's clock minus ours, None until an answer has told; it may
    be wrong by `clock_error_ms`, since nobody knows when within a submission's time the service made the prediction.
    """

    transport: Transport
    observer: Observer
    base_url: str
    settle_s: float
    listed_params: Mapping[str, frozenset[str]] | None
    known_ids: Callable[[int], Awaitable[Mapping[str, int | None]]]
    wall_ms: Callable[[], int]
    dice: Callable[[], float]
    clock_offset_ms: int | None = None
    clock_error_ms: int = 0
    _lost: list[LostSubmission] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, lost: LostSubmission) -> None:
        """Take in a submission without an answer."""
        self._lost.append(lost)
        self._news.set()

    def may_be_made_since(self, moment_ms: int, item: HistoryItem) -> bool:
        """Return whether the service may have made a prediction after a moment of our clock."""
        created_at_ms = item.prediction.created_at_ms
        return created_at_ms is None or created_at_ms >= moment_ms + (self.clock_offset_ms or 0) - self._skew_ms()

    def _skew_ms(self) -> int:
        """Return by how much the service's clock may differ from what is known of it."""
        return _UNKNOWN_SKEW_MS if self.clock_offset_ms is None else KNOWN_SKEW_MS + self.clock_error_ms

    async def next_verdicts(
        self, quiet_before: Callable[[int], Awaitable[None]]
    ) -> tuple[tuple[LostSubmission, ...], Verdicts | Fault]:
        """Wait for lost submissions to settle and judge them; `quiet_before(ms)` returns once no POST that left
        up to a moment of our clock is open, since what it made would be listed and not known yet."""
        while not self._lost:
            self._news.clear()
            await self._news.wait()
        batch = await self._settled()
        return batch, await self._judge(batch, quiet_before)

    async def _settled(self) -> tuple[LostSubmission, ...]:
        """Wait for the oldest to settle, and take all that have by then."""
        settle_ms = round(self.settle_s * 1000)
        ready_ms = min(each.seen_at_ms for each in self._lost) + settle_ms
        await asyncio.sleep(max(0.0, (ready_ms - self.wall_ms()) / 1000))
        now_ms = max(self.wall_ms(), ready_ms)
        settled = [each for each in self._lost if each.seen_at_ms + settle_ms <= now_ms]
        # Those beyond the history's reach are told apart, lest they leave the others without an answer.
        batch = [each for each in settled if self._is_beyond_reach(each)] or settled
        self._lost = [each for each in self._lost if each not in batch]
        return tuple(batch)

    def _is_beyond_reach(self, lost: LostSubmission) -> bool:
        return lost.sent_at_ms < self.wall_ms() - _REACH_MS

    async def _judge(
        self, batch: tuple[LostSubmission, ...], quiet_before: Callable[[int], Awaitable[None]]
    ) -> Verdicts | Fault:
        """Return the verdicts on a batch, or why the history can't be had."""
        if self._is_beyond_reach(batch[0]):
            return _BEYOND_REACH

        def tell(listing: _Listing, known: Collection[str]) -> tuple[Verdicts, object]:
            told = judge(batch, listing, known_ids=known, listed_params=self.listed_params)
            return told, _answers(told)

        span = _Span(
            sent=tuple(_Sent(each.sent_at_ms, each.seen_at_ms, each.clock_offsets_ms) for each in batch),
        )
        return await self._settle(span, quiet_before, tell)

    async def find_strangers(
        self,
        *,
        since_ms: int,
        until_ms: int,
        clock_offsets_ms: tuple[int, int] | None,
    ) -> Found | Fault:
        """Return the predictions that the service holds, made between two moments of our clock, once all that was sent
        by then must have settled; or why they can't be had.

        `since_ms` is 0 where nothing tells it. Nothing of ours may be on its way: whatever is made meanwhile has no
        record either.
        """
        if min(since_ms or until_ms, until_ms) < self.wall_ms() - _REACH_MS:
            return _BEYOND_REACH
        # Whoever wrote until then has ended, so it is past, whatever a clock says that was set meanwhile.
        await asyncio.sleep(self.settle_s + min(0.0, (until_ms - self.wall_ms()) / 1000))

        def tell(listing: _Listing, known: Collection[str]) -> tuple[Found, object]:
            strange = [item for item in listing if item.prediction.id not in known]
            strange.sort(key=lambda item: (item.prediction.created_at_ms or 0, item.prediction.id))
            ours = tuple(item for item in listing if item.prediction.id in known)
            return Found(tuple(strange), ours), {item.prediction.id for item in strange}

        sent = _Sent(max(since_ms, self.wall_ms() - _REACH_MS), until_ms, clock_offsets_ms)
        span = _Span(sent=(sent,))
        return await self._settle(span, _at_once, tell)

    async def _settle(
        self,
        span: _Span,
        quiet_before: Callable[[int], Awaitable[None]],
        tell: Callable[[_Listing, Collection[str]], tuple[_Told, object]],
    ) -> _Told | Fault:
        """Return what two listings in a row tell alike, the second one complete; or why there are no such two.

        `tell` makes of a listing and the ids known what is wanted, and what of it must be equal in both.
        """
        after_ms, before_ms = self._bounds(span)
        fault = Fault(kind="unknown_outcome", message="the history was not asked")
        before: _Listing | None = None
        for tries in range(1, _TRIES + 1):
            listing = await self._list(after_ms=after_ms, before_ms=before_ms)
            if isinstance(listing, Fault):
                fault, before = listing, None
                self.observer.note("history", error_kind=fault.kind, error=fault.message)
                if fault.kind in ("not_found", "auth"):
                    return fault
                await asyncio.sleep(_BACKOFF.wait_for(fault, tries, dice=self.dice()))
                continue
            ids = frozenset(item.prediction.id for item in listing)
            await quiet_before(self.wall_ms())  # whatever left since then is in no listing so far
            known = await self.known_ids(span.first_ms)
            missing = self._missing(known, ids, span, after_ms=after_ms)
            if before is not None and not missing:
                # Of a busy account no two listings are the same: they must agree on what was asked.
                told, gist = tell(listing, known.keys())
                if ids == {item.prediction.id for item in before} or gist == tell(before, known.keys())[1]:
                    return told
            what = f"the history lacks {missing} predictions that it gave us" if missing else "it keeps changing"
            fault, before = Fault(kind="unknown_outcome", message=what), listing
            await asyncio.sleep(self.settle_s / 6)
        return fault

    def _missing(self, known: Mapping[str, int | None], listed: frozenset[str], span: _Span, *, after_ms: int) -> int:
        """Return how many of our own predictions the listing lacks: then it is not complete.

        Those count that were made before the last was given up, and so have had as long to settle.
        """
        settled_ms = span.last_ms + (self.clock_offset_ms or 0) - self.clock_error_ms
        inside = (name for name, at_ms in known.items() if at_ms is not None and after_ms < at_ms < settled_ms)
        return sum(name not in listed for name in inside)

    def _bounds(self, span: _Span) -> tuple[int, int]:
        """Return the span of the service's clock in which what was sent can have been accepted, in milliseconds.

        Each by the clock of its own time: between two runs a clock may have been set.
        """
        offset = self.clock_offset_ms
        skew_ms, shift = self._skew_ms(), offset or 0
        spans = [(each.sent_ms + shift - skew_ms, each.seen_ms + shift + skew_ms) for each in span.sent]
        # Never less than by this run's clock: what is listed besides the lost ones shows whether the listing is whole.
        for each in span.sent:
            if each.clock_offsets_ms is not None:
                least, most = each.clock_offsets_ms
                end = max(each.sent_ms, each.seen_ms) + most + _EARLIER_SKEW_MS
                spans.append((each.sent_ms + least - _EARLIER_SKEW_MS, end))
        first = min(begin for begin, _ in spans)
        last = max(end for _, end in spans) + round(self.settle_s * 1000)
        # Settled means that nothing of theirs is made from now on; without this end new predictions keep coming in.
        return first, last if offset is None else min(last, self.wall_ms() + shift + self.clock_error_ms)

    async def _list(self, *, after_ms: int, before_ms: int) -> _Listing | Fault:
        """Return all pages of the history in a span, each prediction once, or why one of them couldn't be had.

        Of all models: what the run was given of others than the lost ones' shows too whether the listing is whole.
        """
        found: dict[str, HistoryItem] = {}
        for page in range(1, _MAX_PAGES + 1):
            request = build_history(self.base_url, page=page, after_ms=after_ms, before_ms=before_ms, model=None)
            answer = decipher_history(await self.transport.send(request))
            if isinstance(answer, Fault):
                return answer
            if answer.is_odd:
                return Fault(kind="bad_response", message="the history holds entries that are no predictions")
            fresh = [item for item in answer.items if item.prediction.id not in found]
            if not fresh and len(answer.items) >= PAGE_SIZE:
                return Fault(kind="bad_response", message=f"the history's page {page} repeats what is before it")
            if not fresh:
                # The end: an empty page, or one that a service repeats which doesn't look at the page's number.
                return tuple(found.values())
            found.update((item.prediction.id, item) for item in fresh)
        return Fault(kind="bad_response", message=f"the history has more than {_MAX_PAGES} pages")


async def _at_once(moment_ms: int) -> None:
    """Nothing is on its way."""


def _answers(verdicts: Verdicts) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Return what verdicts say in ids alone: whose prediction is whose, and who could be whose; the rest is absent."""
    adopted = {each.lost.cell_id: each.item.prediction.id for each in verdicts.adopted}
    return adopted, {each.lost.cell_id: frozenset(each.candidates) for each in verdicts.held}
