"""A real headless Firefox, driven by WebDriver BiDi over a socket on this machine; skips where none is installed.

For what must hold in another engine than Chromium's; what a page does in detail is tried there.
"""

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.report.browser import TIMEOUT_S, PageError

__all__ = ["Tab", "firefox"]


class Tab:
    """The one tab. What the page complains of, its policy's refusals included, is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._context = ""
        self.complaints: list[str] = []

    async def begin(self) -> None:
        """Begin a session, listen to what pages log, and find the tab."""
        await self._send("session.new", capabilities={})
        await self._send("session.subscribe", events=["log.entryAdded"])
        self._context = (await self._send("browsingContext.getTree"))["contexts"][0]["context"]

    async def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == self._number:
                    if message["type"] == "error":
                        raise PageError(f"{method}: {message['error']}: {message['message']}")
                    result: dict[str, Any] = message["result"]
                    return result
                if message.get("method") == "log.entryAdded" and message["params"]["level"] in ("error", "warn"):
                    self.complaints.append(message["params"]["text"])

    async def open(self, address: str) -> None:
        """Go to a page and wait until it has drawn its first view."""
        await self._send("browsingContext.navigate", context=self._context, url="about:blank", wait="complete")
        await self._send("browsingContext.navigate", context=self._context, url=address, wait="complete")
        await self.wait("document.documentElement.dataset.ready === 'true'")

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page, a promise's once it has come."""
        said = await self._send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({script})))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        if said["type"] == "exception":
            raise PageError(said["exceptionDetails"]["text"])
        return json.loads(said["result"]["value"]) if "value" in said["result"] else None

    async def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + TIMEOUT_S
        while not await self.run(f"new Promise(tell => setTimeout(() => tell(!!({condition})), 20))"):
            if time.monotonic() > deadline:
                raise PageError(f"never came: {condition}\n{self.complaints}")

    async def press(self, key: str) -> None:
        """Press and release a key."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        await self._send(
            "input.performActions", context=self._context, actions=[{"type": "key", "id": "keys", "actions": actions}]
        )


@contextmanager
def _process(profile: str) -> Iterator[subprocess.Popen[bytes]]:
    path = shutil.which("firefox-esr") or shutil.which("firefox")
    if path is None:
        pytest.skip("no Firefox here")
    process = subprocess.Popen(
        [path, "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", profile, "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextmanager
def firefox() -> Iterator[tuple[Tab, asyncio.Runner]]:
    """Start a Firefox with a profile of its own; yields its tab, and what runs the tab's coroutines."""
    with (
        tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as profile,
        _process(profile) as process,
        asyncio.Runner() as runner,
    ):
        session, tab = runner.run(_connect(Path(profile) / "WebDriverBiDiServer.json", process))
        try:
            yield tab, runner
        finally:
            runner.run(session.close())


async def _connect(said: Path, process: subprocess.Popen[bytes]) -> tuple[aiohttp.ClientSession, Tab]:
    """Connect to where the browser says that it listens, once it says so."""
    async with asyncio.timeout(TIMEOUT_S):
        while (address := _address(said)) is None:
            assert process.poll() is None, "Firefox ended"
            await asyncio.sleep(0.02)
    session = aiohttp.ClientSession()
    tab = Tab(await session.ws_connect(address, max_msg_size=0))
    await tab.begin()
    return session, tab


def _address(said: Path) -> str | None:
    text = said.read_text() if said.exists() else ""
    if not text.endswith("}"):  # not written, or not to its end
        return None
    place = json.loads(text)
    return f"ws://{place['ws_host']}:{place['ws_port']}/session"
