"""The names of image files: readable, safe on every file system, unique by the cell's hash; never from the network.

And the words that an image may carry in its own metadata.
"""

import re
from collections.abc import Mapping

from batchflux.core.model import Cell, JsonValue
from batchflux.core.rows import word_text

__all__ = ["image_path", "image_words"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_PART_CHARS = 40
_MAX_STEM_CHARS = 120
_HASH_DIGITS = 12  # with the readable part, unique among any number of cells that fit a disk


def image_path(cell: Cell, labels: Mapping[str, JsonValue], *, number: int, extension: str) -> str:
    """Return an image's path relative to the run directory, for example images/3f/p12_seed3_3fa91c0b52de.png.

    `labels` are the cell's axis values by name; `number` counts a cell's images from 1 and shows from the second on.
    """
    parts = [_safe(cell.prompt_id), *(_safe(f"{name}{word_text(value)}") for name, value in labels.items())]
    stem = "_".join(parts)[:_MAX_STEM_CHARS]
    suffix = f"-{number}" if number > 1 else ""
    return f"images/{cell.cell_id[:2]}/{stem}_{cell.cell_id[:_HASH_DIGITS]}{suffix}.{extension}"


def image_words(cell: Cell, *, number: int) -> dict[str, JsonValue]:
    """Return what an image says of itself in its own metadata: the request, and which cell's image it is."""
    return {
        "prompt": cell.body.get("prompt"),
        "model": cell.model,
        **{name: value for name, value in cell.body.items() if name != "prompt"},
        "cell_id": cell.cell_id,
        "prompt_id": cell.prompt_id,
        "image_number": number,
    }


def _safe(text: str) -> str:
    """Return text with every run of other characters than letters, digits, dot, dash and underscore as one dash."""
    return _UNSAFE.sub("-", text).strip("-.")[:_MAX_PART_CHARS] or "x"
