"""How soon and how closely the hidden limits of many kinds of account are found, in virtual time and over many seeds.

`python -m tests.benchmarks.limits [SEEDS] [FILTER]` prints the table, worst of the seeds beside their median: the first
so many seeds, or those of a span such as 20-24. It judges the throttle alone: no network, no clock, no load of the
machine is in its figures.
"""

import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchflux.core.learned import learned_of, recall
from tests.core.account import Account, Run, ideal_s, learner, simulate

__all__ = ["CASES", "Case", "Figure", "judge"]

_SLOTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a run, and the bound it should keep: at most, or at least where `is_floor`."""

    value: float
    bound: float
    is_floor: bool = False

    @property
    def is_kept(self) -> bool:
        return self.value >= self.bound if self.is_floor else self.value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of account and what is asked of a run on it: `measure` takes the seed."""

    name: str
    measure: Callable[[int], Mapping[str, Figure]]


def _play(
    seed: int,
    *,
    cells: int | None = None,
    until_s: float = math.inf,
    tells_work: bool = True,
    round_trip_s: float = 0.1,
    **limits: Any,
) -> tuple[Run, Account]:
    account = Account(dice=random.Random(seed), **limits)
    run = Run(throttle=learner(), cells=cells, tells_work=tells_work)
    simulate(account, run, until_s=until_s, round_trip_s=round_trip_s, seed=seed)
    return run, account


def _makespan(most: float, seed: int, *, tells_work: bool = True, **limits: Any) -> Mapping[str, Figure]:
    run, account = _play(seed, cells=2000, tells_work=tells_work, slots=_SLOTS, **limits)
    return {"x ideal": Figure(value=max(run.done_at_s) / ideal_s(account.works, slots=_SLOTS), bound=most)}


def _used(seed: int, *, per_min: int = 500, **limits: Any) -> Mapping[str, Figure]:
    run, _ = _play(seed, until_s=601, per_min=per_min, **limits)
    # Whole minutes of the service's: one that was used up before we looked has nothing left to use.
    from_s, to_s = (80, 560) if limits["counts_by"] == "fixed" else (60, 600)
    accepted, refused = run.accepted(from_s, to_s), run.refused(60, 600)
    return {
        "used %": Figure(value=100 * accepted / ((to_s - from_s) / 60 * per_min), bound=97, is_floor=True),
        "refused %": Figure(value=100 * refused / (accepted + refused), bound=1),
    }


def _bronze(seed: int, **limits: Any) -> Mapping[str, Figure]:
    run, _ = _play(seed, until_s=1201, per_min=2, slots=2, **limits)
    minutes = [run.refused(60.0 * minute, 60.0 * minute + 60) for minute in range(20)]
    return {
        "refused in minute 1": Figure(value=minutes[0], bound=1),
        "in a later one": Figure(value=max(minutes[1:]), bound=1),
        "in all of 20": Figure(value=sum(minutes), bound=20),
        "used %": Figure(value=100 * run.accepted(60, 1200) / 38, bound=80, is_floor=True),
    }


def _ultra(seed: int, **limits: Any) -> Mapping[str, Figure]:
    run, _ = _play(seed, until_s=181, per_min=5000, sigma=0.4, **limits)
    rate = [run.accepted(at_s, at_s + 10) / (5000 / 6) for at_s in range(0, 180, 10)]
    reached = next((10.0 * number for number, part in enumerate(rate) if part >= 0.95), math.inf)
    return {
        "s to full rate": Figure(value=reached, bound=50),
        # Minute 2 can't be judged: where the last minute is counted it only gives back what minute 1 took, and when.
        "used % of minute 3": Figure(value=100 * run.accepted(120, 180) / 5e3, bound=97, is_floor=True),
        "refused % in minute 1": Figure(value=100 * run.refused(0, 60) / max(1, run.accepted(0, 60)), bound=2),
    }


def _start(seed: int, **limits: Any) -> Mapping[str, Figure]:
    run, _ = _play(seed, until_s=121, **limits)
    return {"refused in 10 s": Figure(value=run.refused(0, 10), bound=30)}


def _change(seed: int, *, before: int, after: int) -> Mapping[str, Figure]:
    account, run = Account(per_min=before, dice=random.Random(seed)), Run(throttle=learner())
    simulate(account, run, until_s=901, seed=seed, changes={300.0: partial(setattr, account, "per_min", after)})
    return {
        "used % from 2 min after": Figure(value=100 * run.accepted(420, 900) / (8 * after), bound=95, is_floor=True),
        "refused %": Figure(
            value=100 * run.refused(420, 900) / run.accepted(420, 900), bound=1.5 if after > 100 else 3
        ),
    }


