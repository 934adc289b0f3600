"""A proof without pixels: what it says of a PNG holds for the pixels, and of damaged files it says nothing."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from batchflux.io import images
from batchflux.io.images import ImageFault, inspect_image
from batchflux.io.wholepng import is_varied_png

ALIKE = 8
BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
KINDS = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}
HEAD_BYTES = 33


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, mode: str, *, depth: int = 8, interlace: int = 0) -> bytes:
    """What a PNG begins with."""
    body = struct.pack(">IIBBBBB", width, height, depth, KINDS[mode], 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body)


def filtered(image: Image.Image, filters: Sequence[int]) -> bytes:
    """An image's rows as PNG packs them, each with the filter that is asked for: section 9.2, word by word."""
    bands, raw = BANDS[image.mode], image.tobytes()
    size = image.width * bands
    above, packed = bytes(size), bytearray()
    for y in range(image.height):
        row, kind = raw[y * size : (y + 1) * size], filters[y % len(filters)]
        packed.append(kind)
        for x, level in enumerate(row):
            left, corner = (row[x - bands], above[x - bands]) if x >= bands else (0, 0)
            packed.append((level - predicted(kind, left, above[x], corner)) % 256)
        above = row
    return bytes(packed)


def predicted(kind: int, left: int, above: int, corner: int) -> int:
    """What a filter takes away from a pixel's level."""
    match kind:
        case 1:
            return left
        case 2:
            return above
        case 3:
            return (left + above) // 2
        case 4:
            near = left + above - corner
            return min((left, above, corner), key=lambda level: abs(near - level))
        case _:
            return 0


def packed(image: Image.Image, filters: Sequence[int], *, split: int = 1 << 20, before: bytes = b"") -> bytes:
    """A PNG of an image with the filters asked for, its pixels in chunks of `split` bytes."""
    data = zlib.compress(filtered(image, filters))
    pieces = b"".join(chunk(b"IDAT", data[at : at + split]) for at in range(0, len(data), split))
    return header(image.width, image.height, image.mode) + before + pieces + chunk(b"IEND", b"")


def picture(mode: str, levels: bytes, *, width: int) -> Image.Image:
    """An image of these levels, as many rows as they fill."""
    size = width * BANDS[mode]
    height = max(2, len(levels) // size)
    return Image.frombytes(mode, (width, height), (levels * (size * height))[: size * height])


def proves(data: bytes) -> bool:
    return is_varied_png(io.BytesIO(data), alike=ALIKE)


def by_pixels(folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> images.ImageFacts | None:
    """What the decoder alone says of a file, None where it finds fault."""
    path = folder / "image.part"
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(images, "_is_varied", lambda *_: False)
        try:
            return inspect_image(path)
        except ImageFault:
            return None


CONTRAST = bytes(range(0, 250, 25))


@pytest.mark.parametrize("mode", BANDS)
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("split", [1, 13, 1 << 20])
def test_a_usual_picture_is_proven(
    mode: str, filters: list[int], split: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mode of eight bits, every filter, chunks of any size: else the time saved would be lost unseen."""
    data = packed(picture(mode, CONTRAST * 40, width=7), filters, split=split)
    assert proves(data)
    found = by_pixels(tmp_path, data, monkeypatch)
    assert found is not None
    assert not found.is_one_colour


@pytest.mark.parametrize("options", [{}, {"compress_level": 1}, {"optimize": True}])
def test_what_pillow_writes_is_proven(options: dict[str, int], tmp_path: Path) -> None:
    """With words before the pixels too, as many tools put them."""
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_text("parameters", "a kite")
    data = io.BytesIO()
    noise = Image.effect_noise((300, 200), 40)
    Image.merge("RGB", [noise, noise.rotate(180), noise]).save(data, "PNG", pnginfo=words, **options)
    assert proves(data.getvalue())


@given(
    mode=st.sampled_from(sorted(BANDS)),
    base=st.integers(0, 255 - ALIKE),
    steps=st.binary(min_size=20, max_size=400),
    width=st.integers(1, 9),
    filters=st.lists(st.integers(0, 4), min_size=1, max_size=5),
)
@settings(max_examples=300)
def test_what_is_alike_is_never_proven(mode: str, base: int, steps: bytes, width: int, filters: list[int]) -> None:
    """Levels that differ by no more than one colour's may: no filter makes a contrast of them."""
    image = picture(mode, bytes(base + step % (ALIKE + 1) for step in steps), width=width)
    assert not proves(packed(image, filters))


@given(
    mode=st.sampled_from(sorted(BANDS)),
    levels=st.binary(min_size=20, max_size=400),
    width=st.integers(1, 9),
    filters=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    split=st.integers(1, 200),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 7)), max_size=2),
    keep=st.integers(0, 1 << 20),
)
@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_proven_the_decoder_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    mode: str,
    levels: bytes,
    width: int,
    filters: list[int],
    split: int,
    flips: list[tuple[int, int]],
    keep: int,
) -> None:
    """Any picture, any filters (some of which don't exist), bits flipped and tails lost: never more than the pixels."""
    data = bytearray(packed(picture(mode, levels, width=width), filters, split=split))
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    kept = bytes(data[: keep % len(data)] if keep % 3 == 0 else data)
    found = by_pixels(tmp_path, kept, monkeypatch)
    assert not proves(kept) or (found is not None and not found.is_one_colour)


