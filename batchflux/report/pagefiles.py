"""Writes a run's page: report.html, and beside it a folder with its data and its thumbnails.

A page from the disk can fetch nothing, so its data are scripts that hand one value each to a function of the page's
own. They lie in a folder named by what is in it, and the page that names it is put in place last: one that is open
while a newer one is written goes on with its own. Nothing is flushed, since all of it can be made again.
"""

import json
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchflux.core.arrow import as_objects, from_ints
from batchflux.core.grid import Grid
from batchflux.io.storage import list_names, make_dir, read_bytes, remove_folder, replace_bytes
from batchflux.report.cells import Cells, Chunk, axis_words, chunks_of, indexes_of, rows_a_chunk
from batchflux.report.page import build_page
from batchflux.report.sweep import build_sweep
from batchflux.report.thumbnails import make_thumbnails, thumbnail_name

__all__ = ["REPORT", "REPORT_DIR", "THUMBNAILS", "Source", "read_cells", "write_data", "write_page"]

REPORT = "report.html"
REPORT_DIR = "report"

_DATA_PREFIX = "data-"
THUMBNAILS = "thumbnails"
_ROWS_A_TEXT = 1000

# Nobody writes at one page for so long: what is older and not the page's own was left by a crash.
_ABANDONED_S = 24 * 3600

# The failed cells that the page lists by name; all of them are in its gallery.
_MOST_LISTED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a page is made of: `tables` are a manifest's rows in grid order, and can be gone through once."""

    name: str
    run_id: str
    is_rehearsal: bool
    made_at: datetime
    grid: Grid
    tables: Iterable[pa.Table]


def read_cells(source: Source) -> Cells:
    """Return a run's cells as arrays, without writing anything."""
    indexes = indexes_of(source.grid)
    cells = Cells.empty(source.grid)
    at = 0
    for table in source.tables:
        cells.add(indexes[at : at + table.num_rows], table)
        at += table.num_rows
    return cells


def write_page(
    run_dir: Path,
    source: Source,
    *,
    thumbnails_s: float | None = None,
    on_thumbnails: Callable[[int], None] | None = None,
) -> Path:
    """Write the page and its data; returns its path. Raises StorageError.

    Thumbnails that would take longer than `thumbnails_s` are left for the next time.
    """
    root = run_dir / REPORT_DIR
    name = write_data(root, run_dir, source, thumbnails_s=thumbnails_s, on_thumbnails=on_thumbnails)
    try:
        before = _folder_of(run_dir / REPORT)
        page = build_page(title=source.name, folder=f"{REPORT_DIR}/{name}", thumbnails=f"{REPORT_DIR}/{THUMBNAILS}")
        replace_bytes(run_dir / REPORT, page.encode())
    except BaseException:
        remove_folder(root / name)
        raise
    _tidy(root, keep=name, before=before)
    return run_dir / REPORT


def write_data(
    root: Path,
    run_dir: Path,
    source: Source,
    *,
    thumbnails_s: float | None = None,
    on_thumbnails: Callable[[int], None] | None = None,
) -> str:
    """Write a page's data into a new folder of `root`, thumbnails to the run's own; returns the folder's name.

    Whole or not at all. Raises StorageError.
    """
    folder = root / f"{_DATA_PREFIX}{secrets.token_hex(4)}"
    make_dir(folder)
    try:
        cells, images = _write_chunks(folder, source, run_dir=run_dir)
        small = run_dir / REPORT_DIR / THUMBNAILS
        missing = make_thumbnails(images, small, within_s=thumbnails_s, on_done=on_thumbnails)
        if missing:
            cells.thumb[np.isin(cells.thumb, np.array(list(missing), dtype=np.uint64))] = 0
        _write(folder, "index", _index(source, cells, aspect=_aspect(small, cells)))
        _write(folder, "sweep", _sweep(cells))
    except BaseException:
        remove_folder(folder)
        raise
    return folder.name


