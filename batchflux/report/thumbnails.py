"""Thumbnails: WebP, 320 pixels at most, named by the image's hash, made once and on all cores.

In threads: Pillow decodes, scales and encodes outside of the interpreter's lock. One that can't be made is left out,
and the page shows the image itself.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from io import BytesIO
from itertools import islice
from pathlib import Path

from batchflux.io.storage import make_dir, replace_bytes

__all__ = ["encode_thumbnail", "make_thumbnail", "make_thumbnails", "thumbnail_name"]

_SIDE = 320
_QUALITY = 72
# A megapixel is halved by plain means before it is scaled well: 3 ms less of 6, and no difference that is seen.
_GAP = 1.5

# The service's images have about a megapixel; what is far larger isn't its own, and costs seconds to decode.
_MOST_PIXELS = 50_000_000

_IN_HAND = 64


def thumbnail_name(key: int) -> str:
    """Return where in the folder a thumbnail lies; `key` is the first eight bytes of the image's SHA-256."""
    return f"{key:016x}"[:2] + f"/{key:016x}.webp"


def make_thumbnails(
    wanted: Iterable[tuple[int, Path]],
    folder: Path,
    *,
    within_s: float | None = None,
    on_done: Callable[[int], None] | None = None,
) -> set[int]:
    """Make what isn't there yet, of (key, image) pairs; returns the keys that can't be shown from the folder.

    After `within_s` seconds the rest is left for the next time. Raises StorageError.
    """
    deadline = None if within_s is None else time.monotonic() + within_s
    there = {int(path.stem, 16) for path in folder.glob("??/????????????????.webp")}
    missing: set[int] = set()
    lacking = _lacking(wanted, there)
    stop = threading.Event()

    def make(key: int, image: Path) -> int | None:
        return key if stop.is_set() or not _make(image, folder / thumbnail_name(key)) else None

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="thumbnail") as pool:
        try:
            hand: set[Future[int | None]] = set()
            while True:
                if deadline is not None and time.monotonic() > deadline:
                    break
                hand |= {pool.submit(make, *item) for item in islice(lacking, _IN_HAND - len(hand))}
                if not hand:
                    break
                done, hand = wait(hand, timeout=0.5, return_when=FIRST_COMPLETED)
                missing |= {key for future in done if (key := future.result()) is not None}
                if on_done is not None:
                    on_done(len(done))
        finally:
            stop.set()
    missing |= {key for future in hand if (key := future.result()) is not None}
    missing |= {key for key, _ in lacking}
    return missing


def make_thumbnail(key: int, image: Path, folder: Path) -> bool:
    """Make one thumbnail where it isn't there yet; False where it can't be made. Raises StorageError."""
    path = folder / thumbnail_name(key)
    return path.exists() or _make(image, path)


def _lacking(wanted: Iterable[tuple[int, Path]], there: set[int]) -> Iterator[tuple[int, Path]]:
    seen = set(there)
    for key, image in wanted:
        if key not in seen:
            seen.add(key)
            yield key, image


def _make(image: Path, path: Path) -> bool:
    """Make one thumbnail; False where the image is missing or is none."""
    encoded = encode_thumbnail(image)
    if encoded is None:
        return False
    make_dir(path.parent)
    replace_bytes(path, encoded)
    return True


def encode_thumbnail(image: Path, *, side: int = _SIDE) -> bytes | None:
    """Return an image scaled to at most `side` pixels, as WebP; None where it is missing, far too large or none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            picture.draft("RGB", (int(_GAP * side),) * 2)  # a JPEG is decoded to half its sides for half the time
            small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=_GAP)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None
    encoded = BytesIO()
    small.save(encoded, "WEBP", quality=_QUALITY, method=2)
    return encoded.getvalue()
