"""Who watches a run on standard error: a tqdm bar on a terminal, a plain line now and then elsewhere, or nobody."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

from batchflux.core.budget import usd
from batchflux.core.model import CellStatus, Fact, JsonValue
from batchflux.core.progress import Progress
from batchflux.engine.ports import Observer

__all__ = ["Bar", "Lines", "Several", "duration"]

_LINE_EVERY_S = 15.0

# What is said at once; all other notes are for the log alone.
_SAID = {
    "stopping": "stopping: open submissions are heard to the end, for 10 s at most; once more stops at once",
    "failing": "the run can't go on: open submissions are heard to the end, for a minute at most",
    "mixed_up": "an answer named a prediction that is another submission's: it is not believed, its cell is looked up; "
    "if this comes again, look for a proxy that mixes answers up (run.log has the ids)",
}


def duration(seconds: float) -> str:
    """Return a length of time as people read it: 42 s, 5 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def _state(progress: Progress) -> str:
    parts = [f"in flight {progress.in_flight}"]
    for status in (CellStatus.FAILED, CellStatus.UNKNOWN):
        if progress.counts[status]:
            parts.append(f"{status} {progress.counts[status]}")
    if progress.downloads_waiting:
        parts.append(f"images waiting {progress.downloads_waiting}")
    money = "play money" if progress.is_rehearsal else "spent"
    return ", ".join([*parts, f"{money} {usd(progress.spent_micro_usd)}"])


class Bar:
    """A tqdm bar: done/total (what an earlier run did counts as done), rate, ETA, in flight, failed, spent."""

    def __init__(self, progress: Progress, *, name: str) -> None:
        self._bar = tqdm(
            total=progress.n_cells, initial=progress.n_done, desc=name, unit="cell", dynamic_ncols=True, smoothing=0.05
        )

    def fact(self, fact: Fact) -> None:
        """Facts are counted by the progress."""

    def note(self, event: str, **details: JsonValue) -> None:
        """Notes go to the log, but what may need the user is said at once."""
        if (words := _SAID.get(event)) is not None:
            with suppress(OSError):  # a terminal that is gone ends no run
                self._bar.write(words, file=sys.stderr)

    def tick(self, progress: Progress) -> None:
        """Redraw; that a terminal is gone is tqdm's own to bear."""
        self._bar.n = progress.n_done
        self._bar.set_postfix_str(_state(progress))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class Lines:
    """One plain line every fifteen seconds, for logs and pipes."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._next_at_s = 0.0

    def fact(self, fact: Fact) -> None:
        """Facts are counted by the progress."""

    def note(self, event: str, **details: JsonValue) -> None:
        """Notes go to the log, but what may need the user is said at once."""
        if (words := _SAID.get(event)) is not None:
            self._write(words)

    def tick(self, progress: Progress) -> None:
        """Write a line when one is due."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._next_at_s:
            return
        self._next_at_s = now_s + _LINE_EVERY_S
        rate, eta_s = progress.rate_per_s(now_s), progress.eta_s(now_s)
        speed = f", {rate * 60:.0f} cells/min" if rate else ""
        left = f", {duration(eta_s)} left" if eta_s is not None else ""
        self._write(f"{progress.n_done:,} of {progress.n_cells:,} cells{speed}{left}, {_state(progress)}")

    def _write(self, line: str) -> None:
        with suppress(OSError):  # whoever read this has left, as `head` does: that ends no run
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is held."""


class Several:
    """Tells several observers the same."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def fact(self, fact: Fact) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.fact(fact)

    def note(self, event: str, **details: JsonValue) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.note(event, **details)

    def tick(self, progress: Progress) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.tick(progress)
