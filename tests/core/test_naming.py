"""Names of images: ours alone, readable, safe on every file system, and one for each cell."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import JsonValue
from batchflux.core.naming import image_path
from tests.core.lives import a_cell

CELL = dataclasses.replace(a_cell(), prompt_id="p0012", cell_id="3fa91c0b52de" + "0" * 20)
SAFE = re.compile(r"images/[0-9a-f]{2}/[A-Za-z0-9_][A-Za-z0-9._-]*\.png")

values: st.SearchStrategy[JsonValue] = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def test_a_readable_name() -> None:
    """Row, axis values as they are written, the cell's hash; a whole number shows no fraction."""
    name = image_path(CELL, {"seed": 3, "guidance_scale": 5.0}, number=1, extension="png")
    assert name == "images/3f/p0012_seed3_guidance_scale5_3fa91c0b52de.png"
    assert image_path(CELL, {}, number=2, extension="jpg") == "images/3f/p0012_3fa91c0b52de-2.jpg"


def test_a_ratio_and_a_path_are_made_harmless() -> None:
    """What means something to a file system becomes a dash."""
    cell = dataclasses.replace(CELL, prompt_id="../../etc/passwd\0")
    name = image_path(cell, {"aspect_ratio": "16:9"}, number=1, extension="png")
    assert name == "images/3f/etc-passwd_aspect_ratio16-9_3fa91c0b52de.png"
    hidden = dataclasses.replace(CELL, prompt_id="...")
    assert image_path(hidden, {}, number=1, extension="png") == "images/3f/x_3fa91c0b52de.png"


@pytest.mark.security(17)
@pytest.mark.fault("I03", "X05")
@given(st.text(max_size=300), st.dictionaries(st.text(max_size=60), values, max_size=6), st.integers(1, 9))
def test_any_name_is_safe(prompt_id: str, labels: dict[str, JsonValue], number: int) -> None:
    """I03: whatever a row is called and an axis holds, the name is plain, in its folder and short enough."""
    cell = dataclasses.replace(CELL, prompt_id=prompt_id)
    name = image_path(cell, labels, number=number, extension="png")
    assert SAFE.fullmatch(name), name
    assert len(name) < 160


@given(st.text(max_size=50), st.text(max_size=50))
def test_names_are_unique_by_the_cells_hash(one: str, other: str) -> None:
    """Rows whose names come out alike, on a file system that ignores case too, keep files of their own."""
    first = dataclasses.replace(CELL, prompt_id=one)
    second = dataclasses.replace(CELL, prompt_id=other, cell_id="3fa91c0b52df" + "0" * 20)
    assert (
        image_path(first, {}, number=1, extension="png").lower()
        != image_path(second, {}, number=1, extension="png").lower()
    )
