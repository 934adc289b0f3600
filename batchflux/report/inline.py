"""A run's grid as one piece of HTML for a notebook: small images inside it, no script, nothing loaded.

Which cells stand where is decided by whoever gives them; here they are drawn as what they are. Text from data is text.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from batchflux.report.thumbnails import encode_thumbnail

__all__ = ["Drawing", "Tile", "draw"]

_PROMPT_CHARS = 240
_REASON_CHARS = 120
_NAME_CHARS = 120
_SAID = {
    "pending": "not sent yet",
    "submitted": "in flight",
    "completed": "completed, no image on disk",
    "unknown": "outcome unknown",
}
# Of the edge alone: the words have the notebook's own colour, which can be read on its ground.
_EDGES = {"failed": "#d9534f", "unknown": "#c98a00"}


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
    head = "".join(f"<th {cell}>{_text(_cut(name, _NAME_CHARS))}</th>" for name in drawing.columns)
    lines = [f"<thead><tr><th {left}>{_text(drawing.corner)}</th>{head}</tr></thead>"]
    for row, (name, text) in enumerate(drawing.rows):
        said = f'<br><small style="font-weight:normal">{_text(_cut(text, _PROMPT_CHARS))}</small>' if text else ""
        tiles = (drawing.tiles.get((row, column)) for column in range(len(drawing.columns)))
        drawn = "".join(f"<td {cell}>{_tile(tile, size)}</td>" for tile in tiles)
        name_said = f'<th scope="row" {left}>{_text(_cut(name, _NAME_CHARS))}{said}</th>'
        lines.append(f'<tr style="background:none">{name_said}{drawn}</tr>')
    notes = "".join(f"<p><small>{_text(note)}</small></p>" for note in drawing.notes)
    table = f'<table style="border-collapse:collapse">{"".join(lines)}</table>'
    return f'<div style="overflow-x:auto">{table}</div>{notes}'


def _tile(tile: Tile | None, size: int) -> str:
    if tile is None:
        return ""
    more = f"<br><small>and {tile.more:,} more</small>" if tile.more else ""
    title = escape(_cut(tile.title, _PROMPT_CHARS), quote=True)
    image = None if tile.file is None else encode_thumbnail(tile.file, side=size)
    if image is not None:
        source = f"data:image/webp;base64,{b64encode(image).decode()}"
        return f'<img src="{source}" alt="{title}" title="{title}" style="max-width:none">{more}'
    said = _SAID.get(tile.status, tile.status)
    reason = f"<br><small>{_text(_cut(tile.reason, _REASON_CHARS))}</small>" if tile.reason else ""
    return (
        f'<div title="{title}" style="width:{size}px;min-height:{size // 2}px;margin:auto;padding:4px;'
        f"box-sizing:border-box;border:2px dashed {_EDGES.get(tile.status, '#8888')};overflow-wrap:anywhere;"
        f'white-space:normal">{_text(said)}{reason}</div>{more}'
    )


def _text(text: str) -> str:
    """Return text as text, in a box of its own: it may hold characters that turn the direction of writing."""
    return f"<bdi>{escape(text)}</bdi>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
