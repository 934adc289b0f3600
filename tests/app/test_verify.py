"""`verify`: a sound run is sound, and each kind of damage is named with where it is and what to do."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.app.publish import publish_results
from batchflux.app.resume import Known
from batchflux.app.run import RunOptions
from batchflux.app.verify import Verification, verify_run
from batchflux.core.errors import UsageError
from batchflux.io.lock import RunLock, is_run_at_work
from batchflux.io.parts import build_part, decipher_part
from batchflux.sandbox import FaultRule, Latency, SandboxThread
from tests.app.verified import CELLS, config, damaged, flip, run_job
from tests.canary import CANARY

ROOT = Path(batchflux.__file__).resolve().parents[1]
LAST_PART = "checkpoint/part-00000002.parquet"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a job that was run in two sessions, with every kind of ending a cell can have."""
    folder = tmp_path_factory.mktemp("sound")
    rules = (
        FaultRule(on="submit", do="fail", code=1200, at=frozenset({2})),
        FaultRule(on="submit", do="fail", code=5000, at=frozenset({4})),
        FaultRule(on="submit", do="fail", code=1405, at=frozenset({5})),
        FaultRule(on="submit", do="status", status=429, at=frozenset({6})),
        FaultRule(on="submit", do="status", status=400, body='{"code": 400, "message": "no"}', at=frozenset({8})),
        FaultRule(on="submit", do="close", when="after", at=frozenset({9})),
    )
    with pytest.MonkeyPatch.context() as patch, SandboxThread(config(*rules)) as sandbox:
        patch.setenv("WAVESPEED_API_KEY", CANARY)
        first = run_job(folder, sandbox, options=RunOptions(limit=4))
        last = run_job(folder, sandbox)
    assert (first.exit_status, last.exit_status) == (3, 1)
    assert (last.standing.completed, last.standing.failed) == (CELLS - 3, 3)
    assert sorted(path.name for path in (last.run_dir / "checkpoint").iterdir())[-1] == Path(LAST_PART).name
    return last.run_dir


def image(run_dir: Path) -> Path:
    """Return one image of a run."""
    return sorted(run_dir.glob("images/*/*.png"))[0]


def only(found: Verification, *words: str) -> None:
    """Hold that there is one problem, which has these words."""
    (line,) = found.problems
    assert all(word in line for word in words), line
    assert (found.ok, found.exit_status) == (False, 1)


def test_a_sound_run_is_sound(sound: Path) -> None:
    """Retried, refused, moderated, lost and adopted: all of it adds up, and nothing is written to find that out."""
    before = {path: path.stat().st_mtime_ns for path in sound.rglob("*")}
    found = verify_run(sound)
    assert (found.problems, found.notes, found.ok, found.exit_status) == ((), (), True, 0)
    assert found.cells == {"pending": 0, "submitted": 0, "completed": CELLS - 3, "failed": 3, "unknown": 0}
    assert (found.files, round(found.cost_usd, 6)) == (CELLS - 3, round((CELLS - 1) * 0.08, 6))
    assert found.size_bytes == sum(path.stat().st_size for path in sound.glob("images/*/*.png"))
    assert {path: path.stat().st_mtime_ns for path in sound.rglob("*")} == before


def test_a_flipped_bit_of_an_image(sound: Path, tmp_path: Path) -> None:
    """The file is named, and that moving it away lets it be fetched again."""
    found = damaged(sound, tmp_path, lambda run_dir: flip(image(run_dir)))
    only(found, "damaged file: images/", image(sound).name, "--download-only")


def test_a_missing_image(sound: Path, tmp_path: Path) -> None:
    """The file is named, and how to fetch it again."""
    only(damaged(sound, tmp_path, lambda run_dir: image(run_dir).unlink()), "missing: images/", image(sound).name)


def test_a_file_that_no_cell_names_is_a_note(sound: Path, tmp_path: Path) -> None:
    """Somebody's notes among the images harm nothing."""
    found = damaged(sound, tmp_path, lambda run_dir: (run_dir / "images/notes.txt").write_text("mine"))
    assert found.ok
    assert found.notes == ("a file that no cell names: images/notes.txt; it harms nothing",)


