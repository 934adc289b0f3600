"""What a run leaves for its user, where the disk refuses."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.app.publish import publish_results
from batchflux.app.reading import lay_over
from batchflux.core.errors import StorageError
from batchflux.io.parts import empty_table
from tests.app.service import quick_service, write_spec


def test_an_older_file_of_retired_cells_that_cannot_be_removed_is_the_disks_refusal(tmp_path: Path) -> None:
    """It is named as every other refusal of the disk is, and not taken for a bug."""
    (tmp_path / "prompts.csv").write_text("prompt\na boat\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: prompts.csv}\noutput: {dir: run}\n")
    job = batchflux.load_job(tmp_path / "job.yaml")
    (job.run_dir / "retired.parquet").mkdir(parents=True)  # what no unlink removes
    with pytest.raises(StorageError, match=r"retired\.parquet: could not remove the file"):
        publish_results(job, lay_over(job.grid, empty_table()), base_url="http://127.0.0.1")


def _run(folder: Path) -> Path:
    """Run a job of two cells, or run it again; returns its manifest."""
    (folder / "p.csv").write_text("prompt\na boat\na sail\n")
    with quick_service() as service:
        spec = folder / "job.yaml"
        if not spec.exists():
            write_spec(folder, service, "prompt\na boat\na sail\n")
        return batchflux.run(batchflux.load_job(spec)).manifest


@pytest.mark.parametrize("seconds", [0, 2])
def test_an_edited_manifest_is_written_anew(tmp_path: Path, seconds: int) -> None:
    """Whatever wrote it, its metadata kept: the next run puts back what the checkpoint says."""
    path = _run(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "prompt", pa.array(["changed", "by hand"])), path)
    if seconds:
        os.utime(path, (path.stat().st_mtime + seconds,) * 2)
    assert pq.read_schema(path).metadata == table.schema.metadata
    assert _run(tmp_path) == path
    assert pq.read_table(path)["prompt"].to_pylist() == ["a boat", "a sail"]


def test_an_untouched_manifest_is_left_alone(tmp_path: Path) -> None:
    """Moved, or unpacked by a tool that keeps whole seconds, it is not written again."""
    path = _run(tmp_path)
    before = path.stat()
    _run(tmp_path)
    assert path.stat().st_ino == before.st_ino
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns // 10**9 * 10**9))
    _run(tmp_path)
    assert path.stat().st_ino == before.st_ino
