"""A run directory's own papers: whose it is, and spec and table as they run. Nothing depends on where it lies.

`run.json` says which API origin the directory belongs to and the id that its checkpoint's parts carry. The spec and
the table are frozen here at each start of `run JOB`, so that `run RUN_DIR` goes on with exactly those.
"""

import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.app.job import IDENTITY_FILE, JOB_FILE, PROMPTS_FILE, Job, twin_of
from batchflux.core.errors import CheckpointDamaged, ForeignRunDir, StorageError, UsageError
from batchflux.core.identity import IDENTITY_VERSION
from batchflux.core.spec import resolved_mapping
from batchflux.io.facts import CHECKPOINT_DIR, JOURNAL_DIR
from batchflux.io.jobfile import dump_job
from batchflux.io.manifest import MANIFEST
from batchflux.io.prompts import open_table
from batchflux.io.storage import list_names, make_dir, publish_bytes, publish_with, read_bytes, sweep_temporaries

__all__ = [
    "IDENTITY_FILE",
    "SANDBOX_ORIGIN",
    "RunIdentity",
    "check_origin",
    "freeze_job",
    "freeze_spec",
    "has_facts",
    "is_rehearsal",
    "twin_of",
]

SANDBOX_ORIGIN = "the sandbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Whose run a directory holds: the API's origin, and the id in all of its checkpoint's parts."""

    run_id: str
    origin: str

    @classmethod
    def read(cls, run_dir: Path) -> Self | None:
        """Return a directory's identity, or None where no run was begun there. Raises UsageError."""
        try:
            paper = json.loads(read_bytes(run_dir / IDENTITY_FILE))
            if paper["identity_version"] != IDENTITY_VERSION:
                raise UsageError(
                    f"{run_dir}: begun by a batchflux whose cell ids have version {paper['identity_version']}; this "
                    f"one knows version {IDENTITY_VERSION}: go on with the batchflux that began it"
                )
            return cls(run_id=str(paper["run_id"]), origin=str(paper["origin"]))
        except FileNotFoundError:
            if any((run_dir / name).exists() for name in (CHECKPOINT_DIR, JOURNAL_DIR)):
                raise UsageError(
                    f"{run_dir}: {IDENTITY_FILE} is missing beside a checkpoint, so it can't be told whose run this "
                    "is; put it back, or give the job another directory with --out DIR"
                ) from None
            return None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{run_dir / IDENTITY_FILE}: can't be read; put back the one that was there") from None

    @classmethod
    def open(cls, run_dir: Path, *, origin: str) -> Self:
        """Return the directory's identity, made now where it is new. Raises ForeignRunDir for another origin."""
        found = cls.read(run_dir)
        if found is None:
            found = cls(run_id=uuid.uuid4().hex, origin=origin)
            make_dir(run_dir)
            paper = {"run_id": found.run_id, "origin": origin, "identity_version": IDENTITY_VERSION}
            publish_bytes(run_dir / IDENTITY_FILE, (json.dumps(paper, indent=1) + "\n").encode())
        check_origin(run_dir, found, origin=origin)
        return found


def check_origin(run_dir: Path, found: RunIdentity | None, *, origin: str) -> None:
    """Raise ForeignRunDir where a run directory belongs to another origin than this."""
    if found is not None and found.origin != origin:
        raise ForeignRunDir(run_dir, begun_with=found.origin, asked_for=origin)


def is_rehearsal(run_dir: Path) -> bool:
    """Return whether a run directory is a sandbox's, so that what it costs is play money."""
    found = RunIdentity.read(run_dir)
    return found is not None and found.origin == SANDBOX_ORIGIN


def has_facts(run_dir: Path) -> bool:
    """Return whether a run that was begun has stated any facts yet. Raises CheckpointDamaged where they are gone."""
    if any((run_dir / name).is_dir() for name in (CHECKPOINT_DIR, JOURNAL_DIR)):
        return True
    if (run_dir / MANIFEST).exists():
        lost = f"{CHECKPOINT_DIR}/ and {JOURNAL_DIR}/ are missing beside a {MANIFEST}; put them back"
        raise CheckpointDamaged(run_dir, damage=[lost])
    return False  # killed when it had only just begun


def freeze_job(job: Job) -> Job:
    """Put the resolved spec and the selected rows into the run directory; returns the job that reads them from there.

    From here on nothing depends on the files that the user may edit while the run is at work. Raises StorageError,
    and UsageError where the table was edited since it was read.
    """
    _sweep(job.run_dir)
    if job.is_run_dir and job.run_dir.resolve() == job.path.parent.resolve():
        return job
    job.check_unchanged()
    _freeze_table(job)
    freeze_spec(job)
    return replace(job, table=open_table([job.run_dir / PROMPTS_FILE]), selected=None)


def freeze_spec(job: Job) -> None:
    """Put the resolved spec into the run directory, whose table lies there already. Raises StorageError."""
    prompts = job.spec.prompts.model_copy(update={"path": (PROMPTS_FILE,), "limit": None, "sample": None})
    spec = replace(job.spec, prompts=prompts, output=replace(job.spec.output, dir=Path(".")))
    head = f"# {job.name}: the spec as it runs here. `batchflux run` on this folder goes on with exactly this.\n"
    publish_bytes(job.run_dir / JOB_FILE, (head + dump_job(resolved_mapping(spec))).encode())


def _sweep(run_dir: Path) -> None:
    """Remove what a killed run left half-written: beside its papers and among its images."""
    images = run_dir / "images"
    # What a link among them leads to isn't ours to tidy.
    inside = [path for name in list_names(images) if (path := images / name).is_dir() and not path.is_symlink()]
    for folder in (run_dir, images, *inside):
        sweep_temporaries(folder)


def _freeze_table(job: Job) -> None:
    path = job.run_dir / PROMPTS_FILE
    try:
        with (
            publish_with(path) as temporary,
            pq.ParquetWriter(temporary, job.table.schema, compression="zstd") as writer,
        ):
            for piece in job.carried():
                writer.write_table(piece)
    except pa.ArrowException as error:
        raise StorageError(path, doing="write the prompt table", cause=OSError(str(error))) from error