@pytest.mark.parametrize("part", ["checkpoint/part-00000001.parquet", LAST_PART])
def test_a_flipped_bit_of_a_part(sound: Path, tmp_path: Path, part: str) -> None:
    """Wherever it is, the part is named, and nothing is said about cells that its facts would tell of."""
    for number, at in enumerate((0.05, 0.3, 0.6, 0.97)):
        copy = tmp_path / str(number)
        copy.mkdir()
        found = damaged(sound, copy, lambda run_dir, at=at: flip(run_dir / part, at=at))  # type: ignore[misc]
        only(found, "damaged: ", part)
        assert found.cells is None
        assert any(note.startswith("not checked: ") for note in found.notes)


@pytest.mark.fault("D08")
@pytest.mark.parametrize("part", ["checkpoint/part-00000001.parquet", LAST_PART])
def test_a_removed_part(sound: Path, tmp_path: Path, part: str) -> None:
    """The first is missed by its number, the last by the journal after it."""
    only(damaged(sound, tmp_path, lambda run_dir: (run_dir / part).unlink()), f"damaged: {part}", "missing")


@pytest.mark.fault("D12")
def test_a_foreign_file_in_the_checkpoint(sound: Path, tmp_path: Path) -> None:
    """What pandas would stumble over is named."""
    found = damaged(sound, tmp_path, lambda run_dir: (run_dir / "checkpoint/x.csv").write_text("a"))
    only(found, "damaged: checkpoint/x.csv")


def forge(run_dir: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the last part anew with other facts, and every checksum right."""
    part = decipher_part((run_dir / LAST_PART).read_bytes())
    data = build_part(
        change(part.facts),
        job_id=part.job_id,
        sequence=part.sequence,
        predecessor=part.predecessor,
        created_at=datetime.now(UTC),
    )
    (run_dir / LAST_PART).write_bytes(data)
    (run_dir / "manifest.parquet").unlink()
    for journal in (run_dir / "journal").iterdir():
        journal.unlink()  # it names the part that was there


def with_column(facts: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Return facts with another column."""
    place = facts.schema.get_field_index(name)
    field = facts.schema.field(place)
    return facts.set_column(place, field, pa.array(values, field.type))


def test_a_forged_cost(sound: Path, tmp_path: Path) -> None:
    """A part with other costs and true checksums is found by adding up, each cell with both amounts."""

    def cheaper(facts: pa.Table) -> pa.Table:
        pairs = zip(facts["kind"].to_pylist(), facts["cost_micro_usd"].to_pylist(), strict=True)
        return with_column(facts, "cost_micro_usd", [cost - 10_000 * (kind == "outcome") for kind, cost in pairs])

    found = damaged(sound, tmp_path, lambda run_dir: forge(run_dir, cheaper))
    wrong = [line for line in found.problems if line.startswith("cost doesn't add up: cell ")]
    assert len(wrong) > 3
    assert any("the checkpoint says $0.07, its facts come to $0.08; " in line for line in wrong)
    assert [line for line in found.problems if line not in wrong] == [
        line for line in found.problems if line.startswith("missing: manifest.parquet")
    ]


def test_one_prediction_given_to_two_cells(sound: Path, tmp_path: Path) -> None:
    """A wrong image under a prompt is worse than a lost one."""

    def mixed_up(facts: pa.Table) -> pa.Table:
        ids = facts["prediction_id"].to_pylist()
        one, other, *_ = sorted(set(ids) - {None})
        return with_column(facts, "prediction_id", [one if name == other else name for name in ids])

    found = damaged(sound, tmp_path, lambda run_dir: forge(run_dir, mixed_up))
    assert any(line.startswith("one prediction, several cells: ") for line in found.problems)


def rewrite(run_dir: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the manifest anew, changed, as somebody with pandas would who keeps its metadata."""
    path = run_dir / "manifest.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def set_first(table: pa.Table, name: str, value: Any) -> pa.Table:
    """Return a table with another value in a column's first row."""
    values = [value, *table[name].to_pylist()[1:]]
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values))


