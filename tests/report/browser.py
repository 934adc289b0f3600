"""A real headless Chromium, driven by its own protocol over a socket on this machine; skips where none is installed.

Nothing but what the project depends on anyway: aiohttp speaks the protocol.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import pytest

__all__ = ["Page", "browsing", "chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 60


def chromium() -> str:
    """Return Chromium's path; skips the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


class PageError(AssertionError):
    """The page's script raised, or what was waited for never came."""


class Page:
    """One tab. What the page complains of, its policy's refusals included, is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = socket
        self._loop = loop
        self._number = 0
        self.complaints: list[str] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, params), TIMEOUT_S))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                if "error" in message:
                    raise PageError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"])[:600])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.complaints.append(json.dumps(params["args"])[:600])

    def open(self, address: str, *, width: int = 1440, height: int = 900, is_dark: bool = False) -> None:
        """Go to a page and wait until it has drawn its first view."""
        self.resize(width, height)
        scheme = "dark" if is_dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url="about:blank")  # a change of the address's hash alone would load nothing
        self.send("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.documentElement.dataset.ready === 'true'")

    def resize(self, width: int, height: int) -> None:
        """Give the window a size; one as narrow as a phone's is a phone's."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page, a promise's once it has come."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise PageError(json.dumps(found["exceptionDetails"])[:800])
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                if self.run(f"new Promise(tell => setTimeout(() => tell(!!({condition})), 20))"):
                    return
            except PageError as error:
                if "navigated" not in str(error):  # else the page that was asked has just gone
                    raise
            if time.monotonic() > deadline:
                raise PageError(f"never came: {condition}\n{self.complaints}")

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}
        code = codes.get(key, ord(key[0].upper()))
        said = text or (key if len(key) == 1 else "\r" if key == "Enter" else "")
        shared = {"key": key, "windowsVirtualKeyCode": code, "code": key if len(key) > 1 else f"Key{key.upper()}"}
        kind = "keyDown" if said else "rawKeyDown"
        self.send("Input.dispatchKeyEvent", type=kind, **shared, **({"text": said} if said else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    def click(self, selector: str) -> None:
        """Click on the middle of the first element that a selector finds, as a mouse does."""
        place = self.run(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def pick(self, selector: str, value: str) -> None:
        """Choose an option of a select, or set an input, as a person would."""
        self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.value = {json.dumps(value)};"
            "node.dispatchEvent(new Event('input', {bubbles: true}));"
            "node.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def count(self, selector: str) -> int:
        """Return how many elements a selector finds."""
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def download(self, selector: str, folder: Path, name: str) -> Path:
        """Click what downloads a file, and return where it lies once it is whole."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.click(selector)
        deadline = time.monotonic() + TIMEOUT_S
        while not (folder / name).exists():  # the browser gives it this name when all of it is there
            self.run("new Promise(tell => setTimeout(tell, 20))")
            if time.monotonic() > deadline:
                raise PageError(f"never came: {name}; there are {sorted(folder.iterdir())}")
        return folder / name

    def settle(self) -> None:
        """Wait until every image in sight is there, or is known not to come."""
        self.wait("[...document.images].every(image => image.complete)")

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        self.settle()
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))


class _Browser:
    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._process = subprocess.Popen(
            [
                chromium(),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
                "--remote-debugging-address=127.0.0.1",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        return self

    def page(self) -> Page:
        """Return the first tab, listened to."""
        return self._loop.run_until_complete(self._connect())

    async def _connect(self) -> Page:
        port = await self._port()
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            address = next(tab["webSocketDebuggerUrl"] for tab in await answer.json() if tab["type"] == "page")
        page = Page(await self._session.ws_connect(address, max_msg_size=0), self._loop)
        for domain in ("Page", "Runtime", "Log"):
            await page._send(f"{domain}.enable", {})
        return page

    async def _port(self) -> int:
        """Return the port that the browser says it listens on, once it says so."""
        said = self._profile / "DevToolsActivePort"
        async with asyncio.timeout(TIMEOUT_S):
            while not (said.exists() and said.read_text().count("\n")):
                assert self._process.poll() is None, "Chromium ended"
                await asyncio.sleep(0.02)
        return int(said.read_text().splitlines()[0])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)


@contextmanager
def browsing() -> Iterator[Page]:
    """Start a browser with a profile of its own; yields its tab."""
    chromium()
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    try:
        with _Browser(profile) as browser:
            yield browser.page()
    finally:
        shutil.rmtree(profile, ignore_errors=True)