def test_no_bit_can_be_flipped() -> None:
    """A single flipped bit, wherever it is, leaves nothing proven."""
    data = packed(picture("RGB", CONTRAST * 8, width=7), [0, 1, 2, 3, 4], split=20)
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            assert not proves(bytes(flipped)), (place, bit)


def test_no_byte_can_be_missing() -> None:
    """Cut anywhere, it is not whole."""
    data = packed(picture("RGB", CONTRAST * 8, width=7), [1], split=20)
    assert not any(proves(data[:keep]) for keep in range(len(data)))


ROWS = filtered(picture("RGB", CONTRAST * 8, width=7), [0])
SIZE = (7, len(ROWS) // 22)


def around(body: bytes, *, after: bytes = b"", before: bytes = b"", head: bytes = header(*SIZE, "RGB")) -> bytes:
    return head + before + chunk(b"IDAT", body) + after + chunk(b"IEND", b"")


@pytest.mark.security(16)
@pytest.mark.parametrize(
    "data",
    [
        around(zlib.compress(ROWS)[:-1] + bytes([zlib.compress(ROWS)[-1] ^ 1])),  # the packed stream's own checksum
        around(zlib.compress(ROWS)[:-4]),
        around(zlib.compress(ROWS)[:20]),
        around(zlib.compress(ROWS[:-1])),
        around(zlib.compress(ROWS[:-22])),
        around(zlib.compress(ROWS + b"\0")),
        around(zlib.compress(ROWS) + b"\0"),
        around(zlib.compress(ROWS[:22] + b"\5" + ROWS[23:])),
        around(zlib.compress(ROWS), after=chunk(b"tEXt", b"parameters\0a kite")),
        around(zlib.compress(ROWS), before=chunk(b"acTL", struct.pack(">II", 2, 0))),
        around(zlib.compress(ROWS), head=header(*SIZE, "RGB", interlace=1)),
        around(zlib.compress(ROWS), head=header(*SIZE, "RGB", depth=16)),
        around(zlib.compress(ROWS), head=header(SIZE[0], SIZE[1] + 1, "RGB")),
        around(zlib.compress(ROWS), head=header(SIZE[0], SIZE[1] - 1, "RGB")),
        around(zlib.compress(ROWS), head=header(0, SIZE[1], "RGB")),
        around(zlib.compress(ROWS), head=header(1 << 30, 1, "RGB")),
        header(*SIZE, "RGB") + chunk(b"IEND", b""),
        header(*SIZE, "RGB"),
        chunk(b"IDAT", zlib.compress(ROWS)),
        b"",
    ],
)
def test_what_is_unusual_or_unsound_is_left_to_the_decoder(data: bytes) -> None:
    """Right checksums around a stream that is none, rows too few or too many, what only a decoder can read."""
    assert proves(around(zlib.compress(ROWS)))
    assert not proves(data)


def test_a_large_picture_is_never_in_memory_whole(tmp_path: Path) -> None:
    """Twelve megabytes in one chunk that unpack to as many: a few pieces of a quarter of one are all that is held."""
    path = tmp_path / "large.png"
    noise = Image.effect_noise((2000, 2000), 90)
    data = io.BytesIO()
    Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)]).save(data, "PNG", compress_level=0)
    bodies = b"".join(body for kind, body in chunks_of(data.getvalue()) if kind == b"IDAT")
    path.write_bytes(header(2000, 2000, "RGB") + chunk(b"IDAT", bodies) + chunk(b"IEND", b""))
    del data, bodies
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            assert is_varied_png(file, alike=ALIKE)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 4 << 20


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """A PNG's chunks, by kind."""
    found, place = [], 8
    while place < len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place + 8 : end]))
        place = end + 4
    return found


