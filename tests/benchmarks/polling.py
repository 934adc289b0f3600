"""Polls a prediction against seconds that its completion goes unnoticed: `python -m tests.benchmarks.polling`.

A simulator in which nothing is measured but counted: seeded latencies, a fixed number of predictions in flight, looks
that take a round trip. What is compared is the unnoticed time at the same polls a prediction: a baseline with a knob is
turned to our polls, one without is held against ours turned to its own. An oracle asks once, at the right moment, and
a dynamic programme over the true distribution, or over the latencies seen before, says how far anybody could go.
"""

import heapq
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchflux.core.polling import LOOK_PRICE, LatencyBook

__all__ = [
    "Row",
    "Watched",
    "draw_latencies",
    "exponential",
    "fixed",
    "follow",
    "looks_of",
    "main",
    "planned",
    "rows",
    "tuned",
]

Latencies: TypeAlias = npt.NDArray[np.float64]
MEDIAN_S = 8.0
COUNT = 6000
IN_FLIGHT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How a policy did: looks a prediction, and seconds from completion to our knowing, in the mean and the median."""

    polls: float
    mean_s: float
    median_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Ours against one baseline at the same polls a prediction; `ratio` is of the mean unnoticed times."""

    name: str
    baseline: str
    ours: Watched
    theirs: Watched

    @property
    def ratio(self) -> float:
        return self.ours.mean_s / self.theirs.mean_s


# ---------------------------------------------------------------------------------------------- latencies


def _lognormal(sigma: float) -> Callable[[np.random.Generator, int], Latencies]:
    return lambda rng, count: MEDIAN_S * rng.lognormal(0.0, sigma, count)


def _bimodal(rng: np.random.Generator, count: int) -> Latencies:
    slow = rng.random(count) < 0.3
    return np.where(slow, 24.0, 6.0) * rng.lognormal(0.0, 0.15, count)


def _heavy(rng: np.random.Generator, count: int) -> Latencies:
    return np.minimum(5.0 * (1 + rng.pareto(1.5, count)), 600.0)


def _drifting(way: Callable[[npt.NDArray[np.float64]], Latencies]) -> Callable[[np.random.Generator, int], Latencies]:
    """A lognormal whose median is multiplied by a function of the share of the run that has passed."""
    return lambda rng, count: _lognormal(0.4)(rng, count) * way(np.arange(count) / count)


SHAPES: dict[str, Callable[[np.random.Generator, int], Latencies]] = {
    "lognormal 0.4": _lognormal(0.4),
    "lognormal 0.5": _lognormal(0.5),
    "bimodal": _bimodal,
    "heavy tail": _heavy,
    "doubles at once": _drifting(lambda share: np.where(share < 0.5, 1.0, 2.0)),
    "halves at once": _drifting(lambda share: np.where(share < 0.5, 1.0, 0.5)),
    "doubles slowly": _drifting(lambda share: 2.0 ** np.clip(3 * share - 1, 0, 1)),
    "halves slowly": _drifting(lambda share: 0.5 ** np.clip(3 * share - 1, 0, 1)),
}
STATIONARY = ("lognormal 0.4", "lognormal 0.5", "bimodal", "heavy tail")


def draw_latencies(shape: str, *, count: int = COUNT, seed: int = 7, median_s: float = MEDIAN_S) -> Latencies:
    """Return the latencies of a shape, in order of submission; `median_s` is a lognormal's, and scales the others."""
    return SHAPES[shape](np.random.default_rng(seed), count) * (median_s / MEDIAN_S)


# ---------------------------------------------------------------------------------------------- ours


def follow(
    latencies: Latencies,
    *,
    book: LatencyBook,
    trip_s: float = 0.005,
    in_flight: int = IN_FLIGHT,
    is_timed: bool = True,
    skip: int = 0,
) -> Watched:
    """Let a book watch predictions as `looks_of` does; the first `skip` of them don't count."""
    polls, unnoticed = looks_of(latencies, book=book, trip_s=trip_s, in_flight=in_flight, is_timed=is_timed)
    return _watched(polls[skip:], unnoticed[skip:])


