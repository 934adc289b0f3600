"""Whether a request parameter and its value are what a model takes, as far as what ships for the model can tell.

The one judge of parameters: the spec asks it for axes, `params` and columns, the row reader for every field of a row.
Answers are values, so that a caller can say where the fault stands. Models that nothing ships for take anything.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeGuard

from batchflux.core.catalog import KnownModel, Parameter, known_model
from batchflux.core.findings import describe, did_you_mean, nearest, shortened
from batchflux.core.identity import canonical_json
from batchflux.core.model import JsonValue

__all__ = [
    "PARAMETERS_ELSEWHERE",
    "ValueFault",
    "as_sent",
    "check_name",
    "check_value",
    "exact_number",
    "known_parameters",
    "parse_text",
]

# What a request holds but a spec says in a place of its own.
PARAMETERS_ELSEWHERE: Mapping[str, str] = {
    "prompt": "the prompt comes from the table: say its column as prompts.columns.prompt, or write prompts.template",
    "model": "say the model as the key model, or as an axis under grid",
}

DRAWN_BY_SERVICE = -1  # a seed's lowest value, the model page's range has it

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_LONGEST_NUMBER = 400  # characters; more is no number that a parameter takes


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFault:
    """What is wrong with a parameter or its value; `is_warning` where it is only unusual and may be sent."""

    what: str
    instead: str = ""
    is_warning: bool = False


def known_parameters(models: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the parameters that ship for any of the models, `prompt` left out."""
    known = [model for model in map(known_model, models) if model is not None]
    return tuple(dict.fromkeys(name for model in known for name in model.parameters if name != "prompt"))


def check_name(name: str, *, model_id: str, allow_unknown: bool = False) -> ValueFault | None:
    """Return what is wrong with sending a parameter of this name to the model, or None.

    `allow_unknown` (the spec's `api.allow_unknown_params`) makes an unknown name a warning.
    """
    if name in PARAMETERS_ELSEWHERE:
        return ValueFault(what=f"{name} is no parameter to set", instead=PARAMETERS_ELSEWHERE[name])
    model = known_model(model_id)
    if model is None or name in model.parameters:
        return None
    what = f"{model_id} has no parameter {shortened(repr(name))}"
    if allow_unknown:
        return ValueFault(what=what, instead="it is sent all the same", is_warning=True)
    known = known_parameters([model_id])
    hint = did_you_mean(name, known)
    if nearest(name, known) is None:
        hint += "; api.allow_unknown_params: true sends it all the same"
    return ValueFault(what=what, instead=hint)


def check_value(name: str, value: JsonValue, *, model_id: str, allow_unknown: bool = False) -> ValueFault | None:
    """Return what is wrong with a parameter's typed value, its name included, or None where nothing is.

    A whole float is a fine integer (send what `as_sent` makes of it). A fault with `is_warning` may be sent.
    """
    fault = check_name(name, model_id=model_id, allow_unknown=allow_unknown)
    parameter = _parameter(name, model_id)
    if value is None and (fault is None or fault.is_warning):
        return ValueFault(what="is empty", instead="leave the key out, or give it a value")
    if fault is not None or parameter is None:
        return fault
    if parameter.type == "string":
        return _check_text(value, parameter)
    if not _is_number(value) or (parameter.type == "integer" and value != int(value)):
        return _wrong_type(value, parameter)
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return ValueFault(what=f"{value} is out of range", instead=f"{name} takes {_range(parameter)}")
    if name == "seed" and value == DRAWN_BY_SERVICE:
        what = "-1 lets the service draw a seed that it never tells"
        return ValueFault(what=what, instead="leave the seed out to have one drawn that is known", is_warning=True)
    return None


def parse_text(name: str, text: str, *, model_id: str) -> "JsonValue | ValueFault":
    """Return what a text field of the prompt table says for a parameter, typed as the model takes it.

    "5" is the integer 5, "5.0" too where an integer is asked for, "3.50" the number 3.5; outer spaces of a number
    don't count. No range is checked. A parameter that is text, or that nothing ships for, stays the text as it is.
    """
    parameter = _parameter(name, model_id)
    if parameter is None or parameter.type == "string":
        return text
    number = exact_number(text.strip())
    if number is None or (parameter.type == "integer" and number != int(number)):
        return _wrong_type(text, parameter)
    return int(number) if parameter.type == "integer" else number


def as_sent(name: str, value: JsonValue, *, model_id: str) -> JsonValue:
    """Return a checked value as it goes into a request: a whole float is an integer where the model takes integers."""
    parameter = _parameter(name, model_id)
    if parameter is not None and parameter.type == "integer" and isinstance(value, float):
        return int(value)
    return value


def exact_number(text: str) -> int | float | None:
    """Return the number that a decimal text says, an int where no point or exponent stands in it.

    None where it is none, or where it wouldn't stay what was written: leading zeros, more digits than a float holds.
    """
    if len(text) > _LONGEST_NUMBER or _LEADING_ZERO.match(text) or not _NUMBER.fullmatch(text):
        return None
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    number = float(text)
    if number in (float("inf"), float("-inf")) or Fraction(repr(number)) != Fraction(text):
        return None
    return number


def _parameter(name: str, model_id: str) -> Parameter | None:
    model: KnownModel | None = known_model(model_id)
    return model.parameters.get(name) if model is not None else None


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_text(value: JsonValue, parameter: Parameter) -> ValueFault | None:
    if not isinstance(value, str):
        hint = "write text"
        if isinstance(value, bool | int | float):
            hint = f'quote it: "{canonical_json(value)}"'
        return ValueFault(what=f"must be text, is {describe(value)}", instead=hint)
    if parameter.allowed and value not in parameter.allowed:
        choices = ", ".join(f'"{choice}"' for choice in parameter.allowed)
        return ValueFault(what=f"{value!r} is not a value that it takes", instead=f"write one of {choices}")
    if parameter.suggested and value not in parameter.suggested:
        usual = ", ".join(parameter.suggested)
        return ValueFault(
            what=f"{value!r} is none of the usual {usual}", instead="it is sent as it is", is_warning=True
        )
    return None


def _wrong_type(value: JsonValue, parameter: Parameter) -> ValueFault:
    noun = "a whole number" if parameter.type == "integer" else "a number"
    number = exact_number(value) if isinstance(value, str) else None
    hint = f"it takes {_range(parameter)}"
    if number is not None and (parameter.type == "number" or number == int(number)):
        hint = f"write it without quotes: {value}"
    return ValueFault(what=f"must be {noun}, is {describe(value)}", instead=hint)


def _range(parameter: Parameter) -> str:
    low, high = (f"{bound:.15g}" if bound is not None else "" for bound in (parameter.minimum, parameter.maximum))
    if low and high:
        return f"{low} to {high}"
    return f"{low} or more" if low else f"{high} or less" if high else "any"
