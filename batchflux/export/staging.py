"""A folder that is there whole or not at all: built under a dot-name beside its place, renamed at the end.

What a killed export left is taken over and built anew by the next one; two at a time are told apart by a lock that
dies with its process.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from batchflux.core.errors import StorageError, UsageError
from batchflux.io.storage import sync_dir

__all__ = ["build_folder"]


@contextlib.contextmanager
def build_folder(dest: Path) -> Iterator[Path]:
    """Give an empty folder; when the block ends well it stands at `dest`, durably, and else nothing does.

    Raises UsageError where `dest` is taken, and StorageError for every OSError, the block's own included.
    """
    if not dest.parent.is_dir():
        raise UsageError(f"{dest}: there is no folder {dest.parent}")
    if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and next(dest.iterdir(), None) is None)):
        raise UsageError(f"{dest}: is there already; a dataset is written whole, so name a new folder or remove it")
    folder = dest.with_name(f".{dest.name}.partial")  # not the prefix whose files a run sweeps
    try:
        lock = _take(folder, dest)
        try:
            _empty(folder)
            yield folder
            os.sync()  # one flush for any number of files
            os.rename(folder, dest)
            sync_dir(dest.parent)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # the first error is the one to tell; the next export sweeps
            raise
        finally:
            os.close(lock)
    except OSError as error:
        raise StorageError(dest, doing="write the dataset", cause=error) from error


def _take(folder: Path, dest: Path) -> int:
    """Make the folder, or take over what a killed export left; returns the lock on it."""
    while True:
        folder.mkdir(exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(folder), os.fstat(fd)):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise UsageError(f"{dest}: another export to it is at work; wait for it or stop it first") from None
        except FileNotFoundError:  # renamed to its place, or removed, by the one that held it
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
