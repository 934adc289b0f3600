"""The one key that tests use, and the search for it: whatever the suite writes must not hold it, in any usual form.

The key's core is letters and digits alone, so that quoting it for a URL, JSON or a shell leaves the core as it is.
"""

import base64
import gzip
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["CANARY", "find_in", "is_in"]

_CORE: Final = "c4nary8f2e61d09b7a35c4nary"
CANARY: Final = f"wsk_live_{_CORE}"

# Base64 writes three bytes as four letters: where the core begins within three decides how its inside is written.
_BASE64: Final = tuple(base64.b64encode(b"\0" * shift + _CORE.encode())[4:32] for shift in range(3))
_NEEDLES: Final = (_CORE.encode(), _CORE.encode("utf-16-le"), _CORE.encode("utf-16-be"), *_BASE64)


def is_in(data: bytes | str) -> bool:
    """Return whether bytes or text hold the key: plain, quoted, in base64 or UTF-16."""
    found = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return any(needle in found for needle in _NEEDLES)


def find_in(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder whose name, bytes or unpacked content hold the key; links are not followed."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if is_in(os.fsencode(path.relative_to(folder))) or (_is_plain(path) and _holds_it(path)):
                yield path


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _holds_it(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if any(data.find(needle) >= 0 for needle in _NEEDLES):
                    return True
        return _is_inside(path)
    except (PermissionError, FileNotFoundError):
        return False  # what a test has locked away, or a process that is just ending has removed


def _is_inside(path: Path) -> bool:
    """Look into what is packed; what can't be unpacked was searched as it is."""
    try:
        match path.suffix:
            case ".parquet":
                return _is_in_parquet(path)
            case ".gz":
                return is_in(gzip.decompress(path.read_bytes()))
            case _:
                return False
    except (OSError, EOFError, zlib.error):
        return False


def _is_in_parquet(path: Path) -> bool:
    # Late, since whoever only needs the key loads no library of tables.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for column in batch.columns:
                    if any(part is not None and is_in(memoryview(part).tobytes()) for part in column.buffers()):
                        return True
    except pa.ArrowException:
        pass  # damaged by its test
    return False
