"""A prompt's template: `{name}` is a word, `{{` and `}}` are braces, everything else is text.

Never `str.format`: a template comes from a file, and `{x.__class__}` must be a fault, not an attribute.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Template", "TemplateError"]

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\{|\}")


class TemplateError(ValueError):
    """A template can't be read; `column` counts from 0 within its text."""

    def __init__(self, what: str, *, column: int) -> None:
        super().__init__(what)
        self.column = column


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: `parts` alternates text and word, beginning and ending with text."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a template's text. Raises TemplateError for a lone brace or an empty name."""
        parts: list[str] = [""]
        end = 0
        for token in _TOKEN.finditer(text):
            parts[-1] += text[end : token.start()]
            end = token.end()
            match token.group():
                case "{{":
                    parts[-1] += "{"
                case "}}":
                    parts[-1] += "}"
                case "{" | "}":
                    raise TemplateError(
                        f"a lone '{token.group()}'; write '{token.group() * 2}' for a brace", column=token.start()
                    )
                case _:
                    if not token.group(1).strip():
                        raise TemplateError("'{}' names no word; write {name}", column=token.start())
                    parts += [token.group(1), ""]
        parts[-1] += text[end:]
        return cls(tuple(parts))

    @classmethod
    def of_column(cls, column: str) -> "Template":
        """Return the template that is one column's text as it stands."""
        return cls(("", column, ""))

    @property
    def words(self) -> tuple[str, ...]:
        """The names in it, each once, in the order of their first use."""
        return tuple(dict.fromkeys(self.parts[1::2]))

    def render(self, words: Mapping[str, str]) -> str:
        """Return the text with every word filled in; `words` must hold them all."""
        if len(self.parts) == 3 and not self.parts[0] and not self.parts[2]:
            return words[self.parts[1]]
        return "".join(words[part] if place % 2 else part for place, part in enumerate(self.parts))
