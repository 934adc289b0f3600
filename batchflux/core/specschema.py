"""The parts of the spec's JSON Schema that no type gives: the forms of an axis and the models' parameters.

Editors read it to complete and explain keys, so every key says what it is for. It never refuses what `spec` takes.
"""

from typing import Any

from batchflux.core.catalog import DEFAULT_MODEL, KNOWN_MODELS, Parameter
from batchflux.core.identity import MAX_SEED

__all__ = ["AXES_SCHEMA", "EXCLUDE_SCHEMA", "PARAMS_SCHEMA", "RANGES_WHERE_MODEL_IS_KNOWN"]

_VALUE: dict[str, Any] = {"type": ["string", "number", "boolean", "array", "object"]}


def _parameter_schema(parameter: Parameter) -> dict[str, Any]:
    """Return what a parameter's value may be."""
    schema: dict[str, Any] = {"type": parameter.type, "description": parameter.description}
    bounds = {"minimum": parameter.minimum, "maximum": parameter.maximum, "default": parameter.default}
    schema |= {key: value for key, value in bounds.items() if value is not None}
    if parameter.allowed:
        schema["enum"] = list(parameter.allowed)
    if parameter.suggested:
        schema["examples"] = list(parameter.suggested)
    return schema


def _known_parameters() -> dict[str, dict[str, Any]]:
    """Return the schema of each parameter that ships for any model, `prompt` left out."""
    return {
        name: _parameter_schema(parameter)
        for model in KNOWN_MODELS.values()
        for name, parameter in model.parameters.items()
        if name != "prompt"
    }


def _form(description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "description": "The axis's values, each once.", "items": items, "minItems": 1}


_SPACED = _form(
    "Evenly spaced values, both ends included, computed in decimal.",
    {
        "start": {"type": "number", "description": "The first value."},
        "stop": {"type": "number", "description": "The last value."},
        "num": {"type": "integer", "minimum": 1, "description": "How many values."},
    },
    "start",
    "stop",
    "num",
)
_COUNTED = _form(
    "Seeds in a row.",
    {
        "count": {"type": "integer", "minimum": 1, "description": "How many seeds."},
        "start": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SEED,
            "default": 0,
            "description": "The first seed.",
        },
    },
    "count",
)
_DRAWN = _form(
    "Seeds drawn reproducibly; growing the number keeps what was there.",
    {
        "random": {"type": "integer", "minimum": 1, "description": "How many seeds."},
        "key": {"type": "integer", "minimum": 0, "default": 0, "description": "Another key draws other seeds."},
        "per_row": {
            "type": "boolean",
            "default": False,
            "description": "Draw them anew for each row, from its content.",
        },
    },
    "random",
)


def _axis_schema(name: str, parameter: dict[str, Any]) -> dict[str, Any]:
    """Return the forms of the axis of a known parameter; a template may use its name for a word, so text is fine."""
    items: dict[str, Any] = {"type": sorted({parameter["type"], "string"})}
    if "examples" in parameter:
        items["examples"] = parameter["examples"]
    forms = [_listed(items), _SPACED]
    if name == "seed":
        forms += [_COUNTED, _DRAWN]
    return {"description": parameter["description"], "anyOf": forms}


AXES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {**_listed({"type": "string"}), "description": "Models to compare."},
        **{name: _axis_schema(name, schema) for name, schema in _known_parameters().items()},
    },
    "additionalProperties": {"anyOf": [_listed(_VALUE), _SPACED]},
}

PARAMS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        name: {"description": schema["description"], **_VALUE} for name, schema in _known_parameters().items()
    },
    "additionalProperties": _VALUE,
}

EXCLUDE_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "description": "Leaves out every cell that has all of these values.",
        "additionalProperties": _VALUE,
        "minProperties": 1,
    },
}

# Another model has other ranges, and a file that extends one or is extended may get its model from there.
RANGES_WHERE_MODEL_IS_KNOWN: dict[str, Any] = {
    "if": {
        "properties": {"model": {"const": DEFAULT_MODEL}},
        "not": {
            "anyOf": [
                {"required": ["extends"]},
                {"required": ["grid"], "properties": {"grid": {"required": ["model"]}}},
            ]
        },
    },
    "then": {"properties": {"params": {"properties": _known_parameters()}}},
}
