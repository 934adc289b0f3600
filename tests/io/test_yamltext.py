"""YAML text: read as written or refused, and written so that it reads back."""

import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.errors import JobSpecError
from batchflux.core.findings import BadValue
from batchflux.io import yamltext
from batchflux.io.yamltext import Node, Position, dump_job, read_yaml, resolve

_START = Position(file="job.yaml", line=1, column=1)


def _plain(node: Node | None) -> Any:
    if node is None:
        return None
    match node.value:
        case dict() as entries:
            return {key: _plain(item) for key, item in entries.items()}
        case list() as items:
            return [_plain(item) for item in items]
    return node.value


def _read(text: str) -> Any:
    return _plain(read_yaml(text, at=_START))


def _refusal(text: str) -> str:
    with pytest.raises(JobSpecError) as caught:
        read_yaml(text, at=_START)
    return str(caught.value)


@pytest.mark.fault("I10")
@pytest.mark.parametrize(
    "text",
    [
        "NO",
        "no",
        "yes",
        "Yes",
        "on",
        "OFF",
        "y",
        "True",
        "FALSE",
        "Null",
        "NULL",
        "NA",
        "None",
        "2024-01-31",
        "2001-12-14t21:59:43.10-05:00",
        "1.2.3",
        "1e",
        "e5",
        "--1",
        "16/9",
        "=",
        "a:b",
        "1:b",
        "0b",
        "0x",
        "inf",
        "nan",
        "1,000",
        "½",
        "٣",
    ],
)
def test_text_stays_as_written(text: str) -> None:
    """The words that YAML 1.1 turns into booleans, dates and nulls are text here."""
    assert resolve(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("3.50", 3.5),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0.1", 0.1),
        ("2147483648", 2147483648),
    ],
)
def test_plain_values_are_typed(text: str, value: object) -> None:
    """true, false, null and decimal numbers are what they say, exponents without a point too."""
    read = resolve(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.fault("I10")
@pytest.mark.parametrize(
    "text",
    [
        "16:9",
        "1:1",
        "1:30",
        "07:00",
        "-1:30",
        "1:30.5",
        "4:99",
        "1:2:3",
        "010",
        "007",
        "-010",
        "00",
        "08",
        "010.5",
        "0x1F",
        "0o17",
        "0b11",
        "-0x1f",
        "1_000",
        "1_0.5",
        "2024_11",
        ".inf",
        "-.INF",
        ".nan",
        ".NaN",
        "1" * 500,
        "0.1" + "0" * 30 + "1",
        "1e999",
        "1e99999",
        "1e-999",
        "3.500000000000000001",
    ],
)
def test_what_readers_of_yaml_disagree_about_is_refused(text: str) -> None:
    """Each refusal says what to write."""
    with pytest.raises(BadValue) as caught:
        resolve(text)
    assert caught.value.instead


@pytest.mark.parametrize("text", ["16:9", "007", "1_000", "0x1F", "1e3", "NO", "null", "~", "true", ".inf", "5"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_what_is_quoted_is_text(text: str, quote: str) -> None:
    """Quotes end every doubt."""
    assert _read(f"a: {quote}{text}{quote}") == {"a": text}


@pytest.mark.fault("I10")
def test_base_60_is_text_on_the_command_line() -> None:
    """Nobody quotes twice in a shell; the other refusals stay."""
    assert resolve("16:9", base_60_is_text=True) == "16:9"
    with pytest.raises(BadValue):
        resolve("007", base_60_is_text=True)


def test_keys_are_text_as_written() -> None:
    """No key is ever a number or a boolean."""
    assert _read("{1: a, no: b, null: c, 16:9: d}") == {"1": "a", "no": "b", "null": "c", "16:9": "d"}


def test_positions_are_those_of_keys_and_items() -> None:
    """A mapping's entry stands where its key does, a list's item where it begins."""
    node = read_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n", at=_START)
    assert node is not None
    assert isinstance(node.value, dict)
    b = node.value["b"]
    assert isinstance(b.value, list)
    assert (b.position.line, b.position.column) == (2, 1)
    assert [(item.position.line, item.position.column) for item in b.value] == [(3, 5), (4, 5)]


def test_aliases_are_read() -> None:
    """An alias is the value of its anchor, as often as it is used."""
    assert _read("a: &x [1, 2]\nb: *x\nc: {d: *x}") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}


def test_every_bad_value_of_a_file_is_named() -> None:
    """Not only the first one."""
    said = _refusal("a: 16:9\nb: [010, 1_0]\nc: !x 5\na: 1\n").split("\n")
    assert [line.split(": ")[:2] for line in said] == [
        ["job.yaml:1:4", "a"],
        ["job.yaml:2:5", "b[0]"],
        ["job.yaml:2:10", "b[1]"],
        ["job.yaml:3:4", "c"],
        ["job.yaml:4:1", "a"],
    ]


@pytest.mark.parametrize("letter", ["\x85", "\u2028", "\u2029", "\x00", "\x07", "\x7f", "\ufeff"])
def test_characters_that_would_change_are_refused(letter: str) -> None:
    """A line break to one reader and a letter to another is written as an escape."""
    said = _refusal(f'a: 1\nb: "x{letter}y"\n')
    assert said.startswith("job.yaml:2:6: a character that YAML can't hold as it is: U+")
    escape = said.rsplit(": ", 1)[1]
    assert _read(f"b: {escape}") == {"b": letter}


def test_half_a_character_is_refused() -> None:
    """A lone surrogate can be sent to no service."""
    assert "job.yaml:1:" in _refusal('a: "\\ud800"')


_HOSTILE = {
    "brackets": "[" * 5000,
    "braces": "{a: " * 5000,
    "dashes": "- " * 5000 + "x",
    "keys": "? " * 5000 + "x",
    "alias in a list": "a: &a [*a]",
    "alias in a mapping": "a: &a {b: *a}",
    "doubling": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
    "deepening": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)),
    "long list": "a: [" + "1," * 100_000 + "]",
    "many bad": "a: [" + "010," * 200_000 + "]",
    "many anchors": "a: [" + ",".join(f"&x{i} 1" for i in range(45_000)) + ", !t x]",
    "long scalar": "a: 'x" + "x" * 1_000_000,
    "many keys": "".join(f"k{i}: 1\n" for i in range(50_001)),
    "long number": "a: " + "1" * 1_000_000,
    "base 60": "a: " + "1:" * 300_000 + "1",
    "underscores": "a: " + "1_" * 400_000 + "1",
}


