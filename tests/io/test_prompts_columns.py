"""Arrow columns to exact text, and the rule by which columns of two files join."""

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core.arrow import from_texts
from batchflux.io.columns import build_column, is_textual, join_types, plain_array, text_column

_STEADY = settings(derandomize=True)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@_STEADY
@given(st.lists(st.none() | _TEXT))
def test_strings_built_from_buffers_are_those_given(values: list[str | None]) -> None:
    """Any text, NUL and other planes included, and nulls come back as they were, in a sound array."""
    array = from_texts(values)
    array.validate(full=True)
    assert array.to_pylist() == values
    assert array.null_count == values.count(None)


@_STEADY
@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.floats(allow_nan=False)),
    st.lists(st.none() | st.booleans()),
)
def test_numbers_built_from_buffers_are_those_given(
    integers: list[int | None], floats: list[float | None], truths: list[bool | None]
) -> None:
    """Every int64, every double and every truth value comes back as it was."""
    for values, kind in ((integers, pa.int64()), (floats, pa.float64()), (truths, pa.bool_())):
        array = build_column(values, kind)
        array.validate(full=True)
        assert array.to_pylist() == values


@pytest.mark.parametrize(
    ("value", "kind", "error"),
    [
        ("1", pa.int64(), TypeError),
        (True, pa.int64(), TypeError),
        (1.0, pa.int64(), TypeError),
        (2**63, pa.int64(), OverflowError),
        (True, pa.float64(), TypeError),
        (1, pa.bool_(), TypeError),
        (0, pa.null(), TypeError),
        ("\ud800", pa.string(), UnicodeEncodeError),
    ],
)
def test_a_value_of_another_type_is_refused(value: str | float, kind: pa.DataType, error: type[Exception]) -> None:
    """No value is bent to fit a column."""
    with pytest.raises(error):
        build_column([value], kind)


@_STEADY
@given(st.floats(), st.integers(-(2**63), 2**63 - 1))
def test_numbers_as_text_read_back_equal(number: float, integer: int) -> None:
    """A double's text is Python's shortest, an integer's its digits."""
    assert text_column(pa.array([number])).to_pylist() == [repr(number)]
    assert text_column(pa.array([integer])).to_pylist() == [str(integer)]
    assert math.isnan(number) or float(repr(number)) == number


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["007", None, ""]), ["007", None, ""]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", None]).cast(pa.string_view()), ["a", None]),
        (pa.array(["b", None, "b"]).dictionary_encode(), ["b", None, "b"]),
        (pa.array([7, None, -1], pa.int8()), ["7", None, "-1"]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([3, None, 3]).dictionary_encode(), ["3", None, "3"]),
        (pa.array([1.0, 3.5, None, 1e300]), ["1.0", "3.5", None, "1e+300"]),
        (pa.array([0.1, 1e-8], pa.float32()), ["0.1", "1e-08"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([Decimal("3.50"), None]), ["3.50", None]),
        (pa.nulls(2), [None, None]),
        (pa.array([date(2024, 5, 1)]), ["2024-05-01"]),
        (pa.array([time(7, 30)], pa.time32("s")), ["07:30:00"]),
        (pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)], pa.timestamp("s", "UTC")), ["2024-05-01 10:00:00Z"]),
        (pa.ExtensionArray.from_storage(pa.json_(pa.large_string()), pa.array(["{}"], pa.large_string())), ["{}"]),
        (pa.array(["x", "y", "z"]).slice(1), ["y", "z"]),
    ],
)
def test_a_column_as_text_is_exact(array: pa.Array, expected: list[str | None]) -> None:
    """Each type that can be text has one text a value, and null stays null."""
    assert is_textual(array.type)
    assert text_column(array).type == pa.string()
    assert text_column(array).to_pylist() == expected


@pytest.mark.parametrize("array", [pa.array([b"a"]), pa.array([["a"]]), pa.array([{"a": 1}])])
def test_a_column_without_one_text_is_refused(array: pa.Array) -> None:
    """Binary, lists and structures are not text, and they stay what they are."""
    assert not is_textual(array.type)
    assert plain_array(array) is array
    with pytest.raises(TypeError, match="is not text"):
        text_column(array)


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (pa.string(), pa.string(), pa.string()),
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.binary(), pa.null(), pa.binary()),
        (pa.int8(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.string()),
        (pa.int64(), pa.float64(), pa.string()),
        (pa.string(), pa.int64(), pa.string()),
        (pa.string(), pa.binary(), None),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), None),
    ],
)
def test_types_join_without_loss_or_not_at_all(
    first: pa.DataType, second: pa.DataType, joined: pa.DataType | None
) -> None:
    """The joined type holds every value of both, whichever file comes first."""
    assert join_types(first, second) == joined
    assert join_types(second, first) == joined
