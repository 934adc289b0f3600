"""Reads a job file, what it extends and what the command line sets into one mapping that knows where each key stands.

Merges deeply: what is extended first, then the file itself, then `--set`; lists and axes are replaced whole, null takes
away what was inherited, a key with nothing after it says nothing. Relative paths become absolute against the folder of
the file that says them. Decides nothing about what the keys mean: that is `core.spec`.
"""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchflux.core import leaves
from batchflux.core.errors import JobSpecError, Problem
from batchflux.core.findings import BadValue, KeyedProblem, KeyPath, describe
from batchflux.core.model import JsonValue
from batchflux.io.yamltext import DEEPEST, Node, Position, dump_job, place, read_yaml, review_yaml

__all__ = ["Document", "dump_job", "parse_set_options", "read_job_file"]

MOST_BYTES = 1 << 20  # a spec is a page or two; lists that need more belong into the prompt table

_LONGEST_CHAIN = 20  # files that extend one another: more is a mistake, and each is read
_OPTION = Position(file="--set", line=0, column=0)

# The keys that hold paths. Each is relative to the file that says it, so it is made absolute before files are merged.
_PATHS: tuple[tuple[str, str], ...] = (("prompts", "path"), ("output", "dir"), ("api", "ca_file"))
_RUN_DIRS = "reuse"  # one at the top, of a path or a list of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A job file as it was read: one mapping without `extends`, and the place of each key in it.

    `path` is absolute; `files` are all that were read, the job file first, as they are printed. `faults` are what is
    wrong with the texts of single values, which then stand in `data` as they are written: to be told with all that
    the spec has wrong besides, and never to be passed over.
    """

    path: Path
    data: dict[str, Any]
    positions: Mapping[KeyPath, Position]
    files: tuple[str, ...]
    faults: tuple[KeyedProblem, ...]

    @property
    def values_from_set(self) -> frozenset[KeyPath]:
        """The paths of the keys that `--set` (or `overrides`) gave a value."""
        return frozenset(path for path, position in self.positions.items() if position.line == 0)

    def where(self, path: KeyPath) -> str:
        """Return where a key stands, as messages begin; a key that isn't there stands where its parent does."""
        return place(self._position(path), path)

    def order(self, path: KeyPath) -> tuple[int, ...]:
        """Return the rank of a key among all: by file, line and column; what `--set` says comes last."""
        position = self._position(path)
        file = self.files.index(position.file) if position.line else len(self.files)
        return (file, position.line, position.column)

    def _position(self, path: KeyPath) -> Position:
        while path not in self.positions:
            path = path[:-1]
        return self.positions[path]


def read_job_file(
    path: str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    cwd: Path | None = None,
    most_bytes: int = MOST_BYTES,
) -> Document:
    """Return the job that a file says, with what it extends and with `overrides`; raises JobSpecError where it can't.

    `overrides` maps dotted keys to typed values (`parse_set_options` makes them from text); None takes a key away,
    mappings are merged. Paths in them, and `path` itself, are relative to `cwd` (default: the working directory).
    `most_bytes` bounds each file; a run directory's own `job.yaml` may need more than a person writes.
    """
    folder = Path.cwd() if cwd is None else cwd
    reader = _Reader(folder, most_bytes=most_bytes)
    file = Path(_absolute(str(path), folder=str(folder)))
    options = reader.options(overrides or {})
    extends = options.value.pop("extends", None) if isinstance(options.value, dict) else None
    whole = _merge(reader.load(file, extends=extends), _with_absolute_paths(options, folder=str(folder)))
    if reader.problems:
        raise JobSpecError([*(problem for _, problem in reader.faults), *reader.problems])
    positions: dict[KeyPath, Position] = {}
    data = _flatten(whole, path=(), positions=positions)
    positions[()] = Position(file=reader.files[0], line=1, column=1)
    return Document(path=file, data=data, positions=positions, files=tuple(reader.files), faults=tuple(reader.faults))


def parse_set_options(options: Iterable[str]) -> dict[str, JsonValue]:
    """Return the values of `--set KEY=VALUE` options by key, the last one of a key counting; raises JobSpecError.

    A value is YAML as in a job file, except that one like 16:9 is its text. An empty value takes the key away.
    """
    values: dict[str, JsonValue] = {}
    problems: list[Problem] = []
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key.strip():
            what = f"{describe(option)} is not KEY=VALUE"
            problems.append(Problem(where="--set", what=what, instead="write it like --set run.timeout=10m"))
            continue
        path: KeyPath = tuple(key.strip().split("."))
        try:
            node = read_yaml(text, at=_OPTION, base_60_is_text=True, path=path)
        except JobSpecError as error:
            problems.extend(error.problems)
            continue
        values[key.strip()] = _flatten(node, path=(), positions={}) if node is not None else None
    if problems:
        raise JobSpecError(problems)
    return values


