"""Other runs of this user on this machine with the same key at the same service: who is there, and what each holds.

One folder an account under the user's state folder, named by a keyed hash from which neither key nor address can be
had back. Each live run keeps one small file in it, locked for as long as it lives: a file whose lock is free was left
by a run that died, and is removed. Nobody writes another's file. No folder, no locks, no rights: then a run is alone.
"""

import fcntl
import json
import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from batchflux.core.learned import Learned
from batchflux.io.limitsfile import parse_limits, read_limits, write_limits

__all__ = ["Neighbours", "state_folder"]

_RUN_PREFIX = "run-"
_MOST_BYTES = 4096


def state_folder(environment: Mapping[str, str]) -> Path | None:
    """Return where this user's programs keep their state, None where nothing tells."""
    stated = environment.get("XDG_STATE_HOME", "")
    if stated and Path(stated).is_absolute():
        return Path(stated) / "batchflux"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Application Support" if sys.platform == "darwin" else ".local/state") / "batchflux"


class Neighbours:
    """This run among the others of one account; a context manager. Nothing in it ever raises for what a disk does."""

    def __init__(self, folder: Path | None, *, is_lasting: bool = True) -> None:
        # A service on this machine is gone with its port: nothing of it is remembered.
        self._folder, self._is_lasting = folder, is_lasting
        self._path: Path | None = None
        self._fd: int | None = None
        self._heard: dict[str, Learned] = {}

    def __enter__(self) -> Self:
        if self._folder is not None:
            with suppress(OSError):
                self._join(self._folder)
        return self

    def _join(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{_RUN_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.json"
        # Locked before it has the name by which others find it: they would take it for a dead run's.
        unseen = folder / f".{name}"
        fd = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(unseen, folder / name)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                os.unlink(unseen)
            raise
        self._path, self._fd = folder / name, fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._path is not None and self._fd is not None:
            with suppress(OSError):
                os.unlink(self._path)
            os.close(self._fd)
            if self._folder is not None and not self._is_lasting:
                with suppress(OSError):  # others may still be there
                    os.rmdir(self._folder)
        self._path, self._fd = None, None

    def remembered(self) -> Learned | None:
        """Return what the last run of this account learned."""
        return read_limits(self._folder) if self._folder is not None else None

    def remember(self, learned: Learned) -> None:
        """Keep what was learned for the next run of this account."""
        if self._folder is not None and self._fd is not None and self._is_lasting:
            write_limits(self._folder, learned)

    def exchange(self, mine: Learned) -> tuple[list[Learned], list[Learned]]:
        """Tell the others what this run holds; returns what the live ones hold, and what those held that left."""
        if self._fd is None or self._folder is None:
            return [], []
        heard: dict[str, Learned] = {}
        with suppress(OSError):
            data = json.dumps(mine.as_mapping()).encode()
            os.pwrite(self._fd, data.ljust(_MOST_BYTES // 8), 0)  # one length, so that one write replaces it all
            names = sorted(name for name in os.listdir(self._folder) if name.startswith(_RUN_PREFIX))
            for name in names:
                path = self._folder / name
                if path != self._path and (found := _hear(path, self._heard.get(name))) is not None:
                    heard[name] = found
        gone = [learned for name, learned in self._heard.items() if name not in heard]
        self._heard = heard
        return list(heard.values()), gone


def _hear(path: Path, before: Learned | None) -> Learned | None:
    """Return what a live run holds, as before where it is just being written; None for a dead one, which is removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.unlink(path)
        return None
    except BlockingIOError:
        with suppress(OSError):
            return parse_limits(os.pread(fd, _MOST_BYTES, 0)) or before
        return before
    except OSError:
        return None
    finally:
        os.close(fd)
