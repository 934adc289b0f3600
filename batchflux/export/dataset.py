"""What the dataset formats have in common: totals by split, and the columns in the words of `datasets`.

A writer takes batches of images and writes one format's files into a folder; everything else is decided elsewhere.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa
from pyarrow import types

from batchflux.export.samples import ImageBatch

__all__ = ["WRITER", "DatasetWriter", "SplitTotal", "features_of", "json_features_of"]

# The settings of every Parquet file of a dataset. Nothing in them depends on the time or the machine.
WRITER: Final[dict[str, Any]] = {"compression": "zstd", "compression_level": 3, "write_page_index": True}


@dataclass(slots=True, kw_only=True)
class SplitTotal:
    """How many images a split holds, and their bytes."""

    images: int = 0
    size_bytes: int = 0


class DatasetWriter(Protocol):
    """Writes one format's files into a folder that is being built."""

    totals: dict[str, SplitTotal]

    def write(self, batch: ImageBatch) -> None:
        """Write some images. Raises UsageError for one that isn't as it was saved."""

    def close(self) -> None:
        """Finish the files; the writer is not used again."""

    def pattern(self, split: str) -> str:
        """Return the glob of a split's files, for the dataset card."""

    def features(self) -> list[dict[str, Any]] | None:
        """Return the columns in the words of `datasets`; None where it has none for one of them."""


def features_of(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """Return a schema's fields as a dataset card names them; None where one has no name there."""
    features = [_feature(field.name, field.type) for field in schema]
    return None if None in features else [each for each in features if each is not None]


def json_features_of(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """Return the fields as they come back from JSON: what JSON has no form for is text."""
    return features_of(pa.schema([pa.field(field.name, _in_json(field.type)) for field in schema]))


def _feature(name: str, kind: pa.DataType) -> dict[str, Any] | None:
    form = _form(kind)
    return None if form is None else {"name": name, **form}


def _form(kind: pa.DataType) -> dict[str, Any] | None:
    """Return a type as a card writes it: {dtype: ...}, {list: ...} or {struct: ...}."""
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _form(kind.value_type)
        return None if inner is None else {"list": inner.get("dtype") or inner.get("struct") or inner}
    if types.is_struct(kind):
        fields = features_of(pa.schema(list(kind)))
        return None if fields is None else {"struct": fields}
    if types.is_timestamp(kind) or types.is_time(kind) or types.is_decimal128(kind):
        return {"dtype": str(kind)}
    return {"dtype": _NAMES[kind]} if kind in _NAMES else None


_NAMES: Final[dict[pa.DataType, str]] = {
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.bool_(): "bool",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.date32(): "date32",
    pa.binary(): "binary",
    **{
        getattr(pa, name)(): name for sign in ("int", "uint") for bits in (8, 16, 32, 64) for name in (f"{sign}{bits}",)
    },
}


def _in_json(kind: pa.DataType) -> pa.DataType:
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_in_json(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _in_json(field.type)) for field in kind])
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    return kind if types.is_boolean(kind) else pa.string()
