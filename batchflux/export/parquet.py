"""parquet: shards with the images inside, as `datasets` reads and streams them: `image` is a struct of bytes and path.

Row groups are small, so that who streams holds little of a shard; shards are named with their number and their count,
which is known only at the end. Images are stored as they are: compressing them again costs time and saves nothing.
"""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.export.dataset import WRITER, SplitTotal, features_of
from batchflux.export.samples import ImageBatch, of_split
from batchflux.io.savedimage import read_image

__all__ = ["ParquetWriter"]

_IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# A hundred is what `datasets` itself writes for images; the bytes bound the memory of writer and reader.
_GROUP_IMAGES: Final = 100
_GROUP_BYTES: Final = 32 << 20
_FOLDER: Final = "data"


class ParquetWriter:
    """Writes `data/SPLIT-00000-of-00004.parquet` and so on."""

    def __init__(self, folder: Path, run_dir: Path, schema: pa.Schema, *, shard_bytes: int) -> None:
        self.totals: dict[str, SplitTotal] = {}
        self._folder, self._run_dir, self._rows, self._shard_bytes = folder / _FOLDER, run_dir, schema, shard_bytes
        image = {"info": {"features": {"image": {"_type": "Image"}}}}
        metadata = {"huggingface": json.dumps(image)}
        self._schema = pa.schema([pa.field("image", _IMAGE), *schema], metadata=metadata)
        self._group_bytes = min(_GROUP_BYTES, shard_bytes)
        self._shards: dict[str, _Shards] = {}
        self._folder.mkdir()

    def write(self, batch: ImageBatch) -> None:
        for split in dict.fromkeys(batch.splits):
            places = of_split(batch, split)
            rows = batch.rows.take(pa.array(places))
            group: list[dict[str, Any]] = []
            size_bytes = 0
            for done, place in enumerate(places):
                data = read_image(self._run_dir, batch.files[place], sha256=batch.hashes[place])
                if group and (len(group) >= _GROUP_IMAGES or size_bytes + len(data) > self._group_bytes):
                    self._add(split, group, rows.slice(done - len(group), len(group)), size_bytes=size_bytes)
                    group, size_bytes = [], 0
                group.append({"bytes": data, "path": PurePosixPath(batch.files[place]).name})
                size_bytes += len(data)
            self._add(split, group, rows.slice(len(places) - len(group)), size_bytes=size_bytes)

    def close(self) -> None:
        for shards in self._shards.values():
            shards.close()

    def pattern(self, split: str) -> str:
        return f"{_FOLDER}/{split}-*"

    def features(self) -> list[dict[str, Any]] | None:
        rest = features_of(self._rows)
        return None if rest is None else [{"name": "image", "dtype": "image"}, *rest]

    def _add(self, split: str, images: list[dict[str, Any]], rows: pa.Table, *, size_bytes: int) -> None:
        if split not in self._shards:
            self._shards[split] = _Shards(self._folder, split, self._schema)
        columns = [pa.chunked_array([pa.array(images, _IMAGE)]), *rows.columns]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._shards[split].add(table, size_bytes=size_bytes, most_bytes=self._shard_bytes)
        total = self.totals.setdefault(split, SplitTotal())
        total.images += len(images)
        total.size_bytes += size_bytes


class _Shards:
    """One split's shards, a row group at a time; named when their count is known."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._size_bytes = 0

    def add(self, table: pa.Table, *, size_bytes: int, most_bytes: int) -> None:
        if self._writer is None or self._size_bytes + size_bytes > most_bytes:
            self._begin()
        assert self._writer is not None  # noqa: S101 - begun just now
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._size_bytes += size_bytes

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        for number, path in enumerate(self._paths):
            os.rename(path, self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")

    def _begin(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self._folder / f"{self._split}-{len(self._paths):05d}"
        self._paths.append(path)
        names = [name for name in self._schema.names if name != "image"]
        settings = WRITER | {
            "compression": {**dict.fromkeys(_leaves(self._schema), "zstd"), "image.bytes": "none"},
            "compression_level": None,
            "use_dictionary": [path for path in _leaves(self._schema) if path.partition(".")[0] in names],
            "write_statistics": [path for path in _leaves(self._schema) if path != "image.bytes"],
        }
        self._writer = pq.ParquetWriter(path, self._schema, **settings)
        self._size_bytes = 0


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the paths of a schema's Parquet columns, as its settings name them."""
    return [path for field in schema for path in _leaves_of(field.name, field.type)]


def _leaves_of(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves_of(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _leaves_of(f"{path}.list.element", kind.value_type)
    return [path]
