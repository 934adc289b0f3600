"""What is found wrong while a spec is understood: collected as values, said all at once, in the order of the file.

`BadValue` is how one value's reader refuses; `Findings` gathers refusals with the path of their key and turns them
into `Problem`s. Knows no files: where a key stands is a question asked of the caller. Values that may be a secret
are never repeated in a message.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from batchflux.core.errors import JobSpecError, Problem

__all__ = [
    "BadValue",
    "Findings",
    "KeyPath",
    "KeyedProblem",
    "describe",
    "did_you_mean",
    "dotted",
    "file_order",
    "nearest",
    "shortened",
]

KeyPath: TypeAlias = "tuple[str | int, ...]"
KeyedProblem: TypeAlias = "tuple[KeyPath, Problem]"

# More lines than this hide the first ones, which are the ones to mend.
_MOST_PROBLEMS = 50
_MOST_SHOWN = 60


class BadValue(ValueError):
    """A value that can't be taken: `what` is wrong with it, `instead` what would be right ("" where that is clear).

    Raised by the readers of single values and caught where their key is known; it never reaches a user as such. `at`
    is the path inside the value, where it is not the value as a whole.
    """

    def __init__(self, what: str, instead: str = "", *, at: KeyPath = ()) -> None:
        super().__init__(what, instead, at)
        self.what, self.instead, self.at = what, instead, at


class Findings:
    """The problems and warnings of one spec, with the paths of the keys that they speak of.

    `faults` are problems that the text itself had. What else is said of those values, or of lists that
    hold them, may only follow from them, and is left out.
    """

    def __init__(self, faults: Sequence[KeyedProblem] = ()) -> None:
        self._faults = tuple(faults)
        self._problems: list[tuple[KeyPath, str, str]] = []
        self._warnings: list[tuple[KeyPath, str]] = []

    def error(self, path: KeyPath, what: str, instead: str = "") -> None:
        """Note a problem with a key."""
        self._problems.append((path, what, instead))

    def refuse(self, path: KeyPath, fault: BadValue) -> None:
        """Note a value that its reader refused."""
        self.error((*path, *fault.at), fault.what, fault.instead)

    def warn(self, path: KeyPath, text: str) -> None:
        """Note something worth a look that is no reason to stop."""
        self._warnings.append((path, text))

    def has_errors(self, *under: str) -> bool:
        """Return whether any problem was noted (beneath the given path, where one is given)."""
        paths = [*(path for path, _, _ in self._problems), *(path for path, _ in self._faults)]
        return any(path[: len(under)] == under for path in paths)

    def raise_errors(self, *, where: Callable[[KeyPath], str], order: Callable[[KeyPath], tuple[int, ...]]) -> None:
        """Raise JobSpecError with every problem in the order of the file; do nothing where there is none."""
        own = [
            (path, Problem(where=where(path), what=what, instead=then))
            for path, what, then in self._problems
            if not self._follows(path)
        ]
        found = sorted([*self._faults, *own], key=lambda each: order(each[0]))
        if not found:
            return
        problems = [problem for _, problem in found[:_MOST_PROBLEMS]]
        if len(found) > _MOST_PROBLEMS:
            rest = len(found) - _MOST_PROBLEMS
            problems.append(Problem(where=where(()), what=f"{rest} more problems", instead="mend these first"))
        raise JobSpecError(problems)

    def _follows(self, path: KeyPath) -> bool:
        """Return whether a problem may be no more than what a fault in the text of this value, or in a list, led to."""
        return any(path == fault or (path == fault[:-1] and isinstance(fault[-1], int)) for fault, _ in self._faults)

    def warnings(
        self, *, where: Callable[[KeyPath], str], order: Callable[[KeyPath], tuple[int, ...]]
    ) -> tuple[str, ...]:
        """Return the warnings as printable lines, in the order of the file."""
        found = sorted(self._warnings, key=lambda warning: order(warning[0]))
        return tuple(f"{where(path)}: {text}" for path, text in found)


def dotted(path: KeyPath) -> str:
    """Return a key path as messages have it: `grid.seed[2]`; odd letters of a name are escaped, long names cut."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() else repr(part)
            name = shortened(name)
            text += f".{name}" if text else name
    return text


def shortened(text: str) -> str:
    """Return a text cut to what a message can hold."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def describe(value: object) -> str:
    """Return what a value is, in words for a message; long texts are cut."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}" if abs(value) < 10**_MOST_SHOWN else "a number too large"
        case str():
            return f"the text {repr(value) if len(value) <= _MOST_SHOWN else repr(value[:_MOST_SHOWN]) + '...'}"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
    return f"a {type(value).__name__}"


def nearest(word: str, among: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """Return the name that a misspelt word most likely means, or None where nothing is near.

    `likeness` is the share of letters in common, from 0 to 1: at 0.85 a letter may be wrong in a word of seven.
    """
    names = {re.sub(r"[-_ ]", "", name).lower(): name for name in among}
    close = difflib.get_close_matches(re.sub(r"[-_ ]", "", word).lower(), names, n=1, cutoff=likeness)
    return names[close[0]] if close else None


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """Return what would be right for a misspelt word: the nearest name, else all of them."""
    known = list(among)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"known here: {', '.join(known)}" if known else ""


def file_order(data: Mapping[str, object]) -> Callable[[KeyPath], tuple[int, ...]]:
    """Return the order of keys as they stand in a nested mapping; a key that isn't there counts as its parent."""

    def order(path: KeyPath) -> tuple[int, ...]:
        places: list[int] = []
        value: object = data
        for part in path:
            if isinstance(value, Mapping) and part in value:
                places.append(list(value).index(part))
                value = value[part]
            elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
                places.append(part)
                value = value[part]
            else:
                break
        return tuple(places)

    return order
