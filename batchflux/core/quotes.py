"""What is asked of the service before money is spent, without IO: models with their schemas, prices, the balance.

Sources: [SDK] the official clients' code. None of it is documented for good: what can't be read is None, never a guess.
"""

from collections.abc import Mapping
from typing import Any

from batchflux.core.fields import as_micro_usd
from batchflux.core.model import Params
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault, encode_json, ok_data

__all__ = ["build_balance", "build_models", "build_price", "decipher_balance", "decipher_models", "decipher_price"]

MAX_MODELS_BYTES = 16 << 20


def build_models(base_url: str) -> HttpRequest:
    """Return the GET that lists the models with their parameter schemas [SDK]."""
    return HttpRequest(method="GET", url=f"{base_url}/models", max_answer_bytes=MAX_MODELS_BYTES)


def build_balance(base_url: str) -> HttpRequest:
    """Return the GET that asks for the account's balance [SDK]."""
    return HttpRequest(method="GET", url=f"{base_url}/balance")


def build_price(base_url: str, model: str, inputs: Params) -> HttpRequest:
    """Return the POST that quotes a price and creates nothing [SDK: /model/price]."""
    return HttpRequest(
        method="POST", url=f"{base_url}/model/price", body=encode_json({"model_id": model, "inputs": inputs})
    )


def decipher_balance(answer: HttpAnswer | TransportFault) -> int | None:
    """Return the account's balance in micro-USD, or None where the answer doesn't tell."""
    data = ok_data(answer)
    return as_micro_usd(data.get("balance")) if isinstance(data, dict) else None


def decipher_price(answer: HttpAnswer | TransportFault) -> int | None:
    """Return the quoted price of one request in micro-USD, the discounted one where given, or None.

    Nothing is no price: no budget would hold what then is charged all the same. `run.price: 0` says that it is free.
    """
    data = ok_data(answer)
    if not isinstance(data, dict):
        return None
    return as_micro_usd(data.get("discounted_price")) or as_micro_usd(data.get("price")) or None


def decipher_models(answer: HttpAnswer | TransportFault) -> Mapping[str, Mapping[str, Any]] | None:
    """Return model id -> its request's JSON Schema, or None where the answer doesn't tell."""
    data = ok_data(answer)
    if not isinstance(data, list):
        return None
    schemas: dict[str, Mapping[str, Any]] = {}
    for model in data:
        if not isinstance(model, dict) or not isinstance(model.get("model_id"), str):
            continue
        api = model.get("api_schema")
        found = api.get("api_schemas") if isinstance(api, dict) else None
        for schema in found if isinstance(found, list) else ():
            request = schema.get("request_schema") if isinstance(schema, dict) else None
            if isinstance(request, dict) and schema.get("type") == "model_run":
                schemas[model["model_id"]] = request
    return schemas
