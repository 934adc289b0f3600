"""Where workers get their cells: who waits is woken for news alone."""

import asyncio
from collections.abc import Iterator

from batchflux.core.budget import Budget
from batchflux.core.limits import Breaker, Health, Pace, Window
from batchflux.engine.control import Admission
from batchflux.engine.ports import Work
from batchflux.engine.source import WorkSource
from tests.engine.small import work


class Counted:
    """An iterator of cells that counts how often it is asked."""

    def __init__(self, cells: int) -> None:
        self.left, self.asked = cells, 0

    def __iter__(self) -> Iterator[Work]:
        return self

    def __next__(self) -> Work:
        self.asked += 1
        if not self.left:
            raise StopIteration
        self.left -= 1
        return work(self.left)


def test_who_waits_is_woken_when_the_last_cell_is_done_and_not_by_each() -> None:
    """Hundreds of idle workers must not all look again for each cell that ends: only the last end is news."""

    async def scene() -> None:
        cells = Counted(2)
        source = WorkSource(cells, admission=admission())
        assert await source.next() is not None
        assert await source.next() is not None
        waiting = [asyncio.ensure_future(source.next()) for _ in range(3)]
        await asyncio.sleep(0)
        asked = cells.asked
        source.finished()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert cells.asked == asked
        assert not any(each.done() for each in waiting)
        source.finished()
        assert await asyncio.gather(*waiting) == [None] * 3

    asyncio.run(scene())


def admission() -> Admission:
    return Admission(
        window=Window.capped(4),
        pace=Pace(images_per_s=None),
        breaker=Breaker(),
        health=Health(patience_s=None, began_at_s=0.0),
        budget=Budget(life_limit_micro_usd=None, session_limit_micro_usd=None, life_micro_usd=0),
    )
