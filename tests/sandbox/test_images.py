"""The sandbox's images: real, deterministic, of the right shape, and told apart by their cell."""

import io
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from batchflux.sandbox.images import Painter, Picture, size_of
from batchflux.sandbox.lettering import Lettering, _plain


def _picture(**changes: Any) -> Picture:
    return Picture(**{"prompt": "a red kite", "seed": 1, "guidance": 3.5, "aspect_ratio": "1:1", **changes})


def _draw(image_format: str = "png", *, long_side_px: int = 192, **changes: Any) -> bytes:
    return Painter(long_side_px=long_side_px, image_format=image_format).draw(_picture(**changes))


def _pixels(**changes: Any) -> npt.NDArray[np.float64]:
    # The caption's band at the foot and the mark at the head are the same in all of them: only the scene is compared.
    image = np.asarray(Image.open(io.BytesIO(_draw(**changes))), dtype=np.float64)
    return image[30:130]


def _distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_same_input_same_bytes(image_format: str) -> None:
    """The same picture is the same bytes, also from another painter that has drawn something else before."""
    painter = Painter(long_side_px=192, image_format=image_format)
    painter.draw(_picture(prompt="另一个提示", seed=9))
    drawn = painter.draw(_picture())
    assert drawn == _draw(image_format)
    image = Image.open(io.BytesIO(drawn))
    image.load()
    assert (image.format, image.mode, image.size) == (image_format.upper(), "RGB", (192, 192))


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("1:1", (384, 384)),
        ("16:9", (384, 216)),
        ("9:16", (216, 384)),
        ("21:9", (384, 165)),
        ("9:21", (165, 384)),
        ("4:3", (384, 288)),
        ("nonsense", (384, 384)),
    ],
)
def test_aspect_ratio(ratio: str, size: tuple[int, int]) -> None:
    """The long side is the one asked for and the other follows the ratio."""
    assert size_of(ratio, long_side_px=384) == size
    assert Image.open(io.BytesIO(_draw(long_side_px=384, aspect_ratio=ratio))).size == size


def test_every_part_of_the_input_shows() -> None:
    """Another prompt, seed, guidance, ratio or ordinal is another picture."""
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": "a red kites"},
        {"seed": 2},
        {"guidance": 3.6},
        {"aspect_ratio": "2:3"},
        {"ordinal": 2, "images": 2},
        {"ordinal": 1, "images": 2},
    ]
    assert len({_draw(**change) for change in changes}) == len(changes)


def test_guidance_changes_smoothly_and_the_seed_wholly() -> None:
    """A small step of guidance moves the picture little, a large one more, and another seed most of all."""
    base = _pixels(guidance=3.5)
    small, medium, large = (_distance(base, _pixels(guidance=g)) for g in (3.6, 4.5, 9.0))
    seeds = [_distance(base, _pixels(seed=seed)) for seed in range(2, 12)]
    assert small < 2
    assert small < medium < large
    assert float(np.median(seeds)) > 10 * small
    assert min(seeds) > 2 * small


def test_steps_of_guidance_are_even() -> None:
    """Along the whole range of guidance no step jumps: there is no value at which another picture begins."""
    frames = [_pixels(guidance=1 + 0.25 * n) for n in range(37)]
    steps = [_distance(one, other) for one, other in pairwise(frames)]
    assert max(steps) < 4 * float(np.median(steps))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "\n\t\r\x00\x1b[31m",
        "一只猫坐在窗台上看雨",
        "🙂👩‍👩‍👧 kites \U0010ffff",
        "\ud800 lone",
        "שלום \u202eevil\u202c مرحبا",
        "e\u0301" * 40,
        "x" * 150_000,
        "word " * 30_000,
        "界" * 5_000,
    ],
)
def test_odd_prompts(prompt: str) -> None:
    """No text breaks the lettering, whatever its script, length or control characters, on any shape of image."""
    for ratio in ("1:1", "9:21", "21:9"):
        Image.open(io.BytesIO(_draw(prompt=prompt, aspect_ratio=ratio, long_side_px=128))).load()


def test_scripts_without_glyphs_are_told_apart() -> None:
    """Two prompts that the font has no glyph for differ in their caption, not only in their scene."""
    one, other = (
        np.asarray(Image.open(io.BytesIO(_draw(prompt=prompt, long_side_px=384))))[320:345, :200]
        for prompt in ("猫", "狗")
    )
    assert np.abs(one.astype(int) - other).max() > 100


@settings(max_examples=30)
@given(
    prompt=st.text(max_size=60),
    seed=st.integers(0, 2**31 - 1),
    guidance=st.floats(1, 20),
    ratio=st.sampled_from(["1:1", "3:2", "9:21", "21:9"]),
)
def test_any_picture_is_a_whole_image(prompt: str, seed: int, guidance: float, ratio: str) -> None:
    """Whatever the service accepts can be drawn and decoded."""
    image = Image.open(io.BytesIO(_draw(prompt=prompt, seed=seed, guidance=guidance, aspect_ratio=ratio)))
    image.load()
    assert max(image.size) == 192


@pytest.mark.parametrize(("room", "lines"), [(400, 1), (130, 3), (5, 4)])
def test_numbers_are_never_cut(room: float, lines: int) -> None:
    """Where the parameters don't fit on one line they take more, each of them whole."""
    parts = ["seed 2147483647", "guidance 10", "9:21", "4 of 4"]
    packed = Lettering(em_px=16)._pack(parts, room=room)
    assert "   ".join(packed) == "   ".join(parts)
    assert len(packed) == lines


@pytest.mark.parametrize(
    ("letter", "plain"), [("é", "e"), ("Ł", "L"), ("ø", "o"), ("—", "-"), ("ﬁ", "f"), ("猫", "猫")]
)
def test_plain_spelling(letter: str, plain: str) -> None:
    """A letter that the font lacks falls back on its base letter, which the words stay legible with."""
    assert _plain(letter) == plain
