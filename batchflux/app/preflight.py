"""Asked of the service before money is spent: its live parameter schema, its price, the account's balance.

None of the three being reachable is a warning, not a stop; the live schema can only add refusals. Costs nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchflux.core.catalog import known_model
from batchflux.core.errors import JobSpecError, Problem, UsageError
from batchflux.core.grid import Grid
from batchflux.core.model import JsonValue
from batchflux.core.pricing import PriceList, Shape, Shapes, build_prices
from batchflux.core.quotes import (
    build_balance,
    build_models,
    build_price,
    decipher_balance,
    decipher_models,
    decipher_price,
)
from batchflux.core.rows import same_value
from batchflux.core.spec import JobSpec
from batchflux.engine.ports import Transport

__all__ = ["Preflight", "ask_service", "prices_of", "refused_by"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What the service said: the balance in micro-USD (None where it didn't say), and what requests of some shapes
    cost. `listed_params` are the request parameters that it takes, by model."""

    balance_micro_usd: int | None
    quotes_micro_usd: Mapping[int, int] = field(default_factory=dict)
    listed_params: Mapping[str, frozenset[str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=())


async def ask_service(transport: Transport, spec: JobSpec, shapes: Shapes, *, base_url: str) -> Preflight:
    """Ask all three at once. Raises JobSpecError for a parameter that the service no longer takes."""
    to_ask = shapes.to_ask() if spec.run.price_micro_usd is None else []
    async with asyncio.TaskGroup() as group:
        balance = group.create_task(transport.send(build_balance(base_url)))
        models = group.create_task(transport.send(build_models(base_url)))
        asked = {number: group.create_task(_quote(transport, shapes.shape(number), base_url)) for number in to_ask}
    warnings: list[str] = []
    schemas = decipher_models(models.result())
    if schemas is None:
        warnings.append("the service's live parameter schema can't be had, so only what ships here was checked")
    else:
        warnings += _check_schemas(spec, shapes.grid, schemas)
    balance_micro_usd = decipher_balance(balance.result())
    if balance_micro_usd is None:
        warnings.append("the account's balance can't be had")
    quotes = {number: price for number, task in asked.items() if (price := task.result()) is not None}
    if spec.run.price_micro_usd is None:
        warnings += _unquoted(spec, shapes, quotes)
    return Preflight(
        balance_micro_usd=balance_micro_usd,
        quotes_micro_usd=quotes,
        listed_params=_listed(spec, schemas or {}),
        warnings=tuple(warnings),
    )


async def _quote(transport: Transport, shape: Shape, base_url: str) -> int | None:
    """Return what the service says that a request costs, in micro-USD."""
    inputs: dict[str, JsonValue] = {"prompt": "a price, please", **shape.params}
    return decipher_price(await transport.send(build_price(base_url, shape.model, inputs)))


def _unquoted(spec: JobSpec, shapes: Shapes, quotes: Mapping[int, int]) -> list[str]:
    """Say whose price isn't known, and what it is taken for."""
    quoted = {shapes.shape(number).model for number in quotes}
    warnings = [
        f"the service quotes no price for {model}; its list price is assumed"
        for model in spec.models
        if model not in quoted
    ]
    if quoted and (len(quotes) < len(shapes) or not shapes.are_all_told):
        kinds = f"{len(shapes):,}" if shapes.are_all_told else "very many"
        warnings.append(
            f"requests are of {kinds} kinds by their parameters, and the price of {len(quotes):,} was quoted; "
            "the others are counted at the dearest of these, image by image"
        )
    return warnings


def prices_of(spec: JobSpec, shapes: Shapes, quotes: Mapping[int, int]) -> PriceList:
    """Return what requests cost: as the spec says, else as the service quotes them, else by the list price.

    Raises UsageError where nothing tells.
    """
    quoted = {shapes.shape(number).model for number in quotes}
    otherwise: dict[str, int] = {}
    for model in spec.models:
        listed = spec.list_price_micro_usd(model)
        if listed is None and model not in quoted:
            raise UsageError(f"nothing tells the price of {model}: say it as run.price, in USD an image")
        if listed is not None:
            otherwise[model] = listed
    return build_prices(shapes, quotes if spec.run.price_micro_usd is None else {}, otherwise=otherwise)


def _listed(spec: JobSpec, schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Return model -> the names of the parameters that the service lists for it."""
    found = {model: schemas[model].get("properties") for model in spec.models if model in schemas}
    return {model: frozenset(listed) for model, listed in found.items() if isinstance(listed, dict)}


def _check_schemas(spec: JobSpec, grid: Grid, schemas: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Hold the job's parameters against the live schemas: unlisted ones are dropped by the service in silence."""
    problems: list[Problem] = []
    warnings: list[str] = []
    for model in spec.models:
        schema = schemas.get(model)
        if schema is None:
            warnings.append(f"the service's list has no model {model}")
            continue
        listed = schema.get("properties")
        for name, values in _stated(spec, grid).items():
            if not isinstance(listed, dict):
                continue
            if name in listed:
                problems += [
                    Problem(where=name, what=f"{model} does not take {value!r}", instead=f"it takes {allowed}")
                    for value in values
                    if (allowed := refused_by(listed[name], value)) is not None
                ]
                continue
            known = known_model(model)
            default = known.parameters[name].default if known is not None and name in known.parameters else None
            is_default = bool(values) and all(same_value(value, default) for value in values)
            what = f"{model} takes no parameter {name!r} any more, and would drop it in silence"
            if spec.api.allow_unknown_params or is_default:
                warnings.append(what + ("; it is at its default" if is_default else "; it is sent all the same"))
            else:
                problems.append(
                    Problem(where=name, what=what, instead="leave it out, or set api.allow_unknown_params: true")
                )
    if problems:
        raise JobSpecError(problems)
    return warnings


def refused_by(schema: Any, value: JsonValue) -> str | None:
    """Return what a parameter's live schema takes where it does not take a value, else None.

    Only plain bounds are believed: `enum`, `minimum` and `maximum`; a schema of another form refuses nothing.
    """
    if not isinstance(schema, dict):
        return None
    allowed = schema.get("enum")
    if isinstance(allowed, list) and allowed and not any(_is_same(value, item) for item in allowed):
        return ", ".join(map(str, allowed[:20]))
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(low, int | float) and value < low:
        return f"{low} at least"
    if isinstance(high, int | float) and value > high:
        return f"{high} at most"
    return None


def _is_same(value: JsonValue, item: Any) -> bool:
    return type(item) in (str, int, float, bool) and same_value(value, item)


def _stated(spec: JobSpec, grid: Grid) -> dict[str, list[JsonValue]]:
    """Return parameter -> the values that the job states for it; none listed where rows bring their own."""
    stated: dict[str, list[JsonValue]] = {name: [value] for name, value in spec.params.items()}
    stated |= {name: [] for name in grid.recipe.row_params}
    stated |= {axis.name: list(axis.values) for axis in grid.axes if axis.kind in ("parameter", "row_seed")}
    return stated
