"""`batchflux export` as users type it: words, statuses, and what can't be."""

from pathlib import Path

import pytest

from batchflux import screen
from tests.cli.conftest import Command
from tests.cli.conftest import command as command_fixture
from tests.cli.driver import on_terminal
from tests.export.runs import files_of, made_run

command = command_fixture


def test_a_dataset_by_every_option(command: Command, tmp_path: Path) -> None:
    """Every option has its effect, the closing words say what was written, standard output stays empty."""
    made_run(tmp_path, 12, change={3: {"has_nsfw_contents": [True]}, 4: {"files": [], "sha256": []}})
    options = ["--where", "seed in (0, 3)", "--nsfw", "drop", "--split", "train=0.5,test=0.5"]
    done = command("export", "out", "x", "--format", "webdataset", "--max-shard-size", "1kB", *options, cwd=tmp_path)
    assert (done.status, done.out) == (0, "")
    note, words, *rest = done.err.splitlines()
    assert note.startswith("note: the run has gone on since its manifest was written")  # it was never written by a run
    assert words.startswith("4 images written to x (train ")
    assert rest == [
        "  1 completed cells have no image on disk; batchflux run --download-only",
        "  1 flagged images dropped",
    ]
    for name, how in (("a", "--copy"), ("b", "--link")):
        assert command("export", "out", "--out", name, "--format", "imagefolder", how, cwd=tmp_path).status == 0
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert (tmp_path / "a" / "train").is_dir()
    done = command("export", "out", "x.csv", "--format", "csv", cwd=tmp_path)
    assert (done.status, done.err.splitlines()[1:]) == (0, ["12 cells written to x.csv"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("out x --format zip", "'zip' is not one of"),
        ("out x", "Missing option '--format'"),
        ("out --format csv", "export needs one destination: DEST, or --out DEST"),
        ("out x --out y --format csv", "export needs one destination"),
        ("out x --format csv --copy", "--copy and --link are for imagefolder"),
        ("out x --format imagefolder --copy --link", "name one of --copy and --link"),
        ("out x --format csv --max-shard-size 5MB", "--max-shard-size is for"),
        ("out x --format parquet --max-shard-size 5", "'5' is no size"),
        ("out x --format csv --split a", "'a' is no split"),
        (
            "out x --format csv --where sed==1",
            "--where: column 1: sed is no column of the manifest; did you mean seed?",
        ),
        ("out x --format csv --only none.csv", "none.csv: can't be read"),
        ("out images --format csv", "images: is a folder; name a file, such as images.csv"),
        ("out images --format imagefolder", "is there already"),
        ("out table.csv --format csv", "table.csv: is there already, and no csv export of a run; name another file"),
        ("out table.csv --format jsonl", "table.csv: is there already, and no jsonl export of a run"),
        ("out out/manifest.parquet --format csv", "manifest.parquet: is there already, and no csv export"),
        ("out /dev/null --format csv", "/dev/null: is there already, and no csv export"),
    ],
)
def test_what_is_refused(command: Command, tmp_path: Path, line: str, words: str) -> None:
    """What is wrong ends with 2 and one sentence, and writes nothing."""
    made_run(tmp_path, 2)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine").touch()
    (tmp_path / "table.csv").write_text("prompt\nmine\n")
    before = files_of(tmp_path)
    done = command("export", *line.split(), cwd=tmp_path)
    assert done.status == 2
    assert words in done.err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_earlier_table_is_replaced(command: Command, tmp_path: Path, form: str) -> None:
    """The command that the closing words name can be repeated as the run goes on."""
    made_run(tmp_path, 2)
    for condition in ("seed < 0", "seed >= 0", "seed == 0"):
        done = command("export", "out", "x", "--format", form, "--where", condition, cwd=tmp_path)
        assert done.status == 0, done.err
    assert len((tmp_path / "x").read_text().splitlines()) == 1 + (form == "csv")


def test_a_manifest_that_is_no_parquet(command: Command, tmp_path: Path) -> None:
    """The words name the file and what to do, and blame no bug."""
    made_run(tmp_path, 2)
    (tmp_path / "out" / "manifest.parquet").write_text("not mine")
    done = command("export", "out", "x.csv", "--format", "csv", cwd=tmp_path)
    assert done.status == 2
    assert "manifest.parquet: can't be read as Parquet" in done.err
    assert "delete it, and batchflux run writes it anew" in done.err


def test_progress_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar, elsewhere a line now and then, never one for what is over at once."""
    made_run(tmp_path, 5)
    with on_terminal("export", "out", "x", "--format", "parquet", cwd=tmp_path) as terminal:
        assert terminal.wait().status == 0
    assert "export: 100%" in terminal.shown
    lines: list[str] = []
    now_s = 0.0
    monkeypatch.setattr(screen, "monotonic", lambda: now_s)
    show = screen.export_progress(lines.append)
    for done, now_s in enumerate((1.0, 10.5, 11.0, 30.0), start=1):  # noqa: B007 - the clock reads it
        show(done * 1000, 4000)
    assert lines == ["export: 2,000 of 4,000 cells"]
