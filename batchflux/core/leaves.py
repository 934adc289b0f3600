"""The readers of the spec's plain values: text, true or false, whole numbers, names, the key's variable.

One function a kind of value: it returns the value as it is or refuses with `BadValue`, and never turns one type into
another. A value that may be a secret is not repeated.
"""

import re
from collections.abc import Callable
from typing import Any

from batchflux.core.findings import BadValue, describe, nearest

__all__ = [
    "MODEL_PATTERN",
    "MOST",
    "NAME_PATTERN",
    "VARIABLE_PATTERN",
    "choice",
    "parse_column",
    "parse_concurrency",
    "parse_flag",
    "parse_key_env",
    "parse_list",
    "parse_mapping",
    "parse_model",
    "parse_name",
    "parse_paths",
    "parse_text",
    "whole_number",
]

NAME_PATTERN = r"^[^/\\.\s\x00-\x1f\x7f]([^/\\\x00-\x1f\x7f]*[^/\\\s\x00-\x1f\x7f])?$"
MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"

MOST = 2**53  # whole numbers beyond it don't survive every reader of YAML and JSON

_LONGEST_NAME_BYTES = 200  # a file name holds 255, and a run directory's twin and temporaries need some
_LONGEST_VARIABLE = 60
_HEX_KEY = re.compile(r"[0-9a-f]{32,}")
# The first words of the service's own paths: a "model" of this name would be another call altogether.
_NOT_MODELS = frozenset({"balance", "billings", "media", "model", "models", "predictions", "user", "webhook"})
_YAML_11_FLAGS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def parse_text(value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise BadValue(f"must be text, is {describe(value)}", _quoting_hint(value))
    if not value.strip():
        raise BadValue("is an empty text", "leave the key out, or write something")
    if "\0" in value:
        raise BadValue("holds a NUL character", "take it out: no path and no prompt can have one")
    return value


def _quoting_hint(value: object) -> str:
    match value:
        case bool():
            return f'quote it: "{describe(value)}"'
        case int() | float():
            return f'quote it as it is meant, for example "{value}"'
        case dict():
            return "text that begins with { needs quotes around it"
    return "write one text"


def parse_flag(value: object) -> bool:
    """Return true or false, which only these two words say."""
    if isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    meant = word if word in ("true", "false") else _YAML_11_FLAGS.get(word)
    raise BadValue(f"must be true or false, is {describe(value)}", f"write {meant}" if meant else "")


def whole_number(*, minimum: int, maximum: int) -> Callable[[object], int]:
    """Return a reader of whole numbers within bounds, both ends included."""
    span = f"{minimum} up" if maximum >= MOST else f"{minimum} to {maximum}"

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        raise BadValue(f"must be a whole number, is {describe(value)}", f"write one from {span}")

    return read


def choice(*words: str) -> Callable[[object], str]:
    """Return a reader of one word out of a few."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        near = nearest(value, words) if isinstance(value, str) else None
        hint = f"did you mean {near}?" if near else ""
        raise BadValue(f"must be {' or '.join(words)}, is {describe(value)}", hint)

    return read


def parse_name(value: object) -> str:
    """Return a job's name, which is also the name of a folder."""
    name = parse_text(value)
    if not re.fullmatch(NAME_PATTERN, name) or len(name.encode()) > _LONGEST_NAME_BYTES:
        hint = "write one without slashes or control characters, not beginning with a dot, of at most 200 bytes"
        raise BadValue(f"{describe(name)} can't name a folder", hint)
    return name


def parse_model(value: object) -> str:
    """Return a model's id as the service writes it: vendor/name, or more parts."""
    model = parse_text(value)
    if not re.fullmatch(MODEL_PATTERN, model):
        raise BadValue(f"{describe(model)} is no model id", "write it as on the model's page, for example vendor/model")
    if model.split("/")[0] in _NOT_MODELS:
        raise BadValue(f"{model} is a path of the service's own, no model", "write vendor/model")
    return model


def parse_key_env(value: object) -> str:
    """Return the name of the environment variable that holds the key; a key in its place is refused unseen."""
    name = parse_text(value)
    if not re.fullmatch(VARIABLE_PATTERN, name) or len(name) > _LONGEST_VARIABLE or _HEX_KEY.search(name):
        raise BadValue(
            "is no name of an environment variable",
            "write the variable's name, for example WAVESPEED_API_KEY; the key itself stays in the environment",
        )
    return name


def parse_concurrency(value: object) -> int | None:
    """Return the cap on predictions in flight, or None for auto."""
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000:
        return value
    raise BadValue(f"must be auto or a whole number, is {describe(value)}", "write auto, or a number from 1 to 100000")


def parse_paths(value: object) -> tuple[str, ...]:
    """Return one path or a list of them as a tuple."""
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise BadValue("is an empty list", "write a path, or a list of them")
    for place, item in enumerate(items):
        try:
            parse_text(item)
        except BadValue as fault:
            raise BadValue(fault.what, fault.instead, at=(place,) if items is value else ()) from fault
    return tuple(items)


def parse_column(value: object) -> str:
    """Return the name of a table's column, which may be any text that is not empty."""
    if not isinstance(value, str) or not value:
        hint = "leave the line out, or write the column's name" if value in (None, "") else _quoting_hint(value)
        raise BadValue(f"must be a column's name, is {describe(value)}", hint)
    return value


def parse_mapping(value: object) -> dict[str, Any]:
    """Return a mapping of keys to values."""
    if not isinstance(value, dict):
        raise BadValue(f"must be a mapping of keys to values, is {describe(value)}", "write KEY: VALUE lines under it")
    return value


def parse_list(value: object) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise BadValue(f"must be a list, is {describe(value)}", "write its items as - lines under it")
    return value
