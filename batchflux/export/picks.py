"""Cells picked by hand: a CSV file with a column `cell_id`, and where it has one, `mark`; rejects are left out.

Reads texts as they are. What names no cell is an error with its line, so that a slip never makes a dataset smaller.
"""

import csv
import re
from pathlib import Path
from typing import Final

from batchflux.core.errors import UsageError

__all__ = ["read_picks"]

_CELL_ID: Final = re.compile(r"[0-9a-f]{32}")
_REJECTED: Final = frozenset({"reject", "rejected"})


def read_picks(path: Path) -> frozenset[str]:
    """Return the ids of the cells that a file picks. Raises UsageError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "cell_id" not in (reader.fieldnames or ()):
                raise UsageError(f"{path}: there is no column cell_id; name the columns in the first line")
            picked = set()
            for row in reader:
                cell_id = (row["cell_id"] or "").strip()
                if not _CELL_ID.fullmatch(cell_id):
                    raise UsageError(f"{path}:{reader.line_num}: {cell_id!r} is no cell id, which has 32 digits")
                if (row.get("mark") or "").strip().lower() not in _REJECTED:
                    picked.add(cell_id)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not picked:
        raise UsageError(f"{path}: picks no cell")
    return frozenset(picked)
