"""The prompt table: a list of files and globs opened as one table of Arrow columns, read in batches.

Decides how files join (union of columns by name, types made equal) and which names are missing; the forms are read by
`delimited`, `jsonlines` and `parquetfile`. Changes no value, holds no more of a table than a part, loads no pandas.
"""

import difflib
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import pyarrow as pa

from batchflux.core.errors import JobSpecError, Problem
from batchflux.io.columns import is_textual, join_types, text_column
from batchflux.io.delimited import open_delimited
from batchflux.io.jsonlines import open_jsonlines
from batchflux.io.parquetfile import open_parquet
from batchflux.io.tablefile import (
    PART_BYTES,
    Compression,
    Form,
    Source,
    TableBatch,
    TableFile,
    file_stamp,
    quoted,
    refusal,
    shown,
)

__all__ = [
    "PromptTable",
    "TableBatch",
    "missing_columns",
    "open_table",
    "shown",
    "text_column",
    "untextual_columns",
]

_FORMS: Final[dict[str, Form]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS: Final[dict[str, Compression]] = {".gz": "gzip", ".zst": "zstd"}
_KNOWN: Final = "a table is a .csv, .tsv, .jsonl or .ndjson file, each also as .gz or .zst, or a .parquet file"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTable:
    """A table that was opened: its files in order and the columns that they have together."""

    files: tuple[TableFile, ...]
    schema: pa.Schema

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files in the order in which their rows come, absolute."""
        return tuple(file.source.path for file in self.files)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns in order of first appearance."""
        return tuple(self.schema.names)

    def batches(self, *, columns: Sequence[str] | None = None, batch_rows: int = 8192) -> Iterator[TableBatch]:
        """Yield the rows in batches of at most `batch_rows`, of the named columns, by default all.

        A batch never crosses from one file to the next. What a file lacks is null. After the first fault nothing more
        is yielded, but every file is read to its end, so that the JobSpecError raised then holds what can be found at
        once: the first twenty faults of each file. Cost: one pass (CSV some 5 s a GB), a few MiB of memory.
        """
        names = self.column_names if columns is None else tuple(columns)
        if not names or batch_rows < 1:
            raise ValueError("batches need at least one column and one row")
        if problems := missing_columns(self, names):
            raise JobSpecError(problems)
        schema = pa.schema([self.schema.field(name) for name in names])
        for file in self.files:
            own = [name for name in names if name in file.schema.names] or file.schema.names[:1]
            try:
                for batch in file.batches(columns=own, batch_rows=batch_rows):
                    if not problems:
                        yield _conform(batch, schema)
            except JobSpecError as error:
                problems.extend(error.problems)
        if problems:
            raise JobSpecError(problems)


def open_table(patterns: Sequence[str | Path], *, part_bytes: int = PART_BYTES) -> PromptTable:
    """Open files and globs as one table: each file's columns are read and a row is seen in it.

    A glob's files come sorted by name. Of JSON Lines files every line is read. `part_bytes` is how much of a text
    file is read at a time. Raises JobSpecError with the problems of all files.
    """
    paths, problems = _resolve(patterns)
    files: list[TableFile] = []
    for path in paths:
        try:
            files.append(_open_file(path, part_bytes=part_bytes))
        except JobSpecError as error:
            problems.extend(error.problems)
    schema, clashes = _join_schemas(files)
    if problems or clashes:
        raise JobSpecError([*problems, *clashes])
    return PromptTable(files=tuple(files), schema=schema)


def missing_columns(table: PromptTable, wanted: Sequence[str]) -> list[Problem]:
    """Return a problem for each wanted column that the table lacks: which there are, the nearest name first."""
    problems = []
    for name in dict.fromkeys(wanted):
        if name not in table.column_names:
            have = "the columns are: " + ", ".join(map(_listed, table.column_names))
            near = _nearest(name, table.column_names)
            instead = f"did you mean {quoted(near)}? {have}" if near is not None else have
            problems.append(Problem(where=_whole(table), what=f"no column {quoted(name)}", instead=instead))
    return problems


def untextual_columns(table: PromptTable, wanted: Sequence[str]) -> list[Problem]:
    """Return a problem for each wanted column of a type that `text_column` refuses: binary, lists, structures."""
    return [
        Problem(
            where=_whole(table),
            what=f"column {quoted(name)} holds {table.schema.field(name).type}, not text",
            instead="write it as a column of strings",
        )
        for name in dict.fromkeys(wanted)
        if name in table.column_names and not is_textual(table.schema.field(name).type)
    ]


def _resolve(patterns: Sequence[str | Path]) -> tuple[list[Path], list[Problem]]:
    """Return the files that the patterns name, in order, and what is wrong with the patterns."""
    paths: dict[str, Path] = {}
    problems: list[Problem] = []
    if not patterns:
        problems.append(Problem(where="prompts.path", what="no file is named", instead=_KNOWN))
    for given in patterns:
        pattern = os.fspath(given)
        found = [pattern]
        if not os.path.lexists(pattern) and glob.has_magic(pattern):
            found = sorted(name for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
            if not found:
                problems.append(Problem(where=shown(pattern), what="no file matches"))
        for name in found:
            path = Path(os.path.abspath(name))
            if paths.setdefault(os.path.realpath(path), path) is not path:
                what = "the file is named twice, so each of its rows would be paid for twice"
                problems.append(Problem(where=shown(path), what=what, instead="name it once"))
    return list(paths.values()), problems


def _open_file(path: Path, *, part_bytes: int) -> TableFile:
    source = _parse_source(path)
    match source.form:
        case "csv" | "tsv":
            return open_delimited(source, part_bytes=part_bytes)
        case "jsonl":
            return open_jsonlines(source, part_bytes=part_bytes)
        case "parquet":
            return open_parquet(source)
        case _:
            assert_never(source.form)


def _parse_source(path: Path) -> Source:
    """Return what a file is by its name; raises JobSpecError for one that is no table or isn't there."""
    if path.is_dir():
        raise refusal(shown(path), "is a folder", instead="name its files, for example with *.csv")
    stem, last = os.path.splitext(path.name.lower())
    compression = _COMPRESSIONS.get(last)
    form = _FORMS.get(last if compression is None else os.path.splitext(stem)[1])
    if form is None or (form == "parquet" and compression is not None):
        raise refusal(shown(path), "the name doesn't say which form of table it is", instead=_KNOWN)
    try:
        stamp = file_stamp(path)
    except FileNotFoundError as error:
        raise refusal(shown(path), "there is no such file") from error
    except OSError as error:
        raise refusal(shown(path), f"can't be read: {error.strerror}") from error
    if not path.is_file():
        raise refusal(shown(path), "is no regular file, and a table is read more than once")
    return Source(path=path, form=form, compression=compression, stamp=stamp)


def _join_schemas(files: Sequence[TableFile]) -> tuple[pa.Schema, list[Problem]]:
    """Return the union of the files' columns, in order of first appearance, and the columns that don't join."""
    types: dict[str, pa.DataType] = {}
    problems: list[Problem] = []
    for file in files:
        for item in file.schema:
            joined = join_types(types.get(item.name, pa.null()), item.type)
            if joined is None:
                what = f"column {quoted(item.name)} holds {item.type} here and {types[item.name]} in another file"
                instead = "give it one type in all files"
                problems.append(Problem(where=file.source.name, what=what, instead=instead))
            else:
                types[item.name] = joined
    # A column without any value is text like the others that hold none.
    fields = [pa.field(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()]
    return pa.schema(fields), problems


def _conform(batch: TableBatch, schema: pa.Schema) -> TableBatch:
    """Return a file's batch with the table's columns: those it lacks null, those of another type as text."""
    if batch.columns.schema.equals(schema):
        return batch
    rows = batch.columns
    arrays = []
    for item in schema:
        place = rows.schema.get_field_index(item.name)
        if place < 0:
            arrays.append(pa.nulls(rows.num_rows, type=item.type))
        elif rows.column(place).type == item.type:
            arrays.append(rows.column(place))
        elif pa.types.is_string(item.type):
            arrays.append(text_column(rows.column(place)))
        else:
            arrays.append(rows.column(place).cast(item.type))
    joined = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return TableBatch(columns=joined, path=batch.path, first_row=batch.first_row, lines=batch.lines)


def _whole(table: PromptTable) -> str:
    """Return the place of a fault of the table as a whole: its first file, and the header's line where it has one."""
    first = table.files[0].source
    line = ":1" if first.form in ("csv", "tsv") else ""
    rest = len(table.files) - 1
    more = f" (and {rest} more {'file' if rest == 1 else 'files'})" if rest else ""
    return f"{first.name}{line}{more}"


def _nearest(name: str, names: Sequence[str]) -> str | None:
    by_folded = {other.strip().casefold(): other for other in reversed(names)}
    near = difflib.get_close_matches(name.strip().casefold(), by_folded, n=1)
    return by_folded[near[0]] if near else None


def _listed(name: str) -> str:
    """Return a column's name for a list of names: as it is where that is clear, else in quotes."""
    is_clear = name.isprintable() and name == name.strip() and "," not in name
    return name if is_clear else quoted(name)
