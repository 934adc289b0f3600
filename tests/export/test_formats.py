"""Datasets as they lie on the disk: every image once with its own words, the same bytes again, whole or not at all."""

import csv
import fcntl
import hashlib
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflux.core.errors import StorageError, UsageError
from batchflux.export.options import ExportOptions, Format, parse_splits
from batchflux.export.run import export_run
from batchflux.export.samples import Images
from batchflux.export.selection import Selection
from tests.cli.driver import batchflux_command, started, wait_until
from tests.export.runs import PROMPTS, files_of, made_run

IMAGE_FORMATS: tuple[Format, ...] = ("imagefolder", "webdataset", "parquet")
_SPLITS = parse_splits("train=0.7,test=0.3")


@pytest.fixture(scope="module")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a thousand images, enough to be killed among."""
    return made_run(tmp_path_factory.mktemp("large"), 1000)


def samples(folder: Path, form: Format) -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    """Return (split, image, metadata) of each image by its hash, read with nothing but the format's own means."""
    found: dict[str, tuple[str, bytes, dict[str, Any]]] = {}

    def add(split: str, image: bytes, row: dict[str, Any]) -> None:
        sha256 = hashlib.sha256(image).hexdigest()
        assert (row["cell_id"], row["image_number"]) not in [
            (r["cell_id"], r["image_number"]) for *_, r in found.values()
        ]
        found[f"{row['cell_id']}-{row['image_number']}"] = (split, image, row)
        assert row["sha256"] == sha256

    if form == "imagefolder":
        for path in sorted(folder.glob("*/metadata.parquet")):
            for row in pq.read_table(path).to_pylist():
                add(path.parent.name, (path.parent / row.pop("file_name")).read_bytes(), row)
    elif form == "parquet":
        for path in sorted(folder.glob("data/*.parquet")):
            for row in pq.read_table(path).to_pylist():
                add(path.name.partition("-")[0], row.pop("image")["bytes"], row)
    else:
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
            for key in dict.fromkeys(name.partition(".")[0] for name in members):
                row = json.loads(members[f"{key}.json"])
                assert members[f"{key}.txt"] == row["prompt"].encode()
                assert key == row["cell_id"] + ("" if row["image_number"] == 1 else f"-{row['image_number']}")
                add(path.name.partition("-")[0], members[f"{key}.png"], row)
    return found


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_every_image_is_there_once_with_its_own_words(run_dir: Path, tmp_path: Path, form: Format) -> None:
    """Prompts, parameters and the table's own columns are the manifest's, and no prompt stands on both sides."""
    exported = export_run(run_dir, tmp_path / "x", ExportOptions(form=form, splits=_SPLITS))
    found = samples(tmp_path / "x", form)
    cells = pq.read_table(run_dir / "manifest.parquet").to_pylist()
    assert len(found) == 2 * len(cells) == 2 * 48
    sides: dict[str, set[str]] = {}
    for cell in cells:
        for number, (file, flag) in enumerate(zip(cell["files"], cell["has_nsfw_contents"], strict=True), start=1):
            split, image, row = found[f"{cell['cell_id']}-{number}"]
            assert image == (run_dir / file).read_bytes()
            assert row["has_nsfw_content"] is flag
            for name in (
                "prompt_id",
                "prompt",
                "model",
                "seed",
                "guidance_scale",
                "num_images",
                "inference_ms",
                "mood",
            ):
                assert row[name] == cell[name], name
            assert (row["row_image"], row["source_file_name_"]) == (cell["image"], cell["source_file_name"])
            assert str(row["day"]) == str(cell["day"])
            sides.setdefault(row["prompt"], set()).add(split)
    assert set(sides) == set(PROMPTS)
    assert {len(side) for side in sides.values()} == {1}
    assert {split: total.images for split, total in exported.splits.items()} == {
        split: sum(1 for each, *_ in found.values() if each == split) for split in ("train", "test")
    }


@pytest.mark.parametrize("form", [*IMAGE_FORMATS, "csv", "jsonl"])
def test_the_same_run_gives_the_same_bytes(run_dir: Path, tmp_path: Path, form: Format) -> None:
    """Exported twice, an hour apart by every file's time, each file has the same bytes."""
    options = ExportOptions(form=form, splits=_SPLITS)
    export_run(run_dir, tmp_path / "one", options)
    for path in run_dir.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 3600))
    export_run(run_dir, tmp_path / "two", options)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") != {}


