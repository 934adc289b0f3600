"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

What runs on it without threads is one thread and repeats exactly. Where nothing is ready and nothing scheduled the
program would hang for ever: that is raised as `Deadlock`.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

__all__ = ["Deadlock", "VirtualLoop", "run", "run_virtually"]

T = TypeVar("T")

# A thread's result comes at no virtual time: where no timer is set either, it is waited for so long, really.
_REAL_PATIENCE_S = 1.0


class Deadlock(AssertionError):
    """Every task waits for another one."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asks for what is ready without waiting; where nothing is, moves the clock by as much as was to be waited."""

    def __init__(self, begin_s: float) -> None:
        super().__init__()
        self.now_s = begin_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0.0 if timeout is not None else _REAL_PATIENCE_S)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Deadlock(f"a deadlock: nothing is ready and no timer is set at {self.now_s:.3f} s")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Hours pass in milliseconds. Only for what awaits timers and other tasks of this loop."""

    def __init__(self, begin_s: float = 1000.0) -> None:
        self._jumping = _JumpingSelector(begin_s)
        super().__init__(self._jumping)

    def time(self) -> float:
        """The virtual clock, in seconds."""
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T], *, begin_s: float = 1000.0) -> T:
    """Run a coroutine to its end in virtual time; raises Deadlock."""
    with asyncio.Runner(loop_factory=partial(VirtualLoop, begin_s)) as runner:
        return runner.run(main)


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time that begins at 0 s; raises Deadlock."""
    return run(main, begin_s=0.0)
