"""imagefolder: a folder a split, images as files, and `metadata.parquet` that names each in `file_name`.

Parquet and not JSON Lines, since its columns keep their types: readers of JSON guess, and take a text like 2026-01-31
for a time. Streams; files are copied, or linked where both lie on one file system.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.export.dataset import WRITER, SplitTotal, features_of
from batchflux.export.samples import ImageBatch, of_split
from batchflux.io.filecheck import IMAGES_DIR
from batchflux.io.savedimage import check_inside, link_image, read_image
from batchflux.io.storage import write_all

__all__ = ["ImageFolderWriter"]


class ImageFolderWriter:
    """Writes `SPLIT/metadata.parquet` and the images beside it, under the names that they have in the run."""

    def __init__(self, folder: Path, run_dir: Path, schema: pa.Schema, *, link: bool) -> None:
        self.totals: dict[str, SplitTotal] = {}
        self._folder, self._run_dir, self._link = folder, run_dir, link
        self._rows = schema
        self._schema = pa.schema([pa.field("file_name", pa.string()), *schema])
        self._metadata: dict[str, pq.ParquetWriter] = {}
        self._made: set[Path] = set()

    def write(self, batch: ImageBatch) -> None:
        names = [_name(file) for file in batch.files]
        for name, file, sha256, split in zip(names, batch.files, batch.hashes, batch.splits, strict=True):
            size_bytes = self._put(self._folder / split / name, file, sha256)
            total = self.totals.setdefault(split, SplitTotal())
            total.images += 1
            total.size_bytes += size_bytes
        for split in dict.fromkeys(batch.splits):
            places = of_split(batch, split)
            file_names = pa.array([names[place] for place in places], pa.string())
            columns = [pa.chunked_array([file_names]), *batch.rows.take(pa.array(places)).columns]
            self._writer(split).write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        for writer in self._metadata.values():
            writer.close()

    def pattern(self, split: str) -> str:
        return f"{split}/**"

    def features(self) -> list[dict[str, Any]] | None:
        rest = features_of(self._rows)
        return None if rest is None else [{"name": "image", "dtype": "image"}, *rest]

    def _writer(self, split: str) -> pq.ParquetWriter:
        if split not in self._metadata:
            self._metadata[split] = pq.ParquetWriter(self._folder / split / "metadata.parquet", self._schema, **WRITER)
        return self._metadata[split]

    def _put(self, to: Path, file: str, sha256: str) -> int:
        check_inside(file)  # before a folder is made for it
        if to.parent not in self._made:
            to.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(to.parent)
        if self._link:
            return link_image(self._run_dir, file, to)
        data = read_image(self._run_dir, file, sha256=sha256)
        fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        return len(data)


def _name(file: str) -> str:
    """Return a file's name in the dataset: as in the run, without the folder that holds all of them there."""
    parts = PurePosixPath(file).parts
    return "/".join(parts[1:] if parts[0] == IMAGES_DIR and len(parts) > 1 else parts)