class _Reader:
    """Reads files, each once, and gathers their problems; one that can't be read counts as empty.

    `problems` are those after which nothing can be said of the job, `faults` those of single values.
    """

    def __init__(self, cwd: Path, *, most_bytes: int) -> None:
        self.problems: list[Problem] = []
        self.faults: list[KeyedProblem] = []
        self.files: list[str] = []
        self._cwd, self._most_bytes = cwd, most_bytes
        self._merged: dict[str, Node] = {}

    def options(self, overrides: Mapping[str, object]) -> Node:
        """Return what overrides say as one mapping, in the order given."""
        whole = Node(value={}, position=_OPTION)
        for key, value in overrides.items():
            path = tuple(key.split("."))
            try:
                if not all(path) or len(path) >= DEEPEST:
                    raise BadValue(f"{describe(key)} is no key", "write the names of keys with dots between them")
                node = _node(value, depth=len(path))
            except BadValue as fault:
                where = place(_OPTION, (*path, *fault.at))
                self.problems.append(Problem(where=where, what=fault.what, instead=fault.instead))
                continue
            for name in reversed(path):
                node = Node(value={name: node}, position=_OPTION)
            whole = _merge(whole, node, keep_null=True)
        return whole

    def load(self, file: Path, *, extends: Node | None = None) -> Node:
        """Return a file with all that it extends merged beneath it; `extends` stands for what the file says itself."""
        return self._load(file, chain=(), asked=_shown(file, cwd=self._cwd), extends=extends)

    def _load(
        self,
        file: Path,
        *,
        chain: tuple[Path, ...],
        asked: str,
        extends: Node | None = None,
        beside: Path | None = None,
    ) -> Node:
        """Return a file with all that it extends. `beside` is the folder that it was looked for in by an option."""
        nothing = Node(value={}, position=Position(file="", line=1, column=1))
        same = os.path.realpath(file)
        if same in map(os.path.realpath, chain) or len(chain) >= _LONGEST_CHAIN:
            names = " -> ".join(_shown(step, cwd=self._cwd) for step in (*chain, file))
            what = "the files extend one another in a circle" if len(chain) < _LONGEST_CHAIN else "too many files"
            self.problems.append(Problem(where=asked, what=f"{what}: {names}", instead="take one extends away"))
            return nothing
        if same in self._merged:
            return self._merged[same]
        try:
            entries = self._read(file, asked=asked, chain=chain, beside=beside)
        except JobSpecError as error:
            self.problems.extend(error.problems)
            self._merged[same] = nothing
            return nothing
        said = extends if extends is not None else entries.get("extends")
        own = replace(nothing, value={key: node for key, node in entries.items() if key != "extends"})
        base = nothing
        for parent, where in self._parents(said, folder=file.parent if extends is None else self._cwd):
            beside = None if extends is None else self._cwd
            base = _merge(base, self._load(parent, chain=(*chain, file), asked=where, beside=beside))
        self._merged[same] = _merge(base, _with_absolute_paths(own, folder=str(file.parent)))
        return self._merged[same]

    def _parents(self, said: Node | None, *, folder: Path) -> list[tuple[Path, str]]:
        """Return the files that an `extends` names, each with the place of its name."""
        if said is None or said.value is None:
            return []
        try:
            names = leaves.parse_paths(_flatten(said, path=(), positions={}))
        except BadValue as fault:
            where = place(said.position, ("extends", *fault.at))
            self.problems.append(Problem(where=where, what=fault.what, instead=fault.instead))
            return []
        nodes: Sequence[Node] = said.value if isinstance(said.value, list) else [said]
        paths = [("extends", index) if isinstance(said.value, list) else ("extends",) for index in range(len(names))]
        return [
            (Path(_absolute(name, folder=str(folder))), place(node.position, path))
            for name, node, path in zip(names, nodes, paths, strict=True)
        ]

    def _read(self, file: Path, *, asked: str, chain: tuple[Path, ...], beside: Path | None) -> dict[str, Node]:
        shown = _shown(file, cwd=self._cwd)
        try:
            with file.open("rb") as stream:
                raw = stream.read(self._most_bytes + 1)
        except OSError as error:
            problem = _unreadable(error, shown=shown, asked=asked, chain=chain, cwd=self._cwd, beside=beside)
            raise JobSpecError([problem]) from error
        self.files.append(shown)
        start = Position(file=shown, line=1, column=1)
        if len(raw) > self._most_bytes:
            what = f"is larger than {self._most_bytes >> 10} KiB"
            raise JobSpecError([Problem(where=shown, what=what, instead="put long lists into the prompt table")])
        node, faults = review_yaml(_decoded(raw, shown=shown), at=start)
        self.faults.extend(faults)
        if node is None or node.value is None:
            instead = "a job needs at least prompts: {path: ...}"
            raise JobSpecError([Problem(where=shown, what="the file says nothing", instead=instead)])
        if not isinstance(node.value, dict):
            what = f"must hold keys and values, is {'a list' if isinstance(node.value, list) else 'a single value'}"
            raise JobSpecError([Problem(where=shown, what=what, instead="begin with a key, for example prompts:")])
        return node.value


