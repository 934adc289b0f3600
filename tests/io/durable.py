"""Helpers of the durability tests: sample facts, and a disk that dies or loses its power at a chosen call."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.journal import encode_fact
from batchflux.io.parts import build_table

NOW_MS = 1_763_000_000_000

text = st.text(st.characters(), max_size=20)
valid_text = st.text(max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)


def make_fact(number: int, *, kind: FactKind = FactKind.OUTCOME, **changes: Any) -> Fact:
    """A fact of cell `number`, with every kind of field in use."""
    fact = Fact(
        cell_id=f"{number:032x}",
        kind=kind,
        at_ms=NOW_MS + number,
        attempt=1,
        status=CellStatus.COMPLETED,
        attempts=1,
        cost_micro_usd=80_000,
        prediction_id=f"prediction-{number}",
        outputs=(f"https://host.example/{number}.png",),
        has_nsfw_contents=(None, False),
        warnings=("a “warning”",),
    )
    return dataclasses.replace(fact, **changes)


def make_facts(count: int, *, start: int = 0) -> list[Fact]:
    """Facts of `count` different cells."""
    return [make_fact(number) for number in range(start, start + count)]


def as_table(facts: Sequence[Fact]) -> pa.Table:
    """Facts as a table of FACT_SCHEMA, the way a part holds them."""
    return build_table([encode_fact(fact) for fact in facts])


def cell_numbers(table: pa.Table) -> list[int]:
    """The cells of a table of `make_fact`'s facts, in order."""
    return [int(cell_id, 16) for cell_id in table.column("cell_id").to_pylist()]


@st.composite
def facts(draw: st.DrawFn, *, strings: st.SearchStrategy[str] = text, cells: int = 5) -> Fact:
    """Any fact, of one of a few cells."""
    numbers = st.none() | int64
    maybe = st.none() | strings
    return Fact(
        cell_id=f"{draw(st.integers(0, cells - 1)):032x}",
        kind=draw(st.sampled_from(FactKind)),
        at_ms=draw(st.integers(0, 2**42)),
        attempt=draw(st.integers(1, 3)),
        status=draw(st.sampled_from(CellStatus)),
        attempts=draw(st.integers(0, 3)),
        cost_micro_usd=draw(int64),
        prompt_id=draw(maybe),
        model=draw(maybe),
        body=draw(maybe),
        price_micro_usd=draw(numbers),
        prediction_id=draw(maybe),
        submitted_at_ms=draw(st.none() | st.integers(0, 2**42)),
        latency_ms=draw(numbers),
        outputs=tuple(draw(st.lists(strings, max_size=2))),
        has_nsfw_contents=tuple(draw(st.lists(st.sampled_from([None, False, True]), max_size=2))),
        files=tuple(draw(st.lists(strings, max_size=2))),
        file_bytes=tuple(draw(st.lists(int64, max_size=2))),
        error_kind=draw(st.sampled_from([None, "download", "server"])),
        error=draw(maybe),
        warnings=tuple(draw(st.lists(strings, max_size=2))),
        fetched_sha256=tuple(draw(st.lists(strings, max_size=1))),
    )


class Crash(BaseException):
    """The process is dead: nothing in the code under test may catch it and go on."""


Death = Literal["before", "after", "torn"]


class DyingDisk:
    """Counts the calls that change the disk, dies at one of them, and knows what a power cut would leave.

    "before" and "after" are the call not made and made; "torn" writes the first half. From then on every call dies,
    so that no clean-up can touch the disk either. `cut_power` puts back what was flushed: file contents as of their
    last flush, names as of the last flush of their folder.
    """

    def __init__(self, root: Path, *, die_at: int | None = None, death: Death = "before") -> None:
        self.calls: list[str] = []
        self.is_dead = False
        self._root, self._die_at, self._death = root, die_at, death
        self._ids: dict[Path, int] = {}
        self._open: dict[int, Path] = {}
        self._flushed: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._count = 0

    @contextmanager
    def mounted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["DyingDisk"]:
        """Stand between `os` and the disk."""
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "fdatasync", "replace", "unlink")}
        for path in self._root.rglob("*"):  # what was there before is durable
            if path.is_file():
                self._flushed[self._id(path)] = path.read_bytes()
        for folder in [path for path in self._root.rglob("*") if path.is_dir()]:
            self._keep_names(folder)
        with monkeypatch.context() as patch:
            for name, call in real.items():
                patch.setattr(os, name, self._guarded(name, call))
            patch.setattr(os, "close", self._closing(os.close))
            yield self

    def _closing(self, close: Callable[[int], None]) -> Callable[[int], None]:
        def closing(fd: int) -> None:
            self._open.pop(fd, None)  # the number may be another file's next
            close(fd)

        return closing

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not self._is_ours(args):
                return call(*args, **kwargs)
            if self.is_dead:
                raise Crash(name)
            self.calls.append(name)
            if len(self.calls) - 1 != self._die_at:
                result = call(*args, **kwargs)
                self._note(name, args, result)
                return result
            self.is_dead = True
            if self._death == "torn" and name == "write":
                call(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif self._death != "before":
                self._note(name, args, call(*args, **kwargs))
            self.die()
            raise Crash(name)

        return guarded

    def die(self) -> None:
        """What death is, beyond the exception; a child process overrides it."""

    def _is_ours(self, args: tuple[Any, ...]) -> bool:
        if isinstance(args[0], int):
            return args[0] in self._open
        return Path(args[0]).is_relative_to(self._root)

    def _id(self, path: Path) -> int:
        if path not in self._ids:
            self._count += 1
            self._ids[path] = self._count
        return self._ids[path]

    def _keep_names(self, folder: Path) -> None:
        self._names[folder] = {path.name: number for path, number in self._ids.items() if path.parent == folder}

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        match name:
            case "open":
                self._open[result] = Path(args[0])
                if not Path(args[0]).is_dir():
                    self._id(Path(args[0]))
            case "fsync" | "fdatasync":
                path = self._open[args[0]]
                if path.is_dir():
                    self._keep_names(path)
                else:
                    self._flushed[self._id(path)] = path.read_bytes()
            case "replace":
                self._ids[Path(args[1])] = self._ids.pop(Path(args[0]))
            case "unlink":
                del self._ids[Path(args[0])]

    def cut_power(self) -> None:
        """Leave on the real disk what was flushed, and nothing else."""
        for folder, names in self._names.items():
            for path in folder.iterdir():
                if path.is_file():
                    path.unlink()
            for name, number in names.items():
                (folder / name).write_bytes(self._flushed.get(number, b""))
