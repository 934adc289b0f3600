"""When to ask for a prediction's result: learned from the latencies of this run, as plain arithmetic.

The first look is placed where few predictions can be done earlier (a low quantile of the latencies seen), the next
ones in steps that grow with the time already waited, so that the share of it that goes unnoticed stays small. Nothing
doubles: a prediction that is late is looked at as often, in proportion, as one that is early.
"""

from collections import deque
from itertools import islice

__all__ = ["LatencyBook"]

_REMEMBERED = 256  # enough for a steady low quantile, few enough to follow a service that drifts
_FEW = 8  # with fewer latencies than this a quantile says nothing
_FIRST_GUESS_S = 0.5
_LONG_GUESS_S = 30.0  # the documentation's slowest sample took 25.7 s
_SHORTEST_STEP_S = 0.05
_LONGEST_STEP_S = 15.0
_LATE = 0.9  # where nothing tells when it was done: looks follow a service that becomes faster, step by step
_STEP_SHARE = 0.16  # of the time waited so far: at a spread of 2, five looks and half of a step late at the median


class LatencyBook:
    """The latencies of one model's predictions as this run saw them, in seconds from submission to completion."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_REMEMBERED)
        self._first_look_s = _FIRST_GUESS_S
        self._since_sorted = 0

    def learn(self, looked_s: float, *, before_s: float = 0.0, inference_ms: int | None = None) -> None:
        """Take in a prediction that was found done `looked_s` after its submission, and not yet at `before_s`.

        It was done somewhere between the two, near its inference time where the service told one: without that the
        looks would learn from themselves.
        """
        guess_s = _LATE * looked_s if inference_ms is None else inference_ms / 1000
        self._seen.append(max(before_s, min(looked_s, guess_s)))
        self._since_sorted += 1
        if len(self._seen) >= _FEW and (self._since_sorted >= 16 or len(self._seen) < 32):
            self._since_sorted = 0
            # Nobody should be asked before it can be done, and few should be done unseen: a tenth of them, slightly.
            low = next(islice(sorted(self._seen), len(self._seen) // 10, None))
            self._first_look_s = max(_SHORTEST_STEP_S, low)

    def expected_s(self) -> float:
        """Return how long a prediction is likely to take at most: nine in ten of those seen were done by then."""
        if len(self._seen) < _FEW:
            return _LONG_GUESS_S
        return sorted(self._seen)[len(self._seen) * 9 // 10]

    def wait_s(self, waited_s: float, *, dice: float) -> float:
        """Return how long to wait before the next look at a prediction submitted `waited_s` ago; `dice` in 0..1."""
        if waited_s < self._first_look_s * 0.99:
            return (self._first_look_s - waited_s) * (1 + 0.05 * dice)
        step = min(max(_SHORTEST_STEP_S, waited_s * _STEP_SHARE), _LONGEST_STEP_S)
        return step * (0.9 + 0.2 * dice)
