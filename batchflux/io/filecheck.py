"""Looks whether the files that facts name are there, whole and as hashed, and which lie there that no fact names.

Streams every file in a few threads (hashing lets other threads run), bound by the disk; a thousand cells in memory at
a time. Reads alone, and only plain files inside the run directory.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.core.arrow import from_flags, list_lengths
from batchflux.io.storage import list_names

__all__ = ["IMAGES_DIR", "FileCheck", "FileFault", "check_files", "hashes_of", "list_strays"]

IMAGES_DIR: Final = "images"

_THREADS: Final = 4  # more only make a disk seek; hashing runs at some hundred MB/s a thread
_CELLS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """A file that isn't as the facts say; `detail` says how it is."""

    path: str
    cell_id: str
    kind: Literal["missing", "damaged", "unreadable"]
    detail: str


@dataclass(slots=True, kw_only=True)
class FileCheck:
    """What was looked at so far."""

    files: int = 0
    size_bytes: int = 0
    on_progress: Callable[[int], None] = field(default=lambda files: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    path: str
    cell_id: str
    sha256: str
    size_bytes: int | None


def check_files(run_dir: Path, state: pa.Table, check: FileCheck) -> Iterator[FileFault]:
    """Yield what is wrong with the files of a folded state, which has `cell_id, files, sha256, file_bytes`."""
    with_files = state.select(["cell_id", "files", "sha256", "file_bytes"])
    with_files = with_files.filter(from_flags(list_lengths(with_files["files"]) > 0))
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="batchflux-verify") as pool:
        for first in range(0, with_files.num_rows, _CELLS_AT_ONCE):
            named = list(_named(with_files.slice(first, _CELLS_AT_ONCE)))
            for fault, size_bytes in pool.map(lambda each: _check(run_dir, each), named):
                check.files += 1
                check.size_bytes += size_bytes
                if fault is not None:
                    yield fault
            check.on_progress(len(named))


def hashes_of(names: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return a number for each name, which tells it from millions of others: 8 bytes instead of its text."""
    return np.fromiter(map(hash, names), dtype=np.int64)


def list_strays(
    run_dir: Path, named: npt.NDArray[np.int64], *, most: int, until_ms: int | None = None
) -> tuple[list[str], int]:
    """Return the first files in `images/` that no fact names, temporaries left out, and how many there are.

    `named` are the hashes of those that are named, sorted. Files written after `until_ms` (epoch) are passed over.
    """
    strays: list[str] = []
    count = 0
    for names in _lying(run_dir):
        found = hashes_of(names)
        places = np.minimum(np.searchsorted(named, found), max(0, len(named) - 1))
        is_stray = named[places] != found if len(named) else np.ones(len(found), dtype=np.bool_)
        found_here = [names[place] for place in np.flatnonzero(is_stray).tolist()]
        if until_ms is not None:
            found_here = [name for name in found_here if _is_older(run_dir / name, until_ms)]
        count += len(found_here)
        strays += found_here[: most - len(strays)]
    return strays, count


def _is_older(path: Path, until_ms: int) -> bool:
    try:
        return os.lstat(path).st_mtime_ns <= until_ms * 1_000_000
    except OSError:
        return False  # it went meanwhile, or its name is no text


def _lying(run_dir: Path) -> Iterator[list[str]]:
    """Yield the files of each folder of images."""
    folders = [IMAGES_DIR]
    while folders:
        folder = folders.pop()
        names = [f"{folder}/{name}" for name in list_names(run_dir / folder)]
        inner = [name for name in names if (run_dir / name).is_dir() and not (run_dir / name).is_symlink()]
        folders += inner
        apart = set(inner)
        # A name that is no text (bytes of another encoding) is shown as text can show it.
        yield [name.encode("utf-8", "replace").decode() for name in names if name not in apart]


def _named(cells: pa.Table) -> Iterator[_Named]:
    for cell in cells.to_pylist():
        hashes, sizes = cell["sha256"] or [], cell["file_bytes"] or []
        for place, path in enumerate(cell["files"]):
            yield _Named(
                path=path,
                cell_id=cell["cell_id"],
                sha256=hashes[place] if place < len(hashes) else "",
                size_bytes=sizes[place] if place < len(sizes) else None,
            )


def _check(run_dir: Path, named: _Named) -> tuple[FileFault | None, int]:
    def fault(kind: Literal["missing", "damaged", "unreadable"], detail: str) -> FileFault:
        return FileFault(path=named.path, cell_id=named.cell_id, kind=kind, detail=detail)

    place = PurePosixPath(named.path)
    if place.is_absolute() or ".." in place.parts:
        return fault("unreadable", "lies outside the run directory"), 0
    try:
        with open(run_dir / place, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return fault("unreadable", "is no plain file"), 0
            size_bytes = status.st_size
            if named.size_bytes is not None and size_bytes != named.size_bytes:
                return fault("damaged", f"has {size_bytes:,} bytes, not {named.size_bytes:,}"), size_bytes
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return fault("missing", "is not there"), 0
    except OSError as error:
        return fault("unreadable", f"can't be read: {error.strerror or error}"), 0
    if found != named.sha256:
        return fault("damaged", "has other bytes than were saved"), size_bytes
    return None, size_bytes


def _open(path: str, flags: int) -> int:
    # A pipe put in a file's place would wait for a writer for ever.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
