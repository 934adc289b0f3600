"""What was learned of an account's limits, as one small JSON file; published whole, read with distrust.

It is advice and never a condition: a file that is missing, torn, foreign or unreadable is as good as none, and one that
can't be written costs the next run some seconds. What the numbers mean is `core.learned`'s matter.
"""

import json
from contextlib import suppress
from pathlib import Path

from batchflux.core.errors import StorageError
from batchflux.core.learned import Learned, parse_learned
from batchflux.io.storage import publish_bytes

__all__ = ["LIMITS_FILE", "parse_limits", "read_limits", "write_limits"]

LIMITS_FILE = "limits.json"

_MOST_BYTES = 4096  # ours is about 150; what somebody else put there isn't read to its end


def parse_limits(data: bytes) -> Learned | None:
    """Return what a file's bytes say, None where they are nothing of ours."""
    try:
        return parse_learned(json.loads(data))
    except (ValueError, RecursionError):
        return None


def read_limits(folder: Path) -> Learned | None:
    """Return what was remembered in a folder, None where nothing that can be believed is."""
    try:
        with (folder / LIMITS_FILE).open("rb") as file:
            return parse_limits(file.read(_MOST_BYTES))
    except OSError:
        return None


def write_limits(folder: Path, learned: Learned) -> None:
    """Remember in a folder what was learned; a disk that refuses is told of by what matters more."""
    with suppress(StorageError):
        publish_bytes(folder / LIMITS_FILE, (json.dumps(learned.as_mapping()) + "\n").encode())
