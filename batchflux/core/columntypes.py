"""Of what type a request parameter's column is, by the values that it holds: none is changed to fit in."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batchflux.core.arrow import from_values
from batchflux.core.model import JsonValue

__all__ = ["PARAMETER_TYPES", "common_type", "fits", "type_of", "typed"]

PARAMETER_TYPES = {
    "seed": pa.int64(),
    "guidance_scale": pa.float64(),
    "aspect_ratio": pa.string(),
    "num_images": pa.int64(),
    "safety_tolerance": pa.string(),
}


def type_of(name: str, values: Sequence[JsonValue]) -> pa.DataType:
    """Return the type of a parameter's column: the usual one where all values are such, else what holds them all."""
    usual = PARAMETER_TYPES.get(name)
    return usual if usual is not None and all(fits(value, usual) for value in values) else common_type(values)


def fits(value: JsonValue, kind: pa.DataType) -> bool:
    """Return whether a column of this type holds a value as it is."""
    if value is None:
        return True
    if pa.types.is_string(kind):
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if pa.types.is_floating(kind):
        return isinstance(value, float) or abs(value) <= 2**53
    return abs(value) < 2**63 and float(value).is_integer()


def common_type(values: Sequence[JsonValue]) -> pa.DataType:
    """Return the narrowest type that holds all values as they are: text, where no other does."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    for kind in (pa.int64(), pa.float64()) if kinds and kinds <= {int, float} else ():
        if all(fits(value, kind) for value in values) and (kinds == {int} or kind == pa.float64()):
            return kind
    return pa.string()


def typed(name: str, values: Sequence[Any], kind: pa.DataType | None = None) -> pa.Array:
    """Return values as a column, by default of the type that `type_of` gives them; in text what is none is JSON."""
    kind = kind if kind is not None else type_of(name, values)
    if pa.types.is_string(kind):
        return from_values([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], kind)
    if pa.types.is_integer(kind):
        return from_values([v if v is None else int(v) for v in values], kind)
    return from_values(values, kind)