@pytest.mark.security(22)
@pytest.mark.fault("I09")
@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_text_is_refused_quickly(name: str) -> None:
    """Depth, aliases, sizes and sheer numbers end in a message, in far less than a person's patience."""
    began = time.process_time()
    said = _refusal(_HOSTILE[name])
    assert time.process_time() - began < 2  # a second where nothing else runs; the bound only catches explosions
    assert said.startswith("job.yaml:")
    assert len(said) < 20_000


def test_a_deep_text_within_bounds_is_read() -> None:
    """Twenty levels are fine, one more is not."""
    assert _read("a: " + "[" * 19 + "]" * 19) is not None
    assert "nested deeper than 20 levels" in _refusal("a: " + "[" * 20 + "]" * 20)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        [
            "NO",
            "16:9",
            "1e3",
            "007",
            "null",
            "~",
            "true",
            "",
            " ",
            "a: b",
            "- x",
            "#",
            "<<",
            "*a",
            "&a",
            "!t",
            "\t",
            "a\nb\n",
            "\u2028",
            "\x85",
            "\ufeff",
            "\r",
            "\x00",
            "'",
            '"',
            "\\",
            "x " * 100,
            "é" * 200,
        ]
    ),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=150), inner, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("parser", [yamltext.PARSER, yaml.SafeLoader], ids=["usual", "pure"])
@given(mapping=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), _VALUES, max_size=5))
def test_a_dumped_mapping_reads_back_equal(parser: type, mapping: dict[str, Any]) -> None:
    """Whatever text a spec holds, its job.yaml says the same, types and order included, with either parser."""
    usual = yamltext.PARSER
    yamltext.PARSER = parser
    try:
        read = _read(dump_job(mapping))
    finally:
        yamltext.PARSER = usual
    assert read == (mapping or {})
    assert repr(read) == repr(mapping)


@given(st.text(st.sampled_from("ab:{}[]-,&*!'\"#|>%@ \n\t?0159._~<"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by its own refusal."""
    try:
        read_yaml(text, at=_START)
    except JobSpecError as error:
        problems = error.problems
    else:
        return
    assert all(problem.where.startswith("job.yaml:") for problem in problems)


@given(st.text(st.sampled_from("0123456789+-.:_eExob"), max_size=10))
def test_any_word_is_itself_or_refused(text: str) -> None:
    """A number that is read says exactly the digits that are written."""
    try:
        value = resolve(text)
    except BadValue:
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert float(text) == value
    else:
        assert value in (text, None)
