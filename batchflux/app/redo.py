"""Cells drawn anew with other seeds (`--redo`, `on_nsfw: reseed`): a job of their own, in `<run dir>-redo`.

Each picked cell becomes one row with all of its request, a seed drawn from its id, and `redo_of`; so picking it twice
buys nothing twice, its first result stays, and what there is for runs holds for this one. Writes `redo.json` alone.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.family import REDO_PAPER, read_redo_paper, spent_of, spent_within
from batchflux.app.job import JOB_FILE, Job, load_job, shown_path
from batchflux.app.reading import read_known
from batchflux.app.rowjob import build_row_job, read_rows_of
from batchflux.app.rundir import RunIdentity
from batchflux.core.cellstates import CellIndex
from batchflux.core.errors import UsageError
from batchflux.core.identity import redo_seed
from batchflux.core.model import Cell, CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.io.manifest import MANIFEST, iter_tables
from batchflux.io.storage import make_dir, publish_bytes

__all__ = ["build_redo", "flagged_cells"]

_OWN: Final = ("redo_id", "redo_of", "redo_round")  # the table's columns that are no part of the request
_NAMED: Final = 3


# ------------------------------------------------------------------------------------------------------ the job


def build_redo(job: Job, run_dir: Path, picked: Collection[str], *, folder: Path) -> Job:
    """Return the job that draws the picked cells of a run anew, with all that were before; its files are in `folder`.

    `job` says how it is run. `run_dir` may be such a job's own, then rows are added to it. Raises UsageError for
    cells that are not that run's, or not completed.
    """
    cells = _find(run_dir, picked)
    model = _model_of(cells)
    paper = read_redo_paper(run_dir)
    place = run_dir if paper is not None else _beside(run_dir, model, job)
    rows = read_rows_of(place)
    rounds = {row["redo_of"]: row["redo_round"] for row in rows}
    for cell in cells:
        if cell.cell_id not in rounds:
            # Of a cell that was itself drawn anew, its own row says how often.
            before = rows[cell.row]["redo_round"] if paper is not None else 0
            rows.append(_row(cell, round_number=before + 1))
    name = job.name if job.name.endswith("-redo") else f"{job.name}-redo"
    redo = build_row_job(job, model, rows, own=_OWN, id_column="redo_id", name=name, place=place, folder=folder)
    if paper is None:
        _write_paper(place, run_dir)
    return redo


def _find(run_dir: Path, picked: Collection[str]) -> list[Cell]:
    """Return the picked cells of a run, in grid order."""
    identity = RunIdentity.read(run_dir)
    if identity is None or not (run_dir / JOB_FILE).exists():
        raise UsageError(f"{shown_path(run_dir)}: there is no run yet, so no cell of it can be drawn anew")
    job = load_job(run_dir)
    ids = sorted(picked)
    indexes = CellIndex(job.grid).find(pa.chunked_array([pa.array(ids, pa.string())]))
    known = read_known(job.grid, run_dir, identity)
    strangers = [cell_id for cell_id, index in zip(ids, indexes.tolist(), strict=True) if index < 0]
    if strangers:
        raise UsageError(
            f"{len(strangers):,} of the cells picked are none of {shown_path(run_dir)}: {_some(strangers)}"
        )
    is_done = known.statuses[indexes] == STATUS_CODES[CellStatus.COMPLETED]
    if not is_done.all():
        open_ids = [ids[place] for place in np.flatnonzero(~is_done).tolist()]
        raise UsageError(
            f"{len(open_ids):,} of the cells picked are not completed: {_some(open_ids)}; "
            f"batchflux run {shown_path(run_dir)} goes on with them, --retry-failed takes up those that failed"
        )
    order = np.sort(indexes).tolist()
    return [job.grid.cell(index, job.rows.part(index // job.grid.n_combinations)) for index in order]


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")


def _model_of(cells: list[Cell]) -> str:
    models = sorted({cell.model for cell in cells})
    if len(models) > 1:
        raise UsageError(
            f"the cells picked are of several models ({', '.join(models)}); give each model's in a file of its own"
        )
    return models[0]


def _beside(run_dir: Path, model: str, job: Job) -> Path:
    """Return where a run's cells are drawn anew; one model's apart from another's, since rows bring no model."""
    slug = f"-{model.replace('/', '-')}" if len(job.spec.models) > 1 else ""
    return run_dir.with_name(f"{run_dir.name}-redo{slug}")


def _row(cell: Cell, *, round_number: int) -> dict[str, Any]:
    seed = redo_seed(cell.cell_id, round_number=round_number, but=cell.body.get("seed"))
    return {
        **cell.body,
        "seed": seed,
        "redo_id": f"{cell.prompt_id}-{cell.cell_id[:12]}",
        "redo_of": cell.cell_id,
        "redo_round": round_number,
    }


# ------------------------------------------------------------------------------------------------------ flagged


def flagged_cells(run_dir: Path, *, round_number: int) -> list[list[str]]:
    """Return the completed cells with a flagged image by model, as the manifest has them.

    Of a run that draws cells anew, those of a round, counted from 1.
    """
    columns = ["cell_id", "model", "has_nsfw_contents", *(["redo_round"] if round_number else [])]
    found: dict[str, list[str]] = {}
    for table in iter_tables(run_dir / MANIFEST, columns=columns):
        flags = table["has_nsfw_contents"].combine_chunks()
        places = pc.list_parent_indices(flags).filter(pc.fill_null(pc.list_flatten(flags), False))
        rows = table.take(pc.unique(places))
        if round_number:
            rows = rows.filter(pc.equal(rows["redo_round"], round_number))
        for cell_id, model in zip(rows["cell_id"].to_pylist(), rows["model"].to_pylist(), strict=True):
            found.setdefault(model, []).append(cell_id)
    return list(found.values())


def _write_paper(place: Path, run_dir: Path) -> None:
    identity = RunIdentity.read(run_dir)
    assert identity is not None  # noqa: S101 - cells were found there
    before = read_redo_paper(place)
    if before is not None and before.run_id != identity.run_id:
        raise UsageError(f"{shown_path(place)}: draws another run's cells anew; move it away")
    if before is None and (RunIdentity.read(place) is not None or (place / JOB_FILE).exists()):
        raise UsageError(f"{shown_path(place)}: is another job's run directory, in the place of this run's redo")
    said = {
        "run_id": identity.run_id,
        "name": run_dir.name,
        "spent_micro_usd": spent_of(run_dir) + spent_within(run_dir),
    }
    make_dir(place)
    publish_bytes(place / REDO_PAPER, (json.dumps(said, indent=1) + "\n").encode())
