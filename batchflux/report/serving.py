"""Serves a run's page on this machine while the run goes on: a page, what stands now, and files of a few known places.

Reads and never writes. Listens on loopback alone, behind a path that nobody can guess; answers no other site: not one
whose name was turned to this machine (Host), nor one that would load our data as its own script (Sec-Fetch-Site).
"""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from batchflux.core.errors import UsageError

__all__ = ["Served", "serving"]

_HOST: Final = "127.0.0.1"
# A tunnel's other end has a port of its own, so any will do.
_OUR_NAMES: Final = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?")
_DATA: Final = re.compile(r"(?:index|sweep|keys|(?:cells|rows)-\d{5,9})\.js")
_THUMBNAIL: Final = re.compile(r"[0-9a-f]{16}\.webp")
_IMAGE: Final = re.compile(r"[^/\\\0.][^/\\\0]{0,254}")
_TYPES: Final = {
    ".js": "text/javascript",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served(Protocol):
    """What is served. Folders are of the run, or of data that were made for the page; None where there is none."""

    def page(self) -> str:
        """Return the page as it is now."""

    def now(self) -> bytes:
        """Return how the run stands, as JSON."""

    def data_folder(self, name: str) -> Path | None:
        """Return where the page's data of that name lie."""

    @property
    def thumbnails(self) -> Path:
        """Where the thumbnails lie."""

    @property
    def images(self) -> Path:
        """Where the run's images lie."""


@asynccontextmanager
async def serving(served: Served, *, port: int) -> AsyncIterator[str]:
    """Serve for as long as the block lasts; gives the page's address. Port 0 takes a free one. Raises UsageError."""
    token = secrets.token_urlsafe(12)
    app = web.Application(middlewares=[_guarded])
    pages = _Pages(served)
    app.router.add_get(f"/{token}/", pages.page)
    app.router.add_get(f"/{token}/now.json", pages.now)
    app.router.add_get(f"/{token}/report/thumbnails/{{head}}/{{name}}", pages.thumbnail)
    app.router.add_get(f"/{token}/report/{{folder}}/{{name}}", pages.data)
    app.router.add_get(f"/{token}/images/{{head}}/{{name}}", pages.image)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, _HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror or error}; take another, or none") from None
        yield f"http://{_HOST}:{runner.addresses[0][1]}/{token}/"
    finally:
        await runner.cleanup()


@web.middleware
async def _guarded(request: web.Request, handler: _Handler) -> web.StreamResponse:
    site = request.headers.get("Sec-Fetch-Site", "none")
    is_ours = _OUR_NAMES.fullmatch(request.headers.get("Host", "")) and site in ("none", "same-origin")
    if not is_ours:
        raise web.HTTPForbidden(text="only this machine's own page is answered here\n", headers=_HEADERS)
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise
    answer.headers.update(_HEADERS)
    return answer


class _Pages:
    """One handler a kind of file; what a request names is held against the shape of our own names."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def page(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self._served.page(), content_type="text/html", headers={"Cache-Control": "no-store"})

    async def now(self, _: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=self._served.now(), content_type="application/json", headers=headers)

    async def data(self, request: web.Request) -> web.StreamResponse:
        return _file(self._served.data_folder(request.match_info["folder"]), request.match_info["name"], shape=_DATA)

    async def thumbnail(self, request: web.Request) -> web.StreamResponse:
        return _file(_under(self._served.thumbnails, request), request.match_info["name"], shape=_THUMBNAIL)

    async def image(self, request: web.Request) -> web.StreamResponse:
        return _file(_under(self._served.images, request), request.match_info["name"], shape=_IMAGE)


def _under(folder: Path, request: web.Request) -> Path | None:
    head = request.match_info["head"]
    return folder / head if re.fullmatch("[0-9a-f]{2}", head) else None


def _file(folder: Path | None, name: str, *, shape: re.Pattern[str]) -> web.StreamResponse:
    """Return a file of a folder, 404 where its name isn't shaped as ours are. Links are not followed out of it."""
    kind = _TYPES.get(Path(name).suffix)
    if folder is None or kind is None or not shape.fullmatch(name):
        raise web.HTTPNotFound
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise web.HTTPNotFound
    # Data and thumbnails of a name never change; a damaged image may have been fetched again.
    caching = "no-cache" if shape is _IMAGE else "private, max-age=3600"
    return web.FileResponse(path, headers={"Content-Type": kind, "Cache-Control": caching})
