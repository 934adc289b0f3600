"""A simulated disk: the journal in memory, what of it is flushed, and what a kill or a power cut leaves.

Facts go through the real encoding; only the file is missing. A killed process loses nothing that was written, a power
cut leaves what was flushed and any further prefix. After a failed flush nothing is believed or written any more.
"""

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from batchflux.core.errors import StorageError
from batchflux.core.ledger import compact, fold
from batchflux.core.model import Fact
from batchflux.io.journal import decode_fact, encode_fact
from batchflux.io.parts import build_table

__all__ = ["Disk", "SimulatedSink"]

# As the real one: what nobody waits for is flushed so much later.
_FLUSH_AFTER_S = 0.2
_PLACE = Path("journal") / "simulated"


@dataclass
class Disk:
    """What outlives a process. `payloads` is all that was written, the first `flushed` of them survive a power cut."""

    payloads: list[bytes] = field(default_factory=list)
    flushed: int = 0

    def cut_power(self, dice: random.Random) -> None:
        """Keep what was flushed and, of what came after it, a prefix."""
        del self.payloads[dice.randint(self.flushed, len(self.payloads)) :]
        self.flushed = len(self.payloads)

    def start_again(self) -> None:
        """What a new process reads is sealed before it goes on."""
        self.flushed = len(self.payloads)

    def facts(self) -> list[Fact]:
        """Return every fact in writing order."""
        return [decode_fact(payload) for payload in self.payloads]

    def table(self) -> pa.Table:
        """Return every fact in writing order, as the checkpoint has them."""
        return build_table(self.payloads)

    def state(self) -> pa.Table:
        """Return one row a cell, and hold that compacting some of the facts first makes no difference."""
        table = self.table()
        state = fold(table)
        middle = table.num_rows // 2
        halves = fold(pa.concat_tables([compact(table.slice(0, middle)), table.slice(middle)]))
        assert halves.sort_by("cell_id").equals(state.sort_by("cell_id"))
        return state


class SimulatedSink:
    """One process's writer: `engine.ports.Sink` over a disk. `heard` is told each fact that is written."""

    def __init__(
        self,
        disk: Disk,
        *,
        dice: random.Random,
        fails_at_flush: int | None = None,
        heard: Callable[[Fact], None] = lambda fact: None,
        slow_share: float = 0.0,
    ) -> None:
        self._disk, self._dice, self._fails_at_flush, self._heard = disk, dice, fails_at_flush, heard
        self._slow_share = slow_share
        self._is_dead = self._is_poisoned = False
        self._flushes = 0
        self._news = asyncio.Event()
        self._flushing = asyncio.Lock()

    def die(self) -> None:
        """The process is gone: what its remains still do writes nothing."""
        self._is_dead = True

    def record(self, fact: Fact) -> None:
        """Write a fact; raises StorageError after a failed flush."""
        if self._is_dead:
            return
        self._raise_failure()
        self._disk.payloads.append(encode_fact(fact))
        self._heard(fact)
        self._news.set()

    async def intent(self, fact: Fact) -> None:
        """Write a fact and return when it is flushed; raises StorageError."""
        self.record(fact)
        wanted = len(self._disk.payloads)
        while self._disk.flushed < wanted:
            await self._flush()

    async def run(self) -> None:
        """Flush what nobody waits for, until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_FLUSH_AFTER_S)
            self._news.clear()
            await self._flush()

    async def _flush(self) -> None:
        """Flush what was written before the flush began, at the pace of a disk; one at a time."""
        async with self._flushing:
            self._raise_failure()
            reached = len(self._disk.payloads)
            self._flushes += 1
            is_slow = self._dice.random() < self._slow_share
            await asyncio.sleep(self._dice.uniform(0.5, 3.0) if is_slow else self._dice.uniform(0.0003, 0.003))
            if self._flushes == self._fails_at_flush:
                self._is_poisoned = True
            self._raise_failure()
            if not self._is_dead:
                self._disk.flushed = max(self._disk.flushed, reached)

    def _raise_failure(self) -> None:
        if self._is_poisoned:
            cause = OSError(errno.ENOSPC, "no space left on device")
            raise StorageError(_PLACE, doing="flush the journal", cause=cause)
