"""Writes any text on an image: the prompt's words, the parameters, and the mark that says "sandbox".

Decides how text is cut and set with the one font that comes with Pillow. It must not fail on any string: a character
that the font lacks becomes a small seal of its own, the same for the same character, so that prompts in any script
can still be told apart.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Lettering"]

# More than fits on any image: a prompt of 150,000 characters costs no more than one of these.
_MAX_CHARACTERS = 400

_MARK = "SANDBOX · not the model"
_INK, _PAPER = (255, 255, 255), (12, 14, 22)


class Lettering:
    """Fonts of one size, and which characters they have. One thread at a time."""

    def __init__(self, *, em_px: int) -> None:
        self._em_px = em_px
        self._font = ImageFont.load_default(em_px)
        self._small = ImageFont.load_default(max(8.0, em_px * 0.78))
        self._missing = bytes(self._font.getmask("\U0010ffff"))
        self._known: dict[str, bool] = {}

    def write(self, image: Image.Image, *, title: str, details: Sequence[str], accent: tuple[int, ...]) -> None:
        """Set the title and details on a dark band at the foot and the mark at the head, in place."""
        em, pad = self._em_px, round(self._em_px * 0.6)
        room = image.width - 2 * pad
        lines = self._wrap(self._spell(title), room=room, most=_lines_that_fit(image.height, em=em))
        notes = self._pack(details, room=room)
        step, small_step = round(em * 1.25), round(em * 1.1)
        top = image.height - (len(lines) * step + len(notes) * small_step + 2 * pad)
        _darken(image, box=(0, top, image.width, image.height), share=0.62)
        pen = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            self._set_line(pen, line, left=pad, top=top + pad + number * step)
        foot = top + pad + len(lines) * step + round(em * 0.15)
        for number, note in enumerate(notes):
            pen.text((pad, foot + number * small_step), note, font=self._small, fill=accent[:3])
        self._write_mark(image)

    def _write_mark(self, image: Image.Image) -> None:
        em = self._em_px
        text = self._cut(_MARK, room=image.width - em)
        left, top, right, bottom = self._small.getbbox(text)
        box = (image.width - round(right + em * 1.2), round(em * 0.4), image.width - round(em * 0.4), round(em * 1.7))
        _darken(image, box=box, share=0.45)
        middle = (box[1] + box[3]) / 2 - (top + bottom) / 2
        ImageDraw.Draw(image).text((box[0] + em * 0.4 - left, middle), text, font=self._small, fill=_INK)

    def _wrap(self, text: str, *, room: float, most: int) -> list[str]:
        """Return at most `most` lines no wider than `room`; what doesn't fit is cut with an ellipsis."""
        lines: list[str] = []
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if self._length(longer) <= room:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while self._length(line) > room and len(line) > 1:
                head = self._head(line, room=room)
                lines.append(head)
                line = line[len(head) :]
            if len(lines) > most:
                break
        lines.append(line)
        if len(lines) <= most:
            return lines
        last = f"{lines[most - 1]}…"
        while self._length(last) > room and len(last) > 1:
            last = f"{last[:-2]}…"
        return [*lines[: most - 1], last]

    def _head(self, word: str, *, room: float) -> str:
        count = 1
        while count < len(word) and self._length(word[: count + 1]) <= room:
            count += 1
        return word[:count]

    def _pack(self, parts: Sequence[str], *, room: float) -> list[str]:
        """Return the parts on as few lines as they need, none of them cut: a cut number would be another number."""
        lines = [parts[0]]
        for part in parts[1:]:
            longer = f"{lines[-1]}   {part}"
            if self._small.getlength(longer) <= room:
                lines[-1] = longer
            else:
                lines.append(part)
        return lines

    def _cut(self, text: str, *, room: float) -> str:
        while len(text) > 1 and self._small.getlength(text) > room:
            text = text[:-1]
        return text

    def _length(self, text: str) -> float:
        return sum(
            self._font.getlength(run) if is_known else self._em_px * len(run) for is_known, run in self._runs(text)
        )

    def _set_line(self, pen: ImageDraw.ImageDraw, line: str, *, left: float, top: float) -> None:
        for is_known, run in self._runs(line):
            if is_known:
                pen.text((left, top), run, font=self._font, fill=_INK)
                left += self._font.getlength(run)
                continue
            for character in run:
                self._set_seal(pen, character, left=left, top=top)
                left += self._em_px

    def _set_seal(self, pen: ImageDraw.ImageDraw, character: str, *, left: float, top: float) -> None:
        """Draw a character that the font lacks as a mirrored pattern of its code point."""
        unit = self._em_px / 6.5
        bits = (ord(character) * 2654435761) & 0xFFFFFFFF  # Knuth's multiplicative hash: neighbours look unlike
        for cell in range(15):
            if bits >> (cell * 2) & 1:
                row, column = divmod(cell, 3)
                for mirrored in {column, 4 - column}:
                    x, y = left + unit * (0.5 + mirrored), top + unit * (1 + row)
                    pen.rectangle((x, y, x + unit * 0.8, y + unit * 0.8), fill=_INK)

    def _runs(self, text: str) -> Iterator[tuple[bool, str]]:
        start = 0
        for end in range(1, len(text) + 1):
            if end == len(text) or self._has(text[end]) != self._has(text[start]):
                yield self._has(text[start]), text[start:end]
                start = end

    def _spell(self, text: str) -> str:
        """Return the text on one line, without what can't be drawn: controls, marks of direction, surrogates."""
        kept = []
        for character in text[:_MAX_CHARACTERS]:
            kind = unicodedata.category(character)
            if kind[0] == "Z" or character in "\t\n\r\v\f":
                kept.append(" ")
            elif kind[0] != "C" and kind != "Mn":
                plain = character if self._has(character) else _plain(character)
                kept.append(plain if self._has(plain) else character)
        return " ".join("".join(kept).split())

    def _has(self, character: str) -> bool:
        if character < "\x7f":
            return True
        known = self._known.get(character)
        if known is None:
            # Bounded by Unicode: at most one entry a character that was ever drawn.
            known = self._known[character] = bytes(self._font.getmask(character)) != self._missing
        return known


def _plain(character: str) -> str:
    """Return the nearest plain spelling of a character: its base letter, a hyphen for a dash, else itself."""
    if unicodedata.category(character) == "Pd":
        return "-"
    base = unicodedata.normalize("NFKD", character)[0]
    # Letters with a stroke have no decomposition, but their names say which letter they are.
    named = re.match(r"LATIN (SMALL|CAPITAL) LETTER ([A-Z]) WITH ", unicodedata.name(character, ""))
    if base == character and named is not None:
        return named[2].lower() if named[1] == "SMALL" else named[2]
    return base


def _lines_that_fit(height: int, *, em: int) -> int:
    return max(1, min(3, int(height * 0.42 / em / 1.25) - 1))


def _darken(image: Image.Image, *, box: tuple[int, int, int, int], share: float) -> None:
    region = image.crop(box)
    image.paste(Image.blend(region, Image.new("RGB", region.size, _PAPER), share), box[:2])
