"""Cells submitted twice (`run.replicate`): jobs of their own in `<run dir>/replicates`, one a model.

Each drawn cell becomes a row with all of its request, its seed too, and `replicate_of`. Rows that were bought stay, so
a larger share, more rows in the table and a second call buy the difference alone. Writes `replicate.json` alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from batchflux.app.family import REPLICATE_PAPER, REPLICATES_DIR, replicates_of
from batchflux.app.job import Job, load_job, shown_path
from batchflux.app.reading import read_known
from batchflux.app.resume import Known
from batchflux.app.rowjob import build_row_job, read_rows_of
from batchflux.app.rundir import RunIdentity
from batchflux.core.arrow import Flags, Ints
from batchflux.core.cellstates import CellIndex
from batchflux.core.errors import UsageError
from batchflux.core.grid import Grid
from batchflux.core.model import Cell, CellStatus
from batchflux.core.pricing import PriceList
from batchflux.core.progress import STATUS_CODES
from batchflux.core.replicates import draw_cells, has_own_seed, n_asked
from batchflux.io.storage import make_dir, publish_bytes

__all__ = ["Drawn", "ToReplicate", "build_replicates", "read_drawn", "to_replicate"]

_OWN: Final = ("replicate_id", "replicate_of")  # the table's columns that are no part of the request


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The replicates of a model, as they were last run. `known` speaks of their grid, a cell a row.

    `origins` (rows,) are the indexes of their cells in the job that they are of, -1 of one that is no completed cell
    of it any more.
    """

    job: Job
    model: str
    known: Known
    origins: Ints
    rows: list[dict[str, Any]]

    @property
    def is_bought(self) -> Flags:
        """Which rows were submitted, and are of a cell of the job, (rows,)."""
        bought: Flags = (self.known.statuses != STATUS_CODES[CellStatus.PENDING]) & (self.origins >= 0)
        return bought


@dataclass(frozen=True, slots=True, kw_only=True)
class ToReplicate:
    """What is left to submit a second time, at most: cells, their images and micro-USD."""

    cells: int = 0
    images: int = 0
    cost_micro_usd: int = 0


def read_drawn(job: Job, known: Known) -> list[Drawn]:
    """Return the replicates of a job's run that were begun. Raises UsageError for another run's."""
    found = []
    for place in replicates_of(job.run_dir):
        model = _check_paper(place, job.run_dir)
        theirs = load_job(place)
        rows = read_rows_of(place)
        ids = pa.chunked_array([pa.array([row["replicate_of"] for row in rows], pa.string())])
        origins = CellIndex(job.grid).find(ids)
        is_completed = known.statuses[origins] == STATUS_CODES[CellStatus.COMPLETED]
        known_there = read_known(theirs.grid, place, RunIdentity.read(place))
        found.append(
            Drawn(job=theirs, model=model, known=known_there, origins=np.where(is_completed, origins, -1), rows=rows)
        )
    return found


def to_replicate(job: Job, known: Known, prices: PriceList) -> ToReplicate:
    """Return what `run.replicate` leaves to pay once the job is through; requests that differ count as the dearest."""
    asked = job.spec.run.replicate
    if not asked.is_asked or not prices.an_image:
        return ToReplicate()
    n_eligible = _count_eligible(job.grid, known)
    n = min(n_asked(asked, job.grid.n_cells), n_eligible)
    n = max(0, n - sum(int(drawn.is_bought.sum()) for drawn in read_drawn(job, known)))
    images = job.grid.most_images
    return ToReplicate(cells=n, images=n * images, cost_micro_usd=n * prices.dearest(images=images))


def _count_eligible(grid: Grid, known: Known) -> int:
    """Return how many cells are completed or may yet be, say their seed, and are no second one of their request."""

    def count(some: Ints) -> int:
        is_eligible = has_own_seed(grid, some) & grid.is_cell(some)
        return int((is_eligible & (known.statuses[some] != STATUS_CODES[CellStatus.FAILED])).sum())

    return sum(map(count, grid.in_order("rows"))) - count(grid.repeated())


# ------------------------------------------------------------------------------------------------------ the jobs


def build_replicates(job: Job, known: Known, *, folder: Path, adds: bool) -> list[Job]:
    """Return the jobs that submit cells of a run a second time, one a model; their files are in `folder`.

    `known` is of the whole job. Without `adds` no cell is drawn that wasn't before. Raises UsageError.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    kept = []
    for drawn in read_drawn(job, known):
        stays = drawn.is_bought if adds else drawn.origins >= 0
        rows[drawn.model] = [row for row, is_kept in zip(drawn.rows, stays, strict=True) if is_kept]
        kept.append(drawn.origins[stays])
    bought = np.concatenate([np.empty(0, dtype=np.int64), *kept])
    n = n_asked(job.spec.run.replicate, job.grid.n_cells) - len(bought) if adds else 0
    # Cells that repeat another's request have their second submission already; so no two rows here ask for the same.
    without = np.concatenate([bought, job.grid.repeated()])
    for index in draw_cells(job.grid, known.statuses, n=n, without=without).tolist():
        cell = job.grid.cell(index, job.rows.part(index // job.grid.n_combinations))
        rows.setdefault(cell.model, []).append(_row(cell))
    return [_build(job, model, some, folder=folder) for model, some in rows.items() if some]


def _row(cell: Cell) -> dict[str, Any]:
    return {
        **cell.body,
        "replicate_id": f"{cell.prompt_id}-{cell.cell_id[:12]}",
        "replicate_of": cell.cell_id,
    }


def _build(job: Job, model: str, rows: list[Mapping[str, Any]], *, folder: Path) -> Job:
    slug = model.replace("/", "--")
    place = job.run_dir / REPLICATES_DIR / slug
    _write_paper(place, job.run_dir, model=model)
    within = folder / slug
    within.mkdir()
    plain = replace(job, spec=replace(job.spec, output=replace(job.spec.output, report=False)))
    name = f"{job.name}-replicates"
    return build_row_job(plain, model, rows, own=_OWN, id_column="replicate_id", name=name, place=place, folder=within)


def _write_paper(place: Path, run_dir: Path, *, model: str) -> None:
    if (place / REPLICATE_PAPER).exists():
        if _check_paper(place, run_dir) != model:
            raise UsageError(f"{shown_path(place)}: holds another model's replicates; move it away")
        return
    identity = RunIdentity.read(run_dir)
    assert identity is not None  # noqa: S101 - its cells are completed
    make_dir(place)
    publish_bytes(
        place / REPLICATE_PAPER, (json.dumps({"run_id": identity.run_id, "model": model}, indent=1) + "\n").encode()
    )


def _check_paper(place: Path, run_dir: Path) -> str:
    """Return which model's replicates lie there. Raises UsageError where they are none of this run."""
    path = place / REPLICATE_PAPER
    identity = RunIdentity.read(run_dir)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        model, run_id = str(said["model"]), str(said["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{shown_path(path)}: can't be read; put back the one that was there") from None
    if identity is None or run_id != identity.run_id:
        raise UsageError(f"{shown_path(place)}: holds another run's replicates; move it away")
    return model
