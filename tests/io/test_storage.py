"""Publishing: whole or not at all, durable, with nothing left lying about."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from batchflux.core.errors import StorageError
from batchflux.io import storage


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_publish_puts_the_bytes_and_replaces(tmp_path: Path) -> None:
    """A file is there whole, a second one takes its place, and no temporary stays."""
    path = tmp_path / "part"
    storage.publish_bytes(path, b"old" * 1000)
    storage.publish_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["part"]


def test_publish_flushes_the_file_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that makes it safe: content durable, then the name, then the folder durable."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(fd: int) -> None:
        calls.append("folder" if os.path.isdir(f"/dev/fd/{fd}") else "file")
        fsync(fd)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        assert source.name.startswith(".")
        assert source.parent == target.parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    storage.publish_bytes(tmp_path / "a", b"x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.fault("D01")
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_refusing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever step fails, the error names the file, the old content stays and nothing lies beside it."""
    path = tmp_path / "manifest"
    storage.publish_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise refuse(errno.ENOSPC)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match="manifest: could not write the file: No space left"):
            storage.publish_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["manifest"]


def test_a_block_that_fails_publishes_nothing(tmp_path: Path) -> None:
    """Whatever is raised while the file is written passes through, and its half-written file is gone."""

    def write_half() -> None:
        with storage.publish_with(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        write_half()
    assert os.listdir(tmp_path) == []


@pytest.mark.fault("D02")
def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes three bytes at a time still gets them all."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    storage.publish_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_disk_that_takes_nothing_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of zero bytes end in an error instead of an endless loop."""
    monkeypatch.setattr(os, "write", lambda _fd, _data: 0)
    with pytest.raises(StorageError, match="No space left"):
        storage.publish_bytes(tmp_path / "a", b"x")


@pytest.mark.fault("D12")
def test_sweeping_takes_temporaries_only(tmp_path: Path) -> None:
    """What an interrupted publish left goes; files, and other programs' dot-files, stay."""

    def interrupt(_fd: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        patch.setattr(os, "unlink", lambda _path: None)
        with pytest.raises(KeyboardInterrupt):
            storage.publish_bytes(tmp_path / "a", b"x")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    assert len(os.listdir(tmp_path)) == 3
    assert storage.sweep_temporaries(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == [".DS_Store", "b"]
    assert storage.list_names(tmp_path) == ["b"]


def test_absent_things(tmp_path: Path) -> None:
    """A folder that isn't there is empty, a file that isn't there can be removed, but not read."""
    absent = tmp_path / "absent"
    assert storage.list_names(absent) == []
    assert storage.sweep_temporaries(absent) == 0
    storage.remove(absent)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(absent)
    with pytest.raises(StorageError, match="could not read the file"):
        storage.read_bytes(tmp_path)


def test_make_dir_and_rename(tmp_path: Path) -> None:
    """Folders are made with their parents, twice without harm, but not over a file; files are renamed."""
    storage.make_dir(tmp_path / "a" / "b")
    storage.make_dir(tmp_path / "a" / "b")
    storage.publish_bytes(tmp_path / "a" / "b" / "c", b"x")
    storage.rename(tmp_path / "a" / "b" / "c", to=tmp_path / "a" / "b" / "d")
    assert storage.list_names(tmp_path / "a" / "b") == ["d"]
    with pytest.raises(StorageError, match="could not make the folder"):
        storage.make_dir(tmp_path / "a" / "b" / "d" / "e")


def test_free_bytes_of_a_place_that_is_not_there_yet(tmp_path: Path) -> None:
    """The nearest folder above answers for it."""
    free = storage.free_bytes(tmp_path / "run" / "images")
    assert 0 < free <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


@pytest.mark.parametrize(("answer", "falls_back"), [(None, False), (errno.ENOTSUP, True), (errno.EIO, None)])
def test_the_full_flush_of_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | None, falls_back: bool | None
) -> None:
    """F_FULLFSYNC is what counts where it exists; only a file system without it falls back, a failure is one."""
    flushed: list[int] = []

    def full_flush(_fd: int, command: int) -> None:
        assert command == 51
        if answer is not None:
            raise refuse(answer)

    monkeypatch.setattr(storage, "_FULL_FLUSH", 51)
    monkeypatch.setattr(fcntl, "fcntl", full_flush)
    monkeypatch.setattr(os, "fsync", flushed.append)
    with open(tmp_path / "a", "wb") as file:
        if falls_back is None:
            with pytest.raises(OSError, match="Input/output error"):
                storage.flush_to_disk(file.fileno())
        else:
            storage.flush_to_disk(file.fileno())
            assert bool(flushed) == falls_back


def test_held_space_is_on_the_disk_and_has_no_name(tmp_path: Path) -> None:
    """The room is taken in full until the descriptor is closed, and whoever is killed leaves no file behind."""
    fd = storage.hold_space(tmp_path, 256 << 10)
    assert fd is not None
    assert os.listdir(tmp_path) == []
    assert os.fstat(fd).st_size == 256 << 10
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


@pytest.mark.parametrize(("error", "is_raised"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EFBIG, False)])
def test_space_that_can_not_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_raised: bool
) -> None:
    """A disk without room says so at once; a bound on files' sizes is none on the disk, and nothing is left open."""

    def refuse(fd: int, data: bytes) -> int:
        raise OSError(error, os.strerror(error))

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "write", refuse)
    if is_raised:
        with pytest.raises(OSError, match=os.strerror(error)):
            storage.hold_space(tmp_path, 4096)
    else:
        assert storage.hold_space(tmp_path, 4096) is None
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/dev/fd")) == before
