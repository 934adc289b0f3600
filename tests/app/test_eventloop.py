"""The loop of a run's own: whose it is, and that what ends the coroutine comes out of it."""

import asyncio

import pytest

from batchflux.app.eventloop import run_to_end
from batchflux.core.errors import UsageError


async def _loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_a_run_of_its_own_is_on_uvloop() -> None:
    """The caller's own loop stays what it is."""
    assert run_to_end(_loop()) == "uvloop"
    assert asyncio.run(_loop()) == "asyncio"


@pytest.mark.parametrize("error", [UsageError("no such column"), KeyboardInterrupt()])
def test_what_ends_it_comes_out(error: BaseException) -> None:
    """An error or an interrupt ends the loop and reaches the caller as it is."""

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run_to_end(fail())
    assert raised.value is error
