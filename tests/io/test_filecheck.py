"""Files against the facts that name them: there, whole, as hashed; and those that no fact names."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batchflux.io.filecheck import FileCheck, FileFault, check_files, hashes_of, list_strays
from batchflux.io.parts import FACT_SCHEMA

COLUMNS = ["cell_id", "files", "sha256", "file_bytes"]


def save(run_dir: Path, contents: dict[str, bytes]) -> pa.Table:
    """Write files and return a state of one cell that names them all, and one cell without any."""
    for path, data in contents.items():
        (run_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / path).write_bytes(data)
    named = {
        "cell_id": "a" * 32,
        "files": list(contents),
        "sha256": [hashlib.sha256(data).hexdigest() for data in contents.values()],
        "file_bytes": [len(data) for data in contents.values()],
    }
    bare = {"cell_id": "b" * 32, "files": [], "sha256": [], "file_bytes": []}
    schema = pa.schema([FACT_SCHEMA.field(name) for name in COLUMNS])
    return pa.Table.from_pylist([bare, named], schema=schema)


def faults(run_dir: Path, state: pa.Table, check: FileCheck | None = None) -> list[FileFault]:
    """Return all that is wrong."""
    return list(check_files(run_dir, state, check or FileCheck()))


@pytest.fixture
def state(tmp_path: Path) -> pa.Table:
    """Three sound files."""
    return save(tmp_path, {"images/a/1.png": b"one" * 5000, "images/a/2.png": b"", "images/b/3.png": b"three"})


def test_sound_files(tmp_path: Path, state: pa.Table) -> None:
    """Nothing is wrong; files and bytes are counted, and told on the way."""
    told: list[int] = []
    check = FileCheck(on_progress=told.append)
    assert faults(tmp_path, state, check) == []
    assert (check.files, check.size_bytes, sum(told)) == (3, 15_005, 3)


def test_a_flipped_bit_a_cut_and_a_missing_file(tmp_path: Path, state: pa.Table) -> None:
    """Each is named by its path and cell, with how it differs."""
    first = tmp_path / "images/a/1.png"
    first.write_bytes(first.read_bytes()[:-1] + b"f")
    (tmp_path / "images/a/2.png").unlink()
    (tmp_path / "images/b/3.png").write_bytes(b"thr")
    found = [(fault.path, fault.kind, fault.detail) for fault in faults(tmp_path, state)]
    assert found == [
        ("images/a/1.png", "damaged", "has other bytes than were saved"),
        ("images/a/2.png", "missing", "is not there"),
        ("images/b/3.png", "damaged", "has 3 bytes, not 5"),
    ]
    assert {fault.cell_id for fault in faults(tmp_path, state)} == {"a" * 32}


@pytest.mark.fault("X05")
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path, state: pa.Table) -> None:
    """A pipe, a folder and a link to nowhere in a file's place are said at once."""
    for path in ("images/a/1.png", "images/a/2.png", "images/b/3.png"):
        (tmp_path / path).unlink()
    os.mkfifo(tmp_path / "images/a/1.png")
    (tmp_path / "images/a/2.png").mkdir()
    (tmp_path / "images/b/3.png").symlink_to("nowhere")
    assert [fault.kind for fault in faults(tmp_path, state)] == ["unreadable", "unreadable", "missing"]


@pytest.mark.security(17)
@pytest.mark.fault("X05")
@pytest.mark.parametrize("path", ["../elsewhere.png", "images/../../elsewhere.png", "/etc/hostname"])
def test_a_name_that_leads_out_is_not_followed(tmp_path: Path, path: str) -> None:
    """Facts that were forged name nothing outside the run directory."""
    (tmp_path / "elsewhere.png").write_bytes(b"x")
    forged = save(tmp_path / "run", {"images/1.png": b"x"}).to_pylist()
    forged[1]["files"] = [path]
    schema = pa.schema([FACT_SCHEMA.field(name) for name in COLUMNS])
    (fault,) = faults(tmp_path / "run", pa.Table.from_pylist(forged, schema=schema))
    assert (fault.kind, fault.detail) == ("unreadable", "lies outside the run directory")


def test_a_file_without_a_hash_is_not_believed(tmp_path: Path, state: pa.Table) -> None:
    """Facts that name a file and no hash confirm nothing."""
    bare = state.set_column(2, "sha256", pa.array([[], []], pa.list_(pa.string())))
    assert len(faults(tmp_path, bare)) == 3


def strays(run_dir: Path, state: pa.Table) -> list[str]:
    """The strays beside the files of a state; of all but the first three only the number is told."""
    named = np.sort(hashes_of(pc.list_flatten(state["files"]).to_pylist()))
    found, count = list_strays(run_dir, named, most=1000)
    first, same = list_strays(run_dir, named, most=3)
    assert (len(found), same, first) == (count, count, found[:3])
    return found


def test_strays_are_what_no_fact_names(tmp_path: Path, state: pa.Table) -> None:
    """At any depth and whatever their names, temporaries of a download left out; no images at all are none."""
    assert strays(tmp_path, state) == []
    (tmp_path / "images/c/d").mkdir(parents=True)
    for name in ("images/notes.txt", "images/c/d/4.png", "images/a/.tmp-5.part", "images/a/1.PNG"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "images/link").symlink_to("b")
    odd = os.fsdecode(os.fsencode(str(tmp_path / "images")) + b"/\xff.png")
    Path(odd).write_bytes(b"?")
    found = strays(tmp_path, state)
    assert sorted(found) == sorted(
        ["images/notes.txt", "images/c/d/4.png", "images/a/1.PNG", "images/link", "images/?.png"]
    )
    assert strays(tmp_path / "nowhere", state) == []


def test_strays_until_a_moment(tmp_path: Path) -> None:
    """What was written after the moment is passed over, and counts for nothing."""
    (tmp_path / "images").mkdir()
    for name, at_s in (("old", 1000), ("new", 1001)):
        (tmp_path / "images" / name).write_bytes(b"?")
        os.utime(tmp_path / "images" / name, (at_s, at_s))
    nothing = np.zeros(0, dtype=np.int64)
    found = [list_strays(tmp_path, nothing, most=9, until_ms=until_ms) for until_ms in (999_999, 1_000_000, None)]
    assert found == [([], 0), (["images/old"], 1), (["images/new", "images/old"], 2)]
