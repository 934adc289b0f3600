"""CSV and TSV files as tables: the header, the rows as columns of text, and every fault by line and row.

Reads what `separated` lays out and decides what is refused; guesses nothing and changes no cell: an empty one is "",
`NA` and `007` are text. TSV knows no quotes at all. Both are UTF-8 with LF or CRLF line ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from batchflux.io.columns import build_indices, name_faults
from batchflux.io.delimitedfaults import find_faults, line_of
from batchflux.io.separated import COMMA, TAB, Dialect, Part, read_parts, scan
from batchflux.io.tablefile import (
    Faults,
    Source,
    TableBatch,
    check_unchanged,
    open_text,
    quoted,
    refusal,
)

__all__ = ["DelimitedFile", "open_delimited"]

_OTHER_SEPARATORS: Final = {"csv": {";": "semicolons", "\t": "tabs"}, "tsv": {",": "commas", ";": "semicolons"}}
_SEPARATOR_NAMES: Final = {"csv": "comma", "tsv": "tab"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedFile:
    """A CSV or TSV file whose header was read: every column is text. See `tablefile.TableFile`."""

    source: Source
    schema: pa.Schema
    dialect: Dialect
    part_bytes: int

    def batches(self, *, columns: Sequence[str], batch_rows: int) -> Iterator[TableBatch]:
        """Yield the rows in batches of text columns; raises JobSpecError with the file's faults at its end."""
        check_unchanged(self.source)
        places = [self.schema.get_field_index(name) for name in columns]
        schema = pa.schema([self.schema.field(place) for place in places])
        checker = _Checker(self.source, names=self.schema.names)
        with open_text(self.source) as stream:
            for part in read_parts(stream, dialect=self.dialect, part_bytes=self.part_bytes):
                checker.check(part)
                if checker.is_lost:
                    break
                if not checker.faults:
                    arrays = _take_columns(part, places, width=len(self.schema))
                    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
                    yield from self._batches_of(part, rows, batch_rows)
        checker.faults.raise_found()
        check_unchanged(self.source)

    def _batches_of(self, part: Part, rows: pa.RecordBatch, batch_rows: int) -> Iterator[TableBatch]:
        first_row = max(part.record, 1)
        starts = part.scan.record_starts()[first_row - part.record :]
        lines = part.line + np.searchsorted(part.scan.newlines, starts)
        for begin in range(0, len(starts), batch_rows):
            yield TableBatch(
                columns=rows.slice(begin, batch_rows),
                path=self.source.path,
                first_row=first_row + begin,
                lines=lines[begin : begin + batch_rows].tolist(),
            )


def open_delimited(source: Source, *, part_bytes: int) -> DelimitedFile:
    """Read a CSV or TSV file's header and see that a row follows; raises JobSpecError."""
    dialect = COMMA if source.form == "csv" else TAB
    with open_text(source) as stream:
        parts = read_parts(stream, dialect=dialect, part_bytes=part_bytes)
        first = next(parts, None)
        if first is None:
            raise refusal(source.name, "the file is empty", instead="a header line and at least one row are needed")
        names = _read_header(source, first, dialect)
        if len(first.scan.record_ends) == 1 and next(parts, None) is None:
            raise refusal(source.name, "the table has no rows", instead="at least one must follow the header line")
    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    return DelimitedFile(source=source, schema=schema, dialect=dialect, part_bytes=part_bytes)


def _read_header(source: Source, part: Part, dialect: Dialect) -> list[str]:
    checker = _Checker(source, names=None)
    if not part.is_torn:
        raw = part.raw[: int(part.scan.record_ends[0]) + 1]
        part = Part(scan=scan(raw, dialect), raw=raw, offset=part.offset, line=1, record=0)
    checker.check(part)
    checker.faults.raise_found()
    where = f"{source.name}:1"
    names: list[str] = part.scan.cells().to_pylist()
    if names == [""]:
        raise refusal(where, "the first line is blank", instead="it must name the columns")
    if len(names) == 1 and not len(part.scan.quotes):
        for separator, plural in _OTHER_SEPARATORS[source.form].items():
            if separator in names[0]:
                what = f"the header {quoted(names[0])} holds {plural} and no {_SEPARATOR_NAMES[source.form]}"
                instead = f"a .{source.form} file is separated by {_SEPARATOR_NAMES[source.form]}s: save it so"
                raise refusal(where, what, instead=instead)
    for what, instead in name_faults(names):
        checker.faults.add(where, what, instead=instead)
    checker.faults.raise_found()
    return names


def _take_columns(part: Part, places: Sequence[int], *, width: int) -> list[pa.StringArray]:
    cells = part.scan.cells()
    begin = width if part.record == 0 else 0
    if width == 1:
        return [cells.slice(begin)] * len(places)
    return [cells.take(build_indices(range(begin + place, len(cells), width))) for place in places]


class _Checker:
    """Notes the faults of each part in turn. `is_lost` once where the next row begins can't be known.

    `names` are the columns of the header; None while the header itself is looked at, which may have any.
    """

    def __init__(self, source: Source, *, names: Sequence[str] | None) -> None:
        self.faults = Faults(source.name)
        self.is_lost = False
        self._file = source.name
        self._names = names

    def check(self, part: Part) -> None:
        """Note the faults of a part in the order of its rows."""
        found = find_faults(part, self._names)
        ends = part.scan.record_ends
        for fault in found.rows:
            line = line_of(part, int(ends[fault.record - 1]) + 1 if fault.record else 0)
            number = part.record + fault.record
            row = f": row {number}" if number else ""
            self.faults.add(f"{self._file}:{line}{row}", fault.what, instead=fault.instead)
        self.faults.add_unlisted(found.unlisted)
        self.is_lost = found.is_lost
