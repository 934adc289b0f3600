"""What a run leaves for its user, where the disk refuses."""

from pathlib import Path

import pytest

import batchflux
from batchflux.app.publish import publish_results
from batchflux.app.resume import lay_over
from batchflux.core.errors import StorageError
from batchflux.io.parts import empty_table


def test_an_older_file_of_retired_cells_that_cannot_be_removed_is_the_disks_refusal(tmp_path: Path) -> None:
    """It is named as every other refusal of the disk is, and not taken for a bug."""
    (tmp_path / "prompts.csv").write_text("prompt\na boat\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: prompts.csv}\noutput: {dir: run}\n")
    job = batchflux.load_job(tmp_path / "job.yaml")
    (job.run_dir / "retired.parquet").mkdir(parents=True)  # what no unlink removes
    with pytest.raises(StorageError, match=r"retired\.parquet: could not remove the file"):
        publish_results(job, lay_over(job.grid, empty_table()), base_url="http://127.0.0.1")
