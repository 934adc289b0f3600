"""A grid in many small blocks against the same grid in one: the manifest and its check must not know the difference."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflux.app import blocks, review
from batchflux.app.blocks import read_blocks
from batchflux.app.job import load_job
from batchflux.app.manifestcheck import COMPARED_COLUMNS, ManifestCheck, check_manifest
from batchflux.app.publish import publish_results
from batchflux.app.reading import read_known
from batchflux.app.rundir import RunIdentity
from batchflux.app.verify import verify_run
from batchflux.io import spill
from batchflux.io.manifest import MANIFEST
from tests.benchmarks.made import finish_cells, make_job

CELLS = 36


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows, piles of a few facts."""
    monkeypatch.setattr(blocks, "_BLOCK_CELLS", 8)
    monkeypatch.setattr(spill, "_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(review, "_PILE_BYTES", 1 << 10)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of 36 of 40 cells, with a manifest that was written in one block."""
    job = finish_cells(make_job(tmp_path, rows=10, seeds=4), cells=CELLS)
    identity = RunIdentity.read(job.run_dir)
    publish_results(job, read_known(job.grid, job.run_dir, identity), base_url="http://127.0.0.1")
    return job.run_dir


def check(run_dir: Path) -> ManifestCheck:
    """Hold the manifest of a run against its facts."""
    job = load_job(run_dir)
    found = read_blocks(job.grid, run_dir, RunIdentity.read(run_dir), columns=COMPARED_COLUMNS)
    return check_manifest(run_dir / MANIFEST, job.grid, found)


def test_a_manifest_is_the_same_in_blocks(run_dir: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    """Row for row; and it is whole."""
    whole = pq.ParquetFile(run_dir / MANIFEST).read()
    (run_dir / MANIFEST).unlink()
    job = load_job(run_dir)
    known = read_known(job.grid, run_dir, RunIdentity.read(run_dir))
    publish_results(job, known, base_url="http://127.0.0.1")
    assert pq.ParquetFile(run_dir / MANIFEST).read().equals(whole)
    assert (whole.num_rows, whole["status"].to_pylist().count("completed")) == (40, CELLS)
    assert verify_run(run_dir).ok


def test_a_manifest_that_is_wrong_is_so_in_blocks_too(run_dir: Path, request: pytest.FixtureRequest) -> None:
    """Cells missing, doubled, foreign by one digit, altered and out of order are named alike."""
    table = pq.ParquetFile(run_dir / MANIFEST).read()
    rows = table.to_pylist()
    rows[5]["prediction_id"] = "another's"
    rows[12] = {**rows[12], "cell_id": rows[12]["cell_id"][:15] + _other(rows[12]["cell_id"][15]) + "0" * 16}
    rows[20] = {
        **rows[20],
        "cell_id": rows[20]["cell_id"][:-16] + _other(rows[20]["cell_id"][16]) + (rows[20]["cell_id"][17:]),
    }
    rows = [*rows[:30], rows[3], *rows[31:35], rows[39], *rows[35:39]]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), run_dir / MANIFEST)
    whole = check(run_dir)
    request.getfixturevalue("small")
    parted = check(run_dir)
    for name in ("missing", "doubled", "foreign"):
        assert sorted(getattr(parted, name)) == sorted(getattr(whole, name)), name
    assert replace(parted, foreign=[], missing=[], doubled=[]) == replace(whole, foreign=[], missing=[], doubled=[])
    assert (whole.n_missing, whole.n_doubled, whole.n_foreign, whole.n_altered) == (3, 1, 2, 1)
    assert not whole.is_in_order


def _other(digit: str) -> str:
    return "1" if digit == "0" else "0"
