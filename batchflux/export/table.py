"""The manifest as CSV or JSON Lines, for those who don't code. Streams; published whole or not at all.

CSV guards formulas: a text that a spreadsheet would run gets an apostrophe before it. Parquet and JSONL stay verbatim.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import IO, Any, Literal

from batchflux.core.errors import StorageError, UsageError
from batchflux.export.options import ExportOptions, Splits
from batchflux.export.selection import OnCells, Selection
from batchflux.export.staging import build_folder
from batchflux.io.storage import publish_with

__all__ = ["export_table", "json_text"]

# How what is written here begins: by its manifest's first columns.
_BEGINNINGS = {"csv": b"cell_id,prompt_id,prompt,model,", "jsonl": b'{"cell_id": "'}

# What a spreadsheet takes for the beginning of a formula. Source: OWASP, CSV injection.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def export_table(
    run_dir: Path,
    dest: Path,
    *,
    form: Literal["csv", "jsonl"],
    options: ExportOptions | None = None,
    on_cells: OnCells | None = None,
) -> int:
    """Write a run's manifest to a file and return how many cells it holds; with splits, a file each into a folder.

    Raises UsageError, StorageError.
    """
    options = options or ExportOptions(form=form)
    selection = Selection(run_dir, options, on_cells=on_cells)
    if options.splits is not None:
        with build_folder(dest) as folder:
            _write_splits(folder, selection, options.splits, form=form)
        return selection.selected
    if not dest.parent.is_dir():
        raise UsageError(f"{dest}: there is no folder {dest.parent}")
    if dest.is_dir():
        raise UsageError(f"{dest}: is a folder; name a file, such as {dest.name}.{form}")
    if not _may_replace(dest, form=form):
        raise UsageError(f"{dest}: is there already, and no {form} export of a run; name another file or remove it")
    with publish_with(dest) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        add = _writer(file, selection.schema.names, form=form)
        return sum(add(row) for row in _rows(selection))


def _may_replace(dest: Path, *, form: Literal["csv", "jsonl"]) -> bool:
    """Return whether nothing is lost at `dest`: no file, an empty one, or an earlier export of this form.

    A prompt table, a spec, a run's own files and devices stay. Raises StorageError.
    """
    beginning = _BEGINNINGS[form]
    try:
        if dest.exists() and not dest.is_file():
            return False
        with dest.open("rb") as file:
            return file.read(len(beginning)) in (b"", beginning)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StorageError(dest, doing="look at the file that is there", cause=error) from error


def _rows(selection: Selection) -> Iterator[Mapping[str, Any]]:
    drops = selection.options.nsfw == "drop"
    for table in selection.tables():
        for row in table.to_pylist():
            if not (drops and any(row["has_nsfw_contents"])):
                yield row


def _write_splits(folder: Path, selection: Selection, splits: Splits, *, form: Literal["csv", "jsonl"]) -> None:
    with ExitStack() as stack:
        writers = {}
        for name in splits.shares:
            file = stack.enter_context((folder / f"{name}.{form}").open("w", encoding="utf-8", newline=""))
            writers[name] = _writer(file, selection.schema.names, form=form)
        for row in _rows(selection):
            writers[splits.of(row["prompt"])](row)


def _writer(
    file: IO[str], names: Sequence[str], *, form: Literal["csv", "jsonl"]
) -> Callable[[Mapping[str, Any]], int]:
    """Return what writes one row and says how many that was."""
    if form == "csv":
        # It quotes only what holds a character of the line's end: a lone carriage return must be quoted too.
        writer = csv.writer(_Lines(file), lineterminator="\r\n")
        writer.writerow([_guarded(name) for name in names])

        def add_csv(row: Mapping[str, Any]) -> int:
            writer.writerow([_guarded(_plain(row[name])) for name in names])
            return 1

        return add_csv

    def add_json(row: Mapping[str, Any]) -> int:
        file.write(json_text(row) + "\n")
        return 1

    return add_json


class _Lines:
    """A file that ends lines with a line feed, whatever ends them for the csv module."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


def json_text(value: Any) -> str:
    """Return a value as strict JSON: times in ISO form, null for what JSON has no number for."""
    return json.dumps(_numbered(value), ensure_ascii=False, allow_nan=False, default=_text)


def _numbered(value: Any) -> Any:
    """Return a value without the floats that JSON has no number for: they become null."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {name: _numbered(item) for name, item in value.items()}
        case list():
            return [_numbered(item) for item in value]
        case _:
            return value


def _text(value: Any) -> str:
    """Return what neither JSON nor a table cell has a form for: times in ISO form, bytes in hexadecimal digits."""
    if isinstance(value, date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as a table cell: lists and structures as JSON, nothing for null."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list() | dict():
            return json_text(value) if value else ""
        case str() | int() | float():
            return value
        case _:
            return _text(value)


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
