"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run"]

T = TypeVar("T")

# A thread's result comes at no virtual time: as long as one may be at work, the clock waits this long for it, really.
_REAL_PATIENCE_S = 0.0


class _JumpingSelector(selectors.DefaultSelector):
    """Asks for what is ready without waiting; where nothing is, moves the clock by as much as was to be waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(_REAL_PATIENCE_S if timeout is not None else 1.0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("a deadlock: nothing is ready and no timer is set")
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 1000 s; hours pass in milliseconds. Only for what awaits timers and other tasks of this loop."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """The virtual clock, in seconds."""
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