def _unreadable(
    error: OSError, *, shown: str, asked: str, chain: tuple[Path, ...], cwd: Path, beside: Path | None
) -> Problem:
    if isinstance(error, FileNotFoundError):
        what, instead = "there is no such file", "check the name"
    elif isinstance(error, IsADirectoryError):
        what, instead = "is a folder, not a file", "name the job file in it"
    else:
        what, instead = f"can't be read: {error.strerror or error}", "check the file"
    if not chain:
        return Problem(where=shown, what=what, instead=instead)
    if beside is not None:
        return Problem(where=asked, what=f"{shown}: {what}", instead=f"{instead}; it is looked for in {beside}")
    names = " -> ".join([*(_shown(step, cwd=cwd) for step in chain), shown])
    return Problem(where=asked, what=f"{shown}: {what} ({names})", instead=f"{instead}; it is relative to this file")


def _decoded(raw: bytes, *, shown: str) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise JobSpecError([Problem(where=shown, what="is written in UTF-16", instead="save it as UTF-8")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = len(raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        what = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
        raise JobSpecError(
            [Problem(where=f"{shown}:{line}:{column}", what=what, instead="save the file as UTF-8")]
        ) from error


def _node(value: object, *, depth: int) -> Node:
    """Return a typed value from Python as a node; raises BadValue for what no spec can hold."""
    if depth > DEEPEST:
        raise BadValue(f"nested deeper than {DEEPEST} levels", "a spec needs no more than five")
    if isinstance(value, os.PathLike):
        return Node(value=os.fspath(value), position=_OPTION)
    if isinstance(value, float) and value - value != 0:
        raise BadValue(f"{value} is not a number to reckon with", "give a finite number")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadValue("half a character (a lone surrogate)", "give whole characters")
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value=value, position=_OPTION)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise BadValue(f"a key must be text, is {describe(key)}", "give names as text")
        return Node(value={key: _node(item, depth=depth + 1) for key, item in value.items()}, position=_OPTION)
    if isinstance(value, list | tuple | range):
        return Node(value=[_node(item, depth=depth + 1) for item in value], position=_OPTION)
    raise BadValue(f"can't hold {describe(value)}", "give text, a number, true, false, None, a list or a dict")


def _merge(base: Node, over: Node, *, path: KeyPath = (), keep_null: bool = False) -> Node:
    """Return `over` laid upon `base`: mappings key by key, all else whole; `keep_null` leaves null standing."""
    is_axis = len(path) == 2 and path[0] == "grid"
    if is_axis or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    entries = dict(base.value)
    for key, node in over.value.items():
        if key not in entries:
            entries[key] = node
        elif node.value is None and node.is_empty:
            continue
        elif node.value is None and not keep_null:
            del entries[key]
        else:
            entries[key] = _merge(entries[key], node, path=(*path, key), keep_null=keep_null)
    return replace(over, value=entries)


def _flatten(node: Node, *, path: KeyPath, positions: dict[KeyPath, Position]) -> Any:
    """Return a node as plain values, and note the place of each."""
    positions[path] = node.position
    if isinstance(node.value, dict):
        return {key: _flatten(item, path=(*path, key), positions=positions) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [_flatten(item, path=(*path, i), positions=positions) for i, item in enumerate(node.value)]
    return node.value


def _with_absolute_paths(root: Node, *, folder: str) -> Node:
    if not isinstance(root.value, dict):
        return root
    entries = dict(root.value)
    if _RUN_DIRS in entries:
        entries[_RUN_DIRS] = _absolute_node(entries[_RUN_DIRS], folder=folder, is_glob=False)
    for section, key in _PATHS:
        holder = entries.get(section)
        if holder is None or not isinstance(holder.value, dict) or key not in holder.value:
            continue
        path = _absolute_node(holder.value[key], folder=folder, is_glob=key == "path")
        entries[section] = replace(holder, value={**holder.value, key: path})
    return replace(root, value=entries)


def _absolute_node(node: Node, *, folder: str, is_glob: bool) -> Node:
    if isinstance(node.value, list):
        return replace(node, value=[_absolute_node(item, folder=folder, is_glob=is_glob) for item in node.value])
    if isinstance(node.value, str) and node.value.strip():
        return replace(node, value=_absolute(node.value, folder=folder, is_glob=is_glob))
    return node


def _absolute(path: str, *, folder: str, is_glob: bool = False) -> str:
    """Return a path or a glob as an absolute one; beneath a glob the folder's own name is escaped, being no pattern.

    What is there just as it is written is a file, and no glob, whatever letters are in its name.
    """
    path = os.path.expanduser(path)
    if os.path.isabs(path):
        return os.path.normpath(path)
    folder = os.path.abspath(folder)
    plain = os.path.normpath(os.path.join(folder, path))
    if not is_glob or not glob.has_magic(path) or os.path.lexists(plain):
        return plain
    return os.path.normpath(os.path.join(glob.escape(folder), path))


def _shown(file: Path, *, cwd: Path) -> str:
    """Return a file's name as it is printed: relative where it lies beneath the working directory."""
    absolute = Path(os.path.abspath(file))
    base = Path(os.path.abspath(cwd))
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)
