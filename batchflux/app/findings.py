"""What a check found: problems and notes as lines, told by kind, no more of a kind than can be read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from batchflux.core.fields import clip

__all__ = ["Findings", "Lines"]

_MOST_OF_A_KIND = 1000
_MOST_CHARS = 1000


@dataclass(kw_only=True)
class Lines:
    """Collects lines "what: where; what to do"; of one kind (its `what`) the first thousand are told, then a count."""

    _told: dict[str, list[str]] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, where: str, instead: str = "") -> None:
        """Take in one thing."""
        self._counts[what] += 1
        lines = self._told.setdefault(what, [])
        if len(lines) < _MOST_OF_A_KIND:
            lines.append(clip(f"{what}: {where}" + (f"; {instead}" if instead else ""), _MOST_CHARS))

    def add_each(self, what: str, places: Iterable[str], *, count: int, instead: str = "") -> None:
        """Take in things of a kind: the first of them by their places, `count` in all."""
        before = self._counts[what]
        for place in places:
            self.add(what, place, instead)
        self._counts[what] = before + count

    def lines(self) -> tuple[str, ...]:
        """Return all lines, kind by kind as they were first met."""
        lines: list[str] = []
        for what, told in self._told.items():
            left = self._counts[what] - len(told)
            lines += [*told, f"{what}: {left:,} more, not named here"] if left else told
        return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Problems are what isn't as it should be, notes what is worth knowing."""

    problems: Lines = field(default_factory=Lines)
    notes: Lines = field(default_factory=Lines)
