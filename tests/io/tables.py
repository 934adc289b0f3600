"""What the tests of the prompt table share: tables written in a line, read back as plain rows."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflux.core.errors import JobSpecError
from batchflux.core.model import JsonValue
from batchflux.io.prompts import PromptTable, open_table
from batchflux.io.tablefile import PART_BYTES

Row = dict[str, JsonValue]


def read_rows(table: PromptTable, *, columns: Sequence[str] | None = None, batch_rows: int = 8192) -> list[Row]:
    """Return every row of a table as Python values, in order."""
    rows: list[Row] = []
    for batch in table.batches(columns=columns, batch_rows=batch_rows):
        assert 0 < batch.columns.num_rows <= batch_rows
        assert batch.columns.schema.names == list(table.column_names if columns is None else columns)
        rows += batch.columns.to_pylist()
    return rows


def read_file(path: Path) -> list[Row]:
    """Return every row of a single file."""
    return read_rows(open_table([path]))


def refused(*paths: Path | str, part_bytes: int = PART_BYTES) -> list[str]:
    """Return the lines that refuse a table, whether at its opening or at its reading."""
    with pytest.raises(JobSpecError) as caught:
        read_rows(open_table(paths, part_bytes=part_bytes))
    return str(caught.value).splitlines()


def write_parquet(path: Path, columns: dict[str, pa.Array], **options: object) -> Path:
    """Write arrays as a Parquet file."""
    pq.write_table(pa.table(columns), path, **options)
    return path
