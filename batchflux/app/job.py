"""A job as loaded: its spec understood, its table read and checked, its grid ready to be counted. Nothing is written.

`load_job` reads as a line: read the file, understand it, open the table, read its rows into the grid. Every problem of
a stage is raised at once, before anything is spent.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchflux.app.table import Rows, build_recipe, check_columns, read_rows
from batchflux.core.arrow import from_ints
from batchflux.core.errors import UsageError
from batchflux.core.grid import Grid
from batchflux.core.pricing import Shapes
from batchflux.core.rows import NO_SEED, RowRecipe
from batchflux.core.spec import JobSpec, parse_job
from batchflux.io.jobfile import MOST_BYTES, read_job_file
from batchflux.io.prompts import PromptTable, open_table

__all__ = [
    "IDENTITY_FILE",
    "JOB_FILE",
    "PROMPTS_FILE",
    "Job",
    "load_job",
    "locate_run_dir",
    "shown_path",
    "twin_of",
]

IDENTITY_FILE = "run.json"
JOB_FILE = "job.yaml"
PROMPTS_FILE = "prompts.parquet"

# A frozen spec may write out what a person writes short: axes of very many values.
_MOST_FROZEN_BYTES = 64 << 20


@dataclass(frozen=True)
class Job:
    """A job ready to be planned or run. `origin_dir` is set where it was loaded from a run directory."""

    spec: JobSpec
    path: Path
    run_dir: Path
    is_run_dir: bool
    warnings: tuple[str, ...]
    table: PromptTable
    recipe: RowRecipe
    grid: Grid
    rows: Rows
    selected: "np.ndarray[Any, np.dtype[np.int64]] | None"
    stamps: Mapping[Path, tuple[int, int]]

    @property
    def name(self) -> str:
        """The job's name."""
        return self.spec.name

    @cached_property
    def seedless_rows(self) -> int:
        """How many rows have cells that draw their own seeds, since nothing gives one."""
        return int((self.grid.rows.own_seed == NO_SEED).sum()) if self.grid.draws_seeds else 0

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of the requests, which prices hang on."""
        return Shapes(self.grid)

    def at(self, run_dir: Path) -> "Job":
        """Return the same job for another run directory."""
        return replace(self, run_dir=run_dir)

    def without_reuse(self) -> "Job":
        """Return the same job, which takes nothing over from earlier runs."""
        return replace(self, spec=replace(self.spec, reuse=()))

    def with_images(self) -> "Job":
        """Return the same job, its images wanted whatever the spec says."""
        return replace(self, spec=replace(self.spec, output=replace(self.spec.output, download=True)))

    def also_watching(self, path: Path) -> "Job":
        """Return the same job, which must not begin where this file has changed meanwhile either."""
        return replace(self, stamps={**self.stamps, path: _stamp_of(path)})

    def check_unchanged(self) -> None:
        """Raise UsageError where a file of the table was changed since its rows were read."""
        for path, seen in self.stamps.items():
            if _stamp_of(path) != seen:
                raise UsageError(
                    f"{path}: was changed while the job was being prepared; nothing was submitted, run again"
                )

    def carried(self) -> Iterator[pa.Table]:
        """Yield the selected rows with all of the table's columns, in order, some thousand rows at a time."""
        first = 0
        for batch in self.table.batches():
            table = pa.Table.from_batches([batch.columns])
            last = first + table.num_rows
            if self.selected is not None:
                places = self.selected[(self.selected >= first) & (self.selected < last)] - first
                table = table.take(from_ints(places))
            first = last
            if table.num_rows:
                yield table
            if self.selected is not None and (len(self.selected) == 0 or first > self.selected[-1]):
                return


def locate_run_dir(path: Path, overrides: Mapping[str, object] | None = None) -> Path:
    """Return the run directory that a command is given: itself, or its job file's. Raises UsageError, JobSpecError."""
    if path.is_dir():
        # A folder of one's own may well hold a job.yaml too.
        lacking = next((name for name in (IDENTITY_FILE, JOB_FILE) if not (path / name).exists()), None)
        if lacking is not None:
            raise UsageError(f"{path}: no run directory, since there is no {lacking} in it; give one, or a job file")
        return path
    place = _read_spec(path, overrides or {}, out=None)[0].output.dir
    if not (place / JOB_FILE).exists():
        twin = twin_of(place)
        where = f" (its rehearsal is {shown_path(twin)})" if (twin / JOB_FILE).exists() else ""
        raise UsageError(
            f"{shown_path(place)}: there is no run yet; begin it with batchflux run {shown_path(path)}{where}"
        )
    return place


def twin_of(run_dir: Path) -> Path:
    """Return the run directory of a job's rehearsal."""
    return run_dir.with_name(f"{run_dir.name}-sandbox")


def shown_path(path: Path) -> str:
    """Return a path as a person at this shell would write it: relative where it can be, quoted where it must be."""
    try:
        return shlex.quote(str(path.absolute().relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def load_job(path: str | Path, overrides: Mapping[str, object] | None = None, *, out: Path | None = None) -> Job:
    """Read a job file, or a run directory's own, with its prompt table; writes nothing and spends nothing.

    `overrides` are spec keys, dotted ("run.concurrency"), with YAML values; `out` is another run directory. Raises
    JobSpecError with every problem of the spec, or of the table.
    """
    path = Path(path)
    is_run_dir = path.is_dir()
    if is_run_dir:
        locate_run_dir(path)
        out = out if out is not None else path
        path = path / JOB_FILE
    spec, warnings = _read_spec(path, overrides or {}, out=out)
    table = open_table(spec.prompts.path)
    stamps = {path: _stamp_of(path) for path in table.paths}
    recipe = build_recipe(spec)
    check_columns(spec, recipe, table)
    grid, rows, selected = read_rows(spec, recipe, table)
    return Job(
        spec=spec,
        path=path,
        run_dir=spec.output.dir,
        is_run_dir=is_run_dir,
        warnings=warnings,
        table=table,
        recipe=recipe,
        grid=grid,
        rows=rows,
        selected=selected,
        stamps=stamps,
    )


def _stamp_of(path: Path) -> tuple[int, int]:
    """Return what changes when a file does: size and time of change, (-1, -1) where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _read_spec(path: Path, overrides: Mapping[str, object], *, out: Path | None) -> tuple[JobSpec, tuple[str, ...]]:
    most_bytes = _MOST_FROZEN_BYTES if path.name == JOB_FILE else MOST_BYTES
    document = read_job_file(path, overrides=overrides, most_bytes=most_bytes)
    parsed = parse_job(
        document.data,
        where=document.where,
        order=document.order,
        default_name=path.stem,
        default_dir=path.resolve().parent,
        faults=document.faults,
    )
    spec = parsed.spec
    if out is not None:
        spec = replace(spec, output=replace(spec.output, dir=out.absolute()))
    return spec, parsed.warnings
