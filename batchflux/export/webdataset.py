"""webdataset: tar shards of a stated size; an image is `KEY.png`, its metadata `KEY.json`, its prompt `KEY.txt`.

The key is the cell's id, with the image's number from a cell's second one on, and no dot, at which readers would cut
it. Archives hold no times and no owners, so the same images give the same bytes.
"""

import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa

from batchflux.export.dataset import SplitTotal, json_features_of
from batchflux.export.samples import ImageBatch
from batchflux.export.table import json_text
from batchflux.io.savedimage import read_image

__all__ = ["WebDatasetWriter"]

_BLOCK: Final = 512  # of a tar: each member has a header of one, and fills its last


class WebDatasetWriter:
    """Writes `SPLIT-000000.tar` and so on; no shard grows past its size but by one image larger than it."""

    def __init__(self, folder: Path, run_dir: Path, schema: pa.Schema, *, shard_bytes: int) -> None:
        self.totals: dict[str, SplitTotal] = {}
        self._folder, self._run_dir, self._schema, self._shard_bytes = folder, run_dir, schema, shard_bytes
        self._shards: dict[str, _Shard] = {}
        self._extensions: set[str] = set()

    def write(self, batch: ImageBatch) -> None:
        rows = batch.rows.to_pylist()
        for row, file, sha256, split in zip(rows, batch.files, batch.hashes, batch.splits, strict=True):
            image = read_image(self._run_dir, file, sha256=sha256)
            extension = PurePosixPath(file).suffix
            self._extensions.add(extension.removeprefix("."))
            number = row["image_number"]
            key = row["cell_id"] if number == 1 else f"{row['cell_id']}-{number}"
            members = {
                f"{key}{extension}": image,
                f"{key}.json": json_text(row).encode(),
                f"{key}.txt": (row["prompt"] or "").encode(),
            }
            self._shard(split, sum(map(_taken, members.values()))).add(members)
            total = self.totals.setdefault(split, SplitTotal())
            total.images += 1
            total.size_bytes += len(image)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()

    def pattern(self, split: str) -> str:
        return f"{split}-*.tar"

    def features(self) -> list[dict[str, Any]] | None:
        rows = json_features_of(self._schema)
        if rows is None:
            return None
        images = [{"name": extension, "dtype": "image"} for extension in sorted(self._extensions)]
        texts = [{"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")]
        return [*images, {"name": "json", "struct": rows}, *texts]

    def _shard(self, split: str, size_bytes: int) -> "_Shard":
        """Return the shard that takes so many bytes more: the split's last one, or a new one."""
        last = self._shards.get(split)
        if last is not None and last.size_bytes + size_bytes + _Shard.END_BYTES <= self._shard_bytes:
            return last
        number = 0
        if last is not None:
            last.close()
            number = last.number + 1
        self._shards[split] = _Shard(self._folder / f"{split}-{number:06d}.tar", number)
        return self._shards[split]


class _Shard:
    """One archive at a time: members without times, owners or rights of this machine."""

    END_BYTES: Final = tarfile.RECORDSIZE  # it ends with empty blocks, up to a whole record

    def __init__(self, path: Path, number: int) -> None:
        self.number, self.size_bytes = number, 0
        self._tar = tarfile.open(path, "x", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`

    def add(self, members: dict[str, bytes]) -> None:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            self._tar.addfile(info, BytesIO(data))
            self.size_bytes += _taken(data)
        self._tar.members.clear()  # type: ignore[attr-defined] # which it would keep for a listing: a kilobyte each

    def close(self) -> None:
        self._tar.close()


def _taken(data: bytes) -> int:
    return _BLOCK + -(-len(data) // _BLOCK) * _BLOCK
