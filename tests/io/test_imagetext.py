"""Words in images: found by those who look where image tools look, the picture and all else as it was."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from batchflux.core.model import JsonValue
from batchflux.io.imagetext import embed_words, plain_words

WORDS: Mapping[str, JsonValue] = {
    "prompt": "a kite, red",
    "model": "m/x",
    "seed": 7,
    "guidance_scale": 3.5,
    "cell_id": "ab",
}
FORMS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {"icc_profile": b"x" * 200}),
    ("PNG", "P", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True, "icc_profile": b"x" * 70_000}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"xmp": b"<x/>", "icc_profile": b"x" * 33}),
]


def drawn(form: str, mode: str = "RGB", size: tuple[int, int] = (31, 17), **options: Any) -> bytes:
    """Return an image's bytes, with something to see in it."""
    picture = Image.new(mode, size)
    ImageDraw.Draw(picture).ellipse((3, 3, 20, 14), fill=1)
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def said(data: bytes) -> str:
    """Return the words that an image holds."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.format == "PNG":
            return f"{image.info['parameters']}\n{image.info['batchflux']}"
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        return str(comment[8:].decode("utf-16-be"))


def pixels(data: bytes) -> tuple[str, bytes, Any]:
    """Return an image's mode, pixels and colour profile."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode, image.tobytes(), image.info.get("icc_profile")


@pytest.mark.parametrize(("form", "mode", "options"), FORMS)
def test_words_are_found_and_pixels_stay(form: str, mode: str, options: dict[str, Any]) -> None:
    """Each kind of file opens with the very same pixels and profile, the words readable and as JSON too."""
    before = drawn(form, mode, **options)
    after = embed_words(before, WORDS)
    assert pixels(after) == pixels(before)
    text = said(after)
    assert text.startswith("a kite, red\nSeed: 7, CFG scale: 3.5, Model: m/x, cell_id: ab")
    assert json.loads(text.splitlines()[-1]) == WORDS
    assert len(after) - len(before) < 800
    if form == "WEBP":
        flags = after[20]
        assert (after[12:16], bool(flags & 0x08), bool(flags & 0x10)) == (b"VP8X", True, mode == "RGBA")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@settings(max_examples=30)
@given(prompt=st.text(max_size=200), size=st.tuples(st.integers(24, 300), st.integers(24, 300)))
def test_any_prompt_into_any_size(form: str, prompt: str, size: tuple[int, int]) -> None:
    """Whatever the prompt, the words come back (half characters as question marks) and so does the picture."""
    before = drawn(form, size=size)
    after = embed_words(before, {"prompt": prompt})
    assert pixels(after) == pixels(before)
    assert json.loads(said(after).rpartition("\n")[2])["prompt"].encode("utf-8", "replace") == prompt.encode(
        "utf-8", "replace"
    )


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_what_exif_says_already_stays(form: str) -> None:
    """A camera's name and an earlier comment: the one is kept, the other replaced, and there is one Exif still."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0old"
    before = drawn(form, exif=exif.tobytes())
    once = embed_words(before, WORDS)
    twice = embed_words(once, {**WORDS, "seed": 8})
    assert pixels(twice) == pixels(before)
    with Image.open(io.BytesIO(twice)) as image:
        assert image.getexif()[0x010F] == "a maker"
    assert "Seed: 8" in said(twice)
    assert b"a kite".decode().encode("utf-16-be") in twice
    assert "Seed: 7".encode("utf-16-be") not in twice
    assert len(twice) == len(once)


def test_texts_of_a_png_stay() -> None:
    """Other text chunks of the file are kept."""
    info = PngInfo()
    info.add_text("Software", "a model")
    with Image.open(io.BytesIO(embed_words(drawn("PNG", pnginfo=info), WORDS))) as image:
        assert image.info["Software"] == "a model"
        assert "parameters" in image.info


def test_what_can_not_take_words_stays_as_it_is() -> None:
    """Other kinds, files cut short, and words too long for a JPEG's segment change nothing."""
    gif = drawn("GIF", "P")
    assert embed_words(gif, WORDS) == gif
    jpeg = drawn("JPEG")
    assert embed_words(jpeg, {"prompt": "x" * 40_000}) == jpeg
    broken = drawn("JPEG", exif=b"Exif\0\0nothing that is Exif at all")
    assert pixels(embed_words(broken, WORDS)) == pixels(broken)
    for form in ("PNG", "JPEG", "WEBP"):
        whole = drawn(form)
        for length in range(64):
            embed_words(whole[:length], WORDS)


def test_plain_words() -> None:
    """The form that image tools show: labels they know first, and quotes where a value could end too soon."""
    words: dict[str, JsonValue] = {
        "prompt": "two\nlines",
        "aspect_ratio": "16:9",
        "seed": 1,
        "model": "m",
        "flag": True,
        "none": None,
    }
    assert plain_words(words) == 'two\nlines\nSeed: 1, Model: m, aspect_ratio: "16:9", flag: true, none: null'
