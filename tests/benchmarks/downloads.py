"""The run's downloads against `curl --parallel` with as many connections, from the same server.

curl leaves bytes in files. Ours also proves each image to be whole, hashes it, and flushes file and name, as it must
before it says that an image is saved. So a row tells what curl takes with a script after it that hashes and decodes
what came, on all cores; another one what aria2c takes, where it is installed.
"""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measured import environment
from tests.benchmarks.server import OneFile
from tests.benchmarks.table import Row, compared

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["jpeg", "png", "run"]

_IMAGES = 200
_ROUNDS = 3
_AT_ONCE = 12  # the pool's own width
_TARGET = ">= 83 images/s"  # what the largest account level starts
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    images_per_s: float
    cpu_ms: float

    def then(self, other: "_Speed") -> "_Speed":
        """Return the speed of both, one after the other."""
        seconds = 1 / self.images_per_s + 1 / other.images_per_s
        return _Speed(images_per_s=1 / seconds, cpu_ms=self.cpu_ms + other.cpu_ms)


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about two minutes. Nothing is measured without curl and nginx."""
    if not shutil.which("curl") or not shutil.which("nginx"):
        sys.stdout.write("needs curl and nginx\n")
        return []
    images, rounds = max(4, round(_IMAGES * scale)), _ROUNDS if scale >= 1 else 1
    return [row for data in (png(), jpeg()) for row in _rows(data, images=images, rounds=rounds)]


def _rows(data: bytes, *, images: int, rounds: int) -> list[Row]:
    found: dict[str, list[_Speed]] = {"curl": [], "ours": [], "checked": [], "aria2c": []}
    with OneFile(data) as server:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="batchflux-downloads-") as name:
                folder = Path(name)
                curl = _curl(server.origin, folder / "curl", images=images)
                found["curl"].append(curl)
                found["ours"].append(_ours("fetch", server.origin, folder / "ours", images=images))
                check = _ours("check", server.origin, folder / "curl", images=images)
                found["checked"].append(curl.then(check))
                if shutil.which("aria2c"):
                    found["aria2c"].append(_aria2c(server.origin, folder / "aria2c", images=images))
    what = f"of {len(data) / 1e6:.1f} MB"
    rows = [
        _row(f"saved images {what}", found["ours"], "curl --parallel", found["curl"], target=_TARGET),
        _row(f"saved images {what}", found["ours"], "curl, then hashed and decoded", found["checked"]),
        _row(f"saved images {what}", found["ours"], "curl, then hashed and decoded", found["checked"], is_cpu=True),
    ]
    if found["aria2c"]:
        rows.append(_row(f"saved images {what}", found["ours"], "aria2c", found["aria2c"]))
    return rows


def _row(
    name: str, ours: list["_Speed"], baseline: str, against: list["_Speed"], *, is_cpu: bool = False, target: str = ""
) -> Row:
    figure: Callable[[_Speed], float] = lambda speed: speed.cpu_ms if is_cpu else speed.images_per_s  # noqa: E731
    return compared(
        name,
        [figure(speed) for speed in ours],
        "ms CPU an image" if is_cpu else "images/s",
        baseline=baseline,
        against=[figure(speed) for speed in against],
        target=target,
    )


def png() -> bytes:
    """Return a PNG of a megapixel that is as hard to pack as a photograph."""
    data = BytesIO()
    _picture().save(data, "PNG", compress_level=1)
    return data.getvalue()


def jpeg() -> bytes:
    """Return the same picture as a JPEG."""
    data = BytesIO()
    _picture().save(data, "JPEG", quality=93)
    return data.getvalue()


def _picture() -> "Image.Image":
    """Return shades, shapes with soft edges, and noise, of which most of a photograph's bytes are."""
    from PIL import Image, ImageDraw, ImageFilter

    shade = Image.linear_gradient("L").resize((1024, 1024))
    scene = Image.merge("RGB", [Image.radial_gradient("L").resize((1024, 1024)), shade, shade.rotate(90)])
    draw = ImageDraw.Draw(scene)
    for k in range(40):
        x, y = k * 397 % 1024, k * 733 % 1024
        draw.ellipse((x, y, x + 90 + 3 * k, y + 70 + 2 * k), fill=(k * 61 % 256, k * 97 % 256, k * 31 % 256))
    noise = Image.merge("RGB", [Image.effect_noise((1024, 1024), sigma) for sigma in (10, 12, 14)])
    return Image.blend(scene.filter(ImageFilter.GaussianBlur(2)), noise, 0.4)


def _curl(origin: str, folder: Path, *, images: int) -> _Speed:
    folder.mkdir()
    config = folder / "urls"
    config.write_text("".join(f'url = "{origin}/{n}.png"\noutput = "{folder}/{n}.png"\n' for n in range(images)))
    options = ["--parallel", "--parallel-max", str(_AT_ONCE), "--parallel-immediate", "--no-progress-meter", "--fail"]
    return _program(["curl", *options, "--config", str(config)], images=images)


def _aria2c(origin: str, folder: Path, *, images: int) -> _Speed:
    folder.mkdir()
    wanted = folder / "urls"
    wanted.write_text("".join(f"{origin}/{n}.png\n out={n}.png\n" for n in range(images)))
    options = [f"--max-concurrent-downloads={_AT_ONCE}", "--split=1", "--file-allocation=none", "--quiet=true"]
    return _program(["aria2c", *options, f"--dir={folder}", f"--input-file={wanted}"], images=images)


def _program(command: list[str], *, images: int) -> _Speed:
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=environment(), timeout=300)
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

    def download(n: int) -> Download:
        url = f"{origin}/{n}.png"
        return Download(cell=a_cell(n), labels={"seed": n}, attempt=1, prediction_id=f"p{n}", urls=(url,))

    async def look_up(cells: Sequence[int]) -> Iterator[Download]:
        return map(download, cells)

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
            look_up=look_up,
        )
        for n in range(images):
            pool.put(download(n))
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


def _check(folder: Path, *, images: int) -> _Speed:
    """Hash and decode files that are there, as a script would that uses all cores and flushes nothing."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(_hash_and_decode, [folder / "0.png"] * 2 * (os.cpu_count() or 1)))  # imports
        began_s = time.perf_counter()
        cpu_s = sum(pool.map(_hash_and_decode, [folder / f"{n}.png" for n in range(images)], chunksize=4))
        return _Speed(images_per_s=images / (time.perf_counter() - began_s), cpu_ms=1000 * cpu_s / images)


def _hash_and_decode(path: Path) -> float:
    from hashlib import sha256

    from PIL import Image

    began_s = time.process_time()
    sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as image:
        image.load()
    return time.process_time() - began_s


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
        else _check(Path(_folder), images=int(_images))
    )
    sys.stdout.write(dumps(asdict(_found)) + "\n")
