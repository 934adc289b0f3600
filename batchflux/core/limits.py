"""What the account and the service allow right now: plain arithmetic on (state, now), decided and reserved in one step.

Four small machines: the window of predictions in flight and the pace of submissions, which `throttle` tells of answers,
and here the breaker on unanswered submissions and the service's health. `now_s` is any monotonic clock, in seconds.
"""

from collections import deque
from dataclasses import dataclass, field

from batchflux.core.pace import Pace
from batchflux.core.retry import CONNECT_BACKOFF
from batchflux.core.throttle import Throttle
from batchflux.core.window import AUTO_MOST, AUTO_START, Window

__all__ = ["AUTO_MOST", "AUTO_START", "Breaker", "Health", "Pace", "Throttle", "Window"]


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Stops submissions when several are unanswered and they are a large share of the last answers.

    It then lets one probe through after 5 s, doubling to 5 min: half an hour of lost answers costs a dozen unknown
    cells and not thousands, while a line that drops one answer in five only slows down.
    """

    _last: deque[bool] = field(default_factory=lambda: deque(maxlen=20))
    _waits: int = 0
    _open_until_s: float | None = None
    _probe_sent_at_s: float | None = None

    def may_send(self, now_s: float) -> bool:
        """Return whether a submission may leave; while open, one probe at a time."""
        return self._open_until_s is None or (now_s >= self._open_until_s and self._probe_sent_at_s is None)

    def retry_at_s(self) -> float | None:
        """Return when a probe may leave, or None where nothing holds."""
        return self._open_until_s

    def sent(self, now_s: float) -> None:
        """Count a submission as leaving: while open it is the probe."""
        if self._open_until_s is not None:
            self._probe_sent_at_s = now_s

    def answered(self) -> None:
        """Take in any real answer: the line works."""
        self._last.append(False)
        self._open_until_s, self._probe_sent_at_s, self._waits = None, None, 0

    def not_sent(self) -> None:
        """Take in that a submission did not leave: a probe of it tells nothing."""
        self._probe_sent_at_s = None

    def unanswered(self, *, sent_at_s: float, now_s: float) -> None:
        """Take in a lost answer; what was on its way when it opened is the same event, only a probe's loss is news.

        Opens after three in the last twenty answers that are also two fifths of them, or three in a row.
        """
        self._last.append(True)
        if self._open_until_s is None:
            lost, in_a_row = sum(self._last), list(self._last)[-3:]
            if lost >= 3 and (lost >= 0.4 * len(self._last) or all(in_a_row)):
                self._hold(now_s)
        elif self._probe_sent_at_s is not None and sent_at_s >= self._probe_sent_at_s:
            self._hold(now_s)

    def _hold(self, now_s: float) -> None:
        self._open_until_s = now_s + min(300.0, 5.0 * 2.0 ** min(self._waits, 32))
        self._waits += 1
        self._probe_sent_at_s = None


@dataclass(slots=True, kw_only=True)
class Health:
    """Whether the service is there: how long it has been silent, and how long that is borne.

    `patience_s` None means 12 hours for a service that has answered before, and a minute for one that never did.
    """

    patience_s: float | None
    began_at_s: float
    last_heard_at_s: float | None = None
    silences: int = 0
    _silent_since_s: float = field(default=0.0)

    def heard(self, now_s: float) -> None:
        """Take in an answer of the service's own: anything but 5xx and redirects."""
        self.last_heard_at_s = now_s
        self.silences = 0

    def silent(self, now_s: float) -> float:
        """Take in that it was unreachable, or answered 5xx or a redirect; return how long to wait, in seconds."""
        if self.silences == 0:
            self._silent_since_s = now_s  # not when it was last heard: nothing may have been asked since
        self.silences += 1
        return CONNECT_BACKOFF.wait_s(self.silences, dice=0.5)

    def is_gone(self, now_s: float) -> bool:
        """Return whether it has been silent for longer than is borne."""
        if self.silences == 0:
            return False
        if self.last_heard_at_s is None:
            return now_s - self.began_at_s > min(60.0, self.patience_s if self.patience_s is not None else 60.0)
        return now_s - self._silent_since_s > (self.patience_s if self.patience_s is not None else 12 * 3600.0)
