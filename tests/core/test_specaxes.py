"""The forms of an axis and the values that they give."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.catalog import DEFAULT_MODEL
from batchflux.core.findings import Findings, dotted
from batchflux.core.identity import axis_seeds
from batchflux.core.model import Axis, JsonValue
from batchflux.core.specaxes import AxisRules, axis_as_written, build_axes

_RULES = AxisRules(words=("style",), models=(DEFAULT_MODEL,), allow_unknown=False)


def _axis(name: str, written: Any, *, rules: AxisRules = _RULES) -> Axis:
    findings = Findings()
    axes = build_axes({name: written}, rules=rules, findings=findings)
    findings.raise_errors(where=dotted, order=lambda path: ())
    return axes[0]


def _values(name: str, written: Any) -> list[tuple[type, JsonValue]]:
    return [(type(value), value) for value in _axis(name, written).values]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"start": 2.5, "stop": 7.5, "num": 3}, [2.5, 5.0, 7.5]),
        ({"start": 1, "stop": 10, "num": 4}, [1, 4, 7, 10]),
        ({"start": 1.1, "stop": 1.4, "num": 4}, [1.1, 1.2, 1.3, 1.4]),
        ({"start": 10, "stop": 1, "num": 2}, [10, 1]),
        ({"start": 1, "stop": 2, "num": 4}, [1.0, 1.3333333333333333, 1.6666666666666667, 2.0]),
        ({"start": 3.5, "stop": 3.5, "num": 1}, [3.5]),
    ],
)
def test_evenly_spaced_values_are_decimal(written: Any, values: list[Any]) -> None:
    """Both ends are there, no 4.999999 between them, and whole numbers stay whole where both ends are."""
    assert _values("guidance_scale", written) == [(type(value), value) for value in values]


@given(st.integers(100, 1000), st.integers(100, 1000), st.integers(2, 50))
def test_spaced_ends_are_what_was_written(start: int, stop: int, num: int) -> None:
    """Whatever the step, the first and the last value are the ones in the file and no value leaves their span."""
    if start == stop:
        return
    low, high = start / 100, stop / 100
    values = _axis("guidance_scale", {"start": low, "stop": high, "num": num}).values
    assert (values[0], values[-1], len(values)) == (low, high, num)
    steps = [Decimal(repr(value)) for value in values]
    assert sorted(steps, reverse=start > stop) == steps


def test_counted_seeds_begin_at_their_start() -> None:
    """{count: 4, start: 7} is 7 to 10; without a start it begins at 0."""
    assert _axis("seed", {"count": 4, "start": 7}).values == (7, 8, 9, 10)
    assert _axis("seed", {"count": 2}).values == (0, 1)


def test_drawn_seeds_are_those_of_identity_and_growing_keeps_them() -> None:
    """The draw is reproducible, and a larger number begins with the smaller one's seeds."""
    few, many = _axis("seed", {"random": 4, "key": 7}), _axis("seed", {"random": 9, "key": 7})
    assert few.values == axis_seeds(4, 7)
    assert many.values[:4] == few.values
    assert _axis("seed", {"random": 4}).values == axis_seeds(4, 0)


def test_seeds_for_each_row_are_places() -> None:
    """The values are positions; the seeds come from each row's content and the key."""
    assert _axis("seed", {"random": 3, "key": 5, "per_row": True}) == Axis(
        name="seed", kind="row_seed", values=(0, 1, 2), key=5
    )


def test_a_whole_float_on_an_integer_axis_is_an_integer() -> None:
    """5.0 is 5, and is sent as the integer that the model asks for."""
    assert _values("seed", [5.0, 1e3]) == [(int, 5), (int, 1000)]


def test_a_word_is_text() -> None:
    """A whole number on a word's axis is its digits; a float, whose digits may not be those written, is refused."""
    assert _axis("style", ["film noir", 7]) == Axis(name="style", kind="word", values=("film noir", "7"))
    with pytest.raises(Exception, match=r"grid.style\[0\]: must be text, is the number 1.1; quote it"):
        _axis("style", [1.10])


def test_a_model_axis_checks_parameters_for_every_model() -> None:
    """A parameter that one of the models lacks is refused by that model's name."""
    rules = AxisRules(words=(), models=(DEFAULT_MODEL, "vendor/other"), allow_unknown=False)
    assert _axis("model", [DEFAULT_MODEL, "vendor/other"], rules=rules).kind == "model"
    with pytest.raises(Exception, match=f"is no parameter of {DEFAULT_MODEL}, and no template"):
        _axis("steps", [1, 2], rules=rules)


@pytest.mark.parametrize(
    "written",
    [
        [3, 1, 2],
        [1, 2, 3],
        list(range(5, 50)),
        list(range(50, 5, -1)),
        list(axis_seeds(30, 0)),
        [5],
        {"count": 1000, "start": 5},
        {"random": 4, "key": 7},
        {"random": 1, "key": 7},
        {"random": 1},
        {"random": 3, "key": 2, "per_row": True},
        [-1, 0, 1],
    ],
)
def test_a_seed_axis_is_written_as_it_reads_back(written: Any) -> None:
    """job.yaml holds the equal axis, also where it is too long to be listed."""
    axis = _axis("seed", written)
    assert _axis("seed", axis_as_written(axis)) == axis


def test_a_long_row_of_seeds_is_written_short() -> None:
    """A million seeds don't make a job.yaml of ten megabytes."""
    assert axis_as_written(_axis("seed", {"count": 1_000_000})) == {"count": 1_000_000, "start": 0}
    assert axis_as_written(_axis("seed", {"random": 5000, "key": 1})) == {"random": 5000, "key": 1}


@given(
    st.dictionaries(
        st.sampled_from(["seed", "style", "model", "guidance_scale", "prompt", "zzz"]),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(-5, 9), st.floats(-5, 15), st.text(max_size=4)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["start", "stop", "num", "count", "random", "key", "per_row", "x"]), inner
                ),
            ),
            max_leaves=6,
        ),
    )
)
def test_any_grid_is_axes_or_problems(grid: dict[str, Any]) -> None:
    """Whatever stands under grid, each axis is built or refused, never both and never an error of ours."""
    findings = Findings()
    axes = build_axes(grid, rules=_RULES, findings=findings)
    for axis in axes:
        assert axis.values or findings.has_errors("grid", axis.name)
    for name in grid:
        assert any(axis.name == name for axis in axes) or findings.has_errors("grid", name)
