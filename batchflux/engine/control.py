"""Whether the run goes on, and whether one more submission may leave: asked and reserved in one step.

Who has to wait stands in line, and only its first is asked about again when there is news: one task wakes a submission.
Owns the limits of `core.limits` and the budget; knows no HTTP and no cell's fate.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from batchflux.core.budget import Budget
from batchflux.core.limits import Breaker, Health, Pace, Throttle, Window
from batchflux.core.throttle import MOST_OPEN_POSTS
from batchflux.engine.ports import StopReason

__all__ = ["MAX_OPEN_POSTS", "Admission", "StopSwitch"]

MAX_OPEN_POSTS = MOST_OPEN_POSTS

_RANK = {"asked": 0, "trouble": 1, "signal": 2}


class StopSwitch:
    """Holds why the run stops, the weightiest reason winning; `abandon` says to leave predictions in flight alone."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.reason: StopReason | None = None
        self.abandoned = asyncio.Event()
        self.listeners = [changed]

    def stop(self, reason: StopReason, *, abandon: bool = False) -> None:
        """No new submissions from here on; with `abandon`, nothing in flight is waited for either."""
        if self.reason is None or _RANK[reason.kind] > _RANK[self.reason.kind]:
            self.reason = reason
        if abandon:
            self.abandoned.set()
        for listener in self.listeners:
            listener()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A submission that is to leave."""

    price_micro_usd: int
    images: int
    is_new_cell: bool


@dataclass(kw_only=True)
class Admission:
    """The one gate before every submission."""

    window: Window
    pace: Pace
    breaker: Breaker
    health: Health
    budget: Budget
    max_cells: int | None = None
    until_s: float | None = None
    expected_s: Callable[[], float] = lambda: 0.0
    open_posts: int = 0
    unresolved: int = 0
    cells_started: int = 0
    _limit_reached: StopReason | None = None
    _line: deque[tuple[_Asked, asyncio.Future[bool]]] = field(default_factory=deque)
    _soon: asyncio.Handle | None = None
    _later: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.switch = StopSwitch(self.changed)
        self.throttle = Throttle(window=self.window, pace=self.pace)
        self.no_open_posts = asyncio.Event()
        self.no_open_posts.set()

    def changed(self) -> None:
        """Have the line looked at: a slot, money or a reason to stop has come. Not before its bearer has told all."""
        if self._line and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._look_at_line)

    async def admit(self, *, price_micro_usd: int, images: int, is_new_cell: bool) -> bool:
        """Wait until one more submission may leave and reserve all it takes; False where none will any more."""
        asked = _Asked(price_micro_usd=price_micro_usd, images=images, is_new_cell=is_new_cell)
        if not self._line:
            is_admitted = self._admit_now(asked)
            if is_admitted is not None:
                return is_admitted
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._line.append((asked, place))
        return await place

    def _look_at_line(self) -> None:
        """Admit who stands in line, one after the other, up to the first who has to wait."""
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()
        self._soon = self._later = None
        while self._line:
            asked, place = self._line[0]
            if not place.done():  # else its task was cancelled
                is_admitted = self._admit_now(asked)
                if is_admitted is None:
                    break
                place.set_result(is_admitted)
            self._line.popleft()

    def _admit_now(self, asked: _Asked) -> bool | None:
        """Reserve all that one submission takes, or return False where none will leave any more, None to wait."""
        loop = asyncio.get_running_loop()
        now_s, price_micro_usd = loop.time(), asked.price_micro_usd
        if self._must_stop(now_s, price_micro_usd, is_new_cell=asked.is_new_cell):
            return False
        wake_at_s = self._wake_at_s(now_s, price_micro_usd)
        if wake_at_s is not None:
            if wake_at_s > now_s:
                self._later = loop.call_at(wake_at_s, self._look_at_line)
            return None
        self.budget.reserve(price_micro_usd)
        self.window.started()
        self.pace.spend(asked.images, now_s=now_s)
        self.breaker.sent(now_s)
        self.open_posts += 1
        self.no_open_posts.clear()
        self.cells_started += asked.is_new_cell
        return True

    def _must_stop(self, now_s: float, price_micro_usd: int, *, is_new_cell: bool) -> bool:
        reason = self.switch.reason
        if reason is not None and (is_new_cell or reason is not self._limit_reached):
            return True
        # The limit is of cells: one that was begun within it may be sent again as often as it takes.
        if is_new_cell and self.max_cells is not None and self.cells_started >= self.max_cells:
            self._limit_reached = StopReason(kind="asked", message=f"--limit {self.max_cells} cells reached")
            self.switch.stop(self._limit_reached)
        elif self.until_s is not None and now_s + self.expected_s() > self.until_s:
            return self._stop_as_asked("nothing more would be done by --until")
        elif not self.budget.can_reserve(price_micro_usd) and not self.window.in_flight and not self.unresolved:
            # Only now: what was in flight or unresolved might have freed its price.
            return self._stop_as_asked(self.budget.words(price_micro_usd))
        return is_new_cell and self.switch.reason is not None

    def _stop_as_asked(self, message: str) -> bool:
        self.switch.stop(StopReason(kind="asked", message=message))
        return True

    def _wake_at_s(self, now_s: float, price_micro_usd: int) -> float | None:
        """Return None where a submission may leave now, else when to look again (0: when there is news)."""
        if not self.budget.can_reserve(price_micro_usd) or not self.throttle.may_open(self.open_posts, now_s=now_s):
            return 0.0
        if not self.window.has_room():
            return 0.0
        if not self.breaker.may_send(now_s):
            retry_at_s = self.breaker.retry_at_s() or 0.0
            return retry_at_s if retry_at_s > now_s else 0.0
        ready_at_s = self.pace.ready_at_s()
        return ready_at_s if ready_at_s > now_s else None

    def post_closed(self) -> None:
        """Count a POST as answered, or given up."""
        self.open_posts -= 1
        if self.open_posts == 0:
            self.no_open_posts.set()
        self.changed()

    def slot_freed(self) -> None:
        """Count a prediction as no more in flight."""
        self.window.ended()
        self.changed()
