"""How a run is stopped from outside: by the process's signals, or by a bell where it has a thread of its own.

The first one stops it and keeps all that is known; a second one ends it at once. Decides nothing about cells.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from batchflux.engine.control import Admission
from batchflux.engine.ports import Observer, StopReason

__all__ = ["Bell", "Signals"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Bell:
    """Carries signals to a run in another thread, also those that come before the run listens."""

    def __init__(self) -> None:
        self._rung: list[signal.Signals] = []
        self._hear: Callable[[signal.Signals], None] | None = None

    def ring(self, number: signal.Signals) -> None:
        """Let the run hear a signal, now or as soon as it listens."""
        self._rung.append(number)
        if self._hear is not None:
            self._hear(number)

    def listen(self, hear: Callable[[signal.Signals], None] | None) -> None:
        """Say who hears; what was rung before is heard at once."""
        self._hear = hear
        if hear is not None:
            for number in self._rung:
                hear(number)


class Signals:
    """While it lasts, signals stop the run; `hurried_by` is the second one, at which the running task is cancelled."""

    def __init__(self, admission: Admission, bell: Bell | None, observer: Observer) -> None:
        self.hurried_by: signal.Signals | None = None
        self._observer = observer
        self._admission = admission
        self._bell = bell
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._active = threading.current_thread() is threading.main_thread()
        self._ignored = {number for number in _NUMBERS if signal.getsignal(number) is signal.SIG_IGN}

    def __enter__(self) -> Self:
        if self._bell is not None:
            self._bell.listen(self._hear_from_afar)
        if self._active:
            for number in _NUMBERS:
                if number not in self._ignored:  # nohup means what it says
                    self._loop.add_signal_handler(number, self._heard, number)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bell is not None:
            self._bell.listen(None)
        if self._active:
            for number in _NUMBERS:
                if number not in self._ignored:
                    self._loop.remove_signal_handler(number)

    def _hear_from_afar(self, number: signal.Signals) -> None:
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._heard, number)

    def _heard(self, number: signal.Signals) -> None:
        reason = self._admission.switch.reason
        if reason is not None and reason.kind == "signal" and self._task is not None and self.hurried_by is None:
            self.hurried_by = number
            self._task.cancel()
        elif self.hurried_by is None:
            self._observer.note("stopping", by=number.name)
        self._admission.switch.stop(
            StopReason(kind="signal", message=f"stopped by {number.name}", signal=number), abandon=True
        )