def looks_of(
    latencies: Latencies,
    *,
    book: LatencyBook,
    trip_s: float = 0.005,
    in_flight: int = IN_FLIGHT,
    is_timed: bool = True,
    moments: list[tuple[float, bool]] | None = None,
) -> tuple[npt.NDArray[np.float64], Latencies]:
    """Let a book watch predictions, so many at once, each replaced as soon as it is known to be done.

    Returns each one's looks and unnoticed seconds; `moments` takes in (when, whether it was a first one) of all looks.
    The clock of a prediction begins when its submission is answered, half a trip after the service began; a look sees
    the service in the middle of its trip. `is_timed`: the service tells inference times.
    """
    dice = random.Random(7)
    polls, unnoticed = np.zeros(len(latencies)), np.zeros(len(latencies))
    waiting = iter(enumerate(latencies.tolist()))
    looks: list[tuple[float, int, float, float, float]] = []

    def begin(now_s: float) -> None:
        for which, latency_s in islice(waiting, 1):
            due_s = now_s + book.wait_s(0.0, dice=dice.random()) + trip_s
            heapq.heappush(looks, (due_s, which, latency_s, now_s, 0.0))

    for _ in range(in_flight):
        begin(0.0)
    while looks:
        now_s, which, latency_s, began_s, before_s = heapq.heappop(looks)
        age_s = now_s - began_s
        polls[which] += 1
        if moments is not None:
            moments.append((now_s, before_s == 0.0))
        if age_s < latency_s:  # the half trips of the submission and of the look cancel out
            book.saw_running(age_s, before_s=before_s, trip_s=trip_s)
            book.pace.again(str(which))
            due_s = now_s + book.wait_s(age_s, dice=dice.random()) + trip_s
            heapq.heappush(looks, (due_s, which, latency_s, began_s, age_s))
        else:
            unnoticed[which] = age_s - latency_s + trip_s / 2
            told_ms = round(latency_s * 1000) if is_timed else None
            book.learn(age_s, before_s=before_s, inference_ms=told_ms, trip_s=trip_s)
            book.pace.ended(str(which))
            begin(now_s)
    return polls, unnoticed


def _watched(polls: npt.NDArray[np.float64], unnoticed: Latencies) -> Watched:
    return Watched(polls=float(polls.mean()), mean_s=float(unnoticed.mean()), median_s=float(np.median(unnoticed)))


# ---------------------------------------------------------------------------------------------- baselines


def scheduled(latencies: Latencies, looks_s: Latencies, *, trip_s: float) -> Watched:
    """Watch by the same ages of looking for everybody, each look at least a trip after the last."""
    places = np.searchsorted(looks_s, latencies)
    polls = np.asarray(places + 1.0, dtype=np.float64)
    return _watched(polls, looks_s[places] - latencies + trip_s / 2)


def fixed(latencies: Latencies, interval_s: float, *, trip_s: float) -> Watched:
    """Watch every so many seconds, as the service's SDK does every second."""
    step_s = interval_s + trip_s
    polls = np.maximum(1.0, np.ceil(latencies / step_s))
    return _watched(polls, polls * step_s - latencies + trip_s / 2)


def exponential(latencies: Latencies, first_s: float, *, trip_s: float) -> Watched:
    """Watch after a first wait that doubles from look to look."""
    waits_s = first_s * 2.0 ** np.arange(40)
    return scheduled(latencies, np.cumsum(waits_s + trip_s), trip_s=trip_s)


def oracle(latencies: Latencies, *, trip_s: float) -> Watched:
    """Watch with one look, that sees the service at the very moment of completion."""
    return _watched(np.ones(len(latencies)), np.full(len(latencies), trip_s / 2))


def planned(latencies: Latencies, price_s: float, *, known: Latencies, trip_s: float) -> Watched:
    """Watch as a dynamic programme over known latencies says, a look costing so many seconds of unnoticed time."""
    return scheduled(latencies, np.array(best_looks(known, price_s=price_s, least_s=trip_s)), trip_s=trip_s)


