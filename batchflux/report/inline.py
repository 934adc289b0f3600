"""A run's grid as one piece of HTML for a notebook: small images inside it, no script, nothing loaded.

Which cells stand where is decided by whoever gives them; here they are drawn as what they are. Text from data is text.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

__all__ = ["Drawing", "Tile", "draw"]

_QUALITY = 75
_PROMPT_CHARS = 240
_REASON_CHARS = 120
_WAITS = {"pending": "not sent yet", "submitted": "in flight", "unknown": "outcome unknown"}
_COLOURS = {"failed": "#c0392b", "unknown": "#b07a00"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One place of the grid: a cell's first image, or what became of the cell. `more` cells share its place."""

    status: str
    file: Path | None
    reason: str
    title: str
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A grid to be drawn. `tiles` are by (row, column), none where there is no cell; `notes` stand below it.

    Rows have a name and a text, which may be empty.
    """

    corner: str
    rows: Sequence[tuple[str, str]]
    columns: Sequence[str]
    tiles: Mapping[tuple[int, int], Tile]
    notes: Sequence[str]


def draw(drawing: Drawing, *, size: int) -> str:
    """Return the HTML; `size` is the longer side of an image in pixels."""
    cell = 'style="padding:3px;text-align:center;vertical-align:middle;background:none"'
    left = 'style="padding:3px 10px 3px 3px;text-align:left;vertical-align:top;max-width:220px;background:none"'
    head = "".join(f"<th {cell}>{_text(name)}</th>" for name in drawing.columns)
    lines = [f"<thead><tr><th {left}>{_text(drawing.corner)}</th>{head}</tr></thead>"]
    for row, (name, text) in enumerate(drawing.rows):
        said = f'<br><small style="font-weight:normal">{_text(_cut(text, _PROMPT_CHARS))}</small>' if text else ""
        tiles = (drawing.tiles.get((row, column)) for column in range(len(drawing.columns)))
        drawn = "".join(f"<td {cell}>{_tile(tile, size)}</td>" for tile in tiles)
        lines.append(f'<tr style="background:none"><th scope="row" {left}>{_text(name)}{said}</th>{drawn}</tr>')
    notes = "".join(f"<p><small>{_text(note)}</small></p>" for note in drawing.notes)
    table = f'<table style="border-collapse:collapse">{"".join(lines)}</table>'
    return f'<div style="overflow-x:auto">{table}</div>{notes}'


def _tile(tile: Tile | None, size: int) -> str:
    if tile is None:
        return ""
    image = None if tile.file is None else _small(tile.file, size)
    if image is not None:
        more = f"<br><small>and {tile.more} more</small>" if tile.more else ""
        alt = escape(tile.title, quote=True)
        return f'<img src="data:image/webp;base64,{image}" alt="{alt}" title="{alt}" style="max-width:none">{more}'
    what = tile.status if tile.file is None else "no image on disk"
    colour = _COLOURS.get(tile.status, "inherit")
    reason = f"<br><small>{_text(_cut(tile.reason, _REASON_CHARS))}</small>" if tile.reason else ""
    return (
        f'<div title="{escape(tile.title, quote=True)}" style="width:{size}px;min-height:{size // 2}px;'
        f"border:1px dashed;color:{colour};padding:4px;box-sizing:border-box;overflow-wrap:anywhere;"
        f'white-space:normal">'
        f"{_text(_WAITS.get(what, what))}{reason}</div>"
    )


def _small(file: Path, size: int) -> str | None:
    """Return an image scaled down, as WebP in base64; None where it is missing or is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            picture.draft("RGB", (2 * size, 2 * size))
            small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None
    small.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    encoded = BytesIO()
    small.save(encoded, "WEBP", quality=_QUALITY, method=2)
    return b64encode(encoded.getvalue()).decode()


def _text(text: str) -> str:
    """Return text as text, in a box of its own: it may hold characters that turn the direction of writing."""
    return f"<bdi>{escape(text)}</bdi>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
