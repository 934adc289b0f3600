"""The account's two limits together: which of them a refusal speaks of, and what is known of both.

Pure: decides on (state, now). The window knows how many may be in flight, the pace how many images may start; here is
where an answer is taken in once, and told to the one it concerns.

Who knows nothing must not storm the smallest account (2 images a minute, 2 at once), and must fill the largest (83 a
second) within a minute. So it begins with one POST open and a third more with each acceptance (the smallest account
refuses once), with 32 in flight, and grows with each completion by half its latency in seconds, 2.5 to 8: where results
come late, there are fewer of them to grow by. So the largest is at its rate after 30 s at 12 s latency, and one of 500
a minute with 100 slots is refused 20 to 26 times in the first ten seconds: more growth would cost more refusals there.
From then on the share of refusals is the price of a busy service: 7 % at the slots, where each costs a POST, almost
none where each also asks to wait, and some hundredth of a rate.
"""

import re
from dataclasses import dataclass
from typing import Literal

from batchflux.core.model import Fault
from batchflux.core.pace import Pace
from batchflux.core.window import Window

__all__ = ["LEAST_OPEN_POSTS", "MOST_OPEN_POSTS", "Throttle", "limit_named_in"]

# Only an open POST can become unknown, so few may be open: as many as the largest account level (83 images a second)
# and a fifth more take at the time that an answer takes.
LEAST_OPEN_POSTS, MOST_OPEN_POSTS = 16, 64
_STARTS_PER_S = 100.0
# A service that answers at once is kept busy by twice the least, for as long as its answers keep coming so quickly:
# more intents share a flush then, which takes a twentieth less CPU a cell. Once one is late, no more than the least.
_QUICK_S, _QUICK_OPEN_POSTS = 0.05, 32

# [seen] "reached your concurrency limit"; [docs] limits of images a minute and of concurrent tasks. A bare "too many
# requests" or "rate limit" is what any 429 may say.
_SLOTS = re.compile(r"concurren|in flight|in parallel|simultaneous|at once|at the same time", re.IGNORECASE)
_RATE = re.compile(r"(per|a|each|every|/) ?(second|minute|min\b|hour)|(rpm|ipm)\b", re.IGNORECASE)
# So many refusals in a row, while fewer and fewer are in flight, are not for their number.
_NOT_THE_NUMBER = 3
# Nor is one while so much less is in flight than was borne within the last minute, nor was one where so much more is
# borne now. What is done and not yet noticed makes up a tenth to a quarter of a full window.
_LESS, _MORE, _SURE = 0.75, 1.3, 4
# Of ten in flight one is done long before so many seconds are over: who is told to wait that long waits for a minute.
_LONG_ADVICE_S, _LONG_ADVICE_IN_FLIGHT = 10.0, 10
# The smallest account has two images a minute and two at once: who is refused the third has met both.
_SMALLEST, _MINUTE_S = 2, 60.0


def limit_named_in(message: str) -> Literal["slots", "rate"] | None:
    """Return which limit a refusal's words name, None where they leave it open."""
    if _SLOTS.search(message):
        return "slots"
    return "rate" if _RATE.search(message) else None


