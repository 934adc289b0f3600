"""How many predictions may be in flight: learned from refusals, or from the queue that too many of them make.

Plain arithmetic on (state, now). Nothing is known at the start: the window grows with what is completed until the
service refuses, or until more in flight only wait longer. From then on it keeps to what was found by small steps:

- Where the service refuses, each refusal takes a step back and each acceptance a small part of one forward, so that
  the window rests where a small share is refused: no sawtooth, and a limit that was raised is followed ever faster.
- Where it queues, a third more than it works on are kept in flight: that hides the way there and back, and our looks.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["AUTO_MOST", "AUTO_START", "FoundBy", "Window"]

# Enough to see all slots of a small account at once; a queue of so many is short even at two images a minute.
AUTO_START = 32
# The largest account level starts 83 images a second, and the slowest sample in the documentation took 25.7 s.
AUTO_MOST = 2000

# The share of submissions that may be refused: each costs a POST, but without any the service waits for us to notice
# what is done. Where a refusal also says how long to wait, it costs that much of the whole window: with 50 slots, 0.1 s
# there and back and a second to wait, 2,000 cells take 1.107 of the ideal, 1.099 where the 50 are known from the first
# cell on and never tried; the difference is the start and two tries, and over 5,000 cells it is 1.098 to 1.095.
_SHARE, _SHARE_WITH_ADVICE = 0.07, 0.0005
_HASTENS = 0.01  # however small the share: a limit that was raised should be found within some thousand
_IN_A_QUEUE = 0.35  # of what it works on: 20 to 50 % hide lag and round trips
# What the service doesn't tell its work on, is judged by whole latencies, which differ for many reasons.
_IN_A_QUEUE_UNTOLD = 1.0
_COHORT = 17
_MOST_DOUBTS = 12  # cohorts: our own looks take a while to follow a queue that has become short
_MOST_COHORTS = 256
_SLIGHT_S = 0.1  # a queue shorter than this isn't worth a decision

FoundBy: TypeAlias = Literal["refusals", "a queue"] | None


@dataclass(slots=True)
class _Cohort:
    """Predictions submitted one after the other: their median is known when half of them are done.

    Of whatever is completed within some time, by contrast, the quick ones are too many while the window grows.
    """

    from_s: float
    in_flight: int
    size: float  # of the window then
    count: int = 0
    is_told: bool = False
    latencies_s: list[float] = field(default_factory=list)
    beyond_s: list[float] = field(default_factory=list)  # beyond the work on it


@dataclass(slots=True, kw_only=True)
class Window:
    """`size` may be in flight, `most` at most; `is_unknown` where nobody has said or learned anything of it.

    `found_by` says what the size was learned from, None while it grows.
    """

    most: int
    size: float
    in_flight: int = 0
    is_unknown: bool = False
    found_by: FoundBy = None
    _cut_at_s: float = field(default=-1.0)
    _before_streak: tuple[float, FoundBy] | None = None
    _share: float = _SHARE
    _quiet: int = 0
    _cohorts: deque[_Cohort] = field(default_factory=deque)
    _wait_s: float | None = None  # the least that a prediction took beyond the work on it
    _smooth_s: float | None = None
    _seen_good: float = 0.0  # as far as it may grow by what was seen without a queue
    _work_s: float | None = None  # the least mean of the work, as the service tells it
    _shrunk_from: tuple[float, float] | None = None  # the size before, and what would be too much beyond the work
    _doubts: int = 0
    _drained_at_s: float | None = None

    @classmethod
    def learned(cls) -> "Window":
        """Return the window of `concurrency: auto`."""
        return cls(most=AUTO_MOST, size=AUTO_START, is_unknown=True)

    @classmethod
    def capped(cls, most: int) -> "Window":
        """Return the window of a stated concurrency: a cap that what is learned can still lower for a while."""
        return cls(most=most, size=min(most, 64))

    def has_room(self) -> bool:
        """Return whether one more may start now."""
        return self.in_flight < max(1, int(self.size))

    def started(self) -> None:
        """Count one more in flight."""
        self.in_flight += 1

    def ended(self) -> None:
        """Count one less."""
        self.in_flight -= 1

    def begin_with(self, size: float, *, found_by: FoundBy) -> None:
        """Start from what others learned of the account."""
        self.found_by, self.is_unknown = found_by, False
        self._resize(size)

    def move_to(self, size: float) -> None:
        """Take another size, however it came about."""
        self._resize(size)

    def _is_in_use(self) -> bool:
        # Half full: of answers that come together the first widens it, and the others find it not yet refilled.
        return 2 * self.in_flight >= int(self.size)

    def _resize(self, size: float) -> None:
        self.size = max(1.0, min(float(self.most), size))

    # ------------------------------------------------------------------------------------------ refusals

    def accepted(self, *, sent_at_s: float) -> None:
        """Take in an acceptance: where refusals found the size, a part of a step forward, more after a long quiet."""
        if not self._cohorts or (self._cohorts[-1].count >= _COHORT and sent_at_s > self._cohorts[-1].from_s):
            self._cohorts.append(_Cohort(sent_at_s, self.in_flight, self.size))
            if len(self._cohorts) > _MOST_COHORTS:
                self._cohorts.popleft()
        if (cohort := self._cohort_of(sent_at_s)) is not None:
            cohort.count += 1
        self._before_streak = None
        if self.found_by == "refusals" and self._is_in_use():
            self._quiet += 1
            hastens = self._quiet * max(_HASTENS, self._share) / 4
            self._resize(self.size + self._share * self._step() * 2.0 ** min(20.0, hastens))

    def refused(self, *, sent_at_s: float, now_s: float, has_advice: bool = False) -> None:
        """Take in a refusal for too many in flight: what the service holds is what is in flight besides the refused.

        A burst is one event: what was sent before the last cut only tells how many are held.
        """
        held = float(max(1, self.in_flight - 1))
        is_first = self.found_by != "refusals"
        if self._before_streak is None:
            self._before_streak = (self.size, self.found_by)
        if sent_at_s > self._cut_at_s:
            self._cut_at_s, self._quiet = now_s, 0
            self._share = _SHARE_WITH_ADVICE if has_advice else _SHARE
            # Advice makes each refusal dear, and a step below what is held leaves one of the slots empty for long.
            self._resize(min(self.size, held) - (0.0 if is_first or has_advice else self._step()))
        else:
            self._resize(min(self.size, held))
        self.found_by, self._shrunk_from = "refusals", None

    def forgive(self) -> None:
        """Take back the cuts since the last acceptance: it was not the number in flight that was refused."""
        if self._before_streak is not None:
            size, self.found_by = self._before_streak
            self._resize(size)

    def unlearn(self) -> None:
        """Take back whatever refusals taught, those before the last acceptance too, and grow again."""
        self.forgive()
        if self.found_by == "refusals":
            self.found_by = None

    def _step(self) -> float:
        return max(1.0, self.size / 100)

    # ------------------------------------------------------------------------------------------ queues

    def completed(self, *, latency_s: float, worked_s: float | None, now_s: float) -> None:
        """Take in a completion: how long it took from submission on, and how long the service says it worked on it."""
        if self.found_by is None and self._is_in_use():
            self._resize(min(self.size + _growth(latency_s), max(self.size, 2 * AUTO_START, self._seen_good)))
        sent_at_s = now_s - latency_s
        cohort = self._cohort_of(sent_at_s)
        if cohort is None:
            return
        cohort.is_told = bool(worked_s)
        cohort.latencies_s.append(latency_s)
        cohort.beyond_s.append(latency_s - min(latency_s, worked_s or 0.0))
        if cohort.count >= _COHORT and len(cohort.latencies_s) > cohort.count // 2:
            self._cohorts.remove(cohort)
            if self._shrunk_from is None or self._is_of_now(cohort.from_s, now_s):
                self._judge(cohort)

    def _cohort_of(self, sent_at_s: float) -> _Cohort | None:
        return next((each for each in reversed(self._cohorts) if each.from_s <= sent_at_s + 0.002), None)

    def _is_of_now(self, sent_at_s: float, now_s: float) -> bool:
        """Return whether what was sent then met the queue as it is since the window shrank."""
        if self._drained_at_s is None and self.in_flight <= self.size:
            self._drained_at_s = now_s
        return self._drained_at_s is not None and sent_at_s >= self._drained_at_s

    def _judge(self, cohort: _Cohort) -> None:
        latency_s, beyond_s = max(cohort.latencies_s), sorted(cohort.beyond_s)[len(cohort.beyond_s) // 2]
        is_told = cohort.is_told
        if not is_told:
            self._smooth_s = (
                latency_s if self._smooth_s is None else self._smooth_s + 0.2 * (latency_s - self._smooth_s)
            )
            latency_s = beyond_s = self._smooth_s
        told_s = latency_s - beyond_s
        # Work that grows with the number in flight is a queue under another name.
        self._work_s = told_s if self._work_s is None else min(told_s, self._work_s)
        worked_s = min(told_s, 2 * self._work_s)
        beyond_s = latency_s - worked_s
        if self._shrunk_from is not None:
            self._check_shrinking(beyond_s, told_s)
        self._wait_s = beyond_s if self._wait_s is None else min(beyond_s, self._wait_s)
        plain_s, queued_s = worked_s + self._wait_s, beyond_s - self._wait_s
        share = _IN_A_QUEUE if is_told else _IN_A_QUEUE_UNTOLD
        if 2 * cohort.in_flight < cohort.size:
            return  # something else bound
        if queued_s > max(share * plain_s, _SLIGHT_S):
            if self.found_by is None:
                self.found_by = "a queue"
            self._seen_good = 0.0
            # What waited for the end of an outage looks like a queue too: never less than half.
            enough = max(AUTO_START, self.size / 2, (1 + share) * plain_s / latency_s * cohort.in_flight)
            if is_told and enough < 0.75 * self.size and self._shrunk_from is None:
                if enough < 0.8 * cohort.in_flight:
                    better_s = latency_s * (1 - enough / cohort.in_flight)
                    self._shrunk_from, self._drained_at_s = (self.size, beyond_s - better_s / 4), None
                self._resize(enough)
            return
        self._seen_good = max(self._seen_good, _growth(latency_s) * cohort.in_flight)
        if self.found_by == "a queue" and self._is_in_use():
            if queued_s < 0.05 * plain_s:
                self.found_by = None  # the queue is gone
            elif queued_s < 0.7 * share * plain_s:
                self._resize(1.05 * self.size)

    def _check_shrinking(self, beyond_s: float, told_s: float) -> None:
        """A queue that isn't shorter now was none: the service has become slower, and that is what is usual now."""
        assert self._shrunk_from is not None  # noqa: S101
        before, too_much_s = self._shrunk_from
        self._doubts = self._doubts + 1 if beyond_s > too_much_s else 0
        if self._doubts == 0:
            self._shrunk_from = None
        elif self._doubts >= _MOST_DOUBTS:
            self._shrunk_from, self._doubts = None, 0
            self._wait_s, self._work_s = beyond_s, told_s
            self._resize(before)


def _growth(latency_s: float) -> float:
    """Return by how much the window grows with each completion: more with each windowful where that takes long."""
    return max(2.5, min(8.0, latency_s / 2))
