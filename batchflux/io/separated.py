"""Where cells and records lie in separated text (CSV, TSV): numpy over bytes, no file and no Python object a cell.

Quotes follow RFC 4180, sections 2.5 to 2.7: a quote opens a cell only as its first byte, a doubled one stands for
itself, and after the closing one the cell ends. What is neither is a fault that is pointed at, never a guess. Up to
the first such fault every position here is right; after it none is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.io.tablefile import MAX_RECORD_BYTES, TextStream

__all__ = ["COMMA", "TAB", "Dialect", "Part", "QuoteFault", "Scan", "read_parts", "scan"]

_QUOTE, _LF, _CR = b'"\n\r'
Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What separates cells (one ASCII byte), and whether cells may be quoted."""

    separator: int
    has_quotes: bool


COMMA: Final = Dialect(separator=ord(","), has_quotes=True)
TAB: Final = Dialect(separator=ord("\t"), has_quotes=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteFault:
    """A quote that can't be read in one way only, and where it stands in the scanned bytes."""

    kind: Literal["inside", "text after", "unclosed"]
    position: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """The layout of some bytes that begin with a record: of the whole records alone, or of a torn one.

    `data` is those bytes as numbers; `newlines` every newline in it, `cell_ends` the separators and newlines that
    end a cell, `record_ends` the newlines that end a record, `quotes` every quote (none where they mean nothing).
    """

    data: npt.NDArray[np.uint8]
    newlines: Positions
    cell_ends: Positions
    record_ends: Positions
    quotes: Positions
    dialect: Dialect

    def record_starts(self) -> Positions:
        """Return where each record begins."""
        return np.concatenate(([0], self.record_ends[:-1] + 1)) if len(self.record_ends) else self.record_ends

    def widths(self) -> Positions:
        """Return how many cells each record has."""
        last_cells = np.flatnonzero(self.data[self.cell_ends] == _LF)
        widths: Positions = np.diff(last_cells, prepend=-1)
        return widths

    def is_quoted(self, positions: Positions) -> npt.NDArray[np.bool_]:
        """Say for each position whether it lies within a quoted cell."""
        is_odd: npt.NDArray[np.bool_] = np.searchsorted(self.quotes, positions) % 2 == 1
        return is_odd

    def lone_returns(self) -> Positions:
        """Return the carriage returns outside quotes that no newline follows: the end of a line, or text?"""
        returns: Positions = np.flatnonzero(self.data == _CR)
        returns = returns[self.data[np.minimum(returns + 1, len(self.data) - 1)] != _LF]
        lone: Positions = returns[~self.is_quoted(returns)]
        return lone

    def quote_fault(self) -> QuoteFault | None:
        """Return the first quote that is neither opening, closing nor doubled."""
        last = len(self.data) - 1
        openers, closers = self.quotes[0::2], self.quotes[1::2]
        before = np.where(openers > 0, self.data[np.maximum(openers - 1, 0)], _LF)
        is_opener = (before == self.dialect.separator) | (before == _LF) | (before == _QUOTE)
        after, second = (self.data[np.minimum(closers + step, last)] for step in (1, 2))
        is_closer = (after == self.dialect.separator) | (after == _LF) | (after == _QUOTE)
        is_closer |= (after == _CR) & (second == _LF)
        inside, text_after = openers[~is_opener][:1], closers[~is_closer][:1]
        if len(inside) and not (len(text_after) and text_after[0] < inside[0]):
            return QuoteFault(kind="inside", position=int(inside[0]))
        return QuoteFault(kind="text after", position=int(text_after[0])) if len(text_after) else None

    def unclosed_quote(self) -> QuoteFault | None:
        """Return the quote that opens the cell in which the bytes end, where they end in a quoted one."""
        if len(self.quotes) % 2 == 0:
            return None
        index = len(self.quotes) - 1
        while index and self.quotes[index - 1] == self.quotes[index] - 1:  # the second half of a doubled quote
            index -= 2
        return QuoteFault(kind="unclosed", position=int(self.quotes[index]))

    def cells(self) -> pa.StringArray:
        """Return the text of every cell, record by record, without a look at its UTF-8; needs a scan free of faults.

        Drops the bytes that are no text (ends of cells, opening and closing quotes, one of each doubled pair) and
        counts what is left: so each cell is a slice of what was read.
        """
        is_text = np.ones(len(self.data), dtype=bool)
        is_text[self.cell_ends] = False
        before_ends = np.maximum(self.record_ends - 1, 0)
        is_text[before_ends[self.data[before_ends] == _CR]] = False
        is_text[self.quotes[0::2]] = False
        closers = self.quotes[1::2]
        is_text[closers[self.data[closers + 1] != _QUOTE]] = False
        offsets = np.zeros(len(self.cell_ends) + 1, dtype=np.int32)
        offsets[1:] = np.cumsum(is_text, dtype=np.int32)[self.cell_ends]
        return pa.StringArray.from_buffers(len(self.cell_ends), pa.py_buffer(offsets), pa.py_buffer(self.data[is_text]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Whole records of a file, or (`is_torn`) the beginning of one that never ends.

    `offset` counts the file's unpacked bytes before it, `line` is the physical line of its first byte, from 1,
    `record` the number of its first record, the header being 0.
    """

    scan: Scan
    raw: bytes
    offset: int
    line: int
    record: int
    is_torn: bool = False


def scan(raw: bytes, dialect: Dialect) -> Scan:
    """Find the cells and records in bytes that begin with a record. Cost: some 10 ms a MiB."""
    data = np.frombuffer(raw, dtype=np.uint8)
    is_newline = data == _LF
    ends = np.flatnonzero(is_newline | (data == dialect.separator))
    quotes = np.flatnonzero(data == _QUOTE) if dialect.has_quotes else ends[:0]
    if len(quotes):
        ends = ends[(np.searchsorted(quotes, ends) & 1) == 0]
    return Scan(
        data=data,
        newlines=np.flatnonzero(is_newline),
        cell_ends=ends,
        record_ends=ends[data[ends] == _LF],
        quotes=quotes,
        dialect=dialect,
    )


def read_parts(stream: TextStream, *, dialect: Dialect, part_bytes: int) -> Iterator[Part]:
    """Cut a stream into parts of whole records; blank lines at its very end are left out.

    Memory: some 25 bytes for each of `part_bytes`, or of the longest record where that is longer.
    """
    raw, line, record, want_bytes = b"", 1, 0, part_bytes
    while True:
        offset = stream.offset - len(raw)
        block = stream.read(want_bytes)
        if offset == 0 and not raw:
            offset = stream.offset - len(block)  # a mark of byte order was dropped
        raw += block
        if not block and raw and not raw.endswith(b"\n"):
            raw += b"\n"
        layout = scan(raw, dialect)
        end = _end_of_records(raw, layout)
        if end:
            part = Part(scan=_cut(layout, end), raw=raw[:end], offset=offset, line=line, record=record)
            yield part
            line, record = line + len(part.scan.newlines), record + len(part.scan.record_ends)
            raw, want_bytes = raw[end:], part_bytes
        else:
            # doubling: a long record is scanned a few times, not once a part
            want_bytes = min(max(part_bytes, len(raw)), MAX_RECORD_BYTES + 1 - len(raw))
        if not block or len(raw) > MAX_RECORD_BYTES:
            if raw.strip(b"\r\n"):
                rest = scan(raw, dialect)
                yield Part(scan=rest, raw=raw, offset=offset + end, line=line, record=record, is_torn=True)
            return


def _end_of_records(raw: bytes, layout: Scan) -> int:
    """Return where the whole records end; blank lines there are kept back, since they may be the file's last."""
    if not len(layout.record_ends):
        return 0
    end = int(layout.record_ends[-1]) + 1
    text_bytes = len(raw[:end].rstrip(b"\r\n"))
    return raw.index(b"\n", text_bytes) + 1 if text_bytes else 0


def _cut(layout: Scan, end: int) -> Scan:
    def below(positions: Positions) -> Positions:
        return positions[: np.searchsorted(positions, end)]

    return Scan(
        data=layout.data[:end],
        newlines=below(layout.newlines),
        cell_ends=below(layout.cell_ends),
        record_ends=below(layout.record_ends),
        quotes=below(layout.quotes),
        dialect=layout.dialect,
    )
