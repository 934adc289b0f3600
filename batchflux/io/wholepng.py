"""Proves of a PNG of the usual kind that it is whole and not of one colour, in half the time that its pixels take.

Says nothing of any other file: what isn't proven here is for a decoder to judge. The proof is as strong: every chunk's
checksum, the packed stream unpacked to its last byte with its own checksum, every row there with a filter that exists.
Only the filters stay on, and they show a contrast too. Source: PNG (third edition), sections 5, 9, 10 and 11.2.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple, Self

__all__ = ["is_varied_png"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_BANDS: Final = {0: 1, 2: 3, 4: 2, 6: 4}  # of grey and colour, without and with alpha; palettes are for a decoder
_MOST_FILTER: Final = 4
_PIECE_BYTES: Final = 1 << 18
_MOST_ROW_BYTES: Final = 1 << 18  # a row is held whole: 65,000 pixels are beyond any model


class _Unproven(Exception):
    """Not a PNG of the usual kind, or a damaged one."""


def is_varied_png(file: BinaryIO, *, alike: int) -> bool:
    """Return whether a file is proven to be a whole PNG in which a band differs by more than `alike` levels of 255.

    False says nothing. In memory is a piece of it at a time, whatever it unpacks to.
    """
    try:
        return _prove(file, alike)
    except (_Unproven, zlib.error):
        return False


class _Layout(NamedTuple):
    """How the rows lie in what was packed: each is a byte for its filter, then its pixels."""

    row_bytes: int
    size_bytes: int
    bands: int

    @classmethod
    def read(cls, header: bytes) -> Self:
        width, height, depth, kind, *methods = struct.unpack(">IIBBBBB", header)
        if depth != 8 or kind not in _BANDS or any(methods):
            raise _Unproven
        row_bytes = 1 + width * _BANDS[kind]
        if row_bytes > _MOST_ROW_BYTES:
            raise _Unproven
        return cls(row_bytes, row_bytes * height, _BANDS[kind])


def _prove(file: BinaryIO, alike: int) -> bool:
    pieces = _pieces(file)
    kind, header = next(pieces, (b"", b""))
    if kind != b"IHDR" or len(header) != 13:
        raise _Unproven
    layout = _Layout.read(header)
    contrast = _Contrast(layout, alike)
    unpacker = zlib.decompressobj()
    unpacked_bytes = 0
    for piece in _pixel_pieces(pieces):
        packed = piece
        while packed:
            raw = unpacker.decompress(packed, _PIECE_BYTES)
            packed = unpacker.unconsumed_tail
            filters = raw[-unpacked_bytes % layout.row_bytes :: layout.row_bytes]
            unpacked_bytes += len(raw)
            if unpacked_bytes > layout.size_bytes or (filters and max(filters) > _MOST_FILTER):
                raise _Unproven
            contrast.look(raw)
    return contrast.is_seen and unpacker.eof and not unpacker.unused_data and unpacked_bytes == layout.size_bytes


def _pixel_pieces(pieces: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield what is packed of the pixels, up to the end of the file, which must follow at once."""
    has_begun = False
    for kind, piece in pieces:
        if kind == b"IDAT":
            has_begun = True
            yield piece
        elif kind == b"IEND" and not piece:
            return
        elif has_begun or kind in (b"IHDR", b"acTL"):  # words behind the pixels, two headers, several pictures
            raise _Unproven
    raise _Unproven


def _pieces(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks, large ones in several pieces. Whoever asks for the next one knows that the last was sound."""
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise _Unproven
    while len(head := file.read(8)) == 8:
        left, kind = int.from_bytes(head[:4], "big"), head[4:]
        checksum = zlib.crc32(kind)
        is_begun = False
        while left or not is_begun:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece and left:
                raise _Unproven
            is_begun = True
            left -= len(piece)
            checksum = zlib.crc32(piece, checksum)
            if not left and file.read(4) != checksum.to_bytes(4, "big"):
                raise _Unproven
            yield kind, piece


class _Contrast:
    """Looks for two pixels that are more than `alike` levels apart, with the rows' filters still on.

    A filtered byte is a pixel's level less a level between those of its neighbours. Where all pixels are alike, that
    is at most `alike` up or down; so a byte that is more proves that they are not. The first row and the first pixel
    of each have no neighbours, and are left out.
    """

    def __init__(self, layout: _Layout, alike: int) -> None:
        self._layout, self._alike = layout, alike
        self._near = bytes([*range(alike + 1), *range(256 - alike, 256)])
        self._held = b""
        self._is_first = True
        self.is_seen = False

    def look(self, raw: bytes) -> None:
        """Take in the next piece of all rows."""
        if self.is_seen:
            return
        held, size = self._held + raw, self._layout.row_bytes
        whole_bytes = len(held) - len(held) % size
        for start in range(0, whole_bytes, size):
            if not self._is_first and self._is_in(held[start : start + size]):
                self.is_seen, self._held = True, b""
                return
            self._is_first = False
        self._held = held[whole_bytes:]

    def _is_in(self, row: bytes) -> bool:
        bands = self._layout.bands
        if row[0]:
            return bool(row[1 + bands :].translate(None, self._near))
        return any(self._differs(row[1 + band :: bands]) for band in range(bands))

    def _differs(self, levels: bytes) -> bool:
        near = range(max(0, levels[0] - self._alike), min(255, levels[0] + self._alike) + 1)
        return bool(levels.translate(None, bytes(near)))
