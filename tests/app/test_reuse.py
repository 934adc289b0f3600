"""`reuse`: what earlier runs have is taken over and never bought, held against the sandbox's own ledger."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.app.job import load_job
from batchflux.app.verify import verify_run
from batchflux.sandbox import RunningSandbox
from tests.app.service import quick_service, write_spec

ROOT = Path(batchflux.__file__).parents[1]


@pytest.fixture
def service() -> Iterator[RunningSandbox]:
    """A service whose ledger counts what is bought."""
    with quick_service(image_size=64) as running:
        yield running


def _spec(folder: Path, service: RunningSandbox, seeds: list[int], **keys: Any) -> Path:
    """Write a job of ten prompts and these seeds, its images saved."""
    folder.mkdir(exist_ok=True)
    table = "prompt\n" + "".join(f"a kite over hill {n}\n" for n in range(10))
    return write_spec(folder, service, table, grid={"seed": seeds}, **{"output": {"dir": "out"}, **keys})


def _bought(service: RunningSandbox) -> int:
    return len(service.behaviour.everything())


@pytest.fixture
def earlier(tmp_path: Path, service: RunningSandbox) -> Path:
    """The run directory of an earlier job, of ten prompts and three seeds."""
    result = batchflux.run(load_job(_spec(tmp_path / "earlier", service, [1, 2, 3])))
    assert result.exit_status == 0
    return result.run_dir


def test_an_overlap_of_sixty_percent_pays_for_forty(tmp_path: Path, service: RunningSandbox, earlier: Path) -> None:
    """`plan` says what is taken over and what that saves, `run` buys the rest, the manifest says from where it is."""
    path = _spec(tmp_path / "later", service, [1, 2, 3, 4, 5], reuse="../earlier/out")
    plan = batchflux.plan(load_job(path))
    assert (plan.cells, plan.new, plan.reused, plan.saved_usd, plan.to_pay, plan.cost_usd) == (50, 50, 30, 2.4, 20, 1.6)
    assert "taken over" in str(plan)
    before = _bought(service)
    result = batchflux.run(load_job(path))
    assert (result.exit_status, _bought(service) - before, round(result.spent_now_usd, 6)) == (0, 20, 1.6)
    cells = batchflux.read_manifest(result.run_dir)
    taken = cells[cells["seed"] <= 3]
    assert set(taken["reused_from"]) == {"out"}
    assert (taken["attempts"].sum(), taken["cost_usd"].sum()) == (0, 0.0)
    assert cells[cells["seed"] > 3]["reused_from"].isna().all()
    theirs = batchflux.read_manifest(earlier).set_index("cell_id")
    for cell_id, files, hashes, prediction, inference in taken[
        ["cell_id", "files", "sha256", "prediction_id", "inference_ms"]
    ].itertuples(index=False):
        assert list(theirs.loc[cell_id, "sha256"]) == list(hashes)
        assert (theirs.loc[cell_id, "prediction_id"], theirs.loc[cell_id, "inference_ms"]) == (prediction, inference)
        assert (result.run_dir / files[0]).samefile(earlier / theirs.loc[cell_id, "files"][0])
    found = verify_run(result.run_dir, account=True)
    assert found.problems == ()
    again = batchflux.run(load_job(path))
    assert (again.exit_status, _bought(service) - before, again.spent_now_usd) == (0, 20, 0.0)


def test_the_directory_needs_the_earlier_run_no_more(tmp_path: Path, service: RunningSandbox, earlier: Path) -> None:
    """Taken over once, a run directory goes on wherever it is moved, though what it took from is gone."""
    path = _spec(tmp_path / "later", service, [1, 2, 3, 4], reuse="../earlier/out")
    assert batchflux.run(load_job(path), batchflux.RunOptions(limit=2)).exit_status == 3
    moved = tmp_path / "elsewhere"
    (tmp_path / "later" / "out").rename(moved)
    earlier.rename(tmp_path / "gone")
    before = _bought(service)
    result = batchflux.run(load_job(moved))
    assert (result.exit_status, _bought(service) - before) == (0, 8)
    assert "reuse" not in (moved / "job.yaml").read_text()
    assert verify_run(moved).problems == ()
    # Nor does the job itself, once there is nothing left to take.
    moved.rename(tmp_path / "later" / "out")
    assert batchflux.run(load_job(path)).exit_status == 0


_VICTIM = """
import os, signal, sys
from pathlib import Path
import batchflux
from batchflux.app.job import load_job
from batchflux.io.checkpoint import CheckpointWriter
left = int(sys.argv[2])
record = CheckpointWriter.record
def counted(self, fact):
    global left
    record(self, fact)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