@dataclass(slots=True, kw_only=True)
class Throttle:
    """Window and pace, told of answers together."""

    window: Window
    pace: Pace
    most_open: float = 0.0
    _answer_s: float = 0.0
    _accepted_at_s: float = -1.0
    _streak: int = 0
    _refused_at_s: float = -1.0
    _blames_rate: bool = False
    _images: int = 0  # accepted so far, and when the first was
    _first_at_s: float = 0.0
    _borne: int = 0  # the most in flight that was accepted, and when
    _borne_at_s: float = 0.0
    _refused_with: int | None = None  # the least in flight that was refused without a word, and how often any was
    _guesses: int = 0

    def __post_init__(self) -> None:
        # The smallest account is refused at the third submission: who knows nothing begins with one after the other.
        self.most_open = 1.0 if self.window.is_unknown else float(LEAST_OPEN_POSTS)

    def may_open(self, open_posts: int, *, now_s: float) -> bool:
        """Return whether another POST may be open: one, then twice as many with each round, few while refused."""
        most = 1 if self._streak > 1 else int(self.most_open)
        if self._answer_s < _QUICK_S < now_s - self._accepted_at_s:
            most = min(most, LEAST_OPEN_POSTS)
        return open_posts < most

    def accepted(self, images: int, *, sent_at_s: float, now_s: float) -> None:
        """Take in an accepted submission."""
        self._streak = 0
        self._accepted_at_s = now_s
        self._answer_s += 0.1 * (now_s - sent_at_s - self._answer_s)
        least = LEAST_OPEN_POSTS if self._answer_s >= _QUICK_S else _QUICK_OPEN_POSTS
        most = max(least, min(MOST_OPEN_POSTS, _STARTS_PER_S * self._answer_s))
        self.most_open = min(most, self.most_open + 1 / 3)
        self._first_at_s = self._first_at_s if self._images else now_s
        self._images += images
        self._bear(now_s)
        self.window.accepted(sent_at_s=sent_at_s)
        self.pace.accepted(images, sent_at_s=sent_at_s, now_s=now_s)

    def refused(self, fault: Fault, *, sent_at_s: float, now_s: float) -> None:
        """Take in a 429; the refused submission is still counted in flight."""
        if sent_at_s > self._refused_at_s:
            self._streak += 1
            self._refused_at_s = now_s
        if self.most_open < LEAST_OPEN_POSTS:  # refused so soon, it is a small account
            self.most_open = 1.0
        if 0 < self._images <= _SMALLEST and self._first_at_s + _MINUTE_S > now_s:
            self.pace.hold(self._first_at_s + _MINUTE_S - now_s, now_s=now_s)
        named = limit_named_in(fault.message)
        limit = named or self._guess_limit(fault, now_s)
        if limit == "rate":
            self.pace.refused(fault, sent_at_s=sent_at_s, now_s=now_s)
            return
        # Only steps beyond tell what a refusal without words was for: they become rare when some have told the same.
        is_sure = named is not None or self._guesses >= _SURE
        has_advice = fault.retry_after_s is not None and is_sure
        self.window.refused(sent_at_s=sent_at_s, now_s=now_s, has_advice=has_advice)
        if fault.retry_after_s is not None:
            self.pace.hold(max(0.5, fault.retry_after_s), now_s=now_s)
        elif self._streak > 1 or self.window.in_flight <= 1:
            # The end of one of ours would make room; where that isn't so, only time can tell.
            self.pace.hold(min(60.0, 0.25 * 2.0 ** min(self._streak, 32)), now_s=now_s)

    def _bear(self, now_s: float) -> None:
        """Take in that so many in flight were borne: where fewer were refused, it wasn't for their number."""
        in_flight = self.window.in_flight
        if in_flight >= self._borne or now_s - self._borne_at_s > _MINUTE_S:
            self._borne, self._borne_at_s = in_flight, now_s
        if self._refused_with is not None and in_flight > _MORE * self._refused_with + 1:
            self._blame_rate()

    def _guess_limit(self, fault: Fault, now_s: float) -> Literal["slots", "rate"]:
        """Return which limit a refusal without words is for, by what else was borne and how long it asks to wait."""
        held = self.window.in_flight - 1
        if held <= 0:  # it holds none of ours
            self.window.forgive()
            return "rate"
        is_less_than_borne = now_s - self._borne_at_s <= _MINUTE_S and held < _LESS * self._borne
        is_long = (fault.retry_after_s or 0.0) >= _LONG_ADVICE_S and held >= _LONG_ADVICE_IN_FLIGHT
        if self._streak >= _NOT_THE_NUMBER or is_less_than_borne or is_long:
            self._blame_rate()
        if self._blames_rate:
            return "rate"
        self._guesses += self._streak == 1 and self._refused_at_s == now_s
        self._refused_with = held if self._refused_with is None else min(held, self._refused_with)
        return "slots"

    def _blame_rate(self) -> None:
        if not self._blames_rate:
            self._blames_rate, self._refused_with = True, None
            self.window.unlearn()
