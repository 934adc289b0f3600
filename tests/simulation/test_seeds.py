"""Whole lives of jobs drawn from seeds, each held against the service's own truth. A failing seed repeats exactly.

`BATCHFLUX_SEEDS=10000 pytest -m slow tests/simulation` or `python -m tests.simulation.many 10000` run more of them.
"""

import asyncio
import os
import random
from dataclasses import replace

import pytest

from batchflux.core.model import CellStatus, Fact, FactKind
from tests.engine.virtual import Deadlock, run_virtually
from tests.simulation.disk import Disk, SimulatedSink
from tests.simulation.plans import draw_plan
from tests.simulation.service import Weather
from tests.simulation.world import calm, live

# 300 seeds in groups: one test a seed would spend as much on the tests as on the seeds.
_SEEDS, _GROUP = 300, 20


@pytest.mark.fault("P01", "D05", "H17", "S16")
@pytest.mark.parametrize("first", range(0, _SEEDS, _GROUP))
def test_no_cell_is_lost_or_bought_twice_whatever_befalls_the_job(first: int) -> None:
    """Faults of all kinds, kills, power cuts and full disks; then the sun shines, and every promise holds."""
    for seed in range(first, first + _GROUP):
        try:
            live(draw_plan(seed))
        except Exception as error:
            error.add_note(f"to repeat it: python -m tests.simulation.many 1 {seed}")
            raise


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_lives() -> None:
    """As many seeds as the environment asks for, 10,000 where it says nothing."""
    for seed in range(int(os.environ.get("BATCHFLUX_SEEDS", "10000"))):
        try:
            live(draw_plan(seed))
        except Exception as error:
            error.add_note(f"to repeat it: python -m tests.simulation.many 1 {seed}")
            raise


@pytest.mark.parametrize("seed", [3, 24, 120, 269])
def test_a_seed_repeats_exactly(seed: int) -> None:
    """The same plan gives the same life, to the last submission and the last virtual moment."""
    assert live(draw_plan(seed)) == live(draw_plan(seed))


def test_seeds_meet_every_fault_and_every_ending() -> None:
    """What the simulation is for happens in it: each fault is drawn somewhere, and so is each way to die."""
    plans = [draw_plan(seed) for seed in range(_SEEDS)]
    endings = {session.ending for plan in plans for session in plan.sessions}
    assert endings == {"end", "kill", "power", "disk", "signal"}
    stories = [live(plan) for plan in plans[:60]]
    assert sum(story.crashes for story in stories) >= 40
    assert sum(story.adopted for story in stories) >= 40
    assert sum(story.unknown for story in stories) >= 1
    assert len({fault for story in stories for fault in story.met}) >= 25


def test_a_program_that_waits_for_itself_is_found_out() -> None:
    """Virtual time doesn't stand still in silence."""

    async def waits_for_nobody() -> None:
        await asyncio.sleep(3)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"at 3\.000 s"):
        run_virtually(waits_for_nobody())


@pytest.mark.fault("D05")
def test_a_power_cut_keeps_what_was_flushed_and_a_prefix_of_the_rest() -> None:
    """An intent that was waited for survives every cut; what was only recorded may go, newest first."""
    facts = [
        Fact(cell_id=f"{n:032x}", kind=FactKind.INTENT, at_ms=n, attempt=1, status=CellStatus.UNKNOWN) for n in range(8)
    ]
    left = set()
    for seed in range(60):
        disk = Disk()

        async def write(disk: Disk) -> None:
            sink = SimulatedSink(disk, dice=random.Random(0))
            await sink.intent(facts[0])
            await sink.intent(facts[1])
            for fact in facts[2:]:
                sink.record(fact)

        run_virtually(write(disk))
        disk.cut_power(random.Random(seed))
        assert disk.facts() == facts[: len(disk.payloads)]
        left.add(len(disk.payloads))
    assert left == set(range(2, 9))


def test_a_broken_promise_is_noticed() -> None:
    """A simulation that can't fail proves nothing: a service that makes two predictions of one submission is told."""
    sunny = replace(draw_plan(1), sessions=(calm(0.0),), weather=Weather())
    assert live(sunny).created == live(sunny).submissions
    with pytest.raises(AssertionError, match="not in the books"):
        live(replace(sunny, weather=Weather(submit={"double": 0.5})))
