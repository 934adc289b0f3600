"""When the next submission may leave: evenly spaced at a rate of images, stated or learned, and held after refusals.

Plain arithmetic on (state, now). Whatever a service counts by (a bucket that refills, a sliding minute, a fixed one),
what it accepts between two refusals, over the time between them, is its rate. So each refusal measures the rate since
the last one; in between the pace rises above it, slowly near what was measured and faster and faster beyond, by how
much was measured: after a measure by 500 images it takes some 200 acceptances to the next refusal, after one by five
only a few.
"""

from collections import deque
from dataclasses import dataclass, field

from batchflux.core.model import Fault

__all__ = ["LONGEST_ADVICE_S", "Pace"]

LONGEST_ADVICE_S = 300.0

_MINUTE_S = 60.0  # limits are of images a minute (documentation: account levels)
_NEARLY_S = 45.0
_GRAIN_S = 0.25
_FEW, _MANY = 32, 5000
_FULL = 0.97  # of what was learned: a minute that is used up
_NEARLY_FULL = 0.9
_STEP_S, _LONGER = 2.0, 0.7  # the least of the waits within such a minute, and of the time since its first refusal
_AT_FIRST_S = 8.0  # the longest wait while nobody knows when a minute begins: a few knocks, a few seconds slept through
_BELOW = 0.99  # of the measured rate: pays back what was sent too soon
_LATE_S = 0.1  # a timer's lateness, made up for; a pause isn't
# Within a longer pause a small bucket has run over: counted whole, it would make the rate seem low.
_COUNTED_PAUSE_S = 2.0
# So long after so many images no bucket refills: they were a minute's, and the minute had to pass.
_LONG_PAUSE_S, _ENOUGH = 10.0, 50


@dataclass(slots=True)
class _LastMinute:
    """How many images were accepted within the last minute, in grains of a quarter of a second."""

    images: int = 0
    grains: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, images: int, now_s: float) -> None:
        self.forget(now_s)
        self.images += images
        if self.grains and now_s - self.grains[-1][0] < _GRAIN_S:
            images += self.grains[-1][1]
            now_s = self.grains.pop()[0]
        self.grains.append((now_s, images))

    def forget(self, now_s: float) -> None:
        while self.grains and self.grains[0][0] <= now_s - _MINUTE_S:
            self.images -= self.grains.popleft()[1]

    def rate_per_s(self, now_s: float, *, over_s: float) -> float:
        """Return the images a second of late."""
        return sum(images for at_s, images in self.grains if at_s >= now_s - over_s) / over_s

    def room_in_s(self, now_s: float) -> float:
        """Return when half a percent of the images will be more than a minute ago."""
        left = self.images / 200
        for at_s, images in self.grains:
            left -= images
            if left <= 0:
                return at_s + _MINUTE_S - now_s
        return 0.0


