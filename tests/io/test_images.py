"""What an image is: whole to its last pixel, of a known kind, of a believable size; anything else is a fault."""

import threading
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from batchflux.io import images
from batchflux.io.images import ImageFacts, ImageFault, inspect_image, pixel_difference

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


@pytest.fixture(autouse=True)
def _plain_warnings() -> Iterator[None]:
    """What holds must hold where a library's warnings are not errors, as in a user's process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def picture(kind: str = "PNG", *, size: tuple[int, int] = (48, 32)) -> bytes:
    """A small picture with something in it."""
    image = Image.new("RGB", size, (200, 30, 90))
    image.paste((10, 120, 250), (4, 4, size[0] // 2, size[1] // 2))
    data = BytesIO()
    image.save(data, format=kind)
    return data.getvalue()


def inspect(folder: Path, data: bytes) -> ImageFacts:
    path = folder / "image.part"
    path.write_bytes(data)
    return inspect_image(path)


@pytest.mark.parametrize(("kind", "extension"), FORMATS.items())
def test_the_kind_is_told_from_the_bytes(kind: str, extension: str, tmp_path: Path) -> None:
    """Whatever a URL ends with, the extension is that of the bytes."""
    assert inspect(tmp_path, picture(kind)) == ImageFacts(extension, 48, 32)


@pytest.mark.fault("S08")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"<!doctype html><html>", "not an image"),
        (b"{}", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (picture("PPM"), "of the kind PPM"),
        (picture("PNG")[:33] + picture("PNG")[-12:], "damaged"),  # a header and an end, and no pixels between them
    ],
)
def test_what_is_no_image(data: bytes, words: str, tmp_path: Path) -> None:
    """S08: pages, JSON, nothing at all and kinds that models don't give are told as what they are."""
    with pytest.raises(ImageFault, match=words):
        inspect(tmp_path, data)


@pytest.mark.security(16)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_image_is_no_image(kind: str, tmp_path: Path) -> None:
    """A body that ended too soon is told, wherever it was cut: at the head, in the middle, short of the end."""
    whole = picture(kind, size=(400, 300))
    for keep in (10, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10):
        with pytest.raises(ImageFault):
            inspect(tmp_path, whole[:keep])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_last_bytes_are_missed(kind: str, tmp_path: Path) -> None:
    """A decoder that has all pixels doesn't miss the end of the file; whoever sends it to others would."""
    whole = picture(kind, size=(400, 300))
    for lost in (1, 2, 8, 12, 16, 20):
        with pytest.raises(ImageFault):
            inspect(tmp_path, whole[:-lost])
    assert inspect(tmp_path, whole + b"\0" * 100)


def test_a_flipped_pixel_of_a_png_is_told(tmp_path: Path) -> None:
    """PNG carries checksums: a flipped byte in its pixels doesn't pass."""
    whole = picture("PNG", size=(400, 300))
    start = whole.index(b"IDAT") + 4
    for place in range(start, len(whole) - 12, 61):
        flipped = bytearray(whole)
        flipped[place] ^= 0x01
        with pytest.raises(ImageFault):
            inspect(tmp_path, bytes(flipped))


