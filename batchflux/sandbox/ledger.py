"""The sandbox's own memory: an append-only file of JSON lines in a state directory, one line a prediction's life.

It is the ground truth of what the "service" accepted. A line goes out whole with one write before the answer does, so
killing the process loses nothing; it is not flushed to the disk, since play money may die with the power.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchflux.core.errors import StorageError, UsageError
from batchflux.sandbox.behaviour import PredictionRecord

__all__ = ["Deletion", "Ledger", "StateInUse"]

_FILE, _PORT_FILE = "ledger.jsonl", "port"
_VERSION = 1

Deletion = tuple[str, ...]


class StateInUse(UsageError):
    """Another sandbox holds the state directory."""


class Ledger:
    """One open memory, locked to this process until `close`. Raises StateInUse, StorageError and UsageError."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / _FILE
        self._port_path = state_dir / _PORT_FILE
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(self._path, doing="open the sandbox's memory", cause=error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StateInUse(f"{state_dir}: another sandbox is at work with this memory") from error

    def read(self) -> Iterator[PredictionRecord | Deletion]:
        """Yield what was remembered, in order; a torn last line is cut off, any other damage raises UsageError."""
        whole_bytes = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, whole_bytes)
                    return
                whole_bytes += len(line)
                yield self._parse(line, number=number)

    def append(self, entry: PredictionRecord | Deletion) -> None:
        """Remember a prediction, or the ids of deleted ones. Raises StorageError."""
        facts: dict[str, Any] = {"ids": entry} if isinstance(entry, tuple) else asdict(entry)
        kind = "deleted" if isinstance(entry, tuple) else "created"
        line = json.dumps({"v": _VERSION, "kind": kind, **facts}, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError("the disk took only a part of a line")
        except OSError as error:
            raise StorageError(self._path, doing="write the sandbox's memory", cause=error) from error

    def read_port(self) -> int:
        """Return the port that this memory was last served on, or 0."""
        try:
            text = self._port_path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return 0
        return int(text) if text.isdigit() and int(text) <= 65535 else 0

    def write_port(self, port: int) -> None:
        """Remember the port for the next start; a torn file only costs the old number."""
        try:
            self._port_path.write_text(f"{port}\n", encoding="ascii")
        except OSError as error:
            raise StorageError(self._port_path, doing="write the sandbox's port", cause=error) from error

    def close(self) -> None:
        """Let go of the memory; another sandbox may take it."""
        os.close(self._file)

    def _parse(self, line: bytes, *, number: int) -> PredictionRecord | Deletion:
        try:
            facts = json.loads(line)
            version, kind = facts.pop("v"), facts.pop("kind")
            if version == _VERSION and kind == "deleted":
                return tuple(facts["ids"])
            if version == _VERSION and kind == "created":
                return PredictionRecord(**facts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{self._path}:{number}: this is not the memory of a sandbox; move it away") from error
        raise UsageError(f"{self._path}:{number}: written by another version of the sandbox; move it away")