def test_archives_tell_nothing_of_this_machine(run_dir: Path, tmp_path: Path) -> None:
    """Members have no time, no owner and no rights of whoever exported; names hold one dot."""
    export_run(run_dir, tmp_path / "x", ExportOptions(form="webdataset"))
    with tarfile.open(tmp_path / "x" / "train-000000.tar") as tar:
        seen = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in tar}
        assert seen == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}
        assert all(name.count(".") == 1 for name in tar.getnames())


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_shards_keep_their_size(run_dir: Path, tmp_path: Path, form: Format) -> None:
    """No shard is larger than asked, no image is in two, names count up; what is larger than a shard has one alone."""
    most = 60_000
    export_run(run_dir, tmp_path / "x", ExportOptions(form=form, shard_bytes=most))
    shards = sorted(path for path in (tmp_path / "x").rglob("train-*"))
    n = len(shards)
    expected = "data/train-{:05}-of-{:05}.parquet" if form == "parquet" else "train-{:06}.tar"
    assert n > 2
    assert [str(path.relative_to(tmp_path / "x")) for path in shards] == [expected.format(i, n) for i in range(n)]
    if form == "webdataset":
        assert all(path.stat().st_size <= most for path in shards)
    assert len(samples(tmp_path / "x", form)) == 96
    export_run(run_dir, tmp_path / "y", ExportOptions(form="webdataset", shard_bytes=1))
    assert len(list((tmp_path / "y").glob("*.tar"))) == 96


def test_parquet_is_made_for_streaming(tmp_path: Path) -> None:
    """Row groups hold a hundred images; pictures are stored as they are; `datasets` is told which column they are."""
    export_run(made_run(tmp_path, 250), tmp_path / "x", ExportOptions(form="parquet"))
    file = pq.ParquetFile(tmp_path / "x/data/train-00000-of-00001.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [100, 100, 50]
    image = file.metadata.row_group(0).column(0)
    assert (image.path_in_schema, image.compression) == ("image.bytes", "UNCOMPRESSED")
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}


def test_files_are_linked_or_copied(run_dir: Path, tmp_path: Path) -> None:
    """`--link` gives the run's own files a second name, `--copy` and no word make new ones."""
    options = [ExportOptions(form="imagefolder", link=link) for link in (True, False, None)]
    for place, each in enumerate(options):
        export_run(run_dir, tmp_path / str(place), each)
    linked, copied, usual = (files_of(tmp_path / str(place)) for place in range(3))
    assert linked == copied == usual
    inodes = {path.stat().st_ino for path in run_dir.rglob("*.png")}
    shared = [{p.stat().st_ino for p in (tmp_path / str(n)).rglob("*.png")} & inodes for n in range(3)]
    assert [len(each) for each in shared] == [96, 0, 0]


def test_cells_are_selected(tmp_path: Path) -> None:
    """Condition, picks without rejects, and flags each take their part; what isn't completed has no image."""
    change: dict[int, dict[str, Any]] = {
        1: {"has_nsfw_contents": [True]},
        2: {"status": "failed", "files": [], "sha256": []},
        3: {"files": [], "sha256": [], "error_kind": "download"},
    }
    run_dir = made_run(tmp_path, 12, change=change)
    ids = pq.read_table(run_dir / "manifest.parquet")["cell_id"].to_pylist()
    picks = tmp_path / "picks.csv"
    lines = ["cell_id,mark", *(f"{each},{'reject' if n == 5 else 'winner'}" for n, each in enumerate(ids[:8]))]
    picks.write_text("\n".join(lines), encoding="utf-8-sig")

    def left(n: int, **options: Any) -> list[int]:
        exported = export_run(run_dir, tmp_path / f"x{n}", ExportOptions(form="webdataset", **options))
        assert (exported.left_out, exported.flagged) == (1, int(options.get("nsfw") == "drop"))
        return sorted(ids.index(row["cell_id"]) for *_, row in samples(tmp_path / f"x{n}", "webdataset").values())

    assert left(1) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]
    assert left(2, nsfw="drop") == [0, 4, 5, 6, 7, 8, 9, 10, 11]
    assert left(3, only=picks) == [0, 1, 4, 6, 7]
    assert left(4, only=picks, nsfw="drop", where="seed in (0, 1, 3)") == [0, 4, 7]
    for form in ("csv", "jsonl"):
        options = ExportOptions(form=form, only=picks, nsfw="drop", where="seed > 0")
        assert export_run(run_dir, tmp_path / f"t.{form}", options).cells == 4  # tables hold cells of any status
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["cell_id"] for row in csv.DictReader(file)] == [ids[n] for n in (2, 3, 6, 7)]