@dataclass(slots=True, kw_only=True)
class Pace:
    """`images_per_s` is the stated rate, never passed; `learned_per_s` what refusals told, None before the first.

    `trust` is how many images the learned rate was measured by, `is_minute` whether over a whole minute.
    """

    images_per_s: float | None
    learned_per_s: float | None = None
    trust: float = 0.0
    is_minute: bool = False
    next_at_s: float = 0.0
    paused_until_s: float = 0.0
    refusals: int = 0
    _minute: _LastMinute = field(default_factory=_LastMinute)
    _used_up: int = 0  # images of the minute before the first refusal in a row
    _left_over: int = 0  # and before the last one
    _since: int = 0  # images since the last measure, and since when
    _since_s: float | None = None
    _beyond: int = 0  # images accepted although the measured rate was fully used
    _refused_at_s: float = -1.0
    _learned_at_s: float | None = None  # for the first time
    _streak_from_s: float = 0.0
    _oldest_at_s: float = 0.0  # image of the minute before that
    _known_before: tuple[float | None, float, bool] = (None, 0.0, False)
    _paused_s: float = 0.0

    def rate_per_s(self) -> float | None:
        """Return the images a second that may start now, or None where nothing is known to bind."""
        if self.learned_per_s is None:
            return self.images_per_s
        learned = self.learned_per_s * (_BELOW + (self._beyond / max(_FEW, self.trust)) ** 3)
        return learned if self.images_per_s is None else min(learned, self.images_per_s)

    def begin_with(self, rate_per_s: float, *, trust: float = 0.0) -> None:
        """Start from what others learned of the account, by default with the least trust."""
        self.learned_per_s, self.trust, self._beyond = rate_per_s, trust, 0

    def move_to(self, rate_per_s: float) -> None:
        """Take another rate for what was learned; how much it was measured by stays."""
        self.learned_per_s = rate_per_s

    def ready_at_s(self) -> float:
        """Return the moment from which on a submission may leave."""
        return max(self.next_at_s, self.paused_until_s)

    def spend(self, images: int, *, now_s: float) -> None:
        """Count a submission of so many images as leaving now."""
        rate = self.rate_per_s()
        if rate is not None:
            since_s = self.next_at_s if 0 <= now_s - self.next_at_s <= _LATE_S else max(now_s, self.next_at_s)
            self.next_at_s = since_s + images / rate

    def accepted(self, images: int, *, sent_at_s: float, now_s: float) -> None:
        """Take in that so many images were accepted: refusals of what left before are over."""
        if self._since_s is None:
            self._since_s = now_s
        if self.refusals and sent_at_s > self._refused_at_s:
            self.refusals = 0
            self._paused_s += max(0.0, now_s - self._streak_from_s - _COUNTED_PAUSE_S)
            used_up = max(self._left_over, self._used_up // 2)
            if now_s - self._streak_from_s > 2 * _MINUTE_S:
                # No limit of images a minute refuses for two: such a storm tells nothing of the rate.
                self.learned_per_s, self.trust, self.is_minute = self._known_before
                self._since_s, self._since, self._beyond, self._paused_s = now_s, 0, 0, 0.0
            elif now_s - self._streak_from_s >= _LONG_PAUSE_S and used_up >= _ENOUGH:
                self._learn(used_up / _MINUTE_S, images=used_up, is_minute=True, now_s=now_s)
        self._minute.add(images, now_s)
        self._since += images
        # What is accepted after a pause may only make up for it: it tells nothing before the minute is full again.
        if not self.is_minute or self._minute.images >= _FULL * _MINUTE_S * (self.learned_per_s or 0.0):
            self._beyond += images

    def refused(self, fault: Fault, *, sent_at_s: float, now_s: float) -> None:
        """Take in a refusal for too many a minute: measure the rate, and hold all back for a while.

        Refusals without an acceptance in between are one event.
        """
        if sent_at_s > self._refused_at_s:
            self._minute.forget(now_s)
            self._left_over = self._minute.images
            if self.refusals == 0:
                self._used_up = self._minute.images
                self._known_before = (self.learned_per_s, self.trust, self.is_minute)
                self._measure(now_s)
                self._streak_from_s = now_s
                self._oldest_at_s = self._minute.grains[0][0] if self._minute.grains else now_s
            self.refusals += 1
            self._refused_at_s = now_s
            if fault.retry_after_s is None:
                self.hold(self._wait_s(now_s), now_s=now_s)
        if fault.retry_after_s is not None:
            self.hold(max(0.5, fault.retry_after_s), now_s=now_s)

    def hold(self, seconds: float, *, now_s: float) -> None:
        """Let nothing leave for so long."""
        self.paused_until_s = max(self.paused_until_s, now_s + min(LONGEST_ADVICE_S, seconds))

    def _measure(self, now_s: float) -> None:
        """Learn the rate from what was accepted since the last measure, or within a minute if that is longer ago."""
        if self._since_s is None or self._since == 0 or self._used_up == 0:
            return
        span_s, pace = now_s - self._since_s, self.rate_per_s() or 0.0
        is_full = self.is_minute and self._used_up >= _FULL * _MINUTE_S * (self.learned_per_s or 0.0)
        if is_full or span_s >= _MINUTE_S:
            self._learn(self._used_up / _MINUTE_S, images=self._since, is_minute=True, now_s=now_s)
        elif span_s >= _NEARLY_S:
            self._learn(self._since / span_s, images=self._since, is_minute=True, now_s=now_s)
        elif self._is_mature(now_s) and not self.is_minute and self._since < 0.25 * self._used_up:
            self._learn(self._used_up / _MINUTE_S, images=self._since, is_minute=True, now_s=now_s)
        elif self.is_minute and self.learned_per_s is not None and self._since < 0.1 * self.trust:
            # Too few to measure by, and the minute isn't used up: the rate is less than was thought.
            self.learned_per_s, self._beyond = 0.95 * self.learned_per_s, 0
        else:
            measured = self._since / max(0.05, span_s - self._paused_s)
            if self.learned_per_s is None:  # so far the window was what bound
                measured = max(measured, self._minute.rate_per_s(now_s, over_s=min(5.0, max(0.05, span_s))))
            if measured > 0.7 * pace and span_s >= 2.0:  # a bucket too small to hold what pauses left over
                measured = max(measured, 0.95 * pace)
            self._learn(measured, images=self._since, is_minute=False, now_s=now_s)

    def _is_mature(self, now_s: float) -> bool:
        """Return whether a rate has held things back for a whole minute."""
        return self._learned_at_s is not None and now_s - self._learned_at_s >= _MINUTE_S

    def _learn(self, rate_per_s: float, *, images: int, is_minute: bool, now_s: float) -> None:
        agrees = self.learned_per_s is not None and 0.9 < rate_per_s / self.learned_per_s < 1.1
        self.trust = min(2 * _MINUTE_S * rate_per_s, max(images + self.trust * agrees, self.trust / 2), float(_MANY))
        was_minute = self.is_minute
        if self._learned_at_s is None:
            self._learned_at_s = now_s
        self.is_minute = is_minute or (agrees and self.is_minute)
        # What was accepted may be little because little was sent: one event takes no more than half of a good measure.
        self.learned_per_s = max(rate_per_s, (self.learned_per_s or 0.0) / 2) if was_minute else rate_per_s
        self._since_s, self._since, self._beyond, self._paused_s = now_s, 0, 0, 0.0

    def _first_wait_s(self, now_s: float) -> float:
        """Return how long to wait after the first refusal in a row: where little was too much, a little."""
        if self._used_up == 0:
            first_s = 0.5
        elif self._used_up == 1:
            first_s = 2.0  # no account has one image a minute: it wants them spaced
        else:
            first_s = max(0.5, 5 * _MINUTE_S / self._used_up)
        if self.learned_per_s is not None and self.is_minute:
            little_s = max(0.1, 1.2 / self.learned_per_s)
            first_s = min(first_s, max(little_s, min(8 * little_s, self._minute.room_in_s(now_s))))
        return first_s

    def _wait_s(self, now_s: float) -> float:
        """Return how long to wait: in few steps until a minute is over."""
        first_s = self._first_wait_s(now_s)
        wait_s = min(_MINUTE_S, first_s * 2.0 ** min(self.refusals - 1, 32))
        if self._used_up == 0:
            return wait_s
        oldest_at_s = self._minute.grains[0][0] if self._minute.grains else now_s - _MINUTE_S
        if self._used_up >= _ENOUGH and not self.is_minute and not self._is_mature(now_s):
            # If it slides, it has let one in as soon as the image was out of it that was the oldest.
            wait_s, oldest_at_s = min(wait_s, _AT_FIRST_S), self._oldest_at_s
        # A minute that slides has room when its oldest image is out of it, one that begins when the service likes at
        # the latest a minute after it refused.
        over_in_s = [from_s + _MINUTE_S + _GRAIN_S - now_s for from_s in (oldest_at_s, self._streak_from_s)]
        full = max(float(_ENOUGH), _NEARLY_FULL * _MINUTE_S * (self.learned_per_s or 0.0))
        if not self.is_minute or self._used_up < full:
            return min([wait_s, *(until_s for until_s in over_in_s if until_s > first_s)])
        # A minute that is used up is refused for what is left of it, nobody knows how long: longer by a part each time.
        wait_s = min(wait_s, max(_STEP_S, _LONGER * (now_s - self._streak_from_s)))
        # A wait that would be made much shorter by its end is taken whole.
        return min([wait_s, *(until_s for until_s in over_in_s if until_s > wait_s / 4)])
