"""What is wrong with a part of a CSV or TSV file, row by row, in words that say what would be right.

Pure: looks at a scanned part and the header's names and returns values. Which row a fault is in is certain up to the
first quote that can be read in two ways; nothing is said of what follows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from batchflux.io.separated import COMMA, Part, Positions, QuoteFault
from batchflux.io.tablefile import LISTED_FAULTS, MAX_RECORD_BYTES, quoted

__all__ = ["PartFaults", "RowFault", "find_faults", "line_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """One fault: `record` counts from 0 within the part."""

    record: int
    what: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFaults:
    """A part's faults by row. `unlisted` more rows are ragged; `is_lost`: the next row's beginning can't be known."""

    rows: tuple[RowFault, ...] = ()
    unlisted: int = 0
    is_lost: bool = False


def find_faults(part: Part, names: Sequence[str] | None) -> PartFaults:
    """Return what is wrong with a part of a table with these columns; None while the part is the header itself."""
    lost = _lost_record(part, names)
    known = len(part.scan.record_ends) if lost is None else lost.record  # what follows it is no row
    rows = [fault for fault in _byte_faults(part) if fault.record < known]
    unlisted = 0
    if names is not None:
        ragged = np.flatnonzero(part.scan.widths()[:known] != len(names))
        rows += [_ragged_row(part, int(record), names) for record in ragged[:LISTED_FAULTS]]
        unlisted = max(0, len(ragged) - LISTED_FAULTS)
    rows.sort(key=lambda fault: fault.record)
    if lost is not None:
        rows.append(lost)
    return PartFaults(rows=tuple(rows), unlisted=unlisted, is_lost=lost is not None)


def line_of(part: Part, position: int) -> int:
    """Return the physical line in the file, from 1, of a byte of the part."""
    return part.line + int(np.searchsorted(part.scan.newlines, position))


def _lost_record(part: Part, names: Sequence[str] | None) -> RowFault | None:
    """Return the fault after which rows can't be told apart, if there is one."""
    fault = part.scan.quote_fault()
    if fault is None and part.is_torn:
        fault = part.scan.unclosed_quote()
        if fault is None:
            what = f"the row is longer than {MAX_RECORD_BYTES >> 20} MiB"
            return RowFault(record=0, what=what, instead="no table of prompts has such rows")
    return None if fault is None else _misquoted_row(part, fault, names)


def _misquoted_row(part: Part, fault: QuoteFault, names: Sequence[str] | None) -> RowFault:
    record = int(np.searchsorted(part.scan.record_ends, fault.position))
    start = _start_of(part, record)
    first_cell, cell = np.searchsorted(part.scan.cell_ends, [start, fault.position]).tolist()
    place = cell - first_cell
    column = f"column {quoted(names[place]) if names and place < len(names) else place + 1}"
    line = line_of(part, fault.position)
    on_line = "" if line == line_of(part, start) else f" on line {line}"
    match fault.kind:
        case "inside":
            what = f"{column} has a quote{on_line} but doesn't begin with one"
            instead = "put the whole cell in quotes and double each quote in it"
        case "text after":
            what = f"{column} has text after its closing quote{on_line}"
            instead = "double each quote that belongs to the text"
        case "unclosed":
            until = (
                "is never closed"
                if len(part.raw) <= MAX_RECORD_BYTES
                else f"isn't closed within {MAX_RECORD_BYTES >> 20} MiB"
            )
            what = f"the quote that opens {column}{on_line} {until}"
            instead = "close it, or double each quote that belongs to the text"
    return RowFault(record=record, what=what, instead=instead)


def _ragged_row(part: Part, record: int, names: Sequence[str]) -> RowFault:
    cells, wanted = int(part.scan.widths()[record]), len(names)
    start, end = _start_of(part, record), int(part.scan.record_ends[record])
    is_csv = part.scan.dialect == COMMA
    if not part.raw[start:end].strip(b"\r"):
        return RowFault(record=record, what="a blank line within the table", instead="take it out")
    if cells > wanted:
        instead = "a cell that holds a comma needs quotes" if is_csv else "a tab always ends a cell, none can hold one"
    else:
        instead = f"an empty cell still needs its {'comma' if is_csv else 'tab'}"
    counted = "1 cell" if cells == 1 else f"{cells} cells"
    return RowFault(record=record, what=f"{counted} where the header has {wanted}", instead=instead)


def _byte_faults(part: Part) -> Iterator[RowFault]:
    """Yield the rows with bytes that can't be read in one way: NUL, a lone carriage return, what isn't UTF-8."""
    raw, layout = part.raw, part.scan
    if b"\0" in raw:
        for record in _records_at(part, np.flatnonzero(layout.data == 0)):
            yield RowFault(record=record, what="a NUL byte", instead="save the table as UTF-8 text")
    if b"\r" in raw:
        quotes = "put the cell in quotes" if layout.dialect == COMMA else "a TSV cell can't hold one"
        for record in _records_at(part, layout.lone_returns()):
            what = "a carriage return without a newline"
            yield RowFault(record=record, what=what, instead=f"end lines with LF or CRLF; where it is text, {quotes}")
    if not _is_utf8(raw):
        bounds = [0, *(layout.record_ends + 1).tolist()]
        for record, (start, end) in enumerate(pairwise(bounds)):
            try:
                raw[start:end].decode()
            except UnicodeDecodeError as error:
                at_byte = part.offset + start + error.start
                what = f"byte 0x{raw[start + error.start]:02x} at offset {at_byte:,} of the file isn't UTF-8"
                yield RowFault(record=record, what=what, instead="save the table as UTF-8")


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _start_of(part: Part, record: int) -> int:
    return int(part.scan.record_ends[record - 1]) + 1 if record else 0


def _records_at(part: Part, positions: Positions) -> list[int]:
    records: list[int] = np.unique(np.searchsorted(part.scan.record_ends, positions)).tolist()
    return records
