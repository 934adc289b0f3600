"""What a run leaves for its user: the manifest and the retired cells, written anew only where something changed.

They are made of the spec, the table and the facts: what somebody edits in them is replaced, as by `make`.
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.app.blocks import Block, read_blocks
from batchflux.app.job import JOB_FILE, PROMPTS_FILE, Job
from batchflux.app.pairs import PAIRS, with_pairs
from batchflux.app.reading import gather_retired
from batchflux.app.resume import Known
from batchflux.app.rundir import RunIdentity
from batchflux.app.sameness import with_sameness
from batchflux.io.facts import CHECKPOINT_DIR
from batchflux.io.manifest import (
    MANIFEST,
    RETIRED,
    STATE_FACTS,
    ManifestSource,
    is_as_written,
    write_manifest,
    write_retired,
)
from batchflux.io.parts import empty_table
from batchflux.io.storage import list_names

__all__ = ["is_manifest_current", "manifest_source", "publish_results", "stamp_of_facts"]


def publish_results(job: Job, known: Known, *, base_url: str) -> None:
    """Write manifest.parquet and retired.parquet; `known` says whether there is anything. Raises StorageError."""
    stamp = stamp_of_facts(job.run_dir)
    if not known.is_empty and is_as_written(job.run_dir / MANIFEST, stamp=stamp):
        return
    identity = RunIdentity.read(job.run_dir)
    write_manifest(job.run_dir / MANIFEST, manifest_source(job, identity, base_url=base_url, stamp=stamp))
    retired = empty_table()
    if known.n_retired and identity is not None:
        retired = gather_retired(job.grid, job.run_dir, identity)
    write_retired(job.run_dir / RETIRED, retired, base_url=base_url)
    pa.default_memory_pool().release_unused()  # else what was free for a moment stays the process's


def manifest_source(job: Job, identity: RunIdentity | None, *, base_url: str, stamp: str) -> ManifestSource:
    """Return what a manifest of this job and the facts on the disk is made of; it can be gone through once."""
    read = partial(_read_blocks, job, identity)
    return ManifestSource(
        grid=job.grid,
        part=job.rows.part,
        carried=_Window(job.carried()),
        carried_schema=job.table.schema,
        blocks=with_pairs(job.grid, job.run_dir, with_sameness(job.grid, read, columns=STATE_FACTS)),
        base_url=base_url,
        stamp=stamp,
    )


def _read_blocks(job: Job, identity: RunIdentity | None, columns: tuple[str, ...]) -> Iterator[Block]:
    return read_blocks(job.grid, job.run_dir, identity, columns=columns)


def is_manifest_current(run_dir: Path) -> bool:
    """Return whether the manifest says that it was made of the spec, table and facts that lie there now."""
    return _stamp_of(run_dir / MANIFEST) == stamp_of_facts(run_dir)


def stamp_of_facts(run_dir: Path) -> str:
    """Return a digest of all that a manifest is made of: spec, table, pairs, and parts and journals by size."""
    digest = hashlib.sha256()
    for name in (JOB_FILE, PROMPTS_FILE, PAIRS):
        path = run_dir / name
        if path.exists():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for folder in (CHECKPOINT_DIR, "journal"):
        path = run_dir / folder
        for name in sorted(list_names(path)) if path.is_dir() else ():
            size = (path / name).stat().st_size
            # A run begins and ends with a journal that holds nothing but its header.
            digest.update(f"{folder}/{name} {size}\n".encode() if folder == CHECKPOINT_DIR or size > 4096 else b"")
    return digest.hexdigest()


def _stamp_of(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        found = (pq.read_schema(path).metadata or {}).get(b"batchflux.stamp")
    except (pa.ArrowException, OSError):
        return None
    return None if found is None else found.decode()


class _Window:
    """Gives rows first <= row < last of a table that is streamed once; to be asked for in ascending order."""

    def __init__(self, pieces: Iterator[pa.Table]) -> None:
        self._pieces = pieces
        self._held: list[tuple[int, pa.Table]] = []
        self._end = 0

    def __call__(self, first: int, last: int) -> pa.Table:
        while self._held and self._held[0][0] + self._held[0][1].num_rows <= first:
            self._held.pop(0)
        while self._end < last:
            piece = next(self._pieces)
            begin, self._end = self._end, self._end + piece.num_rows
            if self._end > first:
                self._held.append((begin, piece))
        whole = pa.concat_tables([piece for _, piece in self._held])
        return whole.slice(first - self._held[0][0], last - first)
