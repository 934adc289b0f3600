"""Cells picked by hand: a CSV file with a column `cell_id`, and where it has one, `mark`, which sorts out the rejects.

Reads texts as they are. What names no cell is an error with its line, so that a slip never makes a dataset smaller.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batchflux.core.errors import UsageError

__all__ = ["read_picks", "read_rejects"]

_CELL_ID: Final = re.compile(r"[0-9a-f]{32}")
_REJECTED: Final = frozenset({"reject", "rejected"})
# What people write who want another one; only where cells are drawn anew, since there it leaves nothing out.
_REDONE: Final = _REJECTED | {"redo", "again", "bad", "no", "lose", "loser", "loss"}


def read_picks(path: Path) -> frozenset[str]:
    """Return the ids of the cells that a file picks, its rejects left out. Raises UsageError."""
    return _some({cell_id for cell_id, mark in _rows(path) if mark not in _REJECTED}, path)


def read_rejects(path: Path) -> frozenset[str]:
    """Return the ids of the cells that a file rejects: all of them where it has no column `mark`. Raises UsageError."""
    return _some({cell_id for cell_id, mark in _rows(path) if mark is None or mark in _REDONE}, path)


def _some(found: set[str], path: Path) -> frozenset[str]:
    if not found:
        raise UsageError(f"{path}: picks no cell")
    return frozenset(found)


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (cell id, mark) of each row, the mark None where the file has no such column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            if "cell_id" not in names:
                raise UsageError(f"{path}: there is no column cell_id; name the columns in the first line")
            for row in reader:
                cell_id = (row["cell_id"] or "").strip()
                if not _CELL_ID.fullmatch(cell_id):
                    raise UsageError(f"{path}:{reader.line_num}: {cell_id!r} is no cell id, which has 32 digits")
                yield cell_id, (row["mark"] or "").strip().lower() if "mark" in names else None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
