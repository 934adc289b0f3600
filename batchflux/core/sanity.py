"""What is odd about images that are whole: one colour, another shape than asked, the same for several seeds.

Decides and words it; looks at no pixels. A warning is a line of the manifest's `warnings`: the cell stays completed,
since it was paid for and only its owner can tell whether it will do. `kind_of` sorts those lines to be counted.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from batchflux.core.model import JsonValue, SavedFile

__all__ = ["WARNING_KINDS", "image_warnings", "kind_of", "replicate_warning", "same_image_warning"]

# Models draw whole blocks of pixels, so that 16:9 comes as 1392 × 752, 4 % off; the nearest two ratios that this
# service lists, 4:3 and 3:2, lie 12.5 % apart.
_MOST_OFF: Final = 0.06
_BLOCK_PX: Final = 16  # half a block of 32: the most that rounding to blocks moves a side; it matters for tiny images

_RATIO: Final = re.compile(r"\s*(\d{1,5}(?:\.\d{1,4})?)\s*:\s*(\d{1,5}(?:\.\d{1,4})?)\s*")
_ONE_COLOUR: Final = "of one colour"
_OTHER_SHAPE: Final = "where {asked} was asked for"
_SAME_IMAGE: Final = "the same image as for"
_OTHER_IMAGE: Final = "the same seed gave another image"

# What a warning's words hold, and what is said of so many cells with one, the commonest causes told.
WARNING_KINDS: Final[Mapping[str, str]] = {
    "same_image": "the same image for several seeds: the service may ignore the seed, or answer from a cache",
    "one_colour": "an image of one colour: look at it; moderation blackens images too",
    "aspect_ratio": "another aspect ratio than asked for",
    "fewer_images": "fewer images than asked for",
    "replicate": "the same seed gave another image when it was submitted again",
    "other": "with a note in the manifest's warnings",
}


def image_warnings(body: Mapping[str, JsonValue], files: Sequence[SavedFile]) -> tuple[str, ...]:
    """Return what is odd about a cell's images, in their order; `body` is the request that they answer."""
    asked = body.get("aspect_ratio")
    ratio = _ratio_of(asked)
    found = []
    for number, file in enumerate(files, start=1):
        if file.is_one_colour:
            found.append(f"image {number} is {_ONE_COLOUR}")
        if ratio is not None and not _has_shape(file, ratio):
            words = _OTHER_SHAPE.format(asked=asked)
            found.append(f"image {number} has {file.width} × {file.height} pixels {words}")
    return tuple(found)


def same_image_warning(others: int) -> str:
    """Return what is said of a cell whose image is, byte for byte, that of other seeds of the same request."""
    return f"{_SAME_IMAGE} {others:,} other seed{'s' if others > 1 else ''} of this request"


def replicate_warning(differences: Sequence[float]) -> str:
    """Return what is said of a cell of which a second submission gave other images: how far their pixels are apart, in
    levels of 0 to 255; nothing where they are of another size."""
    how = f"mean pixel difference {max(differences):.3g} of 255" if differences else "of another size"
    return f"{_OTHER_IMAGE} when it was submitted again ({how})"


def kind_of(warning: str) -> str:
    """Return which of WARNING_KINDS a warning is of."""
    if warning.startswith(_SAME_IMAGE):
        return "same_image"
    if warning.startswith(_OTHER_IMAGE):
        return "replicate"
    if warning.endswith(_ONE_COLOUR):
        return "one_colour"
    if warning.endswith("was asked for"):
        return "aspect_ratio"
    return "fewer_images" if warning.endswith("images arrived") else "other"


def _ratio_of(asked: JsonValue) -> float | None:
    """Return width over height of a text such as 16:9, None of what is none."""
    found = _RATIO.fullmatch(asked) if isinstance(asked, str) else None
    if found is None:
        return None
    width, height = float(found[1]), float(found[2])
    return width / height if width and height else None


def _has_shape(file: SavedFile, ratio: float) -> bool:
    wanted = file.height * ratio
    by_height = abs(file.width - wanted) <= max(_MOST_OFF * wanted, _BLOCK_PX)
    wanted = file.width / ratio
    return by_height or abs(file.height - wanted) <= max(_MOST_OFF * wanted, _BLOCK_PX)
