"""run.log: one JSON object a line, what happened, when, to which cell. For people and grep; nothing reads it back.

How much is written follows BATCHFLUX_LOG: `warning` what went wrong, `info` (the default) outcomes too, `debug` every
fact. A log that can't be written never disturbs a run: the journal is what counts.
"""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TextIO

from batchflux.core.errors import UsageError
from batchflux.core.model import Fact, FactKind, JsonValue
from batchflux.core.progress import Progress

__all__ = ["LogLevel", "RunLog", "log_level"]

LogLevel = Literal["debug", "info", "warning"]

_FLUSH_CHARS: Final = 1 << 16
_ENCODE: Final = json.JSONEncoder(check_circular=False).encode  # a cell has a line


def log_level() -> LogLevel:
    """Return what BATCHFLUX_LOG asks for. Raises UsageError for another word."""
    match os.environ.get("BATCHFLUX_LOG", "info").lower():
        case "debug":
            return "debug"
        case "info" | "":
            return "info"
        case "warning":
            return "warning"
        case other:
            raise UsageError(f"BATCHFLUX_LOG is {other!r}; it takes debug, info or warning")


class RunLog:
    """Appends to run.log; an observer of the engine."""

    def __init__(self, path: Path, *, level: LogLevel) -> None:
        self._level = level
        self._file: TextIO | None
        try:
            self._file = path.open("a", encoding="utf-8", buffering=_FLUSH_CHARS)
        except OSError:
            self._file = None

    def fact(self, fact: Fact) -> None:
        """Write a line about what befell a cell."""
        is_fault = fact.error_kind is not None
        if self._level == "warning" and not is_fault:
            return
        if self._level == "info" and not is_fault and fact.kind is not FactKind.OUTCOME:
            return
        details: dict[str, JsonValue] = {
            "cell_id": fact.cell_id,
            "kind": fact.kind,
            "status": fact.status,
            "attempt": fact.attempt,
            "prediction_id": fact.prediction_id,
            "latency_ms": fact.latency_ms,
            "inference_ms": fact.inference_ms,
            "error_kind": fact.error_kind,
            "error": fact.error,
        }
        self._write("cell", details)

    def note(self, event: str, **details: JsonValue) -> None:
        """Write a line about something else."""
        self._write(event, details)

    def _write(self, event: str, details: dict[str, JsonValue]) -> None:
        if self._file is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {name: value for name, value in details.items() if value is not None}
        try:
            self._file.write(_ENCODE({"at": at, "event": event, **known}) + "\n")
        except OSError:
            self.close()

    def tick(self, progress: Progress) -> None:
        """Let what was written be seen."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError:
                self.close()

    def close(self) -> None:
        """Write what is left, as far as the disk takes it; nothing is written from here on."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it closes all the same
                file.close()
