"""Files taken over from another run's directory: linked or copied, whole as hashed or not at all, nothing left over."""

import hashlib
from pathlib import Path

import pytest

from batchflux.core.errors import StorageError
from batchflux.io.takeover import take_file

DATA = b"an image"
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "images/ab/kite.png"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run directory with one file."""
    path = tmp_path / "theirs" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return tmp_path / "theirs"


def _take(source: Path, tmp_path: Path, name: str = NAME, sha256: str = SHA256) -> int | None:
    return take_file(source, name, tmp_path / "ours", "images/cd/mine.png", sha256=sha256)


def _left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "ours").rglob("*") if path.is_file())


def test_a_file_is_linked_and_again(source: Path, tmp_path: Path) -> None:
    """A second time, as after a kill, gives the same and leaves no temporary name beside it."""
    for _ in range(2):
        assert _take(source, tmp_path) == len(DATA)
        assert _left(tmp_path) == ["mine.png"]
    assert (tmp_path / "ours/images/cd/mine.png").samefile(source / NAME)


def test_what_can_only_be_read_is_copied(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive's files, which may not be written, are not shared with it."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert _take(source, tmp_path) == len(DATA)
    assert not (tmp_path / "ours/images/cd/mine.png").samefile(source / NAME)


@pytest.mark.parametrize("name", ["images/ab/other.png", "images/ab", "../theirs/" + NAME, "/etc/hostname", "link"])
def test_what_is_no_file_of_the_run_is_not_taken(source: Path, tmp_path: Path, name: str) -> None:
    """A name that is missing, a folder, leads out, or is a link leaves nothing here."""
    (source / "link").symlink_to(source / NAME)
    assert _take(source, tmp_path, name) is None
    assert _left(tmp_path) == []


def test_other_bytes_are_not_taken(source: Path, tmp_path: Path) -> None:
    """A file that isn't as hashed leaves nothing here, and what lay here before stays."""
    assert _take(source, tmp_path, sha256="0" * 64) is None
    assert _left(tmp_path) == []


def test_a_disk_that_refuses_is_said(source: Path, tmp_path: Path) -> None:
    """A folder that can't be made is the own disk's fault, and no reason to fetch anything."""
    (tmp_path / "ours").write_text("a file in the way")
    with pytest.raises(StorageError):
        _take(source, tmp_path)
