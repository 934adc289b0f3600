"""Runs made up for the page: the job, the table and the manifest are written by our own writers, the facts are drawn.

Images are few and shared: a hundred thousand cells lie on the disk as hard links to a handful of tiny pictures.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from batchflux.app.job import Job, load_job
from batchflux.app.publish import publish_results
from batchflux.app.reading import read_known
from batchflux.app.rundir import SANDBOX_ORIGIN, RunIdentity, freeze_job
from batchflux.core.ledger import cell_ids
from batchflux.io.facts import part_path
from batchflux.io.parts import FACT_SCHEMA, build_part
from batchflux.report.cells import indexes_of

__all__ = ["Drawn", "lognormal", "made_job", "made_run"]

BEGIN_MS = 1_790_000_000_000
_POOL = 24


@dataclass(kw_only=True)
class Drawn:
    """What became of each cell, arrays over the cells in grid order; what isn't said is an undisturbed run."""

    inference_ms: npt.NDArray[np.int64]
    status: dict[int, str] = field(default_factory=dict)  # by place; "completed" for the rest
    error: dict[int, tuple[str, str]] = field(default_factory=dict)
    nsfw: frozenset[int] = frozenset()
    warnings: dict[int, list[str]] = field(default_factory=dict)


def made_job(folder: Path, *, prompts: list[str], grid: Mapping[str, Any], **keys: Any) -> Job:
    """Return a job of these prompts, written to a folder; its run directory is `run` there."""
    columns = keys.pop("columns", {})
    names = [f"p{place:05}" for place in range(len(prompts))]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": names, "prompt": prompts, **columns}), folder / "table.parquet")
    said = {"path": "table.parquet", "columns": {"prompt": "prompt", "id": "id"}, **keys.pop("prompts_section", {})}
    spec = {"name": "made", "prompts": said, "grid": dict(grid), "output": {"dir": "run"}, **keys}
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    return load_job(folder / "job.yaml")


def made_run(job: Job, drawn: Drawn, *, has_images: bool = True, are_links: bool = False, side: int = 96) -> Path:
    """Write a run of the job as it was drawn; returns its directory.

    With `are_links` every cell has an image and a thumbnail of its own name, all of them links to a few.
    """
    identity = RunIdentity.open(job.run_dir, origin=SANDBOX_ORIGIN)
    job = freeze_job(job)
    ids = pa.concat_arrays([cell_ids(piece.keys) for piece in job.grid.slices()]).to_pylist()
    assert len(ids) == len(indexes_of(job.grid)) == len(drawn.inference_ms)
    none: list[list[str]] = [[] for _ in ids]
    files, hashes = _images(job.run_dir, ids, are_links=are_links, side=side) if has_images else (none, none)
    facts = pa.Table.from_pylist(list(_facts(ids, drawn, files, hashes)), schema=FACT_SCHEMA)
    part = build_part(facts, job_id=identity.run_id, sequence=1, predecessor=None, created_at=datetime.now(UTC))
    path = part_path(job.run_dir, 1)
    path.parent.mkdir()
    path.write_bytes(part)
    known = read_known(job.grid, job.run_dir, identity)
    publish_results(job, known, base_url="https://api.wavespeed.ai/api/v3")
    return job.run_dir


def _facts(ids: list[str], drawn: Drawn, files: list[list[str]], hashes: list[list[str]]) -> Iterator[dict[str, Any]]:
    for place, cell_id in enumerate(ids):
        status = drawn.status.get(place, "completed")
        if status == "pending":
            continue
        took_ms = int(drawn.inference_ms[place])
        begun_ms = BEGIN_MS + place * 40
        is_done = status == "completed"
        kind, error = drawn.error.get(place, (None, None))
        fact = {
            "cell_id": cell_id,
            "kind": "outcome",
            "at": begun_ms,
            "attempt": 1,
            "status": status,
            "attempts": 1,
            "cost_micro_usd": 0 if status == "failed" else 80_000,
            "prediction_id": None if status == "unknown" else f"{place:032x}",
            "submitted_at": begun_ms,
            "created_at": begun_ms + 5,
            "completed_at": begun_ms + took_ms + 90 if status in ("completed", "failed") else None,
            "latency_ms": took_ms + 90 if status in ("completed", "failed") else None,
            "inference_ms": took_ms if is_done else None,
            "outputs": [f"https://cdn.example/{cell_id}.png"] if is_done else [],
            "has_nsfw_contents": [place in drawn.nsfw] if is_done else [],
            "files": [],
            "sha256": [],
            "file_bytes": [],
            "error_kind": kind,
            "error": error,
            "warnings": drawn.warnings.get(place, []),
        }
        yield fact
        if is_done and files[place]:
            yield fact | {"kind": "files", "files": files[place], "sha256": hashes[place]}


def _images(run_dir: Path, ids: list[str], *, are_links: bool, side: int) -> tuple[list[list[str]], list[list[str]]]:
    pool = run_dir / "images" / "00"
    pool.mkdir(parents=True)
    kept = []
    for number in range(min(_POOL, len(ids))):
        picture = _picture(number, side)
        picture.save(pool / f"pool_{number}.png")
        digest = hashlib.sha256((pool / f"pool_{number}.png").read_bytes()).hexdigest()
        small = run_dir / "report" / "thumbnails" / f"pool_{number}.webp"
        if are_links:
            small.parent.mkdir(parents=True, exist_ok=True)
            picture.save(small, "WEBP", quality=72)
        kept.append((f"images/00/pool_{number}.png", digest, small))
    if not are_links:
        shared = [kept[place * 7 % len(kept)] for place in range(len(ids))]
        return [[file] for file, _, _ in shared], [[digest] for _, digest, _ in shared]
    files, hashes = [], []
    for place, cell_id in enumerate(ids):
        file, _, small = kept[place * 7 % len(kept)]
        digest = hashlib.sha256(cell_id.encode()).hexdigest()
        name = f"images/{cell_id[:2]}/{cell_id}.png"
        for source, target in (
            (run_dir / file, run_dir / name),
            (small, run_dir / "report" / "thumbnails" / digest[:2] / f"{digest[:16]}.webp"),
        ):
            target.parent.mkdir(exist_ok=True)
            # File systems allow some ten thousand names for one file.
            _link(source, target)
        files.append([name])
        hashes.append([digest])
    return files, hashes


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def _picture(number: int, side: int) -> Image.Image:
    hue = number * 255 // _POOL
    picture = Image.new("HSV", (side * 3 // 2, side), (hue, 120, 190))
    drawing = ImageDraw.Draw(picture)
    for step in range(7):
        left = (number * 37 + step * 23) % (side * 3 // 2)
        drawing.ellipse(
            [left - 20, step * side // 7, left + 30, step * side // 7 + 44], fill=(hue + 25 * step, 140, 90 + 20 * step)
        )
    return picture.convert("RGB")


def lognormal(n: int, seed: int, *, median_ms: float = 4000, sigma: float = 0.3) -> npt.NDArray[np.int64]:
    """Return n times in ms."""
    return np.random.default_rng(seed).lognormal(np.log(median_ms), sigma, n).astype(np.int64)