EDITS: dict[str, tuple[Callable[[pa.Table], pa.Table], tuple[str, ...]]] = {
    "status": (lambda t: set_first(t, "status", "pending"), ("manifest against checkpoint", "status is pending, not ")),
    "cost": (lambda t: set_first(t, "cost_usd", 7.0), ("manifest against checkpoint", "cost_usd is 7.0, not 0.08")),
    "prediction": (lambda t: set_first(t, "prediction_id", "x"), ("manifest against checkpoint", "prediction_id is x")),
    "hash": (lambda t: set_first(t, "sha256", ["0" * 64]), ("manifest against checkpoint", "sha256 is ['0000")),
    "row removed": (lambda t: t.slice(1), ("cell missing in the manifest: ",)),
    "row doubled": (lambda t: pa.concat_tables([t.slice(0, 1), t]), ("cell more than once in the manifest: ",)),
    "rows reordered": (lambda t: t.take(list(range(CELLS))[::-1]), ("out of order: manifest.parquet",)),
    "column dropped": (lambda t: t.drop_columns(["status"]), ("unreadable: manifest.parquet has no column status",)),
    "no id": (lambda t: set_first(t, "cell_id", "zz"), ("unreadable: manifest.parquet can't be read",)),
    "no rows": (lambda t: t.slice(0, 0), ()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_manifest(sound: Path, tmp_path: Path, edit: str) -> None:
    """Whatever was changed is named, with how to have the manifest written anew."""
    change, words = EDITS[edit]
    found = damaged(sound, tmp_path, lambda run_dir: rewrite(run_dir, change))
    if edit == "no rows":
        assert len(found.problems) == CELLS
    else:
        only(found, *words, "delete it, and batchflux run ")


def test_a_cell_of_another_job_in_the_manifest(sound: Path, tmp_path: Path) -> None:
    """It is named, and so is the cell whose place it took."""
    found = damaged(sound, tmp_path, lambda run_dir: rewrite(run_dir, lambda t: set_first(t, "cell_id", "0" * 32)))
    assert [line.split(":")[0] for line in found.problems] == [
        "cell missing in the manifest",
        "no cell of the job in the manifest",
    ]


@pytest.mark.parametrize("at", [0.0, 0.5, 0.99])
def test_a_manifest_that_is_no_parquet_file(sound: Path, tmp_path: Path, at: float) -> None:
    """Cut anywhere it is unreadable, and said so."""

    def cut(run_dir: Path) -> None:
        path = run_dir / "manifest.parquet"
        os.truncate(path, int(path.stat().st_size * at))

    only(damaged(sound, tmp_path, cut), "unreadable: manifest.parquet can't be read")


def older(run_dir: Path) -> None:
    """Leave the manifest as it was after the first session."""
    path = run_dir / "manifest.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(set_first(table, "status", "submitted").replace_schema_metadata({"batchflux.stamp": "old"}), path)


def test_an_older_manifest_is_told_as_that(sound: Path, tmp_path: Path) -> None:
    """After a crash the next run writes it; while a run is at work that is no problem at all."""
    only(damaged(sound, tmp_path, older), "older than the checkpoint: manifest.parquet: 1 of 12 cells differ")
    with RunLock(tmp_path / "copy"):
        found = verify_run(tmp_path / "copy")
        (tmp_path / "copy/manifest.parquet").unlink()
        without = verify_run(tmp_path / "copy")
    assert (found.ok, without.ok) == (True, True)
    assert "older than the checkpoint" in found.notes[0]
    assert "no manifest yet" in without.notes[0]


def test_a_spent_budget(sound: Path, tmp_path: Path) -> None:
    """The cells' costs are held against the budget that the directory's spec names."""

    def lower(run_dir: Path) -> None:
        spec = (run_dir / "job.yaml").read_text()
        (run_dir / "job.yaml").write_text(spec.replace("run:\n", "run:\n  budget: 0.50\n"))

    only(damaged(sound, tmp_path, lower), "over the budget: the run has cost $0.88, run.budget is $0.50")


@pytest.mark.parametrize(
    ("paper", "kind"),
    [
        ("run.json", "unreadable: run.json"),
        ("job.yaml", "unreadable spec or table"),
        ("prompts.parquet", "unreadable spec or table"),
    ],
)
def test_papers_that_cannot_be_read(sound: Path, tmp_path: Path, paper: str, kind: str) -> None:
    """Without the table, the spec or the identity, gone or spoilt, the rest is checked all the same."""

    def spoil(run_dir: Path) -> None:
        (run_dir / paper).write_bytes(b"\x00")
        image(run_dir).unlink()

    found = damaged(sound, tmp_path, spoil)
    assert [line.startswith(kind) for line in found.problems] == [True, False]
    (tmp_path / "copy" / paper).unlink()
    assert [line.startswith(kind) for line in verify_run(tmp_path / "copy").problems] == [True, False]


def test_where_no_run_was_begun(tmp_path: Path, sound: Path) -> None:
    """There is nothing to check, which is not the same as sound."""
    (tmp_path / "job.yaml").write_bytes((sound / "job.yaml").read_bytes())
    with pytest.raises(UsageError, match="no run was begun here"):
        verify_run(tmp_path)


def test_images_that_are_yet_to_be_fetched_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completed cells whose downloads failed are known to the checkpoint, which is sound."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    with SandboxThread(config(FaultRule(on="output", do="status", status=404))) as sandbox:
        result = run_job(tmp_path / "job", sandbox, options=RunOptions(limit=2))
    found = verify_run(result.run_dir)
    assert found.ok
    assert found.notes[0].startswith("images not on the disk: of 2 completed cells; batchflux run ")


@pytest.mark.fault("C07")
def test_beside_a_live_run_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at again and again while cells are submitted, completed and saved: never a problem, never in the way."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    slow = Latency(median_s=0.15, sigma=0.3)
    results: list[batchflux.Result] = []
    seen: list[Verification] = []
    with SandboxThread(config(latency=slow)) as sandbox:
        folder = tmp_path / "job"
        thread = threading.Thread(target=lambda: results.append(run_job(folder, sandbox, run__concurrency=1)))
        thread.start()
        while thread.is_alive():
            if any((folder / "run/journal").glob("*")):
                seen.append(verify_run(folder / "run"))
        thread.join()
    assert results[0].exit_status == 0
    assert {found.problems for found in seen} == {()}
    notes = {note for found in seen for note in found.notes}
    assert [note for note in notes if "no cell names" in note or "--download-only" in note] == []
    assert len({found.cells["completed"] for found in seen if found.cells}) > 3


def test_results_are_published_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its manifest is written a run is at work: no other may begin, and no check takes the manifest for old."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    is_locked: list[bool] = []

    def publish(job: batchflux.Job, known: Known, *, base_url: str) -> None:
        is_locked.append(is_run_at_work(job.run_dir))
        publish_results(job, known, base_url=base_url)

    monkeypatch.setattr("batchflux.app.run.publish_results", publish)
    with SandboxThread(config()) as sandbox:
        run_job(tmp_path / "job", sandbox, download=False)
    assert is_locked == [True]


def command(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `batchflux verify` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "batchflux", "verify", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command(sound: Path, tmp_path: Path) -> None:
    """Results on standard output, 0 for a sound run, 1 for one with problems, also as JSON and by the job file."""
    done = command(sound.parent / "job.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("job: sound, ")
    damaged(sound, tmp_path, lambda run_dir: image(run_dir).unlink())
    done = command(tmp_path / "copy", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], len(found["problems"])) == (1, False, 1)
    (tmp_path / "copy/run.json").unlink()
    assert "unreadable: run.json" in command(tmp_path / "copy").stdout
    assert command(tmp_path).returncode == 2