def _again(seed: int, *, before: int, after: int) -> Mapping[str, Figure]:
    first, _ = _play(seed, until_s=301, per_min=before)
    account, run = Account(per_min=after, dice=random.Random(seed + 1)), Run(throttle=learner())
    recall(run.throttle, learned_of(first.throttle, at_ms=0, is_hungry=True), now_ms=600_000)
    simulate(account, run, until_s=301, seed=seed)
    return {
        "used % of minutes 3 to 5": Figure(value=100 * run.accepted(120, 300) / (3 * after), bound=95, is_floor=True),
        "refused in minute 1": Figure(value=run.refused(0, 60), bound=15),
    }


def _cases() -> Iterator[Case]:
    options: dict[str, Any]
    for way_s in (0.05, 0.1):
        for words, speaks in (("", True), (" without words", False)):
            for advice, advises in (("", False), (", Retry-After", True)):
                name = f"50 slots, refuses{words}{advice}, {1000 * way_s:.0f} ms there and back"
                options = {"speaks": speaks, "advises": advises, "round_trip_s": way_s}
                yield Case(name=name, measure=partial(_makespan, 1.10, **options))
        for words, tells_work in (("", True), (", work untold", False)):
            name = f"50 slots, queues{words}, {1000 * way_s:.0f} ms there and back"
            options = {"queues": True, "tells_work": tells_work, "round_trip_s": way_s}
            yield Case(name=name, measure=partial(_makespan, 1.02, **options))
    for counts_by, bucket in (("sliding", None), ("bucket", 500), ("bucket", 10), ("fixed", None), ("first", None)):
        for words, speaks in (("", True), (" without words", False)):
            for advice, advises in (("", False), (", Retry-After", True)):
                for median_s in (2.0, 8.0):
                    name = (
                        f"500 a minute, {counts_by}{f' of {bucket}' if bucket else ''}{words}{advice}, {median_s:g} s"
                    )
                    options = {"counts_by": counts_by, "bucket": bucket, "speaks": speaks, "advises": advises}
                    yield Case(name=name, measure=partial(_used, median_s=median_s, **options))
    for counts_by in ("sliding", "bucket", "fixed"):
        for words, more in (
            ("", {}),
            (" without words", {"speaks": False}),
            (", Retry-After", {"advises": True}),
            (", queues", {"queues": True}),
        ):
            for median_s in (2.0, 12.0):
                name = f"bronze, {counts_by}{words}, {median_s:g} s"
                yield Case(name=name, measure=partial(_bronze, counts_by=counts_by, median_s=median_s, **more))
    for counts_by, bucket in (("sliding", None), ("bucket", 83)):
        for slots, queues in ((10000, False), (2000, False), (2000, True)):
            for median_s in (2.0, 4.0, 8.0, 12.0):
                counted = f"{counts_by}{f' of {bucket}' if bucket else ''}"
                name = f"ultra, {counted}, {slots:,} slots{', queues' if queues else ''}, {median_s:g} s"
                options = {"counts_by": counts_by, "bucket": bucket, "slots": slots, "queues": queues}
                yield Case(name=name, measure=partial(_ultra, median_s=median_s, **options))
    for median_s in (2.0, 4.0, 8.0, 12.0):
        for slots in (5, 100, 300):
            yield Case(
                name=f"start, 500 a minute, {slots} slots, {median_s:g} s",
                measure=partial(_start, per_min=500, slots=slots, median_s=median_s),
            )
    for before, after in ((500, 250), (250, 500), (500, 3000), (500, 50)):
        yield Case(name=f"{before} a minute becomes {after}", measure=partial(_change, before=before, after=after))
        yield Case(name=f"remembered {before}, is {after} now", measure=partial(_again, before=before, after=after))


CASES = tuple(_cases())


def judge(number: int, seed: int) -> Mapping[str, Figure]:
    """Play one case of `CASES` with one seed."""
    return CASES[number].measure(seed)


def _print_table(seeds: Sequence[int], chosen: str) -> None:
    numbers = [number for number, case in enumerate(CASES) if chosen in case.name]
    with ProcessPoolExecutor(2) as pool:
        waiting = {number: [pool.submit(judge, number, seed) for seed in seeds] for number in numbers}
        for number, futures in waiting.items():
            found = [future.result() for future in futures]
            cells = []
            for name, first in found[0].items():
                values = sorted(each[name].value for each in found)
                worst = values[0] if first.is_floor else values[-1]
                missed = sum(not each[name].is_kept for each in found)
                cells.append(
                    f"{name} {statistics.median(values):.4g} ({worst:.4g}{f', {missed} MISSED' if missed else ''})"
                )
            sys.stdout.write(f"{CASES[number].name:<62} {' | '.join(cells)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    first, dash, last = (sys.argv[1] if len(sys.argv) > 1 else "8").partition("-")
    span = range(int(first), int(last) + 1) if dash else range(int(first))
    _print_table(span, sys.argv[2] if len(sys.argv) > 2 else "")