def _folder_of(page: Path) -> str | None:
    """Return the folder that a page's data lie in."""
    try:
        head = read_bytes(page)[:1000].decode(errors="replace")
    except FileNotFoundError:
        return None
    found = re.search(rf'data-folder="{REPORT_DIR}/({_DATA_PREFIX}[0-9a-f]+)"', head)
    return None if found is None else found[1]


def _tidy(root: Path, *, keep: str, before: str | None) -> None:
    """Remove the data of the page that was there, and what crashed writers left; another may be writing just now."""
    for name in list_names(root):
        path = root / name
        if name.startswith(_DATA_PREFIX) and name != keep:
            with suppress(OSError):
                if name == before or time.time() - path.stat().st_mtime > _ABANDONED_S:
                    remove_folder(path)


def _aspect(folder: Path, cells: Cells) -> float:
    """Return the width over height that most of the first images have; square without any."""
    from PIL import Image

    keys = cells.thumb[cells.thumb != 0][:25]
    found = []
    for key in keys.tolist():
        with suppress(OSError), Image.open(folder / thumbnail_name(key)) as image:
            found.append(image.width / image.height)
    return float(np.median(found)) if found else 1.0


# ---------------------------------------------------------------------------------------------------- data


def _write(folder: Path, name: str, value: Any) -> None:
    """Write one value as a script that hands it over; nothing in it can end the script or begin markup."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=_plain).replace("<", "\\u003c")
    replace_bytes(folder / f"{name}.js", f"batchfluxTake({json.dumps(name)},{text});\n".encode())


def _plain(value: Any) -> Any:
    """Return what JSON has no form for: moments in ms, else text."""
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return value.hex() if isinstance(value, bytes) else str(value)


def _pack(array: "np.ndarray[Any, Any]", kind: str) -> str:
    return b64encode(np.ascontiguousarray(array.astype(kind)).tobytes()).decode()


def _clipped(array: "np.ndarray[Any, Any]") -> str:
    return _pack(np.clip(array, -1, 2**31 - 1), "<i4")


def _index(source: Source, cells: Cells, *, aspect: float) -> dict[str, Any]:
    grid = source.grid
    known = cells.submitted_at_ms[cells.submitted_at_ms >= 0]
    begin = int(known.min()) if len(known) else 0
    # In hundredths of a second: 248 days fit into 31 bits.
    done = np.where(cells.completed_at_ms >= 0, np.maximum(0, cells.completed_at_ms - begin) // 10, -1)
    return {
        "name": source.name,
        "run": source.run_id,
        "rehearsal": source.is_rehearsal,
        "made": round(source.made_at.timestamp() * 1000),
        "aspect": round(aspect, 4),
        "rows": grid.rows.n_rows,
        "combinations": grid.n_combinations,
        "axes": [{"name": axis.name, "kind": axis.kind, "words": axis_words(grid, axis.name)} for axis in grid.axes],
        "wordOf": _word_variants(grid).tolist(),
        "rowsAChunk": rows_a_chunk(grid),
        "rowsAText": _ROWS_A_TEXT,
        "choices": {
            name: {"words": cells.values[name].texts, "codes": _pack(codes, "<u1")}
            for name, codes in cells.choices.items()
            if 2 < len(cells.values[name].texts) <= 40
        },
        "kinds": cells.kinds.texts,
        "reasons": cells.reasons.texts,
        "begin": begin,
        "spent": round(int(cells.cost_micro_usd.sum()) / 1e6, 6),
        "status": _pack(cells.status, "<u1"),
        "inference": _clipped(cells.inference_ms),
        "latency": _clipped(cells.latency_ms),
        "completed": _clipped(done),
        "nsfw": _pack(cells.nsfw, "<i1"),
        "warned": _pack(cells.is_warned, "<u1"),
        "files": _pack(cells.n_files, "<u1"),
        "kind": _pack(cells.kind, "<u1"),
        "reason": _pack(cells.reason, "<u1"),
        "thumb": _pack(cells.thumb, ">u8"),
    }


def _word_variants(grid: Grid) -> "np.ndarray[Any, Any]":
    """Return, for each combination, which of a row's prompts it has."""
    n_words = int(np.prod([len(axis.values) for axis in grid.recipe.word_axes], dtype=np.int64))
    return grid.variants_of(np.arange(grid.n_combinations, dtype=np.int64)) % n_words


