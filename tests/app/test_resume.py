"""What an earlier run left is given to the engine once: a cell has one flow at a time."""

from pathlib import Path

import pytest

from batchflux.app.job import load_job
from batchflux.app.prepare import RunOptions
from batchflux.app.reading import lay_over
from batchflux.app.work import work_left, work_of
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import Progress
from batchflux.core.steps import CellState
from batchflux.io.journal import encode_fact
from batchflux.io.parts import build_table


def test_a_cell_in_flight_that_fails_before_its_turn_is_not_given_out_twice(tmp_path: Path) -> None:
    """Its flow is between two attempts and will make the next one; a second flow would pay beside it."""
    (tmp_path / "p.csv").write_text("prompt\nAn owl\nA fox\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv}\n")
    job = load_job(tmp_path / "job.yaml")
    cell_id = work_of(job, 1, CellState()).cell.cell_id
    fact = Fact(cell_id=cell_id, kind=FactKind.ACCEPTED, at_ms=1, attempt=1, status=CellStatus.SUBMITTED, attempts=1)
    known = lay_over(job.grid, build_table([encode_fact(fact)]))
    progress = Progress.of(known.statuses)
    given = []
    for item in work_left(job, known, RunOptions()):
        given.append(item.cell.index)
        if item.cell.index == 1:
            released = Fact(
                cell_id=cell_id, kind=FactKind.RELEASED, at_ms=2, attempt=1, status=CellStatus.PENDING, attempts=1
            )
            progress.apply(1, released, now_s=0.0)
    assert given == [1, 0]


def test_the_newest_ids_are_the_ones_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more ids than an engine keeps the oldest are left out, and cells that were never accepted have none."""
    monkeypatch.setattr("batchflux.app.reading.KNOWN_IDS", 3)
    (tmp_path / "p.csv").write_text("prompt\nAn owl\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv}\n")
    facts = [
        Fact(
            cell_id=f"{number:032x}",
            kind=FactKind.ACCEPTED,
            at_ms=at_ms,
            attempt=1,
            status=CellStatus.SUBMITTED,
            attempts=1,
            prediction_id=None if at_ms == 50 else f"at-{at_ms}",
        )
        for number, at_ms in enumerate([30, 10, 50, 40, 20])
    ]
    table = build_table([encode_fact(fact) for fact in facts])
    known = lay_over(load_job(tmp_path / "job.yaml").grid, table)
    assert list(known.newest_ids) == ["at-20", "at-30", "at-40"]
    assert lay_over(load_job(tmp_path / "job.yaml").grid, table.slice(0, 0)).newest_ids == ()
