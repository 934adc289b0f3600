"""What every form of prompt table file shares: its batches, its faults with their places, its stream of plain bytes.

Touches the files it is given, for reading. Knows nothing of cells and columns: `delimited`, `jsonlines` and
`parquetfile` do. Foreign exceptions of opening and unpacking are translated here, once.
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import pyarrow as pa

from batchflux.core.errors import JobSpecError, Problem

__all__ = [
    "LISTED_FAULTS",
    "MAX_RECORD_BYTES",
    "PART_BYTES",
    "Compression",
    "Faults",
    "Form",
    "Source",
    "TableBatch",
    "TableFile",
    "TextStream",
    "check_unchanged",
    "file_stamp",
    "open_text",
    "quoted",
    "refusal",
    "shown",
]

Form = Literal["csv", "tsv", "jsonl", "parquet"]
Compression = Literal["gzip", "zstd"]

# Read at a time: large enough that numpy's fixed costs vanish, small enough that its masks stay below 30 MB.
PART_BYTES: Final = 1 << 20
# One row may be this large; beyond it a quote was left open or the file is no table, and memory stays bounded.
MAX_RECORD_BYTES: Final = 16 << 20
# Words pack to a tenth, a table that repeats itself to a hundredth; a bomb of a few MB would fill memory for hours.
_MOST_UNPACKED: Final = 200
_UNPACKED_ANYWAY_BYTES: Final = 256 << 20
# More faults of one file than this are counted, not listed: the first ones tell what is wrong.
LISTED_FAULTS: Final = 20

_BOM = b"\xef\xbb\xbf"
# First bytes that say a file isn't UTF-8 text at all, the longer ones first (UTF-32's mark begins with UTF-16's).
_OTHER_FORMS: Final = (
    (b"\xff\xfe\x00\x00", "is UTF-32 text", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "is UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "is UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text", "save it as UTF-8"),
    (b"\x1f\x8b", "is a gzip file", "let its name end in .gz"),
    (b"\x28\xb5\x2f\xfd", "is a zstd file", "let its name end in .zst"),
    (b"PK\x03\x04", "is a zip file or an Excel workbook", "save the table as UTF-8 text"),
    (b"PAR1", "is a Parquet file", "let its name end in .parquet"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of a table. `stamp` is its identity, size and time of change when the table was opened."""

    path: Path
    form: Form
    compression: Compression | None
    stamp: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """The file as messages show it."""
        return shown(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBatch:
    """Some consecutive rows of one file of a table, with one schema in every batch of that table.

    `first_row` is the number of the first of them in its file, from 1; `lines` the physical lines, from 1, on which
    they start, None for Parquet, which has none.
    """

    columns: pa.RecordBatch
    path: Path
    first_row: int
    lines: Sequence[int] | None

    def where(self, offset: int) -> str:
        """Return the place of this batch's row `offset` (from 0): "FILE:LINE: row N", for Parquet "FILE: row N"."""
        line = "" if self.lines is None else f":{self.lines[offset]}"
        return f"{shown(self.path)}{line}: row {self.first_row + offset}"


class TableFile(Protocol):
    """One opened file of a table: its columns are known, its rows are read when asked for, any number of times."""

    @property
    def source(self) -> Source:
        """The file."""

    @property
    def schema(self) -> pa.Schema:
        """The columns in the file's order, with plain types (`columns.plain_type`)."""

    def batches(self, *, columns: Sequence[str], batch_rows: int) -> Iterator[TableBatch]:
        """Yield the rows of the named columns (at least one, all in `schema`), at most `batch_rows` at a time.

        After a fault no batch follows, but the file is read on, so that JobSpecError at its end holds them all.
        """


def shown(path: str | Path) -> str:
    """Return a path as messages show it: relative where it lies below the current directory, always printable."""
    text = os.fspath(path)
    if os.path.isabs(text):
        relative = os.path.relpath(text)
        text = text if relative.startswith(os.pardir) else relative
    return text if text.isprintable() else quoted(text)[1:-1]


def quoted(text: str) -> str:
    """Return text from a table in single quotes for a message, control characters escaped."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return f"'{''.join(escaped)}'"


def refusal(where: str, what: str, *, instead: str = "") -> JobSpecError:
    """Return the error for a single problem."""
    return JobSpecError([Problem(where=where, what=what, instead=instead)])


class Faults:
    """The faults of one file in their order: the first twenty in full, of the rest their number."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._listed: list[Problem] = []
        self._unlisted = 0

    def __bool__(self) -> bool:
        return bool(self._listed)

    def add(self, where: str, what: str, *, instead: str = "") -> None:
        """Note one fault."""
        if len(self._listed) < LISTED_FAULTS:
            self._listed.append(Problem(where=where, what=what, instead=instead))
        else:
            self._unlisted += 1

    def add_unlisted(self, count: int) -> None:
        """Count faults that there was no room to list."""
        self._unlisted += count

    def raise_found(self) -> None:
        """Raise JobSpecError with what was noted, if anything was."""
        if not self._listed:
            return
        rest = []
        if self._unlisted:
            counted = "1 more fault" if self._unlisted == 1 else f"{self._unlisted:,} more faults"
            rest = [Problem(where=self._name, what=f"{counted} like these")]
        raise JobSpecError([*self._listed, *rest])


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TextStream:
    """The plain bytes of a text file, its mark of byte order dropped. `offset` is where the next read begins."""

    def __init__(self, stream: _Readable, *, source: Source) -> None:
        self._stream = stream
        self._source = source
        self._unpacked_bytes = 0
        self._most_bytes = max(_UNPACKED_ANYWAY_BYTES, _MOST_UNPACKED * source.stamp[2]) if source.compression else None
        self.offset = 0

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes, fewer than asked for only at the end; raise JobSpecError where they can't be had.

        The first read brings enough to know a file that is no UTF-8 text by its first bytes, and to drop the mark.
        """
        block = self._read(size_bytes if self.offset else max(size_bytes, 2 * len(_BOM)))
        if self.offset == 0 and block:
            for mark, what, instead in _OTHER_FORMS:
                if block.startswith(mark):
                    raise refusal(self._source.name, what, instead=instead)
            if block.startswith(_BOM):
                self.offset = len(_BOM)
                block = block[len(_BOM) :]
        self.offset += len(block)
        return block

    def _read(self, size_bytes: int) -> bytes:
        blocks: list[bytes] = []
        try:
            while size_bytes and (block := self._stream.read(size_bytes)):
                blocks.append(block)
                size_bytes -= len(block)
                self._unpacked_bytes += len(block)
                if self._most_bytes is not None and self._unpacked_bytes > self._most_bytes:
                    what = f"unpacks to more than {_MOST_UNPACKED} times its size, as no table of prompts does"
                    raise refusal(self._source.name, what, instead="give the table unpacked if it really is one")
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self._source, error) from error
        return b"".join(blocks)


@contextmanager
def open_text(source: Source) -> Iterator[TextStream]:
    """Open a text file, unpacked where its name says that it is packed; raises JobSpecError."""
    with ExitStack() as stack:
        try:
            match source.compression:
                case None:
                    stream: _Readable = stack.enter_context(source.path.open("rb"))
                case "gzip":
                    stream = stack.enter_context(gzip.open(source.path, "rb"))
                case "zstd":
                    stream = stack.enter_context(pa.input_stream(os.fspath(source.path), compression="zstd"))
        except OSError as error:
            raise _unreadable(source, error) from error
        yield TextStream(stream, source=source)


def check_unchanged(source: Source) -> None:
    """Raise JobSpecError where the file is no longer the one that was opened: what was learned of it may be wrong."""
    try:
        if file_stamp(source.path) == source.stamp:
            return
    except OSError as error:
        raise _unreadable(source, error) from error
    raise refusal(source.name, "the file changed while it was read", instead="run again when it is whole")


def file_stamp(path: Path) -> tuple[int, int, int, int]:
    """Return what tells a file from a changed one: device, inode, size in bytes, time of change in ns."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(source: Source, error: Exception) -> JobSpecError:
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return refusal(source.name, f"can't be read: {error.strerror}")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return refusal(source.name, f"isn't a whole {source.compression} file: {reason}", instead="pack it anew")
