"""`--where`: a condition means what it means in Python over rows, and what it can't mean is said with its place."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.errors import UsageError
from batchflux.export.where import parse_where

_ROWS: list[dict[str, Any]] = [
    {"status": "completed", "seed": 1, "scale": 2.5, "flag": True, "error": None, "names": ["a", "b"]},
    {"status": "failed", "seed": 2, "scale": None, "flag": None, "error": "server", "names": []},
    {"status": "completed", "seed": None, "scale": 7.0, "flag": False, "error": None, "names": None},
    {"status": "pending", "seed": 4, "scale": float("nan"), "flag": True, "error": "it's", "names": ["b"]},
]
_TABLE = pa.Table.from_pylist(_ROWS).append_column(
    "at", pa.array([datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)], pa.timestamp("ms", tz="UTC"))
)
_TABLE = _TABLE.append_column("day", pa.array([date(2026, 1, n) for n in (1, 2, 3, 4)]))
_TABLE = _TABLE.append_column("price", pa.array([Decimal("0.5"), Decimal("1.5"), None, Decimal("2.5")]))
_TABLE = _TABLE.append_column("kind", pa.array(["x", "y", "x", None]).dictionary_encode())
_TABLE = _TABLE.append_column("odd name", pa.array([1, 2, 3, 4]))


def kept(text: str) -> list[int]:
    """Return the rows for which a condition holds, from 0."""
    mask = parse_where(text, _TABLE.schema)(_TABLE).to_pylist()
    assert None not in mask
    return [place for place, holds in enumerate(mask) if holds]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("status == 'completed' and scale > 3", [2]),
        ("status == 'completed' and not scale > 3", [0]),
        ("seed != 1", [1, 2, 3]),
        ("not seed == 1", [1, 2, 3]),
        ("seed is None or scale is not None", [0, 2, 3]),
        ("seed == None", [2]),
        ("None != seed", [0, 1, 3]),
        ("1 < seed <= 4", [1, 3]),
        ("seed in (1, 4, 99)", [0, 3]),
        ("seed not in [1, 4]", [1, 2]),
        ("status in {'failed'}", [1]),
        ("flag", [0, 3]),
        ("not flag", [1, 2]),
        ("flag == False", [2]),
        ("error == 'it\\'s'", [3]),
        ("'plet' in status", [0, 2]),
        ("'plet' not in status", [1, 3]),
        ("'b' in names", [0, 3]),
        ("len(names) > 0", [0, 3]),
        ("len(status) == 6", [1]),
        ("at >= '2026-01-03'", [2, 3]),
        ("'2026-01-02T01:00:00+01:00' == at", [1]),
        ("day < '2026-01-03'", [0, 1]),
        ("price > 1", [1, 3]),
        ("kind == 'x'", [0, 2]),
        ('column("odd name") >= 3', [2, 3]),
        ("seed > -1 and scale < 1e9", [0]),
        (f"seed < {10**30}", [0, 1, 3]),
        (f"seed > -{10**400}", [0, 1, 3]),
        ("  seed == 1\n", [0]),
    ],
)
def test_what_a_condition_keeps(text: str, rows: list[int]) -> None:
    """Comparisons with what is missing are false, `!=` with it is true, and `not` turns either around."""
    assert kept(text) == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("statu == 'x'", "column 1: statu is no column of the manifest; did you mean status?"),
        ("seed == 1 and scal > 2", "column 15: scal is no column"),
        ("'é' == status and scal > 2", "column 19: scal is no column"),
        ("seed > 'three'", "column 1: seed is a number, 'three' is text: they can't be compared"),
        ("status > 3", "status is text, 3 is a number"),
        ("flag > True", "flag is true or false, which has no order"),
        ("seed < None", "None can't be ordered"),
        ("seed is 1", "`is` asks for None alone"),
        ("1 == 1", "compares two values and no column"),
        ("None is None", "compares two values and no column"),
        ("status", "status is text and no condition"),
        ("at > 'noon'", "at is a time, 'noon' is none"),
        ("names == 'a'", "names is list, 'a' is text"),
        ("seed in ()", "the list is empty"),
        ("seed in (1, None)", "None is asked for with `is None`"),
        ("seed in (1, scale)", "a list holds plain values"),
        ("1 in (1, 2)", "`in` a list asks about a column"),
        ("'a' in seed", "seed is a number: a text can't be in it"),
        ("len(seed) > 1", "len() wants"),
        ("seed + 1 > 2", "'seed + 1' is not known here"),
        ("status.upper() == 'X'", "is not known here"),
        ("__import__('os').system('true') == 0", "is not known here"),
        ("(lambda: 1)() == seed", "is not known here"),
        ("[seed for seed in 'x'] == 1", "is not known here"),
        ("f'{seed}' == status", "is not known here"),
        ("b'x' == status", "is not known here"),
        ("seed = 1", "column 6: invalid syntax"),
        ("", "write comparisons of columns"),
        ("seed ==", "write comparisons of columns"),
        ("status == 'a\0b'", "write comparisons"),
        ("seed == 1 or " * 400 + "seed == 2", "longer than"),
        ("not " * 50 + "flag", "nested too deep"),
        ("(" * 500 + "flag" + ")" * 500, "write comparisons"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    """What isn't in the grammar, or compares what can't be compared, names its place and runs nothing."""
    with pytest.raises(UsageError) as refused:
        parse_where(text, _TABLE.schema)
    assert str(refused.value).startswith("--where: ")
    assert words in str(refused.value)


_LEAF = st.one_of(
    st.builds(lambda op, n: f"seed {op} {n}", st.sampled_from(["==", "!=", "<", ">="]), st.integers(-1, 5)),
    st.builds(lambda op, n: f"scale {op} {n}", st.sampled_from(["==", "!=", ">"]), st.floats(0, 8).map(repr)),
    st.sampled_from(["flag", "error is None", "error is not None", "status in ('failed', 'pending')"]),
)
_CONDITIONS = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.builds(lambda a, op, b: f"({a} {op} {b})", inner, st.sampled_from(["and", "or"]), inner),
        inner.map(lambda a: f"(not {a})"),
    ),
    max_leaves=8,
)


class _Missing:
    """A value that Python's own operators treat as the grammar says: unequal to all, in no order with any."""

    def __eq__(self, other: object) -> bool:
        return False

    def __lt__(self, other: object) -> bool:
        return False

    __gt__ = __ge__ = __le__ = __lt__
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False


@given(_CONDITIONS)
def test_conditions_mean_what_they_mean_in_python(text: str) -> None:
    """Any condition keeps the rows that Python keeps, told of what is missing."""
    missing = _Missing()
    expected = []
    for place, row in enumerate(_ROWS):
        names = {name: missing if value is None and name != "error" else value for name, value in row.items()}
        if eval(text, {}, names):  # noqa: S307 - made here
            expected.append(place)
    assert kept(text) == expected
