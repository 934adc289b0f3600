"""One row an image, as every dataset format wants it: what the image was made from, and where its file lies.

The columns are the manifest's that say what an image is; what a run had to do for it (attempts, cost, URLs that die in
a week) stays in the manifest, found again by `cell_id`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from batchflux.export.selection import Selection
from batchflux.io.manifest import STATE_FIELDS

__all__ = ["ImageBatch", "Images"]

_STRING: Final = pa.string()
# Columns that images have instead of the run's own. `image` and `file_name` are the formats' names for the picture.
_PER_IMAGE: Final = (("image_number", pa.int64()), ("has_nsfw_content", pa.bool_()), ("sha256", _STRING))
_KEPT: Final = ("inference_ms", "created_at", "warnings")
_RESERVED: Final = frozenset({"image", "file_name", *(name for name, _ in _PER_IMAGE), *_KEPT})
# `datasets` takes every text column whose name ends so for the path of a file.
_PATHS: Final = ("_file_name", "_file_names")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """Some images in the manifest's order: their metadata, their files in the run directory, hashes and splits."""

    rows: pa.Table
    files: list[str]
    hashes: list[str]
    splits: list[str]


@dataclass(slots=True)
class Images:
    """The images of a selection; `left_out` counts completed cells without files, `flagged` images dropped."""

    selection: Selection
    left_out: int = 0
    flagged: int = 0
    _columns: dict[str, str] = field(init=False)  # the manifest's columns that are kept, with their names here
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        names = self.selection.schema.names
        begin = names.index(STATE_FIELDS.names[0])
        # By name and not by number: an older run's manifest lacks the newest of them.
        kept = [*names[:begin], *_KEPT, *(name for name in names[begin:] if name not in STATE_FIELDS.names)]
        self._columns = {}
        for name in kept:
            own = name
            while own in self._columns.values() or (own in _RESERVED and name not in _KEPT):
                own = f"row_{own}"
            self._columns[name] = f"{own}_" if own.endswith(_PATHS) else own
        fields = [self.selection.schema.field(name).remove_metadata().with_name(n) for name, n in self._columns.items()]
        place = begin
        added = [pa.field(name, kind) for name, kind in _PER_IMAGE]
        self.schema = pa.schema([*fields[:place], *added, *fields[place:]])

    def batches(self) -> Iterator[ImageBatch]:
        """Yield the images some thousand at a time."""
        for table in self.selection.tables():
            batch = self._batch(table)
            if batch.files:
                yield batch

    def _batch(self, table: pa.Table) -> ImageBatch:
        drops, splits = self.selection.options.nsfw == "drop", self.selection.options.splits
        places: list[int] = []
        numbers: list[int] = []
        flags: list[bool | None] = []
        files: list[str] = []
        hashes: list[str] = []
        states = [table[name].to_pylist() for name in ("status", "files", "sha256", "has_nsfw_contents")]
        for place, (status, its_files, its_hashes, its_flags) in enumerate(zip(*states, strict=True)):
            self.left_out += status == "completed" and not its_files
            for number, (file, sha256) in enumerate(zip(its_files, its_hashes, strict=True)):
                flag = its_flags[number] if number < len(its_flags) else None
                if flag and drops:
                    self.flagged += 1
                    continue
                places.append(place)
                numbers.append(number + 1)
                flags.append(flag)
                files.append(file)
                hashes.append(sha256)
        taken = table.select(list(self._columns)).take(pa.array(places, pa.int64()))
        own = dict(zip(self._columns.values(), taken.columns, strict=True))
        own |= {"image_number": pa.array(numbers, pa.int64()), "has_nsfw_content": pa.array(flags, pa.bool_())}
        own["sha256"] = pa.array(hashes, _STRING)
        rows = pa.Table.from_arrays([own[name] for name in self.schema.names], schema=self.schema)
        prompts = own["prompt"].to_pylist()
        sides = ["train"] * len(files) if splits is None else [splits.of(prompt) for prompt in prompts]
        return ImageBatch(rows=rows, files=files, hashes=hashes, splits=sides)


def of_split(batch: ImageBatch, split: str) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the places of a split's images in a batch."""
    return np.flatnonzero(np.array(batch.splits) == split)
