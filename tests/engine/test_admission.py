"""The gate before every submission: who waits stands in line, and is let in by news, never before all of it is told."""

import asyncio
from collections.abc import Awaitable, Callable

from batchflux.core.budget import Budget
from batchflux.core.limits import Breaker, Health, Pace, Window
from batchflux.engine.control import Admission
from batchflux.engine.ports import StopReason
from tests.engine.virtual import run_virtually

PRICE = 80_000


def gate(*, slots: int = 1, images_per_s: float | None = None) -> Admission:
    return Admission(
        window=Window.capped(slots),
        pace=Pace(images_per_s=images_per_s),
        breaker=Breaker(),
        health=Health(patience_s=None, began_at_s=0.0),
        budget=Budget(life_limit_micro_usd=None, session_limit_micro_usd=None, life_micro_usd=0),
    )


async def ask(admission: Admission) -> bool:
    return await admission.admit(price_micro_usd=PRICE, images=1, is_new_cell=True)


def in_line(scene: Callable[[Admission, list[asyncio.Task[bool]]], Awaitable[None]], *, waiting: int) -> None:
    """Play a scene in which the only slot is taken and so many wait for it."""

    async def main() -> None:
        admission = gate()
        assert await ask(admission)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(admission)) for _ in range(waiting)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
            await scene(admission, tasks)

    run_virtually(main())


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_each_slot_that_comes_free_lets_in_the_first_in_line() -> None:
    """Two end and two are let in, in the order in which they came; their prices are reserved with that."""

    async def scene(admission: Admission, tasks: list[asyncio.Task[bool]]) -> None:
        admission.window.size = 2.0
        admission.slot_freed()
        await settle()
        assert [task.done() for task in tasks] == [True, True, False]
        assert admission.budget.life_micro_usd == 3 * PRICE
        admission.slot_freed()
        await settle()
        assert [task.result() for task in tasks] == [True, True, True]

    in_line(scene, waiting=3)


def test_a_free_slot_is_given_only_when_all_is_told_that_came_with_it() -> None:
    """A POST is closed before its answer is heard: a refusal of the whole job must come before the next one leaves."""

    async def scene(admission: Admission, tasks: list[asyncio.Task[bool]]) -> None:
        admission.post_closed()
        admission.slot_freed()
        admission.switch.stop(StopReason(kind="trouble", message="no credit"))
        await settle()
        assert [task.result() for task in tasks] == [False, False]
        assert admission.budget.life_micro_usd == PRICE

    in_line(scene, waiting=2)


def test_who_is_gone_holds_nobody_up_and_reserves_nothing() -> None:
    """A task cancelled in line leaves its turn to the next one."""

    async def scene(admission: Admission, tasks: list[asyncio.Task[bool]]) -> None:
        tasks[0].cancel()
        await settle()
        admission.slot_freed()
        await settle()
        assert tasks[1].result()
        assert admission.budget.life_micro_usd == 2 * PRICE

    in_line(scene, waiting=2)


def test_a_stated_rate_lets_the_line_in_by_the_clock_alone() -> None:
    """Without any news each is let in when its turn comes, half a second after the one before."""

    async def main() -> None:
        admission, loop = gate(slots=8, images_per_s=2.0), asyncio.get_running_loop()
        began_s = loop.time()
        moments: list[float] = []

        async def one() -> None:
            assert await ask(admission)
            moments.append(round(loop.time() - began_s, 3))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(one())
        assert moments == [0.0, 0.5, 1.0, 1.5]

    run_virtually(main())
