"""What a power cut would leave of a run directory: what was flushed, and of the rest whatever the dice say.

Kept beside the real calls, as harsh as POSIX allows: a name that was made, moved or taken away counts once its folder
was flushed, and until then each such change may have come to the disk or not; bytes count once their file was flushed,
and until then some, all or none of them may be there, or zeros in their place.
"""

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Power"]

_FOLDER = -1  # in place of a file's number


class Power:
    """One process's view of the disk; `real` are the unwrapped calls. What is there at the start is durable."""

    def __init__(self, root: Path, real: Mapping[str, Callable[..., Any]], *, seed: int) -> None:
        self._root, self._real, self._dice = root, real, random.Random(seed)
        self._count = 0
        self._names: dict[Path, int] = {}  # as they are
        self._durable: dict[Path, dict[str, int]] = {}  # as last flushed, by folder
        self._changes: dict[Path, list[tuple[str, int | None]]] = {}  # since then: a name and what it now means
        self._flushed: dict[int, bytes] = {}
        self._readers: dict[int, tuple[Path, int, int]] = {}  # by descriptor: path, number, one to read from
        for folder, folders, files in os.walk(root):
            for name in files:
                path = Path(folder, name)
                self._names[path] = self._new_number()
                self._flushed[self._names[path]] = path.read_bytes()
            self._durable[Path(folder)] = dict.fromkeys(folders, _FOLDER) | {
                name: self._names[Path(folder, name)] for name in files
            }

    def note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Take in a call that was made."""
        match name:
            case "open":
                self._opened(Path(args[0]), result)
            case "mkdir":
                self._change(Path(args[0]), _FOLDER)
            case "replace":
                number = self._names.pop(Path(args[0]))
                self._change(Path(args[0]), None)
                self._names[Path(args[1])] = number
                self._change(Path(args[1]), number)
            case "unlink":
                self._names.pop(Path(args[0]), None)
                self._change(Path(args[0]), None)
            case "fsync" | "fdatasync":
                path, number, reader = self._readers[args[0]]
                if number == _FOLDER:
                    self._flush_folder(path)
                else:
                    self._flushed[number] = _content(reader)

    def closed(self, fd: int) -> None:
        """Take in that a descriptor is given back."""
        if (found := self._readers.pop(fd, None)) is not None:
            self._real["close"](found[2])

    def cut(self) -> None:
        """Write what is left beside the run directory, as `cut`."""
        contents = {number: _content(reader) for _, number, reader in self._readers.values() if number != _FOLDER}
        target = self._root.with_name("cut")
        self._real["mkdir"](target)
        self._leave(self._root, target, contents)

    def _leave(self, folder: Path, target: Path, contents: Mapping[int, bytes]) -> None:
        names = dict(self._durable.get(folder, {}))
        harshness = self._dice.choice((0.0, 0.5, 1.0))
        for name, number in self._changes.get(folder, []):
            if self._dice.random() < harshness:
                continue
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number
        for name, number in names.items():
            if number == _FOLDER:
                self._real["mkdir"](target / name)
                self._leave(folder / name, target / name, contents)
            else:
                fd = self._real["open"](target / name, os.O_WRONLY | os.O_CREAT, 0o600)
                self._real["write"](fd, self._content_left(number, contents))
                self._real["close"](fd)

    def _content_left(self, number: int, contents: Mapping[int, bytes]) -> bytes:
        flushed = self._flushed.get(number, b"")
        tail = contents.get(number, flushed)[len(flushed) :]
        kept = self._dice.randrange(len(tail) + 1)
        return flushed + self._dice.choice((b"", tail[:kept], tail, bytes(len(tail))))

    def _opened(self, path: Path, fd: int) -> None:
        reader = self._real["open"](path, os.O_RDONLY)
        if path.is_dir():
            self._readers[fd] = (path, _FOLDER, reader)
            return
        if path not in self._names:
            self._names[path] = self._new_number()
            self._change(path, self._names[path])
        self._readers[fd] = (path, self._names[path], reader)

    def _change(self, path: Path, number: int | None) -> None:
        self._changes.setdefault(path.parent, []).append((path.name, number))

    def _flush_folder(self, folder: Path) -> None:
        names = self._durable.setdefault(folder, {})
        for name, number in self._changes.pop(folder, []):
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number

    def _new_number(self) -> int:
        self._count += 1
        return self._count


def _content(reader: int) -> bytes:
    return os.pread(reader, os.fstat(reader).st_size, 0)
