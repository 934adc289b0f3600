"""Arrow columns from Python values and back to exact text, without loading pandas.

`pa.array` of a list loads pandas (0.4 s at every start), so arrays are built by `core.arrow`. Decides which
types can be text and how columns of two files join; touches no file.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from batchflux.core.arrow import from_texts, from_values
from batchflux.core.model import JsonValue
from batchflux.io.tablefile import quoted

__all__ = [
    "build_column",
    "build_indices",
    "is_textual",
    "join_types",
    "name_faults",
    "plain_array",
    "plain_type",
    "text_column",
]

_PYTHON_TYPES: Final[dict[pa.DataType, tuple[type, ...]]] = {
    pa.null(): (),
    pa.bool_(): (bool,),
    pa.int64(): (int,),
    pa.float64(): (int, float),
}


def build_indices(places: range) -> pa.Int64Array:
    """Return places in a column as `take` wants them."""
    data = np.arange(places.start, places.stop, places.step, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(data), [None, pa.py_buffer(data)])


def build_column(values: Sequence[JsonValue], kind: pa.DataType) -> pa.Array:
    """Return a column of `kind` (string, int64, double, bool or null) of JSON values that fit it; None is null.

    In a string column a string is itself and any other value its JSON text. Raises TypeError, ValueError or
    OverflowError for a value that doesn't fit.
    """
    if kind == pa.string():
        return from_texts([_json_text(value) for value in values])
    wanted = _PYTHON_TYPES[kind]
    if any(value is not None and type(value) not in wanted for value in values):
        raise TypeError(f"a value that is not {kind}")
    return from_values(values, kind)


def _json_text(value: JsonValue) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column of `kind` is handed on: encodings of text become string, all else stays."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def plain_array(array: pa.Array) -> pa.Array:
    """Return a column with its plain type, values unchanged; raises pa.ArrowInvalid where text passes 2 GiB."""
    if isinstance(array, pa.ExtensionArray):
        return plain_array(array.storage)
    if isinstance(array, pa.DictionaryArray):
        return plain_array(array.dictionary_decode())
    kind = plain_type(array.type)
    return array if array.type == kind else array.cast(kind)


def is_textual(kind: pa.DataType) -> bool:
    """Say whether `text_column` takes a column of this type: text, numbers, truth values, dates, times, all null."""
    kind, types = plain_type(kind), pa.types
    words = (types.is_string, types.is_boolean, types.is_null)
    numbers = (types.is_integer, types.is_floating, types.is_decimal)
    moments = (types.is_date, types.is_time, types.is_timestamp)
    return any(is_kind(kind) for is_kind in (*words, *numbers, *moments))


def text_column(array: pa.Array) -> pa.StringArray:
    """Return a column as exact text, for prompts, row names and the words of a template.

    Text is itself, an integer its digits, a float its shortest text that reads back equal (1.0, not 1), a truth
    value `true` or `false`, a date or time as Arrow writes it (2024-05-01 10:00:00); null stays null. Raises
    TypeError for a type that isn't `is_textual`.
    """
    array = plain_array(array)
    kind = array.type
    if not is_textual(kind):
        raise TypeError(f"a column of type {kind} is not text")
    if pa.types.is_string(kind):
        return array
    if pa.types.is_floating(kind):
        # str() of numpy's own width: a float32 0.1 is "0.1", not the 17 digits of its double
        narrow = np.dtype(f"f{kind.bit_width // 8}").type
        return from_texts([None if value is None else str(narrow(value)) for value in array.to_pylist()])
    return array.cast(pa.string())


def join_types(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return the type of a column that has these two plain types in two files, None where nothing holds both.

    Equal types stay; integers of two widths become int64 where that holds both; otherwise both become text.
    """
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    integers = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
    if first in integers and second in integers:
        return pa.int64()
    return pa.string() if is_textual(first) and is_textual(second) else None


def name_faults(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a table's column names and what would be right."""
    places: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if not name:
            yield f"column {place} has no name", "name it or leave the column out"
        elif name in places:
            yield f"two columns are named {quoted(name)}: {places[name]} and {place}", "give each a name of its own"
        places.setdefault(name, place)
