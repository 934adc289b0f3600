"""Ways to have a sandbox running: in this event loop, in a thread of its own, or as a child process.

Starts and stops it and nothing else. The server is imported where it is started, so that whoever only names these
doesn't load a web framework.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from batchflux.core.errors import BatchfluxError, UsageError
from batchflux.sandbox.config import SandboxConfig

if TYPE_CHECKING:
    from batchflux.sandbox.behaviour import Behaviour
    from batchflux.sandbox.server import Sandbox

__all__ = ["RunningSandbox", "SandboxProcess", "SandboxThread", "serve"]

# Python, Pillow and numpy take a second to load on a slow, busy machine, and the memory of a killed one may be held.
_START_PATIENCE_S = 60.0
_STOP_PATIENCE_S = 10.0


async def serve(config: SandboxConfig, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run a sandbox until `stop` is set; `ready` hears its base URL, which ends in /api/v3, once it listens.

    Raises UsageError where it can't start and StorageError where its memory can't be written.
    """
    async with RunningSandbox(config) as sandbox:
        ready(sandbox.base_url)
        await stop.wait()


class RunningSandbox:
    """A sandbox in the running event loop: `async with RunningSandbox(SandboxConfig()) as sandbox:`.

    `clock` gives seconds since the epoch, for tests that can't wait for days to pass.
    """

    def __init__(self, config: SandboxConfig | None = None, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self.config = SandboxConfig() if config is None else config
        self._sandbox: Sandbox | None = None

    async def __aenter__(self) -> Self:
        from batchflux.sandbox.server import Sandbox

        self._sandbox = await Sandbox(self.config, clock=self._clock).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.__aexit__()

    @property
    def base_url(self) -> str:
        """Where its API is, ending in /api/v3."""
        return self._running.base_url

    @property
    def origin(self) -> str:
        """Scheme, host and port: what the official SDK calls its base URL."""
        return self._running.origin

    @property
    def behaviour(self) -> "Behaviour":
        """The service's state: every prediction it ever created."""
        return self._running.behaviour

    @property
    def stats(self) -> Mapping[str, Any]:
        """The counts that `GET /sandbox/stats` gives."""
        return self._running.stats()

    @property
    def _running(self) -> "Sandbox":
        if self._sandbox is None:
            raise UsageError("the sandbox is not running: enter it first")
        return self._sandbox


class SandboxThread:
    """A sandbox in a thread with an event loop of its own, for synchronous callers; any configuration, any fault.

    `stats` and `behaviour` are read from outside its loop: good for counts when nothing is being sent.
    """

    def __init__(self, config: SandboxConfig | None = None, *, clock: Callable[[], float] | None = None) -> None:
        self._running = RunningSandbox(config, clock=clock)
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._started = threading.Event()
        self._failure: BatchfluxError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> RunningSandbox:
        self._thread.start()
        if not self._started.wait(_START_PATIENCE_S):
            raise UsageError("the sandbox did not start in time")
        if self._failure is not None:
            raise self._failure
        return self._running

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_PATIENCE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BatchfluxError as error:
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._running:
            self._started.set()
            await self._stop.wait()


class SandboxProcess:
    """A sandbox as a child process that ends with this one, whatever kills it; `options` are those of the command.

    `with SandboxProcess(["--state", directory, "--latency", "0"]) as sandbox:`, then `base_url`, `origin` and `pid`.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", "batchflux.sandbox", "--with-parent", *options]
        self._child: subprocess.Popen[str] | None = None
        self.base_url = ""

    def __enter__(self) -> Self:
        # The child must import the batchflux that this is, wherever the caller's working directory is.
        home = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH", "")) if part)
        reason = ""
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            reason = str(error)
        if self._child is None:
            # Raised out here, for the frames behind the other exception hold the environment, a key and all.
            raise UsageError(f"the sandbox did not start: {reason}")
        line = self._child.stdout.readline() if self._child.stdout else ""
        if not line:
            status = self._end()
            raise UsageError(f"the sandbox did not start: exit status {status}, its reason is on standard error")
        self.base_url = str(json.loads(line)["base_url"])
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return self.base_url.removesuffix("/api/v3")

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._child is None:
            raise UsageError("the sandbox is not running: enter it first")
        return self._child.pid

    def _end(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        if child.stdin is not None:
            child.stdin.close()
        try:
            status = child.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        if child.stdout is not None:
            child.stdout.close()
        return status
