"""A column of texts that needs little memory however long it is: all but the first few lie in a file without a name.

Rows are asked for in any order (a balanced run looks at another part of the table with every cell), so each is read
by itself, in 3 µs. No durability is meant here, and nothing is left after a crash. Where no file can be made, or the
disk is full, texts stay in memory.
"""

import errno
import os
import tempfile
import weakref
from bisect import bisect_right
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.core.arrow import Flags, as_flags
from batchflux.core.errors import StorageError

__all__ = ["Texts"]

# Some 40,000 prompts, so that the tables of nearly everybody make no file.
_HELD_BYTES: Final = 4 << 20


class _Piece(NamedTuple):
    """Texts that were appended together, in memory or in the file from a place on; `bounds` are where each begins."""

    bounds: npt.NDArray[np.int32]
    is_valid: Flags | None
    data: bytes | None
    place: int


class Texts:
    """Texts or nulls, appended some at a time and read at any place, also by several threads at once."""

    def __init__(self, *, held_bytes: int = _HELD_BYTES) -> None:
        self._room = held_bytes
        self._fd: int | None = None
        self._end = 0  # of the file
        self._pieces: list[_Piece] = []
        self._firsts: list[int] = []  # the pieces' first rows
        self._count = 0

    def append(self, texts: pa.StringArray) -> None:
        """Put texts behind the others."""
        if len(texts) == 0:
            return
        bounds = np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset :][: len(texts) + 1]
        data = memoryview(texts.buffers()[2] or b"")[bounds[0] : bounds[-1]]
        place = self._put(data)
        self._pieces.append(
            _Piece(
                bounds=bounds - bounds[0],
                is_valid=as_flags(texts.is_valid()) if texts.null_count else None,
                data=bytes(data) if place is None else None,
                place=place or 0,
            )
        )
        self._firsts.append(self._count)
        self._count += len(texts)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> str | None:
        """Return a text, counted from 0. Raise StorageError where the file can't be read."""
        number = bisect_right(self._firsts, row) - 1
        bounds, is_valid, data, place = self._pieces[number]
        offset = row - self._firsts[number]
        if is_valid is not None and not is_valid[offset]:
            return None
        begin, end = int(bounds[offset]), int(bounds[offset + 1])
        return (self._read(place + begin, end - begin) if data is None else data[begin:end]).decode()

    def _put(self, data: memoryview) -> int | None:
        """Return the place in the file where the bytes lie now, None where they are to be kept in memory."""
        if len(data) <= self._room:
            self._room -= len(data)
            return None
        try:
            if self._fd is None:
                self._fd = _nameless_file()
                weakref.finalize(self, os.close, self._fd)
            if os.pwrite(self._fd, data, self._end) < len(data):
                return None  # the disk is full
        except OSError:
            return None
        place, self._end = self._end, self._end + len(data)
        return place

    def _read(self, place: int, size: int) -> bytes:
        assert self._fd is not None  # noqa: S101
        try:
            data = os.pread(self._fd, size, place)
            if len(data) < size:
                raise OSError(errno.EIO, "it is shorter than it was written")
        except OSError as error:
            raise StorageError(Path(tempfile.gettempdir()), doing="read prompts there", cause=error) from error
        return data


def _nameless_file() -> int:
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