def planned_from_seen(latencies: Latencies, price_s: float, *, trip_s: float, seen: int = 256) -> Watched:
    """Watch as a dynamic programme over the latencies just before says, with each of them known to the millisecond."""
    parts = [
        planned(latencies[at : at + seen], price_s, known=latencies[at - seen : at], trip_s=trip_s)
        for at in range(seen, len(latencies) - seen, seen)
    ]
    means = [float(np.mean([getattr(part, name) for part in parts])) for name in ("polls", "mean_s", "median_s")]
    return Watched(polls=means[0], mean_s=means[1], median_s=means[2])


def best_looks(known: Latencies, *, price_s: float, least_s: float, points: int = 150) -> list[float]:
    """Return the ages of looking that cost least for these latencies, among some of their quantiles and ages between.

    From each age the cheapest next one: a look for each still running, the wait of those done since, and what is left
    from there. Beyond the last of them looks follow in steps of a sixth of the age.
    """
    ordered = np.sort(known)
    even = np.geomspace(ordered[0], ordered[-1], points)
    ages = np.unique(np.concatenate([[0.0], np.quantile(ordered, np.linspace(0, 1, points)), even]))
    place = np.searchsorted(ordered, ages, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])[place]
    cost, following = np.zeros(len(ages)), np.full(len(ages), len(ages) - 1)
    for at in range(len(ages) - 2, -1, -1):
        later = slice(at + 1, None)
        waste = (place[later] - place[at]) * ages[later] - (sums[later] - sums[at])
        total = price_s * (len(ordered) - place[at]) + waste + cost[later]
        total[:-1][ages[later][:-1] - ages[at] < least_s] = np.inf
        following[at] = at + 1 + int(np.argmin(total))
        cost[at] = total[following[at] - at - 1]
    looks, at = [], 0
    while at < len(ages) - 1:
        at = int(following[at])
        looks.append(float(ages[at]))
    while looks[-1] < 1e5:
        looks.append(looks[-1] * 1.16 + least_s)
    return looks


def tuned(
    policy: Callable[[float], Watched], *, polls: float, tries: int = 40, low: float = 1e-4, high: float = 1e4
) -> Watched:
    """Return how a policy does at so many polls a prediction, its one knob (the larger, the fewer) turned to them.

    Where the polls jump with the knob, what lies between the two nearest is a mixture of them.
    """
    for _ in range(tries):
        knob = math.sqrt(low * high)
        low, high = (knob, high) if policy(knob).polls > polls else (low, knob)
    return _mixed([policy(low), policy(high)], polls)


def _mixed(sides: list[Watched], polls: float) -> Watched:
    """Return what some predictions watched one way and some another make, so that the polls are as asked."""
    more, fewer = sides
    share = 0.0 if more.polls == fewer.polls else (polls - fewer.polls) / (more.polls - fewer.polls)
    share = min(1.0, max(0.0, share))
    return Watched(
        polls=fewer.polls + share * (more.polls - fewer.polls),
        mean_s=fewer.mean_s + share * (more.mean_s - fewer.mean_s),
        median_s=fewer.median_s + share * (more.median_s - fewer.median_s),
    )


def ours_at(frontier: list[Watched], polls: float) -> Watched:
    """Return ours at so many polls a prediction, between two points of its frontier (fewest polls first)."""
    for fewer, more in pairwise(frontier):
        if polls <= more.polls:
            return _mixed([more, fewer], polls)
    return frontier[-1]


# ---------------------------------------------------------------------------------------------- the table