def _sweep(cells: Cells) -> dict[str, Any]:
    sweep = build_sweep(cells).as_mapping()
    sweep["failed_listed"] = sweep.pop("failed_cells")[:_MOST_LISTED]
    return sweep


# ---------------------------------------------------------------------------------------------------- chunks


def _write_chunks(folder: Path, source: Source, *, run_dir: Path) -> tuple[Cells, list[tuple[int, Path]]]:
    """Write what the page loads as it is looked at; returns the arrays, and (key, path) of each cell's first image."""
    indexes = indexes_of(source.grid)
    cells = Cells.empty(source.grid)
    keys = np.zeros((source.grid.n_indexes, 16), dtype=np.uint8)
    texts = _Texts(folder, source.grid)
    images: list[tuple[int, Path]] = []
    for chunk in chunks_of(source.grid, indexes, iter(source.tables)):
        cells.add(chunk.indexes, chunk.table)
        ids = "".join(chunk.table["cell_id"].to_pylist())
        keys[chunk.indexes] = np.frombuffer(bytes.fromhex(ids), dtype=np.uint8).reshape(-1, 16)
        _write(folder, f"cells-{chunk.number:05}", _details(chunk))
        texts.add(chunk)
        firsts = [files[0] if files else None for files in chunk.table["files"].to_pylist()]
        images += [
            (key, run_dir / file)
            for key, file in zip(cells.thumb[chunk.indexes].tolist(), firsts, strict=True)
            if key and file
        ]
    texts.close()
    _write(folder, "keys", _pack(keys, "<u1"))
    return cells, images


def _details(chunk: Chunk) -> dict[str, Any]:
    """Return a chunk's columns, but the prompts, which stand once a row elsewhere; those without any value left out."""
    columns: dict[str, Any] = {"index": chunk.indexes.tolist()}
    for name in chunk.table.column_names:
        column = chunk.table[name]
        if name == "prompt" or column.null_count == len(column):
            continue
        columns[name] = [_finite(value) for value in as_objects(column)]
    return {"columns": list(columns.items())}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


class _Texts:
    """Gathers the rows' names and prompts, a thousand rows a file."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        self._folder = folder
        self._words = _word_variants(grid)
        self._n_words = int(self._words.max()) + 1
        self._n_rows = grid.rows.n_rows
        self._names: list[str | None] = []
        self._prompts: list[list[str | None]] = []
        self._first = 0

    def add(self, chunk: Chunk) -> None:
        rows, combinations = np.divmod(chunk.indexes, len(self._words))
        words = self._words[combinations]
        # One cell of each row and prompt tells them all.
        _, firsts = np.unique(rows * self._n_words + words, return_index=True)
        some = (
            chunk.table.select(["prompt_id", "prompt"]).take(from_ints(np.asarray(firsts, dtype=np.int64))).to_pylist()
        )
        for row, word, cell in zip(rows[firsts].tolist(), words[firsts].tolist(), some, strict=True):
            self._reach(row)
            self._names[row - self._first] = cell["prompt_id"]
            self._prompts[row - self._first][word] = cell["prompt"]

    def close(self) -> None:
        """Write what is left; rows without any cell have no name."""
        if self._n_rows:
            self._reach(self._n_rows - 1)
            self._flush()

    def _reach(self, row: int) -> None:
        while row >= self._first + len(self._names):
            if len(self._names) == _ROWS_A_TEXT:
                self._flush()
            self._names.append(None)
            self._prompts.append([None] * self._n_words)

    def _flush(self) -> None:
        number = self._first // _ROWS_A_TEXT
        _write(self._folder, f"rows-{number:05}", {"names": self._names, "prompts": self._prompts})
        self._first += len(self._names)
        self._names, self._prompts = [], []
