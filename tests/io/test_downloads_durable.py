"""A saved image is on the disk with all its folders, so that a power cut can't take what the facts say is there."""

import asyncio
import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from batchflux.core.model import SavedFile
from batchflux.io import storage
from batchflux.io.downloads import Downloader


class _Picture(BaseHTTPRequestHandler):
    """Gives the same small image to whoever asks."""

    def do_GET(self) -> None:
        """Answer with it."""
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        self.send_response(200)
        self.send_header("Content-Length", str(len(picture.getvalue())))
        self.end_headers()
        self.wfile.write(picture.getvalue())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing."""


async def save(run_dir: Path, port: int) -> None:
    """Fetch one image to where a cell's lies."""
    async with Downloader(run_dir, allow_loopback=True) as downloader:
        url = f"http://127.0.0.1:{port}/a.png"
        found = await downloader.save(url, lambda extension: f"images/3f/a.{extension}")
        assert isinstance(found, SavedFile)


def test_the_folders_of_an_image_are_flushed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new folder is flushed into the one above it, and once is enough."""
    flushed: list[Path] = []
    sync_dir = storage.sync_dir

    def noting(folder: Path) -> None:
        flushed.append(folder.relative_to(tmp_path))
        sync_dir(folder)

    monkeypatch.setattr(storage, "sync_dir", noting)
    with HTTPServer(("127.0.0.1", 0), _Picture) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            asyncio.run(save(tmp_path, server.server_port))
            assert flushed == [Path("."), Path("images"), Path("images/3f")]
            asyncio.run(save(tmp_path, server.server_port))
            assert flushed[3:] == [Path("images/3f")]
        finally:
            server.shutdown()
            serving.join()
