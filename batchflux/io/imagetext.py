"""Writes words into an image's own metadata, pixels untouched: the file's parts are copied byte by byte around them.

PNG: text chunks `parameters` (as image tools show it) and `batchflux` (JSON). JPEG and WebP: Exif's UserComment, beside
what Exif is there already. Other kinds stay as they are. Source of the layouts: PNG (third edition), ITU T.81 annex B,
the WebP container specification, Exif 2.32.
"""

import json
import struct
import zlib
from collections.abc import Mapping

from batchflux.core.model import JsonValue

__all__ = ["embed_words", "plain_words"]

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286


class _UnknownLayout(ValueError):
    """The image's parts can't be followed, so nothing can be put between them."""


def plain_words(words: Mapping[str, JsonValue]) -> str:
    """Return the words as image tools show them: the prompt, then what it was drawn with on a line of its own."""
    shown = {"Seed": "seed", "CFG scale": "guidance_scale", "Model": "model"}
    rest = {name: value for name, value in words.items() if name not in ("prompt", *shown.values())}
    pairs = [(label, words[name]) for label, name in shown.items() if words.get(name) is not None]
    line = ", ".join(f"{label}: {_quoted(value)}" for label, value in [*pairs, *rest.items()])
    return f"{words.get('prompt', '')}\n{line}"


def embed_words(data: bytes, words: Mapping[str, JsonValue]) -> bytes:
    """Return an image's bytes with these words in its metadata, or as they are where that can't be done.

    An image is worth more than words in it: other kinds, and files whose parts or Exif can't be followed, stay.
    """
    try:
        if data.startswith(_PNG):
            return _into_png(data, words)
        if data.startswith(b"\xff\xd8"):
            return _into_jpeg(data, words)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _into_webp(data, words)
    except (_UnknownLayout, struct.error, SyntaxError, LookupError, OSError, TypeError):  # the last four are Pillow's
        return data
    return data


def _quoted(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # In this form commas part the pairs and colons name from value, so a text that holds one stands in quotes.
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


# ------------------------------------------------------------------------------------------------------ PNG


def _into_png(data: bytes, words: Mapping[str, JsonValue]) -> bytes:
    header_end = len(_PNG) + 25  # the first chunk, IHDR, has 13 bytes and the 12 around them
    if data[12:16] != b"IHDR" or len(data) < header_end:
        raise _UnknownLayout("a PNG without its header")
    as_json = json.dumps(dict(words))
    chunks = _text_chunk("parameters", plain_words(words)) + _text_chunk("batchflux", as_json)
    return data[:header_end] + chunks + data[header_end:]


def _text_chunk(keyword: str, text: str) -> bytes:
    # iTXt is UTF-8 and not compressed here; tEXt, which more tools know, is Latin-1 and enough for ASCII.
    if text.isascii():
        kind, body = b"tEXt", keyword.encode() + b"\0" + text.encode()
    else:
        kind, body = b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode("utf-8", "replace")
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# ------------------------------------------------------------------------------------------------------ Exif


def _exif(old: bytes | None, words: Mapping[str, JsonValue]) -> bytes:
    """Return Exif's bytes (a TIFF structure) with the words in its UserComment, all else as it was."""
    from PIL import Image

    exif = Image.Exif()
    if old is not None:
        exif.load(old)
    comment = plain_words(words) + "\n" + json.dumps(dict(words), ensure_ascii=False)
    # The eight bytes before the text name its code; image tools write and expect UTF-16 with the high byte first.
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
    written: bytes = exif.tobytes()
    return written.removeprefix(b"Exif\0\0")


# ------------------------------------------------------------------------------------------------------ JPEG


def _into_jpeg(data: bytes, words: Mapping[str, JsonValue]) -> bytes:
    before, old, after = _around_exif_of_jpeg(data)
    body = b"Exif\0\0" + _exif(old, words)
    # A prompt of many pages is longer than a segment can say, which `pack` refuses: better no words than cut ones.
    return before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + after


def _around_exif_of_jpeg(data: bytes) -> tuple[bytes, bytes | None, bytes]:
    """Return what stands before and after the Exif segment, and its TIFF; without one, where it belongs."""
    place = 2
    # JFIF's own segment must come first; Exif's follows it.
    begin = 4 + struct.unpack(">H", data[4:6])[0] if data[2:4] == b"\xff\xe0" else 2
    while data[place : place + 1] == b"\xff" and 0xE0 <= data[place + 1] <= 0xEF:
        (length,) = struct.unpack(">H", data[place + 2 : place + 4])
        if data[place + 1] == 0xE1 and data[place + 4 : place + 10] == b"Exif\0\0":
            return data[:place], data[place + 10 : place + 2 + length], data[place + 2 + length :]
        place += 2 + length
    return data[:begin], None, data[begin:]


# ------------------------------------------------------------------------------------------------------ WebP

_HAS_EXIF, _HAS_ALPHA = 0x08, 0x10


def _into_webp(data: bytes, words: Mapping[str, JsonValue]) -> bytes:
    chunks = _chunks_of_webp(data)
    old = next((body for kind, body in chunks if kind == b"EXIF"), None)
    chunks = [(kind, body) for kind, body in chunks if kind != b"EXIF"]
    if chunks[0][0] == b"VP8X":
        flags = chunks[0][1][0] | _HAS_EXIF
        chunks[0] = (b"VP8X", bytes([flags]) + chunks[0][1][1:])
    else:
        chunks.insert(0, (b"VP8X", _extended_header(*chunks[0])))
    # XMP, where there is one, comes last.
    place = len(chunks) - (chunks[-1][0] == b"XMP ")
    chunks.insert(place, (b"EXIF", _exif(None if old is None else old.removeprefix(b"Exif\0\0"), words)))
    body = b"".join(kind + struct.pack("<I", len(each)) + each + b"\0" * (len(each) % 2) for kind, each in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _chunks_of_webp(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks = []
    place = 12
    while place + 8 <= len(data):
        (length,) = struct.unpack("<I", data[place + 4 : place + 8])
        if place + 8 + length > len(data):
            raise _UnknownLayout("a WebP whose chunks don't fit it")
        chunks.append((data[place : place + 4], data[place + 8 : place + 8 + length]))
        place += 8 + length + length % 2
    if not chunks or chunks[0][0] not in (b"VP8X", b"VP8 ", b"VP8L"):
        raise _UnknownLayout("a WebP without a picture")
    return chunks


def _extended_header(kind: bytes, body: bytes) -> bytes:
    """Return the header that metadata asks for, from a simple file's one chunk, which knows its own size."""
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        width, height, flags = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, _HAS_ALPHA * (bits >> 28 & 1)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", body[6:10]))
        flags = 0
    sides: bytes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes([flags | _HAS_EXIF, 0, 0, 0]) + sides
