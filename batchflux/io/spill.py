"""Rows sorted into numbered piles without holding them all: what memory is too small for lies in a file without a name.

No durability is meant here, and nothing is left after a crash. Needs about as much room as the rows have bytes.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa

from batchflux.core.arrow import Ints, from_ints
from batchflux.core.errors import StorageError

__all__ = ["Piles"]

_ROWS_AT_ONCE: Final = 1 << 15  # of half a kilobyte each, and that twice while they are sorted


class Piles:
    """Rows of one schema on piles from 0, each in the order in which they came; `with` lets go of all.

    `number_of` tells each row's pile; `tidy` may drop rows of a table that later ones have made useless. One pile
    alone stays in memory.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        number_of: Callable[[pa.Table], Ints],
        tidy: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> None:
        self._number_of, self._tidy = number_of, tidy
        self._spill = _Spill(folder) if count > 1 else None
        self._tables: list[pa.Table] = []
        self._rows = self._rows_when_tidy = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._spill is not None:
            self._spill.close()

    def add(self, table: pa.Table) -> None:
        """Put rows on their piles. Raise StorageError."""
        if table.num_rows:
            self._tables.append(table)
            self._rows += table.num_rows
        if self._rows > 2 * self._rows_when_tidy + _ROWS_AT_ONCE:
            self._sort()

    def of(self, number: int) -> pa.Table | None:
        """Return a pile's rows, None where there are none. Raise StorageError."""
        if self._rows:
            self._sort()
        tables = self._tables if self._spill is None else self._spill.take(number)
        return pa.concat_tables(tables) if tables else None

    def _sort(self) -> None:
        table = self._tidy(pa.concat_tables(self._tables))
        self._tables, self._rows = [], 0
        if self._spill is None:
            self._tables, self._rows_when_tidy = [table], table.num_rows
            return
        numbers = self._number_of(table)
        order = np.argsort(numbers, kind="stable")
        table, numbers = table.take(from_ints(order)), numbers[order]
        found, starts = np.unique(numbers, return_index=True)
        ends = [*starts[1:].tolist(), len(numbers)]
        for number, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
            self._spill.put(number, table.slice(start, end - start))


class _Spill:
    """Tables set down in a file and taken up again, by number."""

    def __init__(self, folder: Path) -> None:
        # Who only looks at a run directory may not be allowed to write there.
        self._folder = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise StorageError(self._folder, doing="set rows down there", cause=error) from error
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._end = 0

    def close(self) -> None:
        """Let go of the file, and with it of all tables."""
        self._file.close()

    def put(self, pile: int, table: pa.Table) -> None:
        """Set a table down."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        try:
            self._file.seek(self._end)
            self._file.write(data)
        except OSError as error:
            raise StorageError(self._folder, doing="set rows down there", cause=error) from error
        self._places.setdefault(pile, []).append((self._end, data.size))
        self._end += data.size

    def take(self, pile: int) -> list[pa.Table]:
        """Return the tables of a number, oldest first."""
        tables = []
        try:
            self._file.flush()
            for offset, size in self._places.get(pile, ()):
                data = os.pread(self._file.fileno(), size, offset)
                tables.append(pa.ipc.open_stream(data).read_all())
        except (OSError, pa.ArrowInvalid) as error:
            raise StorageError(self._folder, doing="read rows there", cause=OSError(str(error))) from error
        return tables
