"""Where workers get their cells from, and the one answer to "is it over?".

Cells come from the job's own iterator and from what the reconciler gives back. It is over when nothing is left, no
worker is busy, and no lost submission waits for its verdict: any of these may bring more work.
"""

import asyncio
from collections import deque
from collections.abc import Iterator

from batchflux.engine.control import Admission
from batchflux.engine.ports import Work

__all__ = ["WorkSource"]


class WorkSource:
    """Hands out work. Once the admission's switch is turned, only cells that the service knows already are given."""

    def __init__(self, work: Iterator[Work], *, admission: Admission) -> None:
        self._work, self._admission = work, admission
        self._again: deque[Work] = deque()
        self._news = asyncio.Event()
        self._busy = 0
        admission.switch.listeners.append(self.wake)

    async def next(self) -> Work | None:
        """Return the next cell to be run, waiting for one where some may yet come; None where it is over.

        Each cell given out is to be answered with `finished`.
        """
        while True:
            found = self._take()
            if found is not None:
                self._busy += 1
                return found
            if self._busy == 0 and (self._admission.unresolved == 0 or self._is_in_trouble()):
                self.wake()
                return None
            self._news.clear()
            await self._news.wait()

    def _is_in_trouble(self) -> bool:
        """Return whether the run stops for a reason that makes waiting for verdicts useless; the next run has them."""
        reason = self._admission.switch.reason
        return reason is not None and reason.kind != "asked"

    def _take(self) -> Work | None:
        is_stopping = self._admission.switch.reason is not None
        while self._again:
            item = self._again.popleft()
            if not is_stopping or item.state.prediction_id is not None:
                return item
        return None if is_stopping else next(self._work, None)

    def finished(self) -> None:
        """Count a cell as let go of; only the last one changes the answer for those who wait."""
        self._busy -= 1
        if self._busy == 0:
            self.wake()

    def give_back(self, item: Work) -> None:
        """Take in a cell whose lost submission was resolved: adopted, or pending again."""
        self._again.append(item)
        self.wake()

    def wake(self) -> None:
        """Let waiting workers look again."""
        self._news.set()
