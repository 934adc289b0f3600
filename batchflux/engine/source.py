"""Where workers get their cells from, and the one answer to "is it over?".

Cells come from the job's own iterator and from what the reconciler gives back. It is over when nothing is left, no
worker is busy, and no lost submission waits for its verdict: any of these may bring more work.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from batchflux.engine.ports import Work

__all__ = ["WorkSource"]


class WorkSource:
    """Hands out work; `is_stopping` says whether new submissions have ended, then only adopted cells are given."""

    def __init__(self, work: Iterator[Work], *, is_stopping: Callable[[], bool]) -> None:
        self._work, self._is_stopping = work, is_stopping
        self._again: deque[Work] = deque()
        self._news = asyncio.Event()
        self._busy = 0
        self.unresolved = 0

    async def next(self) -> Work | None:
        """Return the next cell to be run, waiting for one where some may yet come; None where it is over.

        Each cell given out is to be answered with `finished`.
        """
        while True:
            found = self._take()
            if found is not None:
                self._busy += 1
                return found
            if self._busy == 0 and self.unresolved == 0:
                self.wake()
                return None
            self._news.clear()
            await self._news.wait()

    def _take(self) -> Work | None:
        is_stopping = self._is_stopping()
        while self._again:
            item = self._again.popleft()
            if not is_stopping or item.state.prediction_id is not None:
                return item
        return None if is_stopping else next(self._work, None)

    def finished(self) -> None:
        """Count a cell as let go of."""
        self._busy -= 1
        self.wake()

    def give_back(self, item: Work) -> None:
        """Take in a cell whose lost submission was resolved: adopted, or pending again."""
        self._again.append(item)
        self.wake()

    def wake(self) -> None:
        """Let waiting workers look again."""
        self._news.set()