def test_an_image_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that no model gives isn't unpacked: its head says how large it would be."""
    monkeypatch.setattr(images, "_MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageFault, match="48 × 32"):
        inspect(tmp_path, picture())


@pytest.mark.security(15)
def test_a_head_that_claims_a_bomb(tmp_path: Path) -> None:
    """A head of 60,000 × 60,000 pixels is refused before anything is unpacked."""
    whole = bytearray(picture("BMP"))
    whole[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(ImageFault):
        inspect(tmp_path, bytes(whole))


def test_a_disk_that_cannot_read(tmp_path: Path) -> None:
    """A file that isn't there is the disk's error and not the image's."""
    with pytest.raises(FileNotFoundError):
        inspect_image(tmp_path / "absent.png")


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 20),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises_anything_else(tmp_path: Path, kind: str, flips: list[tuple[int, int]], keep: int) -> None:
    """Any bytes changed and any tail lost give an image or an ImageFault: another exception would end a run."""
    data = bytearray(picture(kind))
    for place, value in flips:
        data[place % len(data)] = value
    kept = bytes(data[: keep % len(data)] if keep % 3 == 0 else data)
    try:
        facts = inspect(tmp_path, kept)
    except ImageFault:
        return
    assert facts.extension in FORMATS.values()


def test_threads_leave_the_warnings_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at two images at once must not change what the whole process does with warnings afterwards."""
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    real = Image.open

    def slow_open(file: object, *args: object, **options: object) -> Image.Image:
        if threading.current_thread().name == "first":
            first_is_in.set()
            assert second_is_in.wait(10)
        else:
            assert first_is_in.wait(10)
            second_is_in.set()
            assert first_is_out.wait(10)
        return real(file, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", slow_open)
    (tmp_path / "a.png").write_bytes(picture())

    def look() -> None:
        inspect_image(tmp_path / "a.png")
        if threading.current_thread().name == "first":
            first_is_out.set()

    with warnings.catch_warnings():
        warnings.resetwarnings()
        threads = [threading.Thread(target=look, name=name) for name in ("first", "second")]
        for thread in threads:
            thread.start()
            assert first_is_in.wait(10)
        for thread in threads:
            thread.join(10)
        assert warnings.filters == []


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, "RGB") for kind in FORMATS]
    + [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("PNG", "I;16"), ("PNG", "1"), ("TIFF", "CMYK")],
)
def test_an_image_of_one_colour_is_told(kind: str, mode: str, tmp_path: Path) -> None:
    """All pixels alike, whatever the codec makes of them: what moderation or a failed model leaves."""
    for colour in ((0, 0, 0), (117, 118, 119), (255, 255, 255), (200, 30, 90)):
        plain = Image.new("RGB", (200, 120), colour)
        if mode == "P":
            image = plain.quantize(2)
        elif mode == "1":
            image = plain.convert("L").point(lambda level: 255 * (level > 99), mode="1")
        else:
            image = plain.convert("L").convert(mode) if mode == "I;16" else plain.convert(mode)
        data = BytesIO()
        image.save(data, format=kind)
        assert inspect(tmp_path, data.getvalue()).is_one_colour, colour


@given(st.integers(0, 1199), st.integers(0, 699), st.sampled_from([0, 1, 2]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_other_pixel_is_enough(tmp_path: Path, x: int, y: int, band: int) -> None:
    """Wherever it stands and whichever band it differs in: an image isn't of one colour for being dull."""
    image = Image.new("RGB", (1200, 700), (40, 40, 40))
    image.putpixel((x, y), tuple(90 if place == band else 40 for place in range(3)))
    data = BytesIO()
    image.save(data, format="BMP")
    assert not inspect(tmp_path, data.getvalue()).is_one_colour


def test_a_slow_change_of_colour_is_seen(tmp_path: Path) -> None:
    """Strips that are each of nearly one colour are held against the first pixel, not each against itself."""
    image = Image.linear_gradient("L").resize((2048, 1024)).point(lambda level: level // 4)
    data = BytesIO()
    image.save(data, format="PNG")
    assert not inspect(tmp_path, data.getvalue()).is_one_colour


def _encoded(
    colour: tuple[int, ...] | int, *, mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (8, 4)
) -> bytes:
    file = BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (_encoded((10, 20, 30)), _encoded((10, 20, 30)), 0.0),
        (_encoded((10, 20, 30)), _encoded((10, 20, 33)), 1.0),
        (_encoded((7, 7, 7)), _encoded(7, mode="L"), 0.0),
        (_encoded((7, 7, 7)), _encoded((7, 7, 7), kind="WEBP"), 0.0),
        (_encoded((7, 7, 7, 0), mode="RGBA"), _encoded((7, 7, 7, 255), mode="RGBA"), 255 / 4),
        (_encoded((7, 7, 7)), _encoded((7, 7, 7), size=(4, 8)), None),
        (_encoded(7000, mode="I;16"), _encoded(7000, mode="I;16"), 0.0),
    ],
)
def test_how_far_pixels_are_apart(one: bytes, other: bytes, difference: float | None) -> None:
    """In levels of 255 over all channels; alpha is one of them only where it differs, and the format none."""
    assert pixel_difference(one, other) == difference


def test_one_level_of_one_pixel_is_a_difference() -> None:
    """Equal pixels alone are told as 0.0."""
    picture, file = Image.new("RGB", (2000, 2000)), BytesIO()
    picture.putpixel((1999, 1999), (0, 0, 1))
    picture.save(file, "PNG")
    found = pixel_difference(_encoded((0, 0, 0), size=(2000, 2000)), file.getvalue())
    assert found == pytest.approx(1 / 12_000_000)
    assert found
