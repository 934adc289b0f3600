"""Looks at an image file: whether it is whole, what it is and how large. Runs in a thread, never on the event loop."""

import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

__all__ = ["ImageFacts", "ImageFault", "inspect_image"]

# The service's images have about a megapixel; a hundred is beyond any model and below what hurts a machine.
_MAX_PIXELS = 100_000_000
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "AVIF": "avif", "BMP": "bmp", "TIFF": "tif"}

# PNG's last chunk and JPEG's end of image; some writers put a little of their own behind them.
_END_MARKS = {"png": b"IEND\xaeB`\x82", "jpg": b"\xff\xd9"}
_TAIL_BYTES = 1 << 16


class ImageFault(ValueError):
    """The file is no whole image of a known kind."""


class ImageFacts(NamedTuple):
    """An image's file name extension, from its bytes, and its size in pixels."""

    extension: str
    width: int
    height: int


def inspect_image(path: Path) -> ImageFacts:
    """Decode a file to its last pixel. Raises ImageFault where that fails, OSError where the disk does."""
    from PIL import Image, UnidentifiedImageError

    # Warnings are left as they are: their filters are the whole process's, and several threads look at images.
    with path.open("rb") as file:
        try:
            with Image.open(file) as image:
                extension = _EXTENSIONS.get(image.format or "")
                if extension is None:
                    raise ImageFault(f"an image of the kind {image.format}, which is not one that models give")
                if image.width * image.height > _MAX_PIXELS:
                    raise ImageFault(f"{image.width} × {image.height} pixels are more than any model gives")
                if extension == "png":
                    image.verify()  # the chunks' checksums, which decoding passes over; it uses the image up
                    file.seek(0)
                    with Image.open(file) as again:
                        again.load()
                else:
                    image.load()
                if not _has_end(file, extension):
                    raise ImageFault("the image is damaged: its end is missing")
                return ImageFacts(extension, image.width, image.height)
        except UnidentifiedImageError:
            raise ImageFault(_first_bytes(path)) from None
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError, EOFError) as error:
            if isinstance(error, ImageFault):
                raise
            raise ImageFault(f"the image is damaged: {error}") from None


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
