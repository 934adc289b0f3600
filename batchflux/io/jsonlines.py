"""JSON Lines files as tables: one object a line, read twice, once to learn columns and types, once for the rows.

Refuses what two readers could take for two things: duplicate keys, NaN, numbers past a double, lone surrogates, blank
lines between rows. A string is itself in every column; in a column of strings anything else is its JSON text.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from math import isinf
from typing import Final

import pyarrow as pa

from batchflux.core.model import JsonValue
from batchflux.io.columns import build_column, name_faults
from batchflux.io.tablefile import (
    MAX_RECORD_BYTES,
    Faults,
    Source,
    TableBatch,
    TextStream,
    check_unchanged,
    open_text,
    quoted,
    refusal,
)

__all__ = ["JsonLinesFile", "open_jsonlines"]

# Rows are handed on once their lines reach this, however few they are: memory must not depend on long prompts.
_BATCH_BYTES: Final = 8 << 20
# More columns than any table has: a file whose keys are data (one name a row) would fill the memory.
_MAX_COLUMNS: Final = 2_000
_MAX_INT64: Final = 2**63 - 1
_MAX_EXACT: Final = 2**53  # up to here a double holds every integer

_Row = dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLinesFile:
    """A JSON Lines file that was read once: its columns are the union of its keys. See `tablefile.TableFile`."""

    source: Source
    schema: pa.Schema
    part_bytes: int

    def batches(self, *, columns: Sequence[str], batch_rows: int) -> Iterator[TableBatch]:
        """Yield the rows in batches; raises JobSpecError where the file is no longer the one that was opened."""
        check_unchanged(self.source)
        faults = Faults(self.source.name)
        rows: list[_Row] = []
        first_row, size_bytes = 1, 0
        with open_text(self.source) as stream:
            for line_bytes, row in _read_rows(stream, faults, name=self.source.name, part_bytes=self.part_bytes):
                rows.append(row)
                size_bytes += line_bytes
                if len(rows) == batch_rows or size_bytes >= _BATCH_BYTES:
                    yield self._batch(rows, columns, first_row)
                    first_row, size_bytes, rows = first_row + len(rows), 0, []
        if rows:
            yield self._batch(rows, columns, first_row)
        faults.raise_found()
        check_unchanged(self.source)

    def _batch(self, rows: Sequence[_Row], columns: Sequence[str], first_row: int) -> TableBatch:
        schema = pa.schema([self.schema.field(name) for name in columns])
        try:
            arrays = [build_column([row.get(item.name) for row in rows], item.type) for item in schema]
        except (TypeError, ValueError, OverflowError) as error:
            what = "the file changed while it was read"
            raise refusal(self.source.name, what, instead="run again when it is whole") from error
        return TableBatch(
            columns=pa.RecordBatch.from_arrays(arrays, schema=schema),
            path=self.source.path,
            first_row=first_row,
            lines=range(first_row, first_row + len(rows)),  # a blank line between rows is refused
        )


def open_jsonlines(source: Source, *, part_bytes: int) -> JsonLinesFile:
    """Read a JSON Lines file once for its columns, types and faults; raises JobSpecError with every one."""
    faults = Faults(source.name)
    learner = _Learner()
    row_count = 0
    with open_text(source) as stream:
        for _, row in _read_rows(stream, faults, name=source.name, part_bytes=part_bytes):
            row_count += 1
            learner.learn(row)
            if len(learner.kinds) > _MAX_COLUMNS:
                what = f"more than {_MAX_COLUMNS:,} different keys"
                raise refusal(source.name, what, instead="keys name the columns, the same ones on every line")
        if not stream.offset:
            raise refusal(source.name, "the file is empty", instead="at least one row is needed")
    for what, instead in name_faults(list(learner.kinds)):
        faults.add(source.name, what, instead=instead)
    faults.raise_found()
    if not row_count:
        raise refusal(source.name, "the table has no rows", instead="at least one is needed")
    if not learner.kinds:
        raise refusal(source.name, "no line has a key", instead='each line is an object such as {"prompt": "..."}')
    return JsonLinesFile(source=source, schema=learner.schema(), part_bytes=part_bytes)


class _Kind(Flag):
    """What was seen in a column."""

    NOTHING = 0
    STRING = auto()
    BOOL = auto()
    INT = auto()
    FLOAT = auto()
    NESTED = auto()
    INEXACT = auto()  # an integer that no double holds
    WIDE = auto()  # an integer that no int64 holds


_KINDS: Final = {str: _Kind.STRING, bool: _Kind.BOOL, float: _Kind.FLOAT, list: _Kind.NESTED, dict: _Kind.NESTED}
_TYPES: Final = {
    _Kind.NOTHING: pa.null(),
    _Kind.BOOL: pa.bool_(),
    _Kind.INT: pa.int64(),
    _Kind.INT | _Kind.INEXACT: pa.int64(),
    _Kind.FLOAT: pa.float64(),
    _Kind.INT | _Kind.FLOAT: pa.float64(),
}


@dataclass(slots=True)
class _Learner:
    """Gathers the kinds of values of each column, in the order in which columns first appear."""

    kinds: dict[str, _Kind] = field(default_factory=dict)

    def learn(self, row: _Row) -> None:
        kinds = self.kinds
        for name, value in row.items():
            seen = kinds.get(name)
            kind = _kind_of(value)
            if seen is None:
                kinds[name] = kind
            elif seen is not kind:
                kinds[name] = seen | kind

    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, _TYPES.get(kind, pa.string())) for name, kind in self.kinds.items()])


def _kind_of(value: JsonValue) -> _Kind:
    if value is None:
        return _Kind.NOTHING
    if type(value) is not int:
        return _KINDS[type(value)]
    if -_MAX_EXACT <= value <= _MAX_EXACT:
        return _Kind.INT
    if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
        return _Kind.INT | _Kind.INEXACT
    return _Kind.INT | _Kind.WIDE


class _BadLine(Exception):
    """A line that is refused: what is wrong, what would be right."""

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(what, instead)
        self.what, self.instead = what, instead


def _read_rows(stream: TextStream, faults: Faults, *, name: str, part_bytes: int) -> Iterator[tuple[int, _Row]]:
    """Yield each good row with the bytes of its line, note the faults of the others."""
    blank_line = 0
    for number, line in enumerate(_read_lines(stream, name=name, part_bytes=part_bytes), start=1):
        if not line.strip(b" \t\r"):
            blank_line = blank_line or number
            continue
        if blank_line:
            faults.add(f"{name}:{blank_line}: row {blank_line}", "a blank line within the table", instead="take it out")
            blank_line = 0
        try:
            row = _parse_line(line)
        except _BadLine as bad:
            faults.add(f"{name}:{number}: row {number}", bad.what, instead=bad.instead)
        else:
            yield len(line), row


def _read_lines(stream: TextStream, *, name: str, part_bytes: int) -> Iterator[bytes]:
    tail, number = b"", 1
    while block := stream.read(part_bytes):
        *lines, tail = (tail + block).split(b"\n")
        yield from lines
        number += len(lines)
        if len(tail) > MAX_RECORD_BYTES:
            what = f"the line is longer than {MAX_RECORD_BYTES >> 20} MiB"
            raise refusal(f"{name}:{number}: row {number}", what, instead="one object a line is needed")
    if tail:
        yield tail


def _parse_line(line: bytes) -> _Row:
    try:
        text = line.decode()
        row = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        what = f"byte 0x{line[error.start]:02x}, the line's {error.start + 1:,}th, isn't UTF-8"
        raise _BadLine(what, "save the table as UTF-8") from error
    except json.JSONDecodeError as error:
        raise _BadLine(f"no valid JSON at column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise _BadLine("nested too deeply") from error
    except ValueError as error:  # Python's own bound on the digits of an integer
        raise _BadLine("an integer of thousands of digits", "put it in quotes") from error
    if not isinstance(row, dict):
        what = f"not an object but {_JSON_NAMES[type(row)]}"
        raise _BadLine(what, 'each line is an object such as {"prompt": "..."}')
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(row)
    return row


_JSON_NAMES: Final = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def _check_surrogates(row: _Row) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = f"\\u{ord(error.object[error.start]):04x} is half of a character"
        raise _BadLine(what, "write both halves of the pair, or the character itself") from error


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> _Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _BadLine(f"the key {quoted(twice)} stands twice", "leave one out")
    return row


def _finite(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise _BadLine(f"the number {digits[:40]} is too large", "put it in quotes if it is text")
    return value


def _no_constant(name: str) -> JsonValue:
    raise _BadLine(f"{name} is no JSON value", "use null for what isn't there")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_no_constant)
