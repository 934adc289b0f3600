"""A run directory's files: published whole or not at all, flushed, listed, removed. The one place that publishes.

The pattern: write under a dot-name in the same folder, flush the file, rename, flush the folder. A reader sees the old
file or the new one; pandas and pyarrow pass over dot-names. The price is two flushes a file, so this is for parts,
manifests and images, never for single facts (see `journal`). Nothing here knows what the bytes mean.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from batchflux.core.errors import StorageError

__all__ = [
    "flush_to_disk",
    "free_bytes",
    "hold_space",
    "list_names",
    "make_dir",
    "modified_ms",
    "publish_bytes",
    "publish_file",
    "publish_with",
    "read_bytes",
    "remove",
    "remove_folder",
    "rename",
    "replace_bytes",
    "sweep_temporaries",
    "sync_dir",
    "write_all",
]

_TEMPORARY_PREFIX = ".tmp-"

_FULL_FLUSH: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # only macOS has it

# What an F_FULLFSYNC answers where the file system (network, exFAT) doesn't know it; fsync is then all there is.
_FULL_FLUSH_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.ENODEV})


def flush_to_disk(fd: int, *, data_only: bool = False) -> None:
    """Return once what was written to `fd` would survive a power cut; raise OSError where the disk refuses.

    With `data_only` times and other attributes may lag behind, the size never does. macOS's fsync leaves the data in
    the drive's own cache, which F_FULLFSYNC empties (source: fsync(2) of macOS).
    """
    if _FULL_FLUSH is not None:
        try:
            fcntl.fcntl(fd, _FULL_FLUSH)
        except OSError as error:
            if error.errno not in _FULL_FLUSH_UNSUPPORTED:
                raise
        else:
            return
    if data_only and hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, going on after short writes; raise OSError where the disk takes no more."""
    written = os.write(fd, data)
    while written < len(data):
        step = os.write(fd, memoryview(data)[written:])
        if step == 0:  # allowed by POSIX for a full device; without this the loop would never end
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += step


def sync_dir(folder: Path) -> None:
    """Make the names in a folder durable; raise OSError where the disk refuses."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush_to_disk(fd)
    finally:
        os.close(fd)


def publish_file(temporary: Path, path: Path) -> None:
    """Put a file that is whole at `path`, durably; both lie in one folder. Raise OSError where the disk refuses."""
    fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)  # macOS flushes only what is open for writing
    try:
        flush_to_disk(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_dir(path.parent)


@contextlib.contextmanager
def publish_with(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends well, its file is durably at `path`.

    The block creates and closes the file. Whatever ends the block otherwise leaves `path` as it was and nothing
    beside it. Raise StorageError for every OSError, the block's own included; `path` is then the old file or, where
    only the folder's flush failed, the new one.
    """
    with _temporary_beside(path) as temporary:
        yield temporary
        publish_file(temporary, path)


def publish_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path`, durably and whole or not at all; raise StorageError."""
    with publish_with(path) as temporary:
        _write_new(temporary, data)


def replace_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` whole or not at all, but flush nothing: for what can be made again. Raise StorageError."""
    with _temporary_beside(path) as temporary:
        _write_new(temporary, data)
        os.replace(temporary, path)


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Give a path for a temporary file, which is gone if the block fails; raise StorageError for every OSError."""
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell; a start sweeps what stays
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise StorageError(path, doing="write the file", cause=error) from error
        raise


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)


def remove_folder(folder: Path) -> None:
    """Remove a folder of things that can be made again, as far as that can be done."""
    shutil.rmtree(folder, ignore_errors=True)


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise FileNotFoundError as it is, StorageError for a disk that can't read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(path, doing="read the file", cause=error) from error


def list_names(folder: Path) -> list[str]:
    """Return the sorted names in a folder, temporaries left out; an absent folder is empty. Raise StorageError."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(folder, doing="list the folder", cause=error) from error


def modified_ms(path: Path) -> int:
    """Return when a file was last written, in milliseconds since the epoch; raise StorageError."""
    try:
        return os.stat(path).st_mtime_ns // 1_000_000
    except OSError as error:
        raise StorageError(path, doing="look at the file", cause=error) from error


def make_dir(folder: Path) -> None:
    """Make a folder and its parents durably, unless it is there; raise StorageError."""
    try:
        if not folder.is_dir():
            if not folder.parent.is_dir():
                make_dir(folder.parent)
            folder.mkdir(exist_ok=True)
            sync_dir(folder.parent)
    except OSError as error:
        raise StorageError(folder, doing="make the folder", cause=error) from error


def rename(path: Path, *, to: Path) -> None:
    """Rename within one folder, durably; raise StorageError."""
    try:
        os.replace(path, to)
        sync_dir(to.parent)
    except OSError as error:
        raise StorageError(path, doing=f"rename the file to {to.name}", cause=error) from error


def remove(path: Path) -> None:
    """Remove a file durably, unless it is gone already; raise StorageError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sync_dir(path.parent)
    except OSError as error:
        raise StorageError(path, doing="remove the file", cause=error) from error


def sweep_temporaries(folder: Path) -> int:
    """Remove what interrupted publishing left in a folder and return how many files; only under the run's lock.

    Without the lock it would take files from under a writer's hands. Raise StorageError.
    """
    try:
        left_over = [name for name in os.listdir(folder) if name.startswith(_TEMPORARY_PREFIX)]
        for name in left_over:
            os.unlink(folder / name)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StorageError(folder, doing="remove left-over temporary files", cause=error) from error
    return len(left_over)


def hold_space(folder: Path, n_bytes: int) -> int | None:
    """Take up so many bytes of a folder's disk and return the descriptor whose closing gives them back.

    The file has no name, so that none stays behind, however the process ends. None where files may not grow so large:
    that is no matter of the disk's room. Raise OSError where the disk refuses.
    """
    path = folder / f"{_TEMPORARY_PREFIX}{secrets.token_hex(4)}-held"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.unlink(path)
        write_all(fd, os.urandom(n_bytes))  # zeros may take no room at all on a disk that compresses
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EFBIG:
            return None
        raise
    return fd


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write where `path` is or would be; raise StorageError."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    try:
        status = os.statvfs(place)
    except OSError as error:
        raise StorageError(place, doing="ask for the free space", cause=error) from error
    return status.f_bavail * status.f_frsize
