"""The service's own tables as the sandbox models them: models, request schemas then and now, prices, error words.

Decides which request parameters are known, valid or dropped. It is an independent model of the vendor: it must not
import batchflux's own catalog or protocol, so that a mistake there shows against it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "FAILURE_WORDS",
    "MODELS",
    "PropertyType",
    "SchemaAge",
    "VendorModel",
    "VendorProperty",
    "check_inputs",
    "keep_known",
    "parse_ratio",
    "with_defaults",
]

SchemaAge = Literal["page", "today"]
PropertyType = Literal["string", "integer", "number", "boolean"]

# The value list of the sibling models' pages; this model's own page names none.
_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")

# The upstream model draws anything between these two; the page of this endpoint gives no range at all.
_WIDEST_RATIO = 21 / 9

# Numeric `data.code` of a failed prediction, from the vendor's error-codes page; the words are ours.
FAILURE_WORDS: Mapping[int, str] = {
    1200: "The content was flagged as potentially sensitive. Please change the input and try again.",
    1400: "A required parameter is missing.",
    1401: "A parameter is invalid.",
    1402: "The media URL could not be reached.",
    1403: "The execution of the task failed.",
    1405: "The task failed.",
    1406: "The upstream provider failed and all retries are used up.",
    1407: "Insufficient credits. Please top up your account.",
    5000: "Internal server error.",
    5003: "The service is unavailable.",
    5004: "The task timed out.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorProperty:
    """One request parameter as the service's schema lists it; None means that it gives no such bound."""

    type: PropertyType
    description: str
    required: bool = False
    default: str | int | float | bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    enum: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorModel:
    """A model the sandbox knows. `price_micro_usd` is the list price of one image."""

    model_id: str
    name: str
    price_micro_usd: int
    schemas: Mapping[SchemaAge, Mapping[str, VendorProperty]]


_PROMPT = VendorProperty(type="string", required=True, description="The text that says what to draw.")
_SEED = VendorProperty(type="integer", minimum=-1, maximum=2147483647, description="The random seed; -1 draws one.")
_TOLERANCE = VendorProperty(
    type="string", default="2", enum=("1", "2", "3", "4", "5"), description="Safety, from 1 (strict) to 5 (permissive)."
)
_IMAGES = VendorProperty(type="integer", default=1, minimum=1, maximum=4, description="How many images to draw.")
_SYNC = VendorProperty(type="boolean", default=False, description="Hold the answer until the result is there.")


def _ratio(enum: tuple[str, ...]) -> VendorProperty:
    return VendorProperty(type="string", default="1:1", enum=enum, description="Width to height.")


def _guidance(maximum: float) -> VendorProperty:
    return VendorProperty(
        type="number", default=3.5, minimum=1, maximum=maximum, description="How closely to follow the prompt."
    )


# "page" is the early model page; "today" is the later one, where `num_images` and `safety_tolerance` are gone, the
# ratios are listed, and the siblings' upper bound of 20 for the guidance is assumed for this model too.
_MAX_PAGE = {
    "prompt": _PROMPT,
    "aspect_ratio": _ratio(()),
    "num_images": _IMAGES,
    "seed": _SEED,
    "guidance_scale": _guidance(10),
    "safety_tolerance": _TOLERANCE,
}
_MAX_TODAY = {
    "prompt": _PROMPT,
    "aspect_ratio": _ratio(_RATIOS),
    "seed": _SEED,
    "guidance_scale": _guidance(20),
    "enable_sync_mode": _SYNC,
}
_PRO = {
    "prompt": _PROMPT,
    "aspect_ratio": _ratio(_RATIOS),
    "seed": _SEED,
    "guidance_scale": _guidance(20),
    "safety_tolerance": _TOLERANCE,
}

MODELS: Mapping[str, VendorModel] = {
    model.model_id: model
    for model in (
        VendorModel(
            model_id="wavespeed-ai/flux-kontext-max/text-to-image",
            name="flux-kontext-max-text-to-image",
            price_micro_usd=80_000,
            schemas={"page": _MAX_PAGE, "today": _MAX_TODAY},
        ),
        VendorModel(
            model_id="wavespeed-ai/flux-kontext-pro/text-to-image",
            name="flux-kontext-pro-text-to-image",
            price_micro_usd=40_000,
            schemas={"page": _PRO, "today": _PRO},
        ),
    )
}


def keep_known(properties: Mapping[str, VendorProperty], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs without unknown keys: the service drops those in silence and goes on with defaults."""
    return {name: value for name, value in body.items() if name in properties}


def with_defaults(properties: Mapping[str, VendorProperty], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model runs with: defaults filled in, every number parameter as a float."""
    filled = {name: known.default for name, known in properties.items() if known.default is not None}
    filled.update(inputs)
    return {name: float(v) if properties[name].type == "number" else v for name, v in filled.items()}


def check_inputs(properties: Mapping[str, VendorProperty], inputs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the known inputs, or None; a missing required one is named first."""
    for name, known in properties.items():
        if known.required and inputs.get(name) in (None, ""):
            return f'property "{name}" is missing'
    for name, value in inputs.items():
        wrong = _check_value(properties[name], value)
        if wrong is None and name == "aspect_ratio" and parse_ratio(value) is None:
            wrong = "must be width:height between 21:9 and 9:21"
        if wrong is not None:
            return f'property "{name}": {wrong}'
    return None


def parse_ratio(text: str) -> float | None:
    """Return width / height of a ratio such as "16:9", or None where it is not one that the model draws."""
    match = re.fullmatch(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})", text)
    if match is None:
        return None
    ratio = int(match[1]) / int(match[2])
    return ratio if 1 / _WIDEST_RATIO <= ratio <= _WIDEST_RATIO else None


def _check_value(known: VendorProperty, value: Any) -> str | None:
    if not _is_of_type(known.type, value):
        return f"value must be {'an' if known.type[0] == 'i' else 'a'} {known.type}"
    if known.enum and value not in known.enum:
        return f"value must be one of {', '.join(known.enum)}"
    # Written so that NaN, which compares false with everything, is refused too.
    if known.minimum is not None and not value >= known.minimum:
        return f"number must be at least {known.minimum:g}"
    if known.maximum is not None and not value <= known.maximum:
        return f"number must be at most {known.maximum:g}"
    return None


def _is_of_type(kind: PropertyType, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
