"""The judge of request parameters."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.catalog import ASPECT_RATIOS, DEFAULT_MODEL
from batchflux.core.model import JsonValue
from batchflux.core.parameters import (
    ValueFault,
    as_sent,
    check_name,
    check_value,
    exact_number,
    known_parameters,
    parse_text,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1 + 1),
        ("seed", 2147483647),
        ("seed", 5.0),
        ("guidance_scale", 1),
        ("guidance_scale", 10.0),
        ("num_images", 4),
        ("safety_tolerance", "5"),
        *(("aspect_ratio", ratio) for ratio in ASPECT_RATIOS),
    ],
)
def test_what_the_model_page_allows_is_fine(name: str, value: JsonValue) -> None:
    """Both ends of every range, whole floats for integers, the nine ratios."""
    assert check_value(name, value, model_id=DEFAULT_MODEL) is None


@pytest.mark.fault("I04", "I05")
@pytest.mark.parametrize(
    ("name", "value", "what", "instead"),
    [
        ("seed", -2, "-2 is out of range", "seed takes -1 to 2147483647"),
        ("seed", 2147483648, "2147483648 is out of range", "seed takes -1 to 2147483647"),
        ("seed", 1.5, "must be a whole number, is the number 1.5", "it takes -1 to 2147483647"),
        ("seed", True, "must be a whole number, is true", "it takes -1 to 2147483647"),
        ("seed", "7", "must be a whole number, is the text '7'", "write it without quotes: 7"),
        ("seed", None, "is empty", "leave the key out, or give it a value"),
        ("guidance_scale", 0.99, "0.99 is out of range", "guidance_scale takes 1 to 10"),
        ("guidance_scale", 10.01, "10.01 is out of range", "guidance_scale takes 1 to 10"),
        ("guidance_scale", "3,5", "must be a number, is the text '3,5'", "it takes 1 to 10"),
        ("num_images", 0, "0 is out of range", "num_images takes 1 to 4"),
        ("safety_tolerance", 2, "must be text, is the number 2", 'quote it: "2"'),
        ("safety_tolerance", "6", "'6' is not a value that it takes", 'write one of "1", "2", "3", "4", "5"'),
        ("aspect_ratio", 2.35, "must be text, is the number 2.35", 'quote it: "2.35"'),
        ("aspect_ratio", ["1:1"], "must be text, is a list", "write text"),
        ("guidence_scale", 3, f"{DEFAULT_MODEL} has no parameter 'guidence_scale'", "did you mean guidance_scale?"),
    ],
)
def test_a_fault_says_what_would_be_right(name: str, value: JsonValue, what: str, instead: str) -> None:
    """Every rule of the model page has its own words."""
    assert check_value(name, value, model_id=DEFAULT_MODEL) == ValueFault(what=what, instead=instead)


def test_an_unusual_ratio_and_the_services_own_seed_only_warn() -> None:
    """What may be sent but is worth a look is a warning."""
    for name, value in (("aspect_ratio", "5:4"), ("seed", -1)):
        fault = check_value(name, value, model_id=DEFAULT_MODEL)
        assert fault is not None
        assert fault.is_warning


def test_an_unknown_parameter_is_a_warning_where_it_is_allowed() -> None:
    """`api.allow_unknown_params` sends it all the same, and says so."""
    fault = check_value("steps", 30, model_id=DEFAULT_MODEL, allow_unknown=True)
    assert fault == ValueFault(
        what=f"{DEFAULT_MODEL} has no parameter 'steps'", instead="it is sent all the same", is_warning=True
    )
    assert check_value("steps", None, model_id=DEFAULT_MODEL, allow_unknown=True) == ValueFault(
        what="is empty", instead="leave the key out, or give it a value"
    )


def test_nothing_is_known_of_other_models() -> None:
    """Their parameters pass, but the prompt still comes from the table."""
    assert check_value("anything", {"at": "all"}, model_id="vendor/other") is None
    fault = check_name("prompt", model_id="vendor/other")
    assert fault is not None
    assert not fault.is_warning


def test_known_parameters_leave_out_the_prompt() -> None:
    """The names are those of the model page, in its order."""
    assert known_parameters([DEFAULT_MODEL, "vendor/other"]) == (
        "aspect_ratio",
        "num_images",
        "seed",
        "guidance_scale",
        "safety_tolerance",
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "5", 5),
        ("seed", "5.0", 5),
        ("seed", " 5 ", 5),
        ("seed", "1e3", 1000),
        ("guidance_scale", "3.50", 3.5),
        ("guidance_scale", "5", 5),
        ("safety_tolerance", "2", "2"),
        ("aspect_ratio", " 16:9", " 16:9"),
        ("unheard_of", "5", "5"),
    ],
)
def test_a_field_of_the_table_is_typed_as_the_model_takes_it(name: str, text: str, value: JsonValue) -> None:
    """Numbers become numbers where the model takes numbers; text stays as it is."""
    parsed = parse_text(name, text, model_id=DEFAULT_MODEL)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.fault("I04", "I05")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "1.5"),
        ("seed", "007"),
        ("seed", "abc"),
        ("seed", ""),
        ("seed", "0x1F"),
        ("guidance_scale", "3,5"),
        ("guidance_scale", "nan"),
        ("guidance_scale", "1_0"),
    ],
)
def test_a_field_that_says_no_number_is_a_fault(name: str, text: str) -> None:
    """Nothing is guessed, no leading zero dropped."""
    assert isinstance(parse_text(name, text, model_id=DEFAULT_MODEL), ValueFault)


def test_a_whole_float_is_sent_as_an_integer() -> None:
    """The service's schema says integer, and 5.0 may not pass for one."""
    assert type(as_sent("seed", 5.0, model_id=DEFAULT_MODEL)) is int
    assert type(as_sent("guidance_scale", 5.0, model_id=DEFAULT_MODEL)) is float
    assert type(as_sent("seed", 5.0, model_id="vendor/other")) is float


@given(st.from_regex(r"[-+]?[0-9]{0,25}(\.[0-9]{0,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True))
def test_a_number_is_exactly_what_is_written_or_none(text: str) -> None:
    """No digit of a number is ever lost in silence."""
    number = exact_number(text)
    assert number is None or Fraction(repr(number)) == Fraction(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_from_its_shortest_text(number: float) -> None:
    """What another program wrote with repr is read as the same float."""
    assert exact_number(repr(number)) == number


@given(st.text(max_size=20))
def test_any_field_gives_a_value_or_a_fault(text: str) -> None:
    """No text makes the reader fail."""
    for name in known_parameters([DEFAULT_MODEL]):
        value = parse_text(name, text, model_id=DEFAULT_MODEL)
        if not isinstance(value, ValueFault):
            check_value(name, value, model_id=DEFAULT_MODEL)
