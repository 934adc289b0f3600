"""Holds the images of cells that were submitted twice against each other, and keeps what was found.

`replicates.parquet` in the run directory has a row an image. Pixels are looked at once: as long as both files have the
same hashes, what was found of them stands. A file that isn't as it was saved is not compared, and never a difference.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchflux.app.blocks import Block
from batchflux.app.family import replicates_of, spent_of
from batchflux.app.job import Job
from batchflux.app.reading import gather
from batchflux.app.replicate import read_drawn
from batchflux.app.resume import Known
from batchflux.app.rundir import RunIdentity
from batchflux.core.arrow import Flags, from_texts
from batchflux.core.cellstates import CellIndex
from batchflux.core.errors import UsageError
from batchflux.core.grid import Grid
from batchflux.core.model import CellStatus
from batchflux.core.replicates import PAIR_SCHEMA, Agreement, Verdict, by_cell, sum_up
from batchflux.core.sanity import replicate_warning
from batchflux.io.images import pixel_difference
from batchflux.io.savedimage import read_image
from batchflux.io.storage import publish_with

__all__ = ["PAIRS", "compare_pairs", "read_agreement", "with_pairs"]

PAIRS: Final = "replicates.parquet"
_COLUMNS: Final = ("status", "prediction_id", "files", "sha256", "fetched_sha256")

_Facts = dict[str, Any]


def compare_pairs(job: Job, known: Known) -> None:
    """Compare what cells of a run gave at first and when they were submitted again. Raises StorageError.

    Decodes both images of a pair that differs in its bytes: some 50 ms a megapixel.
    """
    seen = {(row["sha256"], row["replicate_sha256"]): row for row in _read(job.run_dir).to_pylist() if row["sha256"]}
    rows = [row for pair in _pairs(job, known) for row in _compare(job.run_dir, *pair, seen=seen)]
    with publish_with(job.run_dir / PAIRS) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), temporary)


def _pairs(job: Job, known: Known) -> Iterator[tuple[_Facts, Path, _Facts]]:
    """Yield a cell's facts, the directory of its replicate, and that one's facts."""
    for drawn in read_drawn(job, known):
        bought = np.flatnonzero(drawn.is_bought)
        wanted = np.zeros(len(known.statuses), dtype=np.bool_)
        wanted[drawn.origins[bought]] = True
        ours = _by_index(job, wanted)
        there = np.zeros(len(drawn.known.statuses), dtype=np.bool_)
        there[bought] = True
        theirs = _by_index(drawn.job, there)
        for row in bought.tolist():
            yield ours[int(drawn.origins[row])], drawn.job.run_dir, theirs[row]


def _by_index(job: Job, wanted: Flags) -> dict[int, _Facts]:
    identity = RunIdentity.read(job.run_dir)
    if identity is None or not wanted.any():
        return {}
    facts, indexes = gather(job.grid, job.run_dir, identity, wanted=wanted, columns=_COLUMNS)
    return dict(zip(indexes.tolist(), facts.select(["cell_id", *_COLUMNS]).to_pylist(), strict=True))


def _compare(
    run_dir: Path, ours: _Facts, place: Path, theirs: _Facts, *, seen: dict[tuple[str, str], _Facts]
) -> Iterator[_Facts]:
    """Yield a cell's rows of PAIR_SCHEMA."""
    ids = {"cell_id": ours["cell_id"]}
    ids |= {"prediction_id": ours["prediction_id"], "replicate_prediction_id": theirs["prediction_id"]}
    why = _why_not(ours, theirs)
    if why is not None:
        yield {**ids, "image": 0, "verdict": "not_compared", "note": why}
        return
    for place_in_cell in range(len(ours["files"])):
        one, other = (_image_of(facts, place_in_cell) for facts in (ours, theirs))
        verdict, difference, note = _judge(run_dir, one, place, other, seen=seen)
        yield {
            **ids,
            "image": place_in_cell + 1,
            "verdict": verdict,
            "mean_difference": difference,
            "note": note,
            "file": one["file"],
            "replicate_file": (place / other["file"]).relative_to(run_dir).as_posix(),
            "sha256": one["sha256"],
            "replicate_sha256": other["sha256"],
        }


def _why_not(ours: _Facts, theirs: _Facts) -> str | None:
    """Return why a cell's images can't be compared at all."""
    if theirs["status"] != CellStatus.COMPLETED:
        return f"the second submission is {theirs['status']}"
    if theirs["prediction_id"] == ours["prediction_id"]:
        return "the service answered the second submission with the first prediction"
    n_ours, n_theirs = len(ours["files"] or ()), len(theirs["files"] or ())
    if not (n_ours and n_theirs):
        return "images are not on the disk"
    return f"{n_ours} images, then {n_theirs}" if n_ours != n_theirs else None


def _image_of(facts: _Facts, place: int) -> dict[str, str]:
    # What was fetched is compared: metadata embedded in a file make other bytes of it.
    fetched = facts["fetched_sha256"] or facts["sha256"]
    return {"file": facts["files"][place], "sha256": facts["sha256"][place], "fetched": fetched[place]}


def _judge(
    run_dir: Path, one: dict[str, str], place: Path, other: dict[str, str], *, seen: dict[tuple[str, str], _Facts]
) -> tuple[Verdict, float | None, str | None]:
    """Return the verdict on two images, how far they are apart, and a note."""
    if one["fetched"] == other["fetched"]:
        return "same_bytes", 0.0, None
    before = seen.get((one["sha256"], other["sha256"]))
    if before is not None and before["verdict"] != "not_compared":
        return before["verdict"], before["mean_difference"], before["note"]
    try:
        difference = pixel_difference(
            read_image(run_dir, one["file"], sha256=one["sha256"]),
            read_image(place, other["file"], sha256=other["sha256"]),
        )
    except UsageError as error:
        return "not_compared", None, str(error)
    if difference is None:
        return "different", None, "of another size"
    return ("different", difference, None) if difference else ("same_pixels", 0.0, None)


# ------------------------------------------------------------------------------------------------------ what is told


def read_agreement(run_dir: Path) -> Agreement | None:
    """Return what came of the cells of a run that were submitted twice; None where none was."""
    pairs = _read(run_dir)
    if not pairs.num_rows:
        return None
    return sum_up(pairs, cost_usd=sum(map(spent_of, replicates_of(run_dir))) / 1e6)


def with_pairs(grid: Grid, run_dir: Path, blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield blocks of a run, which have `warnings`, those cells warned of that gave another image the second time."""
    found = by_cell(_read(run_dir))
    lines = {cell_id: replicate_warning(some) for cell_id, verdict, some in found if verdict == "different"}
    if not lines:
        yield from blocks
        return
    indexes = CellIndex(grid).find(pa.chunked_array([from_texts(list(lines))]))
    warnings = dict(zip(indexes.tolist(), lines.values(), strict=True))
    for block in blocks:
        places = np.flatnonzero(np.isin(block.cells, indexes)).tolist()
        yield block.warned({place: warnings[int(block.cells[place])] for place in places})


def _read(run_dir: Path) -> pa.Table:
    """Return what was found before; nothing of a file that can't be read, which is made anew."""
    try:
        return pq.ParquetFile(run_dir / PAIRS).read().select(PAIR_SCHEMA.names).cast(PAIR_SCHEMA)
    except (FileNotFoundError, pa.ArrowException, KeyError):
        return pa.Table.from_arrays([pa.nulls(0, field.type) for field in PAIR_SCHEMA], schema=PAIR_SCHEMA)
