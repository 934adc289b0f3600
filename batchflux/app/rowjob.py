"""A job made of cells of another: each a row with its whole request. Redo and replicates are such jobs.

Its table is written where it is told to be; nothing else is touched, and what cells those are is decided elsewhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.app.job import PROMPTS_FILE, Job, load_job
from batchflux.core.errors import UsageError
from batchflux.core.spec import resolved_mapping
from batchflux.io.jobfile import dump_job

__all__ = ["Row", "build_row_job", "read_rows_of"]

Row = Mapping[str, Any]


def read_rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows that such a job was last run with, in order; none where it never was."""
    table = run_dir / PROMPTS_FILE
    return pq.ParquetFile(table).read().to_pylist() if table.exists() else []


def build_row_job(
    job: Job,
    model: str,
    rows: Sequence[Row],
    *,
    own: Collection[str],
    id_column: str,
    name: str,
    place: Path,
    folder: Path,
) -> Job:
    """Return the job of these rows, run as `job` is, in the run directory `place`; its files are in `folder`.

    `own` are the columns that are no part of a request, `id_column` the one of them that names the row. Raises
    UsageError where parameters can't stand in one table.
    """
    table = folder / f"{name}.parquet"
    _write_table(table, rows)
    names = dict.fromkeys(name for row in rows for name in row if name not in own)
    spec = resolved_mapping(replace(job.spec, grid=(), exclude=(), params={}, reuse=(), model=model))
    how: Any = spec["run"]
    said: dict[str, Any] = {
        **spec,
        "name": name,
        "prompts": {"path": str(table), "columns": {"id": id_column, **{name: name for name in names}}},
        # How often flagged cells are drawn anew, and which are sent twice, is told by the job that they are of.
        "run": {**how, "on_nsfw": "drop" if job.spec.run.on_nsfw == "drop" else "keep", "replicate": 0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(dump_job(said), encoding="utf-8")
    return load_job(path, out=place).also_watching(place / PROMPTS_FILE)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        pq.write_table(table, path)
    except pa.ArrowException as error:
        raise UsageError(f"the cells' parameters can't stand in one table: {error}") from error
