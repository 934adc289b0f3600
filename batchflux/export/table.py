"""The manifest as CSV or JSON Lines, for those who don't code. Streams; published whole or not at all.

CSV guards formulas: a text that a spreadsheet would run gets an apostrophe before it. Parquet and JSONL stay verbatim.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import IO, Any, Literal

from batchflux.core.errors import UsageError
from batchflux.io.manifest import MANIFEST, column_names, iter_rows
from batchflux.io.storage import publish_with

__all__ = ["export_table"]

# What a spreadsheet takes for the beginning of a formula. Source: OWASP, CSV injection.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def export_table(run_dir: Path, dest: Path, *, form: Literal["csv", "jsonl"]) -> int:
    """Write a run's manifest to a file and return how many cells it holds. Raises UsageError, StorageError."""
    manifest = run_dir / MANIFEST
    if not manifest.exists():
        raise UsageError(
            f"{run_dir}: there is no {MANIFEST} yet; a run writes it at its end, at a stop, and in between"
        )
    if not dest.parent.is_dir():
        raise UsageError(f"{dest}: there is no folder {dest.parent}")
    with publish_with(dest) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = iter_rows(manifest)
        return _write_csv(file, column_names(manifest), rows) if form == "csv" else _write_jsonl(file, rows)


class _Lines:
    """A file that ends lines with a line feed, whatever ends them for the csv module."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line.removesuffix("\r\n") + "\n")


def _write_csv(file: IO[str], names: list[str], rows: Iterable[Mapping[str, Any]]) -> int:
    # It quotes only what holds a character of the line's end: a lone carriage return must be quoted too.
    writer = csv.writer(_Lines(file), lineterminator="\r\n")
    writer.writerow([_guarded(name) for name in names])
    count = 0
    for row in rows:
        writer.writerow([_guarded(_plain(row[name])) for name in names])
        count += 1
    return count


def _write_jsonl(file: IO[str], rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for row in rows:
        file.write(_json(row) + "\n")
        count += 1
    return count


def _json(value: Any) -> str:
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
            return _json(value) if value else ""
        case str() | int() | float():
            return value
        case _:
            return _text(value)


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
