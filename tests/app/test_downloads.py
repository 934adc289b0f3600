"""Images that the run's queue had no room for are found again in what the run itself has made durable."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest

import batchflux
from batchflux.core.model import Fault, JsonValue, SavedFile
from batchflux.engine import downloading
from batchflux.engine.ports import Download
from batchflux.io.downloads import Downloader
from tests.app.service import quick_service, write_spec

_CELLS = 40


def test_images_beyond_the_queue_are_saved_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is saved before all cells are completed, and 40 are far more than the queue takes: none is left out."""
    monkeypatch.setattr(downloading, "_MOST_QUEUED", 3)
    monkeypatch.setattr("batchflux.app.work._BACKLOG_CELLS", 8)
    looked_up: list[int] = []
    completed = asyncio.Event()
    put, look_up, save = downloading.DownloadPool.put, downloading.DownloadPool._look_up, Downloader.save
    puts = 0

    def counted(pool: downloading.DownloadPool, download: Download) -> None:
        nonlocal puts
        puts += 1
        put(pool, download)
        if puts == _CELLS:
            completed.set()

    async def noted(pool: downloading.DownloadPool) -> None:
        looked_up.append(len(pool._later))
        await look_up(pool)

    async def late(
        downloader: Downloader, url: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None = None
    ) -> SavedFile | Fault:
        await completed.wait()
        return await save(downloader, url, name, words)

    monkeypatch.setattr(downloading.DownloadPool, "put", counted)
    monkeypatch.setattr(downloading.DownloadPool, "_look_up", noted)
    monkeypatch.setattr(Downloader, "save", late)
    with quick_service() as service:
        table = pa.table({"prompt": [f"prompt {n}" for n in range(_CELLS)]})
        spec = write_spec(tmp_path, service, table, output={"dir": "out"}, params={"seed": 1})
        result = batchflux.run(batchflux.load_job(spec))
    assert looked_up == [_CELLS - downloading._FETCHERS - 3]
    assert result.exit_status == 0
    files = batchflux.read_manifest(tmp_path / "out")["files"]
    assert sorted(map(len, files)) == [1] * _CELLS
    assert all((tmp_path / "out" / file).is_file() for row in files for file in row)