@pytest.mark.security(15)
def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small picture's file that unpacks to 256 MiB: no more is unpacked than the picture has, and a piece."""
    unpacked = 0
    real = zlib.decompressobj

    class Counted:
        def __init__(self) -> None:
            self._inner = real()

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal unpacked
            raw = self._inner.decompress(data, most)
            unpacked += len(raw)
            return raw

        def __getattr__(self, name: str) -> bytes | bool:
            found: bytes | bool = getattr(self._inner, name)
            return found

    packer = zlib.compressobj()
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(1 << 8)) + packer.flush()
    data = around(bomb)
    monkeypatch.setattr("batchflux.io.wholepng.zlib.decompressobj", Counted)
    assert not proves(data)
    assert 0 < unpacked <= 2 << 20


CHUNKS = [
    header(*SIZE, "RGB")[8:],
    header(SIZE[0], SIZE[1] + 1, "RGB")[8:],
    header(*SIZE, "RGBA")[8:],
    chunk(b"IDAT", zlib.compress(ROWS)[:15]),
    chunk(b"IDAT", zlib.compress(ROWS)[15:]),
    chunk(b"IDAT", b""),
    chunk(b"IEND", b""),
    chunk(b"PLTE", bytes(range(9))),
    chunk(b"tRNS", b"\0\1\0\2\0\3"),
    chunk(b"tEXt", b"parameters\0a kite"),
    chunk(b"acTL", struct.pack(">II", 2, 0)),
]


@given(st.lists(st.sampled_from(CHUNKS), max_size=3), st.integers(0, 4), st.booleans())
@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: list[bytes], place: int, is_doubled: bool
) -> None:
    """Chunks that are sound and don't belong there: what is proven is what the decoder sees, its size too."""
    chunks = [CHUNKS[0], CHUNKS[3], CHUNKS[4], CHUNKS[6]]
    chunks[place:place] = added * (1 + is_doubled)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    found = by_pixels(tmp_path, data, monkeypatch)
    assert not proves(data) or (found is not None and found[1:] == (*SIZE, False))


def jpeg(image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **options)
    return data.getvalue()


@given(
    make=st.sampled_from([lambda level: level, lambda level: 40 + level % 9, lambda level: 255 - level % 9]),
    levels=st.binary(min_size=64, max_size=600),
    quality=st.integers(20, 98),
    options=st.sampled_from([{}, {"progressive": True}, {"subsampling": 0}]),
    flip=st.integers(0, 1 << 20),
    keep=st.integers(0, 1 << 20),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_eighth_of_a_jpeg_says_what_all_of_it_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    make: Callable[[int], int],
    levels: bytes,
    quality: int,
    options: dict[str, object],
    flip: int,
    keep: int,
) -> None:
    """Whole or not, of one colour or not: in sound files and in damaged ones, whatever is lost or changed."""
    small = picture("RGB", bytes(make(level) for level in levels), width=8)
    data = bytearray(jpeg(small.resize((small.width * 9, small.height * 9)), quality=quality, **options))
    if flip % 2:
        data[flip % len(data)] ^= 0x10
    kept = bytes(data[: keep % len(data)] if keep % 3 == 0 else data)
    path = tmp_path / "image.part"
    path.write_bytes(kept)
    try:
        found: images.ImageFacts | None = inspect_image(path)
    except ImageFault:
        found = None
    assert found == by_pixels(tmp_path, kept, monkeypatch)
