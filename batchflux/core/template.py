"""A prompt template: text with `{name}` for a column or an axis, `{{` and `}}` for the braces themselves.

Parsed once into parts and rendered by joining them. It knows nothing else on purpose: no attributes, no indexes, no
formats, no expansion of variables, so a template from a stranger can reach nothing but the row's own words; and what
a row puts in is never read as a template again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from batchflux.core.findings import BadValue

__all__ = ["Template", "Word"]

_TOKEN = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A place in a template that a column or an axis of this name fills."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A parsed template. `parts` are literal texts and words in order; `words` the distinct names, in order."""

    text: str
    parts: tuple[str | Word, ...]
    words: tuple[str, ...] = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Return the template that a text says; raises BadValue with the column (from 1) of a brace that is wrong."""
        if not text.strip():
            raise BadValue("the template is empty", 'write one with a column in it, for example "{scene}, at night"')
        parts: list[str | Word] = []
        for token in _TOKEN.finditer(text):
            part = _part(token[0], column=token.start() + 1)
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        words = dict.fromkeys(part.name for part in parts if isinstance(part, Word))
        return cls(text=text, parts=tuple(parts), words=tuple(words))

    @classmethod
    def of_column(cls, column: str) -> "Template":
        """Return the template that is one column's text as it stands, whatever the column's name."""
        return cls(text="", parts=(Word(column),), words=(column,))

    def render(self, words: Mapping[str, str]) -> str:
        """Return the prompt with every word filled in; raises KeyError for a word that `words` doesn't hold."""
        return "".join(part if isinstance(part, str) else words[part.name] for part in self.parts)


def _part(token: str, *, column: int) -> str | Word:
    if token in ("{{", "}}"):
        return token[0]
    if token in ("{", "}"):
        _refuse_brace(token, column=column)
    if not token.startswith("{"):
        return token
    name = token[1:-1]
    if not name:
        raise BadValue(f"column {column}: {{}} names nothing", "write {name}, or {{}} for the braces themselves")
    if name != name.strip():
        raise BadValue(f"column {column}: spaces inside {token!r}", f"write {{{name.strip() or 'name'}}}")
    return Word(name)


def _refuse_brace(brace: str, *, column: int) -> NoReturn:
    partner = "}" if brace == "{" else "{"
    raise BadValue(f"column {column}: {brace!r} without {partner!r}", f"write {brace * 2} for the brace itself")
