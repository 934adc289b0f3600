"""What is odd about whole images: worded, and sorted again to be counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import JsonValue, SavedFile
from batchflux.core.sanity import WARNING_KINDS, image_warnings, kind_of, replicate_warning, same_image_warning

# What the model draws for its aspect ratios, in blocks of 16 pixels.
DRAWN = {
    "21:9": (1568, 672),
    "16:9": (1392, 752),
    "3:2": (1248, 832),
    "4:3": (1184, 880),
    "1:1": (1024, 1024),
    "3:4": (880, 1184),
    "2:3": (832, 1248),
    "9:16": (752, 1392),
    "9:21": (672, 1568),
}


def image(width: int, height: int, *, is_one_colour: bool = False) -> SavedFile:
    return SavedFile(
        path="a.png", sha256="0" * 64, size_bytes=9, width=width, height=height, is_one_colour=is_one_colour
    )


@pytest.mark.parametrize("asked", DRAWN)
def test_only_the_ratio_asked_for_will_do(asked: str) -> None:
    """Blocks of pixels are no fault, and every other ratio of the list is one."""
    told = [drawn for drawn, size in DRAWN.items() if image_warnings({"aspect_ratio": asked}, [image(*size)])]
    assert told == [drawn for drawn in DRAWN if drawn != asked]


def test_the_words_say_what_was_drawn_and_asked() -> None:
    """Each image is told by its number, in order."""
    files = [image(1392, 752), image(1024, 1024, is_one_colour=True)]
    assert image_warnings({"aspect_ratio": "16:9"}, files) == (
        "image 2 is of one colour",
        "image 2 has 1024 × 1024 pixels where 16:9 was asked for",
    )


@pytest.mark.parametrize("asked", [None, 969, "", "16x9", "0:1", "1:0", "16:9:1", "match_input_image", ["16:9"]])
def test_what_asks_for_no_ratio_is_no_fault(asked: JsonValue) -> None:
    """A ratio that isn't stated, or that can't be read, is held against nothing."""
    body = {} if asked is None else {"aspect_ratio": asked}
    assert image_warnings(body, [image(10, 700)]) == ()


@given(st.sampled_from(sorted(DRAWN)), st.integers(8, 2048))
def test_rounding_to_pixels_is_no_fault(asked: str, long_side: int) -> None:
    """Whatever the size, a side rounded to a whole pixel is right."""
    width, height = map(int, asked.split(":"))
    longest = max(width, height)
    size = image(max(1, round(long_side * width / longest)), max(1, round(long_side * height / longest)))
    assert image_warnings({"aspect_ratio": asked}, [size]) == ()


def test_every_warning_is_of_a_kind_that_is_told() -> None:
    """Warnings are counted by kinds, and each kind has its words."""
    odd = image_warnings({"aspect_ratio": "16:9"}, [image(9, 900, is_one_colour=True)])
    lines = [*odd, same_image_warning(1), same_image_warning(1200), "1 of 4 images arrived", "an output is no URL: x"]
    lines += [replicate_warning([1.5]), replicate_warning([])]
    kinds = [kind_of(line) for line in lines]
    assert kinds[:6] == ["one_colour", "aspect_ratio", "same_image", "same_image", "fewer_images", "other"]
    assert kinds[6:] == ["replicate", "replicate"]
    assert set(kinds) == set(WARNING_KINDS)
