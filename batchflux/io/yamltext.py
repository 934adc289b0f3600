"""YAML text to values with their places in the file, and back; nothing is changed in silence on the way.

Stricter than YAML 1.1, whose readers turn 16:9 into 969, 010 into 8, NO into false and keep the last of two equal keys:
what readers of YAML disagree about is refused with what to write, the rest is read as written. Bounded in size, depth
and expanded aliases, so that a hostile file costs no more than an honest one. Knows nothing of the spec's keys.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

import yaml

from batchflux.core.errors import JobSpecError, Problem
from batchflux.core.findings import BadValue, KeyedProblem, KeyPath, dotted, shortened
from batchflux.core.model import JsonValue
from batchflux.core.parameters import exact_number

__all__ = ["DEEPEST", "PARSER", "Node", "Position", "dump_job", "place", "read_yaml", "resolve", "review_yaml"]

DEEPEST = 20  # levels of nesting; a spec needs five
_MOST_NODES = 50_000  # values with aliases expanded: an axis of so many is better a column of the table
_MOST_PROBLEMS = 50
_MERGE_KEY = "<<"  # no key of a spec is called so, in quotes or without

_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?")
_BASED = re.compile(r"[-+]?0[xXoObB][0-9a-fA-F_]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_UNDERSCORED = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

# Not printable in YAML, or a line break to YAML 1.1 and plain text to YAML 1.2 (U+0085, U+2028, U+2029).
_UNWRITABLE = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_BEGINS_WITH_SYNTAX = re.compile(r"\s*(?:- +)*(?:[^\s'\"#:]+ *: +)?([{\[*&!%@`|>])")

# libyaml where PyYAML was built with it (its wheels are): ten times as fast.
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a value stands: the file as it is printed, line and column from 1; line 0 where `--set` says it."""

    file: str
    line: int
    column: int


