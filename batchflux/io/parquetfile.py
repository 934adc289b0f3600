"""Parquet files as tables: row groups streamed, page checksums verified, encodings of text made plain.

Metadata that other programs left (pandas' index, extension types) is not acted upon. Reads with
`ParquetFile.iter_batches` alone, which doesn't load pandas.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchflux.core.errors import JobSpecError
from batchflux.io.columns import build_indices, name_faults, plain_array, plain_type
from batchflux.io.tablefile import Faults, Source, TableBatch, check_unchanged, quoted, refusal

__all__ = ["ParquetTableFile", "open_parquet"]

# Read through a buffer of this size, so that a row group's column is never in memory whole.
_BUFFER_BYTES: Final = 1 << 20
# A column whose row groups are no larger than this may be read as dictionaries, which are then held in memory.
_DICTIONARY_BYTES: Final = 4 << 20
# A batch is made of fewer rows where the file's own sizes say that they would unpack to more than this.
_BATCH_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetTableFile:
    """A Parquet file whose footer was read. See `tablefile.TableFile`.

    `row_bytes` is what a row takes by the file's own account, which counts a repeated text once; `repeated` are the
    columns that are read as dictionaries, so that what they unpack to is known before they are.
    """

    source: Source
    schema: pa.Schema
    row_bytes: int
    repeated: tuple[str, ...]

    def batches(self, *, columns: Sequence[str], batch_rows: int) -> Iterator[TableBatch]:
        """Yield the rows in batches; raises JobSpecError for a damaged file and, at its end, text that isn't UTF-8."""
        check_unchanged(self.source)
        schema = pa.schema([self.schema.field(name) for name in columns])
        faults = Faults(self.source.name)
        first_row = 1
        size = max(1, min(batch_rows, _BATCH_BYTES // max(1, self.row_bytes)))
        with closing(_open(self.source, repeated=self.repeated)) as file:
            for raw in _read_batches(file, self.source, columns=columns, batch_rows=size):
                try:
                    arrays = [plain_array(raw.column(name)) for name in columns]
                    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
                except pa.ArrowException as error:
                    raise _damaged(self.source, error) from error
                batch = TableBatch(columns=rows, path=self.source.path, first_row=first_row, lines=None)
                _note_bad_text(batch, faults)
                if not faults:
                    yield batch
                first_row += rows.num_rows
        faults.raise_found()
        check_unchanged(self.source)


def open_parquet(source: Source) -> ParquetTableFile:
    """Read a Parquet file's footer; raises JobSpecError."""
    with closing(_open(source)) as file:
        metadata, names = file.metadata, file.schema_arrow.names
        fields = [pa.field(item.name, plain_type(item.type)) for item in file.schema_arrow]
    faults = Faults(source.name)
    for what, instead in name_faults(names):
        faults.add(source.name, what, instead=instead)
    faults.raise_found()
    if not metadata.num_rows or not names:
        raise refusal(source.name, "the table has no rows", instead="at least one is needed")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    row_bytes = max(group.total_byte_size // max(1, group.num_rows) for group in groups)
    repeated = tuple(name for name in names if _is_repeated(name, groups))
    return ParquetTableFile(source=source, schema=pa.schema(fields), row_bytes=row_bytes, repeated=repeated)


def _is_repeated(name: str, groups: Sequence[pq.RowGroupMetaData]) -> bool:
    """Say whether a column is text (or bytes) of which every row group stores few values, with references to them."""
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema == name]
    return bool(chunks) and all(
        chunk.physical_type == "BYTE_ARRAY"
        and chunk.has_dictionary_page
        and chunk.total_uncompressed_size <= _DICTIONARY_BYTES
        for chunk in chunks
    )


def _open(source: Source, *, repeated: Sequence[str] = ()) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(
            os.fspath(source.path),
            read_dictionary=list(repeated),
            page_checksum_verification=True,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(source, error) from error


def _read_batches(
    file: pq.ParquetFile, source: Source, *, columns: Sequence[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(columns), use_threads=False):
            yield from _split_batch(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(source, error) from error


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch whole or in halves, so that none unpacks to more than its bound (unless a single row does)."""
    unpacked_bytes = sum(_unpacked_bytes(column) for column in batch.columns)
    if unpacked_bytes <= _BATCH_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _split_batch(batch.slice(0, half))
    yield from _split_batch(batch.slice(half))


def _unpacked_bytes(column: pa.Array) -> int:
    """Return what a dictionary of texts unpacks to; 0 for other columns, which are unpacked already."""
    if not isinstance(column, pa.DictionaryArray) or not _has_text(column.type.value_type):
        return 0
    lengths = pc.binary_length(plain_array(column.dictionary))
    total: int | None = pc.sum(lengths.take(column.indices)).as_py()
    return total or 0


def _has_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _damaged(source: Source, error: Exception) -> JobSpecError:
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return refusal(source.name, f"can't be read: {error.strerror}")
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return refusal(source.name, f"can't be read as Parquet: {reason}")


def _note_bad_text(batch: TableBatch, faults: Faults) -> None:
    """Note the rows whose text isn't UTF-8: Parquet's readers take the writer's word for it."""
    for item, column in zip(batch.columns.schema, batch.columns.columns, strict=True):
        if _is_sound(column):
            continue
        for offset in range(len(column)):
            # a copy of the row: of a slice of lists, Arrow checks the neighbours' text too
            if not _is_sound(column.take(build_indices(range(offset, offset + 1)))):
                faults.add(batch.where(offset), f"column {quoted(item.name)} holds bytes that aren't UTF-8")


def _is_sound(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
