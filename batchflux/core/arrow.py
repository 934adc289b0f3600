"""Between numpy and Arrow without pandas: `pa.array`, `pa.scalar` and `to_numpy` import it, at 0.3 s and 40 MB a start.

Buffers are looked at where they lie; nulls become what the caller says. Decides nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "Flags",
    "Ints",
    "as_flags",
    "as_ints",
    "as_objects",
    "equals",
    "from_flags",
    "from_ints",
    "from_texts",
    "from_values",
    "joined_once",
    "list_lengths",
    "numbered",
    "one",
    "places_of",
    "validity",
]

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)


def from_ints(values: Ints, *, is_null: Flags | None = None) -> pa.Array:
    """Return integers as an int64 array, null where a mask says so."""
    valid = None if is_null is None else pa.py_buffer(np.packbits(~is_null, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), len(values), [valid, pa.py_buffer(np.ascontiguousarray(values, np.int64))])


def from_flags(values: Flags) -> pa.Array:
    """Return booleans as an array: a mask to filter by."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def from_texts(values: Sequence[str | None]) -> pa.StringArray:
    """Return a string column of these values; None is null. Raises UnicodeEncodeError on a lone surrogate."""
    present = [value or "" for value in values]
    joined = "".join(present)
    text = joined.encode()
    sizes = map(len, present) if len(text) == len(joined) else (len(value.encode()) for value in present)
    offsets = np.zeros(len(present) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum(np.fromiter(sizes, dtype=np.int32, count=len(present)), dtype=np.int32)
    return pa.StringArray.from_buffers(len(present), pa.py_buffer(offsets), pa.py_buffer(text), validity(values))


def from_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values as a column of strings, truth values, lists of them, or numbers of 64 bits; None is null."""
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    if pa.types.is_string(kind):
        return from_texts(values)
    if pa.types.is_list(kind):
        sizes = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
        items = from_values([item for value in values for item in value or ()], kind.value_type)
        return pa.Array.from_buffers(kind, len(values), [validity(values), pa.py_buffer(sizes)], children=[items])
    present = [value or 0 for value in values]
    if pa.types.is_boolean(kind):
        data = np.packbits(np.array(present, dtype=bool), bitorder="little")
    else:
        data = np.array(present, dtype=np.float64 if pa.types.is_floating(kind) else np.int64)
    return pa.Array.from_buffers(kind, len(values), [validity(values), pa.py_buffer(data)])


def one(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return a value as a scalar of a type that `from_values` knows."""
    return from_values([value], kind)[0]


def equals(column: Any, text: str) -> Any:
    """Return for each text of a column whether it is this one, null for null."""
    return pc.equal(column, one(text, pa.string()))


def validity(values: Sequence[object]) -> pa.Buffer | None:
    """Return the bits that say where a column isn't null; None where it never is."""
    is_valid = np.fromiter((value is not None for value in values), dtype=bool, count=len(values))
    return None if is_valid.all() else pa.py_buffer(np.packbits(is_valid, bitorder="little"))


def as_ints(column: Any, *, null: int = 0) -> Ints:
    """Return an int64 or timestamp column as numbers, with one of the caller's for null."""
    found: Ints = _joined([_chunk_ints(chunk, null=null) for chunk in _chunks(column)], np.int64)
    return found


def as_flags(column: Any) -> Flags:
    """Return a boolean column, null as False."""
    found: Flags = _joined([_bits(chunk, 1) & _valid(chunk) for chunk in _chunks(column)], np.bool_)
    return found


def as_objects(column: Any) -> list[Any]:
    """Return a column's Python values; `to_pylist` imports pandas for moments, which are the manifest's here."""
    if column.type != pa.timestamp("ms", tz="UTC"):
        found: list[Any] = column.to_pylist()
        return found
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    numbers = column.cast(pa.int64()).to_pylist()
    return [None if number is None else epoch + timedelta(milliseconds=number) for number in numbers]


def list_lengths(column: Any) -> Ints:
    """Return how many items each list of a column holds, 0 for null."""
    return as_ints(pc.list_value_length(column).cast(pa.int64()))


def places_of(mask: Flags) -> pa.Array:
    """Return the places where a mask holds, to take rows by: for few of many rows quicker than a filter."""
    return from_ints(np.flatnonzero(mask))


def numbered(column: Any, names: Sequence[str], *, other: int) -> Ints:
    """Return for each text of a column its place among the names, `other` for null and any other text."""
    places = {name: place for place, name in enumerate(names)}
    parts = []
    for chunk in _chunks(column):
        encoded = pc.dictionary_encode(chunk)
        known = np.array([places.get(name, other) for name in encoded.dictionary.to_pylist()] + [other], dtype=np.int64)
        codes = np.frombuffer(encoded.indices.buffers()[1], dtype=np.int32)[encoded.indices.offset :][: len(chunk)]
        parts.append(known[np.where(_valid(encoded.indices), codes, -1)])
    found: Ints = _joined(parts, np.int64)
    return found


def joined_once(parts: Sequence[npt.NDArray[_Scalar]]) -> npt.NDArray[_Scalar]:
    """Return arrays as one, read-only and without any room of its own where all of it is one value."""
    first = parts[0][:1]
    if len(first) and all((part == first).all() for part in parts):
        return np.broadcast_to(first.copy(), (sum(map(len, parts)),))
    return np.concatenate(parts)


def _chunks(column: Any) -> list[pa.Array]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [chunk for chunk in chunks if len(chunk)]


def _joined(parts: list[Any], dtype: type[np.generic]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def _chunk_ints(chunk: pa.Array, *, null: int) -> Ints:
    values = np.frombuffer(chunk.buffers()[1], dtype=np.dtype(f"i{chunk.type.bit_width // 8}"))
    values = values[chunk.offset :][: len(chunk)].astype(np.int64, copy=False)
    return np.where(_valid(chunk), values, null) if chunk.null_count else values


def _valid(chunk: pa.Array) -> Flags:
    return _bits(chunk, 0) if chunk.null_count else np.ones(len(chunk), dtype=np.bool_)


def _bits(chunk: pa.Array, number: int) -> Flags:
    packed = np.frombuffer(chunk.buffers()[number], dtype=np.uint8)
    return np.unpackbits(packed, bitorder="little")[chunk.offset :][: len(chunk)].astype(np.bool_)
