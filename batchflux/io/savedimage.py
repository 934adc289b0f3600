"""Takes a saved image out of a run directory, whole and as hashed, or says why not. Reads alone, or links.

Only plain files inside the run directory; what was changed since it was saved is an error, never data.
"""

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from batchflux.core.errors import StorageError, UsageError

__all__ = ["check_inside", "link_image", "read_image"]


def read_image(run_dir: Path, path: str, *, sha256: str) -> bytes:
    """Return the bytes of an image of the manifest. Raises UsageError where it isn't there as it was saved."""
    check_inside(path)
    try:
        # A pipe put in a file's place would wait for a writer for ever.
        with open(run_dir / path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal(path, "is no plain file")
            data = file.read()
    except FileNotFoundError:
        raise _refusal(path, "is not there") from None
    except OSError as error:
        raise _refusal(path, f"can't be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _refusal(path, "has other bytes than were saved")
    return data


def link_image(run_dir: Path, path: str, to: Path) -> int:
    """Give an image a second name and return its bytes; its hash is not looked at. Raises UsageError, StorageError."""
    check_inside(path)
    try:
        status = os.stat(run_dir / path, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(path, "is no plain file")
        os.link(run_dir / path, to)
    except FileNotFoundError:
        raise _refusal(path, "is not there") from None
    except OSError as error:
        raise StorageError(to, doing="link an image (--copy needs no second name)", cause=error) from error
    return status.st_size


def check_inside(path: str) -> None:
    """Raise UsageError for a path that leads out of the folder that it is relative to."""
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise _refusal(path, "lies outside the run directory")


def _refusal(path: str, what: str) -> UsageError:
    return UsageError(
        f"{path}: {what}; `batchflux verify` names all such files, `batchflux run --download-only` fetches them again"
    )
