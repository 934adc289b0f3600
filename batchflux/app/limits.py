"""What a run learned of its account's limits, kept while it is at work: begun with, shared each second, remembered.

Nothing here decides how fast the run may go, and nothing stops it: see `core.throttle` and `core.learned`.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from batchflux.core.learned import Learned, learned_of, recall, share
from batchflux.core.model import CellStatus
from batchflux.core.origin import host_of, is_loopback_host
from batchflux.core.progress import Progress
from batchflux.engine.control import Admission
from batchflux.io.client import ApiKey
from batchflux.io.limitsfile import read_limits, write_limits
from batchflux.io.neighbours import Neighbours, state_folder

__all__ = ["LimitsKeeper", "neighbours_of"]

_REMEMBER_EVERY_S = 30.0


def neighbours_of(key: ApiKey, base_url: str, *, is_rehearsal: bool) -> Neighbours:
    """Return the other runs of the account; a rehearsal's sandbox is its own and has none."""
    folder = None if is_rehearsal else state_folder(os.environ)
    if folder is None:
        return Neighbours(None)
    is_lasting = not is_loopback_host(host_of(base_url) or "")
    return Neighbours(folder / key.account_name(base_url), is_lasting=is_lasting)


@dataclass(kw_only=True)
class LimitsKeeper:
    """Keeps one run's limits between this run directory, the runs beside it and its admission."""

    run_dir: Path
    admission: Admission
    progress: Progress
    neighbours: Neighbours
    _due_at_s: float = field(default=0.0)

    def begin(self) -> None:
        """Begin with what was learned last, here or by another run of the account."""
        found = [each for each in (read_limits(self.run_dir), self.neighbours.remembered()) if each is not None]
        if found:
            newest = max(found, key=lambda learned: learned.at_ms)
            recall(self.admission.throttle, newest, now_ms=_wall_ms())

    def now(self) -> Learned:
        """Return what is learned by now."""
        wants_more = self.progress.counts[CellStatus.PENDING] > 0 and self.admission.switch.reason is None
        return learned_of(self.admission.throttle, at_ms=_wall_ms(), is_hungry=wants_more)

    def exchange(self) -> None:
        """Draw level with the runs beside this one."""
        others, gone = self.neighbours.exchange(self.now())
        if others or gone:
            share(self.admission.throttle, others, gone)
            self.admission.changed()

    def is_due(self, now_s: float) -> bool:
        """Return whether it is time to remember, and count it as done."""
        if now_s < self._due_at_s:
            return False
        self._due_at_s = now_s + _REMEMBER_EVERY_S
        return True

    def remember(self, learned: Learned) -> None:
        """Write down what was learned or binds, where anything does. In any thread, which `now` is not for: it reads
        what the loop changes."""
        if learned.binds is not None:
            write_limits(self.run_dir, learned)
        if learned.slots is not None or learned.images_per_s is not None:
            self.neighbours.remember(learned)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