def test_tables_are_split_by_file(run_dir: Path, tmp_path: Path) -> None:
    """With splits a table is a folder with a file for each; together they hold every cell once."""
    export_run(run_dir, tmp_path / "x", ExportOptions(form="jsonl", splits=_SPLITS))
    rows = {name: text.decode().splitlines() for name, text in files_of(tmp_path / "x").items()}
    assert set(rows) == {"train.jsonl", "test.jsonl"}
    prompts = [{json.loads(line)["prompt"] for line in lines} for lines in rows.values()]
    assert prompts[0] & prompts[1] == set()
    assert sum(map(len, rows.values())) == 48


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id\nx\n", "there is no column cell_id"),
        ("", "there is no column cell_id"),
        ("cell_id\nzz\n", "picks.csv:2: 'zz' is no cell id"),
        (f"cell_id,mark\n{'0' * 32},reject\n", "picks no cell"),
        (f"cell_id\n{'0' * 32}\n", "1 of the cells picked are none of this run's: 0000"),
        ('cell_id\n"x', "can't be read"),
        ("cell_id\n\udcff\n", "can't be read"),
    ],
)
def test_picks_that_pick_wrongly(tmp_path: Path, text: str, words: str) -> None:
    """A slip in a list of picks is said, and no smaller dataset written."""
    picks = tmp_path / "picks.csv"
    picks.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as refused:
        export_run(made_run(tmp_path, 2), tmp_path / "x", ExportOptions(form="csv", only=picks))
    assert words in str(refused.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_images_that_are_not_as_saved(tmp_path: Path, form: Format) -> None:
    """A file that is gone, changed, no file or elsewhere ends the export with its name, and nothing lies there."""
    run_dir = made_run(tmp_path, 3)
    file = pq.read_table(run_dir / "manifest.parquet")["files"].to_pylist()[1][0]
    path = run_dir / file
    before = path.read_bytes()
    spoils = {
        "has other bytes than were saved": lambda: path.write_bytes(before[:-1] + b"\0"),
        "is not there": path.unlink,
        "is no plain file": lambda: os.mkfifo(path),
    }
    for words, spoil in spoils.items():
        spoil()
        with pytest.raises(UsageError) as refused:
            export_run(run_dir, tmp_path / "x", ExportOptions(form=form))
        assert str(refused.value).startswith(f"{file}: {words}")
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
    (tmp_path / "secret.png").write_bytes(b"x")
    outside = made_run(tmp_path / "b", 1, change={0: {"files": ["images/../../new/secret.png"]}})
    with pytest.raises(UsageError, match="lies outside the run directory"):
        export_run(outside, tmp_path / "x", ExportOptions(form=form))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b", "out", "secret.png"]


def test_what_can_not_be_exported(tmp_path: Path) -> None:
    """No images, a place that is taken, in use or the run's own, a missing paper: each has its sentence."""
    bare = made_run(tmp_path / "bare", 2, change={n: {"files": [], "sha256": []} for n in range(2)})
    run_dir = made_run(tmp_path, 2)
    options = ExportOptions(form="imagefolder")
    with pytest.raises(UsageError, match="none of the 2 completed cells has its images on disk"):
        export_run(bare, tmp_path / "x", options)
    with pytest.raises(UsageError, match="there is no image to export: 0 of 2 cells selected"):
        export_run(run_dir, tmp_path / "x", ExportOptions(form="imagefolder", where="seed > 9"))
    with pytest.raises(UsageError, match="is there already"):
        export_run(run_dir, tmp_path / "bare", options)
    with pytest.raises(UsageError, match="there is no folder"):
        export_run(run_dir, tmp_path / "nowhere" / "x", options)
    for name in ("images/x", "checkpoint/x", "images"):
        with pytest.raises(UsageError, match="among the run's own files"):
            export_run(run_dir, run_dir / name, options)
    held = tmp_path / ".x.partial"
    held.mkdir()
    fd = os.open(held, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another export to it is at work"):
        export_run(run_dir, tmp_path / "x", options)
    os.close(fd)
    (tmp_path / "x").mkdir()  # an empty folder is no dataset
    export_run(run_dir, tmp_path / "x", options)
    (run_dir / "prompts.parquet").unlink()
    with pytest.raises(UsageError, match=r"prompts\.parquet: is missing"):
        export_run(run_dir, tmp_path / "y", options)
    assert not held.exists()
    assert not (tmp_path / "y").exists()


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is one of ours, and leaves nothing."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run_dir = made_run(tmp_path, 2)
    monkeypatch.setattr("batchflux.export.imagefolder.write_all", full)
    with pytest.raises(StorageError, match="could not write the dataset: No space left on device"):
        export_run(run_dir, tmp_path / "x", ExportOptions(form="imagefolder"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("form", ["webdataset", *(pytest.param(f, marks=pytest.mark.slow) for f in IMAGE_FORMATS[::2])])
def test_killed_half_way_it_leaves_nothing_that_looks_whole(large_run: Path, tmp_path: Path, form: Format) -> None:
    """After SIGKILL no dataset is there; the next call cleans up and writes the bytes of an undisturbed one."""
    run_dir = large_run
    partial = tmp_path / ".x.partial"
    sharded = ["--max-shard-size", "50kB"] if form != "imagefolder" else []
    command = ["export", run_dir, "x", "--format", form, *sharded]
    with started(*command, cwd=tmp_path) as export:
        wait_until(
            lambda: export.process.poll() is not None or len(list(partial.rglob("*"))) > 3, "some files of a dataset"
        )
        export.send(signal.SIGKILL)
        assert export.process.wait() == -signal.SIGKILL
    assert partial.is_dir()
    assert not (tmp_path / "x").exists()
    assert batchflux_command(*command, cwd=tmp_path).status == 0
    assert not partial.exists()
    undisturbed = ExportOptions(form=form, shard_bytes=50_000 if sharded else None)
    export_run(run_dir, tmp_path / "y", undisturbed)
    assert files_of(tmp_path / "x") == files_of(tmp_path / "y")


def test_columns_that_clash(run_dir: Path) -> None:
    """A column that a format would take for its own is renamed, and none is lost."""
    names = Images(Selection(run_dir, ExportOptions(form="parquet"))).schema.names
    assert len(set(names)) == len(names)
    assert {"row_image", "source_file_name_", "image_number", "mood"} <= set(names)
    assert names[:7] == ["cell_id", "prompt_id", "prompt", "model", "seed", "guidance_scale", "num_images"]


def test_a_long_manifest_is_read_a_piece_at_a_time(tmp_path: Path) -> None:
    """Of 12 MB of manifest, no more than a few of its row groups of a megabyte are in memory."""
    run_dir = made_run(tmp_path, 1)
    (row,) = pq.read_table(run_dir / "manifest.parquet").to_pylist()
    with pq.ParquetWriter(run_dir / "manifest.parquet", pq.read_schema(run_dir / "manifest.parquet")) as writer:
        for _ in range(12):
            rows = [row | {"error": os.urandom(2000).hex()} for _ in range(250)]
            writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
    del rows
    assert (run_dir / "manifest.parquet").stat().st_size > 12_000_000
    tables = Selection(run_dir, ExportOptions(form="csv")).tables()
    before = pa.total_allocated_bytes()
    assert max(pa.total_allocated_bytes() - before for _ in tables) < 7_000_000


def test_the_manifest_may_be_replaced_meanwhile(tmp_path: Path) -> None:
    """An export holds on to the manifest that it began with, also where a run publishes a newer one."""
    run_dir = made_run(tmp_path, 10)
    other = made_run(tmp_path / "other", 3)
    selection = Selection(run_dir, ExportOptions(form="csv"))
    tables = selection.tables()
    os.replace(other / "manifest.parquet", run_dir / "manifest.parquet")
    assert sum(table.num_rows for table in tables) == 10