CheckpointWriter.record = counted
batchflux.run(load_job(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("facts", [1, 2, 31])
def test_killed_while_taking_over(tmp_path: Path, service: RunningSandbox, earlier: Path, facts: int) -> None:
    """Killed after any fact of it, the directory alone goes on, takes the rest over and buys nothing twice."""
    path = _spec(tmp_path / "later", service, [1, 2, 3, 4], reuse=["../earlier/out"])
    victim = subprocess.run(
        [sys.executable, "-c", _VICTIM, str(path), str(facts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert victim.returncode == -signal.SIGKILL
    before = _bought(service)
    result = batchflux.run(load_job(tmp_path / "later" / "out"))
    assert (result.exit_status, _bought(service) - before, round(result.standing.cost_usd, 6)) == (0, 10, 0.8)
    cells = batchflux.read_manifest(result.run_dir)
    assert (len(cells), cells["reused_from"].notna().sum(), cells["attempts"].sum()) == (40, 30, 10)
    assert "reuse" not in (result.run_dir / "job.yaml").read_text()
    assert verify_run(result.run_dir, account=True).problems == ()


def test_files_that_are_not_as_hashed_come_from_their_urls(
    tmp_path: Path, service: RunningSandbox, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost image and a damaged one are fetched anew, a link put in a file's place is not followed; none is bought."""
    files = [earlier / names[0] for names in batchflux.read_manifest(earlier)["files"]]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"x")
    files[2].rename(tmp_path / "aside.png")
    files[2].symlink_to(tmp_path / "aside.png")

    def no_link(*args: object, **keys: object) -> None:
        raise OSError(18, "another disk")

    monkeypatch.setattr("os.link", no_link)  # so that all others are copied
    before = _bought(service)
    result = batchflux.run(load_job(_spec(tmp_path / "later", service, [1, 2, 3], reuse="../earlier/out")))
    assert (result.exit_status, _bought(service) - before) == (0, 0)
    assert verify_run(result.run_dir).problems == ()
    mine = [result.run_dir / names[0] for names in batchflux.read_manifest(result.run_dir)["files"]]
    assert all(path.is_file() and path.stat().st_nlink == 1 and not path.is_symlink() for path in mine)


def test_without_downloads_no_file_is_taken(tmp_path: Path, service: RunningSandbox, earlier: Path) -> None:
    """A job that keeps URLs only takes those over."""
    output = {"dir": "out", "download": False}
    result = batchflux.run(load_job(_spec(tmp_path / "b", service, [1], reuse=str(earlier), output=output)))
    assert (result.exit_status, result.spent_now_usd, result.standing.images) == (0, 0.0, 10)
    assert not (result.run_dir / "images").exists()


def test_the_first_of_several_directories_counts(tmp_path: Path, service: RunningSandbox, earlier: Path) -> None:
    """Each cell comes from the first directory that has it, and what none has is bought."""
    second = batchflux.run(load_job(_spec(tmp_path / "b", service, [3, 4], output={"dir": "second"}))).run_dir
    before = _bought(service)
    path = _spec(tmp_path / "c", service, [3, 4, 5], reuse=[str(earlier), str(second)])
    cells = batchflux.read_manifest(batchflux.run(load_job(path)).run_dir)
    assert _bought(service) - before == 10
    by_seed = {seed: set(some["reused_from"].dropna()) for seed, some in cells.groupby("seed")}
    assert by_seed == {3: {"out"}, 4: {"second"}, 5: set()}


def _foreign(run_dir: Path) -> None:
    paper = (run_dir / "run.json").read_text()
    (run_dir / "run.json").write_text(re.sub(r'"origin": "[^"]*"', '"origin": "the sandbox"', paper))


def _damaged(run_dir: Path) -> None:
    (part,) = (run_dir / "checkpoint").iterdir()
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)


def _newer(run_dir: Path) -> None:
    (part,) = (run_dir / "checkpoint").iterdir()
    table = pq.read_table(part)
    said = json.loads(table.schema.metadata[b"batchflux.part"])
    metadata = {b"batchflux.part": json.dumps({**said, "schema": "2.0"}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), part, write_page_checksum=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run_dir: run_dir.rename(run_dir.with_name("other")), ("there is no such run directory", "correct")),
        (_foreign, ("was run with the sandbox, this job is for http://127.0.0.1", "take it out of reuse")),
        (_damaged, ("can't be believed", "checkpoint/part-", "batchflux verify")),
        (_newer, ("a newer batchflux's: update batchflux",)),
        (lambda run_dir: (run_dir / "run.json").unlink(), ("no run directory", "run.json")),
    ],
    ids=["gone", "foreign", "damaged", "newer", "no-run"],
)
def test_what_can_not_be_used_is_refused(
    tmp_path: Path, service: RunningSandbox, earlier: Path, change: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    """`plan` and `run` refuse it by name, with what to do, before anything is bought or written."""
    path = _spec(tmp_path / "later", service, [1, 4], reuse="../earlier/out")
    change(earlier)
    before = _bought(service)
    for act in (batchflux.plan, batchflux.run):
        with pytest.raises(batchflux.UsageError) as refused:
            act(load_job(path))
        assert all(word in str(refused.value) for word in words), str(refused.value)
        assert "out" in str(refused.value)
    assert _bought(service) == before
    assert not (tmp_path / "later" / "out" / "job.yaml").exists()


def test_a_run_is_no_source_of_its_own(tmp_path: Path, service: RunningSandbox) -> None:
    """The run's own directory among `reuse` is told as that."""
    path = _spec(tmp_path / "later", service, [1], reuse="out")
    (tmp_path / "later" / "out").mkdir()
    with pytest.raises(batchflux.UsageError, match=r"no run directory|this run itself"):
        batchflux.run(load_job(path))
    batchflux.run(load_job(_spec(tmp_path / "later", service, [1])))
    with pytest.raises(batchflux.UsageError, match="is this run itself"):
        batchflux.run(load_job(_spec(tmp_path / "later", service, [1, 2], reuse="out")))
