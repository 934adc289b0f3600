"""The run's downloads against `curl --parallel` with as many connections, from the same server.

curl leaves bytes in files. Ours also hashes and decodes each image to its last pixel, and flushes file and name, as
it must before it says that an image is saved: the last row tells what that alone takes, on files that are there.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from json import dumps, loads
from pathlib import Path
from typing import Any

from tests.benchmarks.measured import environment
from tests.benchmarks.server import OneFile
from tests.benchmarks.table import Row, compared

__all__ = ["run"]

_IMAGES = 200
_ROUNDS = 3
_AT_ONCE = 12  # the pool's own width
_TARGET = ">= 83 images/s"  # what the largest account level starts
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    images_per_s: float
    cpu_ms: float


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about a minute. Nothing is measured without curl and nginx."""
    if not shutil.which("curl") or not shutil.which("nginx"):
        sys.stdout.write("needs curl and nginx\n")
        return []
    images, rounds = max(4, round(_IMAGES * scale)), _ROUNDS if scale >= 1 else 1
    found: dict[str, list[_Speed]] = {"curl": [], "fetch": [], "look": []}
    data = _picture()
    with OneFile(data) as server:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="batchflux-downloads-") as folder:
                found["curl"].append(_curl(server.origin, Path(folder) / "curl", images=images))
                found["fetch"].append(_ours("fetch", server.origin, Path(folder) / "fetch", images=images))
                found["look"].append(_ours("look", server.origin, Path(folder) / "curl", images=images))
    rate: Callable[[_Speed], float] = lambda speed: speed.images_per_s  # noqa: E731
    cpu: Callable[[_Speed], float] = lambda speed: speed.cpu_ms  # noqa: E731
    what = f"of {len(data) / 1e6:.1f} MB"
    return [
        compared(
            f"{label} {what}",
            [figure(speed) for speed in found[name]],
            unit,
            baseline="curl --parallel",
            against=[figure(speed) for speed in found["curl"]],
            target=_TARGET if (name, unit) == ("fetch", "images/s") else "",
        )
        for name, label in (("fetch", "saved images"), ("look", "hashing, decoding, flushing alone, images"))
        for unit, figure in (("images/s", rate), ("ms CPU an image", cpu))
    ]


def _picture() -> bytes:
    """Return a PNG of a megapixel that is as hard to pack as a photograph."""
    from PIL import Image

    bands = [Image.effect_noise((1024, 1024), sigma).resize((1024, 1024)) for sigma in (4, 5, 6)]
    data = BytesIO()
    Image.merge("RGB", bands).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _curl(origin: str, folder: Path, *, images: int) -> _Speed:
    folder.mkdir()
    config = folder / "urls"
    config.write_text("".join(f'url = "{origin}/{n}.png"\noutput = "{folder}/{n}.png"\n' for n in range(images)))
    options = ["--parallel", "--parallel-max", str(_AT_ONCE), "--parallel-immediate", "--no-progress-meter", "--fail"]
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["curl", *options, "--config", str(config)], check=True, env=environment(), timeout=300)
    seconds = time.perf_counter() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _Speed(images_per_s=images / seconds, cpu_ms=1000 * cpu_s / images)


def _ours(what: str, origin: str, folder: Path, *, images: int) -> _Speed:
    command = [sys.executable, "-m", "tests.benchmarks.downloads", what, origin, str(folder), str(images)]
    done = subprocess.run(
        command, cwd=_ROOT, env=environment(), check=True, capture_output=True, text=True, timeout=300
    )
    return _Speed(**loads(done.stdout))


# ------------------------------------------------------------------------------- in a fresh process, imports left out


async def _fetch(origin: str, folder: Path, *, images: int) -> _Speed:
    """Save images as a run does, with its pool and nothing to submit."""
    import PIL.PngImagePlugin  # noqa: F401 - as in a run, which has been going for a while

    from batchflux.core.progress import Progress
    from batchflux.engine.downloading import DownloadPool
    from batchflux.engine.ports import Download
    from batchflux.io.downloads import Downloader
    from tests.core.lives import a_cell
    from tests.engine.fakes import MemorySink, Notes, Service

    async with Downloader(folder, allow_loopback=True) as downloader:
        sink = MemorySink()
        pool = DownloadPool(
            downloads=downloader,
            transport=Service(),  # asked only where a URL is dead
            sink=sink,
            observer=Notes(),
            progress=Progress.of(_no_statuses(images)),
            base_url=origin,
            wall_ms=lambda: 0,
            dice=lambda: 0.5,
        )
        for n in range(images):
            url = f"{origin}/{n}.png"
            pool.put(Download(cell=a_cell(n), labels={"seed": n}, attempt=1, prediction_id=f"p{n}", urls=(url,)))
        pool.close()
        clock = _Clock()
        async with asyncio.TaskGroup() as group:
            for fetcher in pool.fetchers():
                group.create_task(fetcher())
        speed = clock.speed(images)
    if not all(fact.files for fact in sink.facts) or len(sink.facts) != images:
        raise RuntimeError("not every image was saved")
    return speed


def _no_statuses(cells: int) -> Any:
    import numpy as np

    return np.zeros(cells, dtype=np.uint8)


def _look(folder: Path, *, images: int) -> _Speed:
    """Do with files that are there what makes an image a saved one."""
    import hashlib

    import PIL.PngImagePlugin  # noqa: F401

    from batchflux.io.images import inspect_image
    from batchflux.io.storage import publish_file

    def save(folder: Path, number: int) -> None:
        path = folder / f"{number}.png"
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        inspect_image(path)
        publish_file(path, folder / f"{number}-saved.png")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        clock = _Clock()
        for _ in threads.map(partial(save, folder), range(images)):
            pass
        return clock.speed(images)


class _Clock:
    def __init__(self) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), time.process_time()

    def speed(self, images: int) -> _Speed:
        seconds, cpu_s = time.perf_counter() - self._began_s, time.process_time() - self._cpu_s
        return _Speed(images_per_s=images / seconds, cpu_ms=1000 * cpu_s / images)


if __name__ == "__main__":
    _what, _origin, _folder, _images = sys.argv[1:]
    os.makedirs(_folder, exist_ok=True)
    _found = (
        asyncio.run(_fetch(_origin, Path(_folder), images=int(_images)))
        if _what == "fetch"
        else _look(Path(_folder), images=int(_images))
    )
    sys.stdout.write(dumps(asdict(_found)) + "\n")
