"""A run directory's house-keeping at the start of a run."""

from pathlib import Path

import pytest

import batchflux
from tests.app.service import quick_service, write_spec


@pytest.mark.security(28)
def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    """Beside the papers and among the images, by `run JOB` and `run RUN_DIR`; nothing else goes, no link is taken."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".tmp-others").touch()
    with quick_service() as service:
        spec = write_spec(tmp_path, service, "prompt\na kite\n", output={"dir": "out"})
        run_dir = batchflux.run(batchflux.load_job(spec)).run_dir
        [image] = run_dir.rglob("*.png")
        (run_dir / "images" / "zz").symlink_to(elsewhere)
        for place in (spec, run_dir):
            left = [run_dir / ".tmp-1-job.yaml", run_dir / "images" / ".tmp-2.part", image.with_name(".tmp-3-x.part")]
            for path in left:
                path.write_bytes(b"half")
            assert batchflux.run(batchflux.load_job(place)).exit_status == 0
            assert not [path for path in left if path.exists()]
    assert image.exists()
    assert (elsewhere / ".tmp-others").exists()
