"""A simulated account with hidden limits, and a run that has only its throttle to find them: the judge of `throttle`.

Virtual time throughout: events on a heap. The service decides at the moment a request arrives, half a round trip after
it left; predictions are looked at as `polling` says, so that what is done goes unnoticed for as long as it really does.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Literal, TypeAlias

from batchflux.core.model import Fault
from batchflux.core.pace import Pace
from batchflux.core.polling import LatencyBook
from batchflux.core.throttle import Throttle
from batchflux.core.window import Window

__all__ = ["Account", "CountsBy", "Run", "ideal_s", "learner", "simulate"]

# A minute may slide, begin when the service likes, or with the first image after the last one was over.
CountsBy: TypeAlias = Literal["bucket", "sliding", "fixed", "first"]

_SLOTS_WORDS = "You have reached your concurrency limit. Please wait for tasks to end."
_RATE_WORDS = "Too many requests: you have reached your rate limit of images per minute."
_NO_WORDS = "Too many requests"


@dataclass(kw_only=True)
class Account:
    """What the service allows: `slots` at once, `per_min` images counted by a bucket or a minute; None is no limit."""

    slots: int | None = None
    queues: bool = False
    per_min: int | None = None
    counts_by: CountsBy = "sliding"
    bucket: int | None = None
    speaks: bool = True
    advises: bool = False
    refuses_all: tuple[float, float] = (math.inf, math.inf)
    median_s: float = 2.0
    sigma: float = 0.5
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    works: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    starts: deque[float] = field(default_factory=deque)
    credit: float | None = None
    credited_at_s: float = 0.0

    def submit(self, now_s: float) -> tuple[float, float] | Fault:
        """Return (work, end) of a prediction made now, or the refusal."""
        while self.busy and self.busy[0] <= now_s:
            heapq.heappop(self.busy)
        if self.refuses_all[0] <= now_s < self.refuses_all[1]:
            return Fault(kind="rate_limit", message=_NO_WORDS)
        is_full = self.slots is not None and len(self.busy) >= self.slots
        if is_full and not self.queues:
            return self._refuse(_SLOTS_WORDS, self.busy[0] - now_s)
        if not self._take_credit(now_s):
            return self._refuse(_RATE_WORDS, self._credit_in_s(now_s))
        work_s = self.median_s * math.exp(self.sigma * self.dice.gauss(0, 1))
        self.works.append(work_s)
        free = sorted(self.busy)[len(self.busy) - self.slots] if is_full and self.slots is not None else now_s
        heapq.heappush(self.busy, free + work_s)
        return work_s, free + work_s

    def _refuse(self, words: str, wait_s: float) -> Fault:
        advice = max(1.0, math.ceil(wait_s)) if self.advises else None
        return Fault(kind="rate_limit", message=words if self.speaks else _NO_WORDS, retry_after_s=advice)

    def _take_credit(self, now_s: float) -> bool:
        if self.per_min is None:
            return True
        if self.counts_by == "bucket":
            most = float(self.bucket or self.per_min)
            before = most if self.credit is None else self.credit
            self.credit = min(most, before + (now_s - self.credited_at_s) * self.per_min / 60)
            self.credited_at_s = now_s
            if self.credit < 1:
                return False
            self.credit -= 1
            return True
        if self.counts_by == "first" and self.starts and now_s - self.starts[0] >= 60:
            self.starts.clear()
        while self.starts and self._is_over(self.starts[0], now_s):
            self.starts.popleft()
        if len(self.starts) >= self.per_min:
            return False
        self.starts.append(now_s)
        return True

    def _is_over(self, start_s: float, now_s: float) -> bool:
        # The service's minutes begin when they like: at 20 s of ours.
        return (now_s - 20) // 60 > (start_s - 20) // 60 if self.counts_by == "fixed" else now_s - start_s >= 60

    def _credit_in_s(self, now_s: float) -> float:
        if self.counts_by == "bucket":
            return 60 / (self.per_min or 1)
        return 60 - (now_s - 20) % 60 if self.counts_by == "fixed" else self.starts[0] + 60 - now_s


@dataclass(kw_only=True)
class Run:
    """One run on an account, and what became of it. `cells` None is a job that never ends."""

    throttle: Throttle
    cells: int | None = None
    from_s: float = 0.0
    tells_work: bool = True
    book: LatencyBook = field(default_factory=LatencyBook)
    left: float = math.inf
    open_posts: int = 0
    accepted_at_s: list[float] = field(default_factory=list)
    refused_at_s: list[float] = field(default_factory=list)
    next_sent_s: list[float] = field(default_factory=list)  # when the first submission after each refusal left
    done_at_s: list[float] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    wake_at_s: float = -1.0

    def __post_init__(self) -> None:
        self.left = math.inf if self.cells is None else float(self.cells)

    def accepted(self, from_s: float, to_s: float) -> int:
        """Count the acceptances of a span."""
        return sum(from_s <= at_s < to_s for at_s in self.accepted_at_s)

    def refused(self, from_s: float, to_s: float) -> int:
        """Count the refusals of a span."""
        return sum(from_s <= at_s < to_s for at_s in self.refused_at_s)


def learner(*, most: int | None = None, rate_per_s: float | None = None) -> Throttle:
    """Return the throttle of a run that knows nothing, or only what its spec states."""
    return Throttle(
        window=Window.learned() if most is None else Window.capped(most), pace=Pace(images_per_s=rate_per_s)
    )


def simulate(
    account: Account,
    *runs: Run,
    until_s: float = math.inf,
    round_trip_s: float = 0.1,
    seed: int = 2,
    each_second: Callable[[float], None] | None = None,
    changes: dict[float, Callable[[], None]] | None = None,
) -> None:
    """Let runs work on an account until their cells are done, or until a moment."""
    dice, numbers = random.Random(seed), count()
    events: list[tuple[float, int, Callable[[float], None], Run | None]] = []
    way_s = round_trip_s / 2

    def at(when_s: float, what: Callable[[float], None], run: Run | None) -> None:
        heapq.heappush(events, (when_s, next(numbers), what, run))

    def send(run: Run, now_s: float) -> None:
        throttle = run.throttle
        while run.left and throttle.window.has_room() and throttle.may_open(run.open_posts, now_s=now_s):
            ready_at_s = throttle.pace.ready_at_s()
            if ready_at_s > now_s:
                if run.wake_at_s <= now_s or ready_at_s < run.wake_at_s:
                    run.wake_at_s = ready_at_s
                    at(ready_at_s, lambda _: None, run)
                return
            run.next_sent_s += [now_s] * (len(run.refused_at_s) - len(run.next_sent_s))
            throttle.window.started()
            throttle.pace.spend(1, now_s=now_s)
            run.open_posts += 1
            run.left -= 1
            at(now_s + way_s, partial(arrive, run, now_s), None)

    def arrive(run: Run, sent_at_s: float, now_s: float) -> None:
        made = account.submit(now_s)
        at(now_s + way_s, lambda then_s: answer(run, sent_at_s, made, then_s), run)

    def answer(run: Run, sent_at_s: float, made: tuple[float, float] | Fault, now_s: float) -> None:
        run.open_posts -= 1
        if isinstance(made, Fault):
            run.refused_at_s.append(now_s)
            run.throttle.refused(made, sent_at_s=sent_at_s, now_s=now_s)
            run.throttle.window.ended()
            run.left += 1
            return
        run.accepted_at_s.append(now_s)
        run.throttle.accepted(1, sent_at_s=sent_at_s, now_s=now_s)
        work_s, end_s = made
        at(now_s + run.book.wait_s(0.0, dice=dice.random()), lambda then_s: ask(then_s, 0.0), None)

        def ask(asked_at_s: float, looked_s: float) -> None:
            is_done = asked_at_s + way_s >= end_s
            at(asked_at_s + 2 * way_s, lambda then_s: hear(then_s, is_done, looked_s), run if is_done else None)

        def hear(heard_at_s: float, is_done: bool, looked_s: float) -> None:
            waited_s = heard_at_s - now_s
            if not is_done:
                at(
                    heard_at_s + run.book.wait_s(waited_s, dice=dice.random()),
                    lambda then_s: ask(then_s, waited_s),
                    None,
                )
                return
            told_ms = round(work_s * 1000) if run.tells_work else None
            run.book.learn(waited_s, before_s=looked_s, inference_ms=told_ms)
            run.done_at_s.append(heard_at_s)
            run.throttle.window.completed(
                latency_s=heard_at_s - sent_at_s, worked_s=work_s if run.tells_work else None, now_s=heard_at_s
            )
            run.throttle.window.ended()

    def tick(now_s: float) -> None:
        for run in runs:
            run.sizes.append((now_s, run.throttle.window.size))
        if each_second is not None:
            each_second(now_s)
        at(now_s + 1, tick, None)

    for run in runs:
        at(run.from_s, lambda _: None, run)
    for when_s, change in (changes or {}).items():
        at(when_s, partial(_ignoring_time, change), None)
    at(0.0, tick, None)
    while events:
        now_s, _, what, concerned = heapq.heappop(events)
        if now_s >= until_s or all(len(run.done_at_s) == run.cells for run in runs):
            return
        what(now_s)
        if concerned is not None and now_s >= concerned.from_s:
            send(concerned, now_s)


def _ignoring_time(change: Callable[[], None], now_s: float) -> None:
    change()


def ideal_s(works: list[float], *, slots: int) -> float:
    """Return how long the same work takes with every slot busy from the first moment on."""
    busy = [0.0] * slots
    for work_s in works:
        heapq.heapreplace(busy, busy[0] + work_s)
    return max(busy)
