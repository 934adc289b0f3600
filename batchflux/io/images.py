"""Looks at an image file: whether it is whole, what it is and how large. Runs in a thread, never on the event loop."""

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from batchflux.io.wholepng import is_varied_png

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImageFacts", "ImageFault", "inspect_image", "pixel_difference"]

# The service's images have about a megapixel; a hundred is beyond any model and below what hurts a machine.
_MAX_PIXELS = 100_000_000
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "AVIF": "avif", "BMP": "bmp", "TIFF": "tif"}

# PNG's last chunk and JPEG's end of image; some writers put a little of their own behind them.
_END_MARKS = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}
_TAIL_BYTES = 1 << 16


_SAMPLE_PX = 16
_STRIP_PIXELS = 1 << 18
_ALIKE = 8  # levels of 255: what WebP at quality 75 was seen to add to plain colours; JPEG adds none

# JPEG decodes to an eighth of its sides in half the time, having read every bit of it all the same. Its pixels are then
# means of 64, so a contrast in them is one in the image; the margin is for colours at half the sides.
_EIGHTH = 8
_ALIKE_IN_MEANS = 4 * _ALIKE


class ImageFault(ValueError):
    """The file is no whole image of a known kind."""


class ImageFacts(NamedTuple):
    """An image's file name extension, from its bytes, its size in pixels, and whether they are all of one colour."""

    extension: str
    width: int
    height: int
    is_one_colour: bool = False


def inspect_image(path: Path) -> ImageFacts:
    """Look at a file to its last pixel. Raises ImageFault where that fails, OSError where the disk does."""
    from PIL import Image, UnidentifiedImageError

    # Warnings are left as they are: their filters are the whole process's, and several threads look at images.
    with path.open("rb", buffering=_TAIL_BYTES) as file:
        try:
            with Image.open(file) as image:
                extension = _EXTENSIONS.get(image.format or "")
                width, height = image.size
                if extension is None:
                    raise ImageFault(f"an image of the kind {image.format}, which is not one that models give")
                if width * height > _MAX_PIXELS:
                    raise ImageFault(f"{width} × {height} pixels are more than any model gives")
                is_one_colour = not _is_varied(image, file, extension) and _is_one_colour_decoded(image, file)
                if not _has_end(file, extension):
                    raise ImageFault("the image is damaged: its end is missing")
                return ImageFacts(extension, width, height, is_one_colour)
        except UnidentifiedImageError:
            raise ImageFault(_first_bytes(path)) from None
        # Pillow's words for damage; a lookup fails in it where a PNG has no pixels at all.
        except (
            OSError,
            SyntaxError,
            ValueError,
            Warning,
            Image.DecompressionBombError,
            EOFError,
            LookupError,
        ) as error:
            if isinstance(error, ImageFault):
                raise
            raise ImageFault(f"the image is damaged: {error}") from None


def _is_varied(image: "Image.Image", file: BinaryIO, extension: str) -> bool:
    """Return whether an image is seen, at less than the cost of its pixels, to be whole and of several colours.

    False says nothing. Raises what a decoder raises at what is damaged.
    """
    if extension == "png":
        file.seek(0)
        return is_varied_png(file, alike=_ALIKE)
    if extension == "jpg":
        image.draft(None, (max(1, image.width // _EIGHTH), max(1, image.height // _EIGHTH)))
        image.load()
        return not _is_even(image, alike=_ALIKE_IN_MEANS)
    return False


def _is_one_colour_decoded(image: "Image.Image", file: BinaryIO) -> bool:
    """Decode an image to its last pixel and return whether all are alike; this uses the image up."""
    from PIL import Image

    if image.format == "PNG":
        image.verify()  # the chunks' checksums, which decoding passes over
    if image.format in ("PNG", "JPEG"):
        file.seek(0)
        with Image.open(file) as again:
            again.load()
            return _is_one_colour(again)
    image.load()
    return _is_one_colour(image)


def pixel_difference(one: bytes, other: bytes) -> float | None:
    """Return how far two images' pixels are apart: the mean of all channels' differences, in levels of 0 to 255.

    0.0 is told of equal pixels alone, None of images of different sizes. Of whole images, such as were inspected.
    """
    from PIL import Image, ImageChops, ImageStat

    with Image.open(BytesIO(one)) as first, Image.open(BytesIO(other)) as second:
        if first.size != second.size:
            return None
        means = ImageStat.Stat(ImageChops.difference(first.convert("RGBA"), second.convert("RGBA"))).mean
    # What is opaque in both differs in colour alone: its alpha is no channel to divide by.
    channels = means[:3] if means[3] == 0 else means
    return sum(channels) / len(channels)


def _is_one_colour(image: "Image.Image") -> bool:
    """Return whether all pixels are alike, give or take what a lossy codec changes; a loaded image."""
    if image.mode == "P":  # numbers of colours, of which several may be the same
        image = image.convert("RGBA")
    # Almost every image is told by a few of its pixels; extremes are looked for without letting other threads run,
    # so only in strips.
    if not _is_even(image.resize((_SAMPLE_PX, _SAMPLE_PX), resample=0)):
        return False
    colour = image.crop((0, 0, 1, 1))
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        if not _is_even(strip, beside=colour):
            return False
    return True


def _is_even(image: "Image.Image", *, beside: "Image.Image | None" = None, alike: int = _ALIKE) -> bool:
    """Return whether no band differs by more than `alike` levels, within an image and from another's colour."""
    bands = [_extremes(image), *([] if beside is None else [_extremes(beside)])]
    return all(
        max(high for _, high in band) - min(low for low, _ in band) <= alike for band in zip(*bands, strict=True)
    )


def _extremes(image: "Image.Image") -> list[tuple[float, float]]:
    """Return the least and the greatest value of each band."""
    found = image.getextrema()
    return [found] if len(image.getbands()) == 1 else list(found)  # type: ignore[list-item, arg-type]


def _has_end(file: BinaryIO, extension: str) -> bool:
    """Return whether the mark of the end is there; decoders pass over the loss of the last bytes."""
    mark = _END_MARKS.get(extension)
    if mark is None:
        return True
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _TAIL_BYTES))
    return mark in file.read()


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    return f"not an image (begins with {head!r})" if head else "an empty file"
