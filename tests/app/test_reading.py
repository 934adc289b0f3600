"""What is known of a run's cells, read in pieces and tidied on the way, against a fold of all facts at once."""

import asyncio
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.app import reading
from batchflux.app.job import Job, load_job
from batchflux.app.reading import gather, lay_over, read_known
from batchflux.app.rundir import RunIdentity
from batchflux.app.work import work_of
from batchflux.core.ledger import fold
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import EXCLUDED, STATUS_CODES
from batchflux.core.steps import CellState
from batchflux.io.checkpoint import CheckpointWriter
from tests.io.durable import as_table, facts, make_fact

SPEC = """
prompts: {path: p.csv}
grid: {seed: [1, 2, 3]}
exclude: [{seed: 2}]
"""
STRANGERS = 2


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of four cells among six indexes."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "p.csv").write_text("prompt\nAn owl\nA fox\n")
    (folder / "job.yaml").write_text(SPEC)
    return load_job(folder / "job.yaml")


CELLS = (0, 2, 3, 5)


def of_the_job(job: Job, history: list[Fact]) -> pa.Table:
    """The facts with the ids of the job's cells for the first four, the rest strangers."""
    names = {f"{number:032x}": work_of(job, index, CellState()).cell.cell_id for number, index in enumerate(CELLS)}
    table = as_table(history)
    ids = [names.get(name, name) for name in table["cell_id"].to_pylist()]
    return table.set_column(0, "cell_id", pa.array(ids, pa.string()))


@settings(derandomize=True, max_examples=60)
@given(st.lists(facts(cells=len(CELLS) + STRANGERS), max_size=25), st.integers(1, 30))
def test_known_is_what_a_fold_says(job: Job, history: list[Fact], step: int) -> None:
    """Every status, the money, the retired, and whole facts of the cells that aren't final."""
    table = of_the_job(job, history)
    with patch.object(reading, "_TIDY_ABOVE_ROWS", 3):
        known = lay_over(job.grid, *(table.slice(first, step) for first in range(0, max(1, table.num_rows), step)))
    folded = {row["cell_id"]: row for row in fold(table).to_pylist()}
    open_cells = []
    for index in range(6):
        if index not in CELLS:
            assert known.statuses[index] == EXCLUDED
            continue
        row = folded.pop(work_of(job, index, CellState()).cell.cell_id, None)
        assert known.statuses[index] == (0 if row is None else STATUS_CODES[row["status"]])
        if row is not None:
            flow = known.flow_of(index)
            assert (flow.attempts, flow.cost_micro_usd) == (row["attempts"], row["cost_micro_usd"])
            if row["status"] not in ("completed", "failed"):
                open_cells.append((index, {name: row[name] for name in known.facts.column_names}))
    assert sorted(zip(known.indexes.tolist(), known.facts.to_pylist(), strict=True), key=lambda pair: pair[0]) == (
        open_cells
    )
    assert known.n_retired == sum(row["status"] != "pending" for row in folded.values())
    assert known.is_empty == (known.n_kept == known.n_retired == 0)
    every = {row["cell_id"]: row for row in fold(table).to_pylist()}
    assert known.spent_micro_usd == sum(row["cost_micro_usd"] for row in every.values())
    assert set(known.newest_ids) == {name for name in table["prediction_id"].to_pylist() if name is not None}


def test_a_cell_that_became_final_keeps_no_facts(job: Job) -> None:
    """Its intent came in one piece and its outcome in another, and there was nothing to tidy."""
    history = _life(0)
    table = of_the_job(job, history)
    known = lay_over(job.grid, table.slice(0, 1), table.slice(1))
    assert (known.facts.num_rows, known.n_kept) == (0, 1)
    assert lay_over(job.grid, table.slice(0, 1)).facts["price_micro_usd"].to_pylist() == [history[0].price_micro_usd]


def test_what_lies_on_the_disk_is_known_and_gathered(job: Job, tmp_path: Path) -> None:
    """Parts and a journal, read as one history; where no run was begun nothing is known."""
    asyncio.run(_record_and_read(job, tmp_path))


async def _record_and_read(job: Job, tmp_path: Path) -> None:
    identity = RunIdentity.open(tmp_path, origin="http://127.0.0.1")
    assert read_known(job.grid, tmp_path, identity).is_empty
    history = [fact for number in range(5) for fact in _life(number)]
    rows = of_the_job(job, history).to_pylist()
    async with CheckpointWriter.open(tmp_path, identity.run_id) as writer:
        for place, fact in enumerate(history):
            writer.record(replace(fact, cell_id=rows[place]["cell_id"]))
            if place == 4:
                await writer.seal()
        known = read_known(job.grid, tmp_path, identity)
        assert (known.n_kept, known.n_retired, known.spent_micro_usd) == (4, 1, 5 * 80_000)
        wanted = known.statuses == STATUS_CODES[_life(0)[-1].status]
        wanted[0] = False
        found, indexes = gather(job.grid, tmp_path, identity, wanted=wanted, columns=["prediction_id"])
    assert dict(zip(indexes.tolist(), found["prediction_id"].to_pylist(), strict=True)) == {
        2: "prediction-1",
        3: "prediction-2",
        5: "prediction-3",
    }


def _life(number: int) -> list[Fact]:
    intent = make_fact(number, kind=FactKind.INTENT, status=CellStatus.UNKNOWN, attempts=0, prediction_id=None)
    return [intent, make_fact(number)]


@settings(derandomize=True, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(-3000, 3000)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_clocks_keep_the_least_and_the_most_of_each_second(
    job: Job, told: list[tuple[int, int]], step: int, rows: int
) -> None:
    """However often they are tidied on the way, and at the second's own moments."""
    table = as_table(
        [
            replace(make_fact(1), at_ms=10**12 + ours, submitted_at_ms=10**12 + ours, created_at_ms=10**12 + ours + off)
            for ours, off in told
        ]
    )
    with patch.object(reading, "_TIDY_ABOVE_ROWS", rows):
        known = lay_over(job.grid, *(table.slice(first, step) for first in range(0, len(told), step)))
    kept = [((ours - 10**12) // 1000, off) for ours, off in zip(*(each.tolist() for each in known.clocks), strict=True)]
    assert {second for second, _ in kept} == {ours // 1000 for ours, _ in told}
    for second in {second for second, _ in kept}:
        offsets = [off for ours, off in told if ours // 1000 == second]
        seen = [off for other, off in kept if other == second]
        assert (min(seen), max(seen)) == (min(offsets), max(offsets))


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.integers(1, 9))
def test_the_newest_predictions_are_kept(job: Job, mentions: list[int], step: int) -> None:
    """As many as an engine keeps, each once and the oldest first, though one is spoken of up to three times."""
    spoken = [number for number, count in enumerate(mentions) for _ in range(count)]
    table = as_table(
        [replace(make_fact(1), at_ms=10**12 + place, prediction_id=f"p{n}") for place, n in enumerate(spoken)]
    )
    with patch.object(reading, "KNOWN_IDS", 4):
        known = lay_over(job.grid, *(table.slice(first, step) for first in range(0, len(spoken), step)))
    assert known.newest_ids == tuple(f"p{number}" for number in range(len(mentions)))[-4:]
