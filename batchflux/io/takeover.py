"""Takes an image over from another run's directory: a hard link where that can be, else a copy; never its bytes unseen.

What is taken is hashed where it will lie, before it gets its name. Reads only plain files inside that directory, and
changes nothing there.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from batchflux.core.errors import StorageError
from batchflux.io.storage import make_dir, publish_file

__all__ = ["take_file"]

# What a link answers where only a copy can be: another disk, a file system without links, a foreign owner's file.
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EIO})


def take_file(source_dir: Path, name: str, run_dir: Path, path: str, *, sha256: str) -> int | None:
    """Put the file `name` of one run at `path` of another, durably; returns its size, None where it isn't as hashed.

    Both names are relative to their run directories. Raises StorageError where the own disk refuses.
    """
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        return None
    target = run_dir / path
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")  # the prefix that a start sweeps
    try:
        if not target.parent.is_dir():
            make_dir(target.parent)
        try:
            if not _bring(source_dir / place, temporary):
                return None
            size_bytes = _size_if(temporary, sha256)
            if size_bytes is not None:
                publish_file(temporary, target)
            return size_bytes
        finally:
            # A rename onto another link of the same file does nothing, and leaves both.
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise StorageError(target, doing="take an image over", cause=error) from error


def _bring(source: Path, temporary: Path) -> bool:
    """Link or copy a plain file; tells whether there was one that can be read."""
    try:
        if not stat.S_ISREG(os.lstat(source).st_mode):
            return False
        if not os.access(source, os.W_OK):  # what is to be flushed must be open for writing on some systems
            return _copy(source, temporary)
        os.link(source, temporary, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return _copy(source, temporary)
        if error.errno in _GONE:
            return False
        raise
    return True


def _copy(source: Path, temporary: Path) -> bool:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    with open(fd, "rb") as theirs, temporary.open("xb") as ours:
        shutil.copyfileobj(theirs, ours, 1 << 20)
    return True


def _size_if(path: Path, sha256: str) -> int | None:
    """Return a file's size where its hash is this."""
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size if found == sha256 else None
