"""What ships with batchflux about the models: their request parameters and list prices, each with its source.

Facts only. `spec` checks parameters against them before anything is read or spent; `identity` freezes its own copy
of the defaults, since an id must not change when this table does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ASPECT_RATIOS", "DEFAULT_MODEL", "KNOWN_MODELS", "KnownModel", "Parameter", "known_model"]

DEFAULT_MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"

# The nine values that the sibling models' pages list; this model's own page names none, so another one only warns.
ASPECT_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One request parameter as the model's page gives it. `suggested` values are usual, others only warn."""

    type: Literal["string", "integer", "number"]
    description: str
    required: bool = False
    default: str | int | float | None = None
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] = ()
    suggested: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model whose parameters and price ship with batchflux; `price_micro_usd` is the list price of one image."""

    model_id: str
    price_micro_usd: int
    parameters: Mapping[str, Parameter]


# Source: the model page "Flux Kontext Max Text to Image", Task Submission Parameters. The price is the later page's
# "$0.08 per image"; the service's own quote, where it can be had, goes before it.
_KONTEXT_MAX = KnownModel(
    model_id=DEFAULT_MODEL,
    price_micro_usd=80_000,
    parameters={
        "prompt": Parameter(type="string", required=True, description="The prompt to generate an image from."),
        "aspect_ratio": Parameter(
            type="string",
            default="1:1",
            suggested=ASPECT_RATIOS,
            description="The aspect ratio of the generated image.",
        ),
        "num_images": Parameter(
            type="integer", default=1, minimum=1, maximum=4, description="The number of images to generate."
        ),
        "seed": Parameter(
            type="integer",
            minimum=-1,
            maximum=2147483647,
            description="The random seed to use for the generation.",
        ),
        "guidance_scale": Parameter(
            type="number",
            default=3.5,
            minimum=1.0,
            maximum=10.0,
            description="The guidance scale to use for the generation.",
        ),
        "safety_tolerance": Parameter(
            type="string",
            default="2",
            allowed=("1", "2", "3", "4", "5"),
            description="The safety tolerance level for the generated image. 1 being the most strict and 5 being "
            "the most permissive.",
        ),
    },
)

KNOWN_MODELS: Mapping[str, KnownModel] = {_KONTEXT_MAX.model_id: _KONTEXT_MAX}


def known_model(model_id: str) -> KnownModel | None:
    """Return what ships for a model, or None: its parameters then go unchecked and its price must be said."""
    return KNOWN_MODELS.get(model_id)
