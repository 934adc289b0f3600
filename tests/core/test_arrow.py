"""Between numpy and Arrow: what pyarrow's own conversions say, of slices and nulls too, and pandas stays out."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core import arrow

_NUMBERS = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=20)
_SLICE = st.tuples(st.integers(0, 20), st.integers(0, 20))


@settings(derandomize=True, max_examples=60)
@given(_NUMBERS, _SLICE)
def test_numbers(values: list[int | None], cut: tuple[int, int]) -> None:
    """Integers and moments keep their values, null is what the caller says."""
    expected = [7 if value is None else value for value in values][cut[0] :][: cut[1]]
    for kind in (pa.int64(), pa.timestamp("ms", tz="UTC")):
        column = pa.chunked_array([pa.array(values, pa.int64()).cast(kind)]).slice(*cut)
        assert arrow.as_ints(column, null=7).tolist() == expected


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.none() | st.booleans(), max_size=20), _SLICE)
def test_flags(values: list[bool | None], cut: tuple[int, int]) -> None:
    """Null is False."""
    column = pa.chunked_array([pa.array(values, pa.bool_())]).slice(*cut)
    assert arrow.as_flags(column).tolist() == [bool(value) for value in values][cut[0] :][: cut[1]]


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.none() | st.sampled_from(["a", "b", "c"]), max_size=20), _SLICE)
def test_names(values: list[str | None], cut: tuple[int, int]) -> None:
    """A text is its place among the names, any other and null the number for others."""
    column = pa.chunked_array([pa.array(values, pa.string())]).slice(*cut)
    expected = [{"a": 0, "b": 1}.get(value or "", -1) for value in values][cut[0] :][: cut[1]]
    assert arrow.numbered(column, ["a", "b"], other=-1).tolist() == expected


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=20), _SLICE)
def test_list_lengths(values: list[list[int] | None], cut: tuple[int, int]) -> None:
    """Null is a list without items."""
    column = pa.chunked_array([pa.array(values, pa.list_(pa.int64()))]).slice(*cut)
    assert arrow.list_lengths(column).tolist() == [len(value or ()) for value in values][cut[0] :][: cut[1]]


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.booleans(), max_size=20))
def test_back_to_arrow(mask: list[bool]) -> None:
    """Numbers and masks go the other way, masks as places too."""
    flags = np.array(mask, dtype=np.bool_)
    assert arrow.from_flags(flags).to_pylist() == mask
    assert arrow.places_of(flags).to_pylist() == arrow.from_ints(np.flatnonzero(flags)).to_pylist()


def test_pandas_stays_out() -> None:
    """What a start does with columns must not import it: 0.3 s and 40 MB."""
    program = """
import sys
import numpy as np, pyarrow as pa
from batchflux.core import arrow
from batchflux.io.parts import build_table
table = build_table([b'{"cell_id":"a","kind":"files","attempt":1,"status":"x","files":["f"],"attempts":null}'] * 3)
arrow.as_ints(table["attempt"]), arrow.as_ints(table["attempts"]), arrow.list_lengths(table["files"])
arrow.numbered(table["kind"], ["files"], other=-1)
table.filter(arrow.from_flags(np.array([True, False, True]))).take(arrow.places_of(np.array([True, False])))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@settings(derandomize=True, max_examples=60)
@given(
    st.sampled_from(
        [
            (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
            (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
            (pa.float64(), st.floats(allow_nan=False)),
            (pa.bool_(), st.booleans()),
            (pa.list_(pa.string()), st.lists(st.none() | st.sampled_from(["", "ä", "b"]), max_size=3)),
            (pa.list_(pa.bool_()), st.lists(st.none() | st.booleans(), max_size=3)),
        ]
    ).flatmap(lambda kind: st.tuples(st.just(kind[0]), st.lists(st.none() | kind[1], max_size=20)))
)
def test_values_as_arrow_makes_them(case: tuple[pa.DataType, list[Any]]) -> None:
    """A column built from its buffers is the one that Arrow itself makes, nulls and lists included."""
    kind, values = case
    built = arrow.from_values(values, kind)
    built.validate(full=True)
    assert built.equals(pa.array(values, kind))


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.none() | st.integers(-(2**40), 2**40), max_size=20))
def test_moments_as_arrow_gives_them(values: list[int | None]) -> None:
    """Moments come out as they do by Arrow's own way, which loads pandas."""
    column = pa.chunked_array([pa.array(values, pa.int64()).cast(pa.timestamp("ms", tz="UTC"))])
    assert arrow.as_objects(column) == column.to_pylist()
