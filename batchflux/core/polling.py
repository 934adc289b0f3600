"""When to ask for a prediction's result: learned from the latencies of this run, as plain arithmetic.

The rule is one line: wait until the time that would go unnoticed, were it done meanwhile, is on average worth a look.
What is likely comes from a life table of this run: how many predictions were seen to reach each age, and how many were
done at it. One found still running counts as having reached its age, so a service that slows down is known before
anyone is done, and the first ones done aren't mistaken for the rest. Nothing doubles: one that outlasts all that was
seen is asked for in steps that grow with its age alone.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate

__all__ = ["LOOK_PRICE", "LatencyBook", "PollPace"]

_REMEMBERED = 256  # for the time that nine in ten take
_FEW = 8  # with fewer latencies than this a quantile says nothing
_FIRST_GUESS_S = 0.5
# While nothing is known first looks are spread down to a 25th of that: all at once, they would leave a service that
# is done in milliseconds idle for half a second. A slow one is asked once more for each of the first few.
_GUESS_SPREAD = 25.0
_LONG_GUESS_S = 30.0  # the documentation's slowest sample took 25.7 s
_SOONEST_S = 0.001
_SHORTEST_STEP_S = 0.05
_LONGEST_STEP_S = 15.0
# Where nothing is known a step is a share of the age, 0.16 by default: four or five looks while the age doubles.
_PRICED_STEP = 1.46
_LEAST_SHARE = 0.05  # of its age: however sure the table is, the service may have become slower
# A look is worth so much of a median latency: four to five looks at a spread of 0.4 (tests/benchmarks/polling.py).
LOOK_PRICE = 0.0175
# Completions after which the past counts a third: enough for a steady table, few enough to follow a drift.
_MEMORY = 256
# Where nothing tells when it was done, it was within so much of the look: looks follow a service that becomes faster.
_LATE_SHARE = 0.4
_PLANNED_EVERY = 32  # looks; a plan costs as much as a hundred of them
# Predictions never seen that are taken into account: what many show is believed, what one shows hardly.
_DOUBT = 0.25
_TAIL = 0.2  # of those never seen are done while their age grows by a factor of e, past the median
_GOLDEN = 0.618_033_988_749_895

_WIDTH = math.log(1.1)
_EDGES_S = [0.0, *(_SOONEST_S * 1.1**power for power in range(160))]  # up to an hour
_BINS = len(_EDGES_S) - 1
_LOG_SOONEST = math.log(_SOONEST_S)


def _bin(age_s: float) -> int:
    """Return which bin of the life table an age lies in; `_BINS` is the one of all that is beyond it."""
    if age_s <= _SOONEST_S:
        return 0
    return min(_BINS, 1 + int((math.log(age_s) - _LOG_SOONEST) / _WIDTH))


@dataclass(slots=True, kw_only=True)
class PollPace:
    """How many looks a second a run makes at most, shared by all its predictions.

    A prediction's first look is as rare as its submission, which the service itself limits; those after it are capped:
    the more are being looked at, the longer each one's steps. What the service bears is undocumented; its own SDK asks
    once a second for each in flight, which at the account levels means 300 to 10,000 a second.
    """

    per_s: float = 250.0
    _again: set[str] = field(default_factory=set)
    _next_turn_s: float = 0.0

    def again(self, prediction_id: str) -> None:
        """Count a prediction as to be looked at again, until `ended`."""
        self._again.add(prediction_id)

    def ended(self, prediction_id: str) -> None:
        """Count it no more, whether or not it was counted."""
        self._again.discard(prediction_id)

    def least_s(self) -> float:
        """Return the shortest step that keeps those to be looked at again within the rate, all together."""
        return len(self._again) / self.per_s

    def turn_s(self, now_s: float) -> float:
        """Take the next of evenly spaced turns; return how long it is until then (0 where nobody is before)."""
        turn_s = max(now_s, self._next_turn_s)
        self._next_turn_s = turn_s + 1 / self.per_s
        return turn_s - now_s


class LatencyBook:
    """The latencies of one model's predictions as this run saw them, in seconds from submission to completion.

    `wait_s`, `saw_running` and `learn` cost some microseconds each, the rare replanning included.
    """

    def __init__(self, pace: PollPace | None = None, *, look_price: float = LOOK_PRICE) -> None:
        """Start with nothing known; `look_price` is what a look is worth, in median latencies."""
        self.pace = PollPace() if pace is None else pace
        self._look_price = look_price
        self._step_share = min(0.5, math.sqrt(_PRICED_STEP * look_price))
        self._least_share = min(_LEAST_SHARE, 3 * look_price)
        self._seen: deque[float] = deque(maxlen=_REMEMBERED)
        self._done = [0.0] * (_BINS + 1)
        self._reached = [0.0] * (_BINS + 2)  # differences: its running sum is how many were seen to pass each bin
        self._next_s: list[float] = []  # the age of the next look, for each edge; beyond them nothing is known
        self._news = self._news_done = 0
        self._heard = 0
        self._spread = 0.5
        self._trip_s = 0.0
        self._at_first = 0.0
        self._dated = 1.0
        self._guess = 0.0

    def saw_running(self, looked_s: float, *, before_s: float = 0.0, trip_s: float = 0.0) -> None:
        """Take in a prediction that was not yet done `looked_s` after its submission, nor at the look `before_s`.

        `trip_s` is how long the look itself took.
        """
        self._reached[_bin(before_s)] += 1.0
        self._reached[_bin(looked_s)] -= 1.0
        self._note(done=0, trip_s=trip_s)

    def learn(
        self, looked_s: float, *, before_s: float = 0.0, inference_ms: int | None = None, trip_s: float = 0.0
    ) -> None:
        """Take in a prediction that was found done `looked_s` after its submission, and not yet at `before_s`.

        Its inference time dates it where it lies between the two, and has done so with most others. Else (they are
        queued before, or the service tells none) it was done somewhere shortly before the look: without that the looks
        would learn from themselves.
        """
        done_s = -1.0 if inference_ms is None else inference_ms / 1000
        is_dated = before_s <= done_s <= looked_s
        if before_s > 0.0:
            # The span before the first look holds any time: what later spans say tells whether to believe it there.
            self._dated += (is_dated - self._dated) / 16
        if not is_dated or self._dated < 0.5:
            # Where most are done at their first look, it comes too late by nobody knows how much.
            since_s = max(before_s, looked_s * (1 - _LATE_SHARE) * (1 - self._at_first))
            self._spread = (self._spread + _GOLDEN) % 1.0  # evenly over the span, without dice
            done_s = since_s + (looked_s - since_s) * self._spread
        self._at_first += ((before_s == 0.0) - self._at_first) / 16
        self._seen.append(done_s)
        place = _bin(done_s)
        self._done[place] += 1.0
        self._reached[_bin(before_s)] += 1.0
        self._reached[place + 1] -= 1.0
        self._note(done=1, trip_s=trip_s)

    def expected_s(self) -> float:
        """Return how long a prediction is likely to take at most: nine in ten of those seen were done by then."""
        if len(self._seen) < _FEW:
            return _LONG_GUESS_S
        return sorted(self._seen)[len(self._seen) * 9 // 10]

    def wait_s(self, waited_s: float, *, dice: float) -> float:
        """Return how long to wait before the next look at a prediction submitted `waited_s` ago; `dice` in 0..1.

        `waited_s` 0 asks for the first look. A look leaves earlier than it is due, since it sees the service one trip
        later than it left, counted from the submission's answer, which itself was half a trip on its way.
        """
        jitter = 0.9 + 0.2 * dice
        place = _bin(waited_s)
        is_known = place + 1 < len(self._next_s)
        if is_known:
            left_s, right_s = _EDGES_S[place], _EDGES_S[place + 1]
            next_s, later_s = self._next_s[place], self._next_s[place + 1]
            step_s = next_s + (later_s - next_s) * (waited_s - left_s) / (right_s - left_s) - waited_s
        else:
            step_s = min(waited_s * self._step_share, _LONGEST_STEP_S)
        if waited_s <= 0.0:
            step_s = step_s if is_known else self._guess_s()
            return max(_SOONEST_S, step_s * jitter - min(self._trip_s, step_s / 2))
        if self._guess and not self._next_s:  # those asked early wait for what the others show
            step_s = max(step_s, _FIRST_GUESS_S - waited_s)
        step_s = max(step_s, min(waited_s * self._least_share, _LONGEST_STEP_S))
        early_s = min(self._trip_s, step_s / 2)
        return max(_SHORTEST_STEP_S * jitter, step_s * jitter - early_s, self.pace.least_s() * (1 + 0.2 * dice))

    def _guess_s(self) -> float:
        guess_s = _FIRST_GUESS_S * math.pow(_GUESS_SPREAD, -self._guess)
        self._guess = (self._guess + _GOLDEN) % 1.0
        return guess_s

    def _note(self, *, done: int, trip_s: float) -> None:
        self._news += 1
        self._news_done += done
        self._trip_s += (trip_s - self._trip_s) / 8
        self._heard += 1
        # Often while little is known, seldom later.
        if self._news > min(_PLANNED_EVERY, self._heard / 4) or (done and len(self._seen) <= _FEW):
            self._replan()

    def _replan(self) -> None:
        """Work out, for each age, where the next look at one still running is due."""
        keep = (1 - 1 / _MEMORY) ** self._news_done
        self._news = self._news_done = 0
        self._done = [done * keep for done in self._done]
        self._reached = [reached * keep for reached in self._reached]
        passed = list(accumulate(self._reached))
        last = max((place + 1 for place in range(_BINS) if self._done[place] > 0.0), default=0)
        if last == 0:
            return
        median_s = self._median_s(passed, last)
        # A little more than was seen: as likely done at any moment before the median, and after it at any multiple of
        # its age. So a few quick ones are not quite believed, nor one that took ten minutes.
        gone, alive = [0.0], 1.0
        for place in range(last):
            width_s = _EDGES_S[place + 1] - _EDGES_S[place]
            maybe = _DOUBT * (width_s / median_s if _EDGES_S[place] < median_s else _TAIL * _WIDTH)
            alive *= 1 - min(1.0, (self._done[place] + maybe) / (max(0.0, passed[place]) + _DOUBT))
            gone.append(1 - alive)
        self._next_s = _next_looks(gone, price_s=self._look_price * median_s, step_share=self._step_share)

    def _median_s(self, passed: list[float], last: int) -> float:
        """Return the age by which half are done; where that isn't known yet, the oldest age that some were done at."""
        alive = 1.0
        for place in range(last):
            alive *= 1 - min(1.0, self._done[place] / max(1.0, passed[place]))
            if alive <= 0.5:
                return _EDGES_S[place + 1]
        return _EDGES_S[last]


def _next_looks(gone: list[float], *, price_s: float, step_share: float) -> list[float]:
    """Return the age of the next look for one found running at each edge, from the shares done by each edge.

    It is where the unnoticed time to be expected, the area under the shares done since, has grown to `price_s`.
    """
    last = len(gone) - 1
    area = [0.0]
    for place in range(last):
        area.append(area[-1] + (gone[place] + gone[place + 1]) / 2 * (_EDGES_S[place + 1] - _EDGES_S[place]))
    looks, to = [], 1
    for place in range(last + 1):
        at_s, owed = _EDGES_S[place], price_s * (1 - gone[place])
        to = max(to, place + 1)
        while to <= last:
            unnoticed = area[to] - area[place] - gone[place] * (_EDGES_S[to] - at_s)
            if unnoticed >= owed:
                break
            to += 1
        if to > last:
            looks.append(max(_EDGES_S[last], at_s + min(at_s * step_share, _LONGEST_STEP_S)))
            continue
        before_s = _EDGES_S[to - 1]
        before = area[to - 1] - area[place] - gone[place] * (before_s - at_s)
        looks.append(before_s + (_EDGES_S[to] - before_s) * (owed - before) / max(1e-12, unnoticed - before))
    return looks