def compare(shape: str, *, trip_s: float, median_s: float) -> Iterator[Row]:
    """Yield ours against each baseline for one shape of latencies."""
    name = f"{shape}, median {median_s:g} s, trip {trip_s * 1000:g} ms"
    every, first = draw_latencies(shape, median_s=median_s), 200
    late = every[first:]

    def ours(price: float) -> Watched:
        return follow(every, book=LatencyBook(look_price=price), trip_s=trip_s, skip=first)

    default = ours(LOOK_PRICE)
    yield Row(name=name, baseline="oracle", ours=default, theirs=oracle(late, trip_s=trip_s))
    if shape in STATIONARY:
        known = draw_latencies(shape, count=50_000, seed=8, median_s=median_s)
        best = tuned(lambda price_s: planned(late, price_s, known=known, trip_s=trip_s), polls=default.polls, tries=25)
        yield Row(name=name, baseline="programme, true", ours=default, theirs=best)
        seen = tuned(lambda price_s: planned_from_seen(late, price_s, trip_s=trip_s), polls=default.polls, tries=20)
        yield Row(name=name, baseline="programme, seen", ours=default, theirs=seen)
    same = tuned(lambda knob: fixed(late, knob, trip_s=trip_s), polls=default.polls)
    yield Row(name=name, baseline="fixed", ours=default, theirs=same)
    same = tuned(lambda knob: exponential(late, knob, trip_s=trip_s), polls=default.polls)
    yield Row(name=name, baseline="exponential", ours=default, theirs=same)
    frontier = [
        ours(price) for price in (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.006, 0.003, 0.0015, 0.0006, 0.0002, 0.0001)
    ]
    for baseline, theirs in (
        ("fixed 0.5 s", fixed(late, 0.5, trip_s=trip_s)),
        ("SDK, 1 s", fixed(late, 1.0, trip_s=trip_s)),
        ("exponential 0.1 s", exponential(late, 0.1, trip_s=trip_s)),
        ("exponential 0.5 s", exponential(late, 0.5, trip_s=trip_s)),
        ("exponential 1 s", exponential(late, 1.0, trip_s=trip_s)),
    ):
        yield Row(name=name, baseline=baseline, ours=ours_at(frontier, theirs.polls), theirs=theirs)


def rows() -> Iterator[Row]:
    """Yield every comparison of the benchmark."""
    for shape in SHAPES:
        yield from compare(shape, trip_s=0.005, median_s=MEDIAN_S)
    for shape in STATIONARY:
        yield from compare(shape, trip_s=0.15, median_s=MEDIAN_S)
    for shape in ("lognormal 0.4", "lognormal 0.5"):
        yield from compare(shape, trip_s=0.15, median_s=2.0)


def main() -> list[Row]:
    """Print the table, baseline by baseline, and what a decision costs; returns the rows."""
    every, shown = [], ""
    sys.stdout.write("unnoticed seconds at the same polls a prediction; a ratio below 1 is in our favour\n")
    for row in rows():
        every.append(row)
        if row.name != shown:
            shown = row.name
            sys.stdout.write(f"\n{row.name}\n")
            sys.stdout.write(f"  {'':18} {'their and our polls':>16} {'mean s':>15} {'median s':>15} {'ratio':>7}\n")
        ours, theirs = row.ours, row.theirs
        sys.stdout.write(
            f"  {row.baseline:18} {theirs.polls:12.2f} {ours.polls:6.2f} {theirs.mean_s:8.3f} {ours.mean_s:6.3f} "
            f"{theirs.median_s:8.3f} {ours.median_s:6.3f} {row.ratio:7.2f}\n"
        )
    sys.stdout.write(f"\na decision (one of wait_s, saw_running, learn): {decision_us():.1f} µs\n")
    return every


def decision_us() -> float:
    """Return what one call of a book costs here, in microseconds of CPU, replanning included."""
    latencies, book, calls = draw_latencies("lognormal 0.4"), LatencyBook(), 0
    began_s = time.process_time()
    for latency_s in latencies.tolist():
        before_s, age_s = 0.0, book.wait_s(0.0, dice=0.5)
        while age_s < latency_s:
            book.saw_running(age_s, before_s=before_s)
            before_s, age_s = age_s, age_s + book.wait_s(age_s, dice=0.5)
            calls += 2
        book.learn(age_s, before_s=before_s)
        calls += 2
    return (time.process_time() - began_s) / calls * 1e6


if __name__ == "__main__":
    main()
