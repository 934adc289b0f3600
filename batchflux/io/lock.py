"""One runner a run directory: an advisory lock of the operating system on `<run_dir>/lock`.

The file is never deleted (a lock on a deleted file guards nothing); its content says who holds it, or died with it, and
decides nothing. `flock`, not POSIX record locks: those are lost as soon as the process closes any other descriptor of
the file, and let one process lock twice. Readers (`status`, `verify`, ...) need no lock; to tell whether a run is at
work they share it for an instant, which a run that begins just then waits out.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from batchflux.core.errors import RunDirLocked, StorageError
from batchflux.io.storage import make_dir, write_all

__all__ = ["RunLock", "is_run_at_work"]

_LOCK_NAME = "lock"
_MAX_HOLDER_BYTES = 4096  # ours is about 100; a file put there by somebody else is not read to its end
# Who asks has shared it for microseconds: longer than this is a reader that was stopped in between.
_ASKED_AGAIN_S, _STOPPED_S = 0.001, 5.0


class RunLock:
    """Hold a run directory for the time of a `with` block; the lock dies with the process, whatever kills it.

    `was_left` tells whether whoever held it before died with it. Entering raises RunDirLocked with the holder's pid,
    host and start, or StorageError where the file system can't lock. The directory is made where it isn't there.
    Children don't inherit the lock, forked or started.
    """

    def __init__(self, run_dir: Path) -> None:
        self.was_left = False
        self._run_dir, self._path = run_dir, run_dir / _LOCK_NAME
        self._fd: int | None = None

    def __enter__(self) -> Self:
        make_dir(self._run_dir)
        path = self._path
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise StorageError(path, doing="open the lock", cause=error) from error
        try:
            _take(fd)
            self.was_left = os.fstat(fd).st_size > 0
            _write_holder(fd)
        except BlockingIOError as error:
            holder = _read_holder(fd)
            os.close(fd)
            raise RunDirLocked(self._run_dir, holder=holder) from error
        except OSError as error:
            os.close(fd)
            raise StorageError(path, doing="lock the run directory", cause=error) from error
        self._fd = fd
        # A forked child shares the open file, and would hold the lock on after its parent's death. It must only close
        # it: an unlock by any one who shares it is an unlock for all.
        os.register_at_fork(after_in_child=self._close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):  # closing unlocks as well, where no forked child is yet to close its own
                # Nobody holds it any more, though this process may live on, as a notebook's does.
                os.ftruncate(self._fd, 0)
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._close()

    def is_held(self) -> bool:
        """Answer whether the lock still guards the directory: held, and the file neither deleted nor replaced."""
        if self._fd is None:
            return False
        try:
            there = os.lstat(self._path)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _take(fd: int) -> None:
    """Lock it for this process alone; raises BlockingIOError where another one has done so."""
    give_up_at_s = time.monotonic() + _STOPPED_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_held_alone(fd) or time.monotonic() > give_up_at_s:
                raise
            time.sleep(_ASKED_AGAIN_S)
        else:
            return


def _is_held_alone(fd: int) -> bool:
    """Answer whether a run holds the lock: who only asks can share it, and gives it back at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked in between shares it, and holds it on where this end is only closed
    return False


def _write_holder(fd: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(fd, 0)
    write_all(fd, json.dumps(holder).encode() + b"\n")


def _read_holder(fd: int) -> str:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        holder = json.loads(os.pread(fd, _MAX_HOLDER_BYTES, 0))
        return f"pid {int(holder['pid'])} on {holder['host']} since {holder['started_at']}"
    return "a process that has not yet said its name"


def is_run_at_work(run_dir: Path) -> bool:
    """Return whether a run is at work in a directory: whether its lock is held, whatever the file says of the holder.

    The id in the file may be another process's by now, and the run another container's or machine's.
    """
    try:
        fd = os.open(run_dir / _LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _is_held_alone(fd)
    except OSError:  # nor could a run lock it here
        return False
    finally:
        os.close(fd)