Scalar: TypeAlias = "None | bool | int | float | str"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and its place: a mapping's entry stands where its key does.

    `size` counts the values in it, aliases expanded, `height` the levels of nesting; `is_empty` where nothing at all
    is written, not even null.
    """

    value: "Scalar | list[Node] | dict[str, Node]"
    position: Position
    size: int = 1
    height: int = 0
    is_empty: bool = False


def place(position: Position, path: KeyPath) -> str:
    """Return where a key stands, as messages begin: `FILE:LINE:COLUMN: key.path`, or `--set key.path`."""
    key = dotted(path)
    if position.line == 0:
        return f"{position.file} {key}" if key else position.file
    return f"{position.file}:{position.line}:{position.column}" + (f": {key}" if key else "")


def resolve(text: str, *, base_60_is_text: bool = False) -> Scalar:
    """Return what an unquoted text says: true, false, null, a decimal number, else the text; raises BadValue.

    `base_60_is_text` reads 16:9 as text instead of refusing it, as values of the command line are.
    """
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    shown = shortened(text)
    quoted = f"quote it: '{shown}'"
    if _SEXAGESIMAL.fullmatch(text):
        if base_60_is_text:
            return text
        raise BadValue(f"{shown} without quotes is a number in base 60 to YAML 1.1", quoted)
    if _BASED.fullmatch(text):
        raise BadValue(f"{shown} is no decimal number", f"write it in decimal, or {quoted}")
    if _LEADING_ZERO.fullmatch(text):
        plain = re.sub(r"0+(?=[0-9])", "", text, count=1)
        what = f"{shown} with a zero in front is another number to YAML 1.1"
        raise BadValue(what, f"write {shortened(plain)}, or {quoted}")
    if "_" in text and _UNDERSCORED.fullmatch(text):
        raise BadValue(f"{shown} is a number to YAML 1.1", f"write {shortened(text.replace('_', ''))}, or {quoted}")
    if _NOT_FINITE.fullmatch(text):
        raise BadValue(f"{text} is not a number to reckon with", f"write a decimal number, or {quoted}")
    if not _NUMBER.fullmatch(text):
        return text
    number = exact_number(text)
    if number is None:
        raise BadValue(f"{shown} has more digits than a number keeps", "write fewer, or quote it if it is text")
    return number


def read_yaml(text: str, *, at: Position, base_60_is_text: bool = False, path: KeyPath = ()) -> Node | None:
    """Return the one document of a YAML text, None where there is none; raises JobSpecError with all that is wrong.

    `at` is where the text begins (its line 0 stands for the command line), `path` the key that it is the value of.
    """
    composer = _Composer(text, at=at, path=path, base_60_is_text=base_60_is_text)
    node = composer.document()
    if composer.faults:
        raise JobSpecError([problem for _, problem in composer.faults])
    return node


def review_yaml(text: str, *, at: Position) -> tuple[Node | None, tuple[KeyedProblem, ...]]:
    """Return what `read_yaml` does, beside the problems of single values, so that they can be told with all others.

    A refused value stands there as the text that is written. Raises JobSpecError where the reading can't go on.
    """
    composer = _Composer(text, at=at, path=(), base_60_is_text=False)
    return composer.document(), tuple(composer.faults)


class _Composer:
    """Builds nodes from the parser's events; what is wrong with one value is noted, what ends the reading is raised."""

    def __init__(self, text: str, *, at: Position, path: KeyPath, base_60_is_text: bool) -> None:
        self.faults: list[KeyedProblem] = []
        self._text, self._at, self._path, self._base_60_is_text = text, at, path, base_60_is_text
        self._anchors: dict[str, Node | None] = {}
        self._events = self._parse()

    def document(self) -> Node | None:
        """Return the document's root."""
        node: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    self._stop(
                        self._position(event), self._path, "a second document begins here", "keep one job a file"
                    )
                node = self._node(next(self._events), path=self._path, depth=0)
        return node

    def _parse(self) -> Iterator[yaml.Event]:
        odd = _UNWRITABLE.search(self._text)
        if odd is not None:
            line, column = self._text.count("\n", 0, odd.start()), odd.start() - self._text.rfind("\n", 0, odd.start())
            what, code = "a character that YAML can't hold as it is", f"U+{ord(odd[0]):04X}"
            then = f'write it as an escape in double quotes: "{_escape(odd[0])}"'
            self._stop(self._at_mark(line, column - 1), self._path, f"{what}: {code}", then)
        try:
            yield from yaml.parse(self._text, Loader=PARSER)
        except yaml.MarkedYAMLError as error:
            self._refuse_syntax(error)

    def _refuse_syntax(self, error: yaml.MarkedYAMLError) -> NoReturn:
        mark = error.problem_mark or error.context_mark
        lines = self._text.split("\n")
        if error.context_mark is not None and (mark is None or mark.line >= len(lines) or not lines[mark.line].strip()):
            mark = error.context_mark  # what is never closed is better seen where it opens
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        row = lines[line] if line < len(lines) else ""
        hint = "a text with a colon, or that begins with one of { [ * & ! % @ ` needs quotes"
        begins = _BEGINS_WITH_SYNTAX.match(row)
        if row[column : column + 1] == "\t" or (row[:column] + "x").lstrip(" ").startswith("\t"):
            self._stop(self._at_mark(line, column), self._path, "a tab can't indent YAML", "use spaces")
        if begins is not None:
            hint = f"a text that begins with {begins[1]} needs quotes around it"
        self._stop(self._at_mark(line, column), self._path, f"not YAML: {error.problem or error.context}", hint)

    def _at_mark(self, line: int, column: int) -> Position:
        if self._at.line == 0:
            return self._at
        return Position(file=self._at.file, line=self._at.line + line, column=column + 1)

    def _position(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        return self._at_mark(mark.line, mark.column) if mark is not None else self._at

    def _stop(self, position: Position, path: KeyPath, what: str, instead: str) -> NoReturn:
        self._note(position, path, what, instead)
        self._raise()

    def _raise(self) -> NoReturn:
        raise JobSpecError([problem for _, problem in self.faults])

    def _note(self, position: Position, path: KeyPath, what: str, instead: str) -> None:
        self.faults.append((path, Problem(where=place(position, path), what=what, instead=instead)))
        if len(self.faults) > _MOST_PROBLEMS:
            self._raise()

    def _node(self, event: yaml.Event, *, path: KeyPath, depth: int) -> Node:
        position = self._position(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, position, path=path, depth=depth)
        if not isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
            raise TypeError(f"the parser gave a {type(event).__name__} where a value begins")
        if event.tag is not None:
            self._note(position, path, "tags (!...) are not read", "take the tag away; quote what is text")
        if event.anchor is not None:
            if event.anchor in self._anchors:
                self._note(
                    position, path, f"the anchor &{shortened(event.anchor)} is there twice", "give it another name"
                )
            self._anchors[event.anchor] = None  # not whole yet: an alias in it would be endless
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, position, path=path)
        else:
            if depth >= DEEPEST:
                self._stop(position, path, f"nested deeper than {DEEPEST} levels", "a spec needs no more than five")
            is_list = isinstance(event, yaml.SequenceStartEvent)
            compose = self._sequence if is_list else self._mapping
            node = compose(position, path=path, depth=depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, position: Position, *, path: KeyPath, depth: int) -> Node:
        name = event.anchor
        shown = shortened(str(name))
        if name not in self._anchors:
            self._stop(position, path, f"*{shown} names no anchor before it", f"quote it if it is text: '*{shown}'")
        node = self._anchors[name]
        if node is None:
            self._stop(position, path, f"*{shown} stands inside what it names", "write the value out")
        if depth + node.height > DEEPEST:
            self._stop(position, path, f"nested deeper than {DEEPEST} levels", "a spec needs no more than five")
        return replace(node, position=position)

    def _scalar(self, event: yaml.ScalarEvent, position: Position, *, path: KeyPath) -> Node:
        is_plain = event.implicit[0] and event.tag is None
        if not is_plain:
            if any("\ud800" <= character <= "\udfff" for character in event.value):
                self._note(position, path, "half a character (a lone surrogate)", "write the whole character")
            return Node(value=event.value, position=position)
        try:
            value = resolve(event.value, base_60_is_text=self._base_60_is_text)
        except BadValue as fault:
            self._note(position, path, fault.what, fault.instead)
            value = event.value
        return Node(value=value, position=position, is_empty=event.value == "")

    def _sequence(self, position: Position, *, path: KeyPath, depth: int) -> Node:
        items: list[Node] = []
        size = height = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node = self._node(event, path=(*path, len(items)), depth=depth)
            items.append(node)
            size, height = self._bounded(size + node.size, position, path), max(height, node.height)
        return Node(value=items, position=position, size=size + 1, height=height + 1)

    def _mapping(self, position: Position, *, path: KeyPath, depth: int) -> Node:
        entries: dict[str, Node] = {}
        size = height = 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, at = self._key(event, path), self._position(event)
            node = self._node(next(self._events), path=(*path, key), depth=depth)
            if key in entries:
                line = entries[key].position.line
                self._note(at, (*path, key), f"the key is there twice, first on line {line}", "keep one of them")
            if key != _MERGE_KEY:
                entries[key] = replace(node, position=at)
            size, height = self._bounded(size + node.size, position, path), max(height, node.height)
        return Node(value=entries, position=position, size=size + 1, height=height + 1)

    def _key(self, event: yaml.Event, path: KeyPath) -> str:
        position = self._position(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(position, path, "a key must be a plain word", "text that begins with { or [ needs quotes")
        if event.tag is not None:
            self._note(position, path, "tags (!...) are not read", "take the tag away")
        if event.anchor is not None:
            self._note(position, path, "a key can't be an anchor", "write &name before the value")
        if event.value == _MERGE_KEY:
            self._note(position, path, "merge keys (<<) are not read", "write the keys out, or use extends")
        return event.value

    def _bounded(self, size: int, position: Position, path: KeyPath) -> int:
        if size > _MOST_NODES:
            what = f"holds more than {_MOST_NODES} values, aliases counted as often as they are used"
            self._stop(position, path, what, "put long lists into the prompt table")
        return size


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class _Dumper(yaml.SafeDumper):
    """Writes what `read_yaml` reads back as the equal value: text in quotes wherever it could be taken otherwise."""

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out, so that no anchors appear."""
        return True


_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
# Words that readers of YAML take for something else than text.
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    is_plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


def _write_list(dumper: yaml.SafeDumper, items: list[JsonValue]) -> yaml.Node:
    is_flat = not any(isinstance(item, list | dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_flat)


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(list, _write_list)


def dump_job(mapping: dict[str, JsonValue]) -> str:
    """Return a mapping as YAML that `read_yaml` reads back as the equal mapping, keys in their order."""
    return yaml.dump(mapping, Dumper=_Dumper, allow_unicode=True, sort_keys=False, default_flow_style=False, width=100)
