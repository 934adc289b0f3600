"""The tests' own clock: timers fire in order at their moments, threads are heard, deadlocks are told."""

import asyncio
import time

import pytest

from tests.engine import virtual


def test_hours_pass_at_once_and_in_order() -> None:
    """Timers fire at just their moments, though nobody waits for them."""

    async def scene() -> list[float]:
        loop, heard = asyncio.get_running_loop(), list[float]()

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            heard.append(loop.time())

        async with asyncio.TaskGroup() as group:
            for seconds in (7200.0, 0.5, 60.0):
                group.create_task(wait(seconds))
        return heard

    began_s = time.monotonic()
    assert virtual.run(scene()) == pytest.approx([1000.5, 1060.0, 8200.0])
    assert time.monotonic() - began_s < 30


def test_a_deadlock_is_told() -> None:
    """Where nothing can ever happen any more a test ends instead of hanging."""

    async def scene() -> None:
        await asyncio.Event().wait()

    with pytest.raises(virtual.Deadlock, match="deadlock"):
        virtual.run(scene())
