"""Values to the service's JSON and its loose requests to values: envelopes, predictions, listings, prices, models.

Pure, and the only place that knows what the wire looks like. It must not import batchflux's own protocol: that the
two agree is what the tests are for.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeGuard

from batchflux.sandbox.behaviour import PredictionRecord, Refusal
from batchflux.sandbox.vendor import MODELS, SchemaAge, VendorProperty

__all__ = [
    "Answer",
    "BillingQuery",
    "HistoryQuery",
    "build_answer",
    "build_billing",
    "build_billing_row",
    "build_history",
    "build_history_item",
    "build_models",
    "build_prediction",
    "build_price",
    "build_refusal",
    "parse_billing_query",
    "parse_history_query",
    "parse_json",
]

JSON_TYPE = "application/json"

# The listing's documented bounds of `page_size`.
_MAX_PAGE_SIZE = 100

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, whole."""

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """A listing's page and filters; spans are seconds since the epoch, ends included."""

    page: int
    page_size: int
    model: str | None
    status: str | None
    after_s: float
    before_s: float
    wants_inputs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingQuery:
    """A page of charges and refunds in a span."""

    page: int
    page_size: int
    billing_type: Literal["deduct", "refund"] | None
    after_s: float
    before_s: float
    model: str | None


def build_answer(data: Any) -> Answer:
    """Wrap a payload in the envelope of success."""
    return Answer(body=_dump({"code": 200, "message": "success", "data": data}))


def build_refusal(refusal: Refusal) -> Answer:
    """Wrap a refusal in the envelope, its code the HTTP status, with Retry-After where it says one."""
    headers = None if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return Answer(
        body=_dump({"code": refusal.status, "message": refusal.message}), status=refusal.status, headers=headers
    )


def build_prediction(
    record: PredictionRecord, *, now_s: float, origin: str, extension: str, is_fresh: bool
) -> dict[str, Any]:
    """Return a prediction as a submission (`is_fresh`: its first state, milliseconds) or a later read gives it."""
    status = "created" if is_fresh else record.status_at(now_s)
    data: dict[str, Any] = {
        "id": record.id,
        "model": record.model,
        "status": status,
        "outputs": _outputs(record, origin=origin, extension=extension) if status == "completed" else [],
        "urls": {"get": f"{origin}/api/v3/predictions/{record.id}/result"},
        "has_nsfw_contents": [False] * record.images if status == "completed" else None,
        "created_at": _moment(record.created_at_s, digits=3 if is_fresh else 9),
        "error": record.error if status == "failed" else "",
        "timings": {"inference": 0 if is_fresh else record.inference_ms_at(now_s)},
    }
    if status == "failed":
        data["code"] = record.code
    return data


def build_history_item(record: PredictionRecord, *, now_s: float, origin: str, extension: str) -> dict[str, Any]:
    """Return a prediction as the listing gives it, without inputs."""
    item = build_prediction(record, now_s=now_s, origin=origin, extension=extension, is_fresh=False)
    item["executionTime"] = item["timings"]["inference"]
    return item


def build_history(query: HistoryQuery, items: Sequence[Any]) -> Answer:
    """Return one page of the listing."""
    return build_answer({"page": query.page, "items": list(items)})


def build_billing_row(record: PredictionRecord, *, is_refund: bool, now_s: float) -> dict[str, Any]:
    """Return the charge of a prediction, or the refund of it, as a row."""
    at_s = record.refund_at_s if is_refund and record.refund_at_s is not None else record.created_at_s
    return {
        "uuid": ("f" if is_refund else "d") + record.id[1:],
        "billing_type": "refund" if is_refund else "deduct",
        "price": _usd(record.price_micro_usd),
        "created_at": _moment(at_s, digits=9),
        "access_key_name": "sandbox",
        "prediction": {"uuid": record.id, "model_uuid": record.model, "status": record.status_at(now_s)},
        "order": None,
        "consumption": None,
    }


def build_billing(query: BillingQuery, rows: Sequence[Any]) -> Answer:
    """Return one page of rows (all of them are given) and whether there are more."""
    start = (query.page - 1) * query.page_size
    page = list(rows[start : start + query.page_size])
    return build_answer({"page": query.page, "has_more": start + len(page) < len(rows), "items": page})


def build_price(model: str, *, price_micro_usd: int) -> Answer:
    """Return the quote of one submission."""
    price = _usd(price_micro_usd)
    return build_answer(
        {"model_id": model, "price": price, "discounted_price": price, "discount_rate": 0, "currency": "USD"}
    )


def build_models(age: SchemaAge, *, prices_micro_usd: Mapping[str, int], origin: str) -> Answer:
    """Return the list of models with their request schemas and the price of one image."""
    listed = [
        {
            "model_id": model.model_id,
            "name": model.name,
            "description": "Drawn by the sandbox, not by the model.",
            "type": "text-to-image",
            "base_price": _usd(prices_micro_usd[model.model_id]),
            "formula": "",
            "sort_order": order,
            "api_schema": {
                "api_schemas": [
                    {
                        "type": "model_run",
                        "method": "POST",
                        "server": origin,
                        "api_path": f"/api/v3/{model.model_id}",
                        "request_schema": _request_schema(model.schemas[age]),
                    }
                ]
            },
        }
        for order, model in enumerate(MODELS.values(), start=1)
    ]
    return build_answer(listed)


def parse_json(body: bytes) -> Any:
    """Return what the body says, or a refusal where it isn't JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(status=400, message="the request body is not JSON")


def parse_history_query(document: Any) -> HistoryQuery | Refusal:
    """Read a listing's request; page and page_size are required, times are strict RFC 3339."""
    if not isinstance(document, dict):
        return Refusal(status=400, message="the request body must be a JSON object")
    page, page_size = document.get("page"), document.get("page_size")
    after_s = _parse_moment(document.get("created_after"), default=float("-inf"))
    before_s = _parse_moment(document.get("created_before"), default=float("inf"))
    if not _is_page(page) or not _is_page(page_size) or page_size > _MAX_PAGE_SIZE:
        return Refusal(status=400, message=f"page must be at least 1 and page_size 1 to {_MAX_PAGE_SIZE}")
    if after_s is None or before_s is None:
        return Refusal(status=400, message="created_after and created_before must be RFC 3339 times")
    return HistoryQuery(
        page=page,
        page_size=page_size,
        model=document.get("model") or None,
        status=document.get("status") or None,
        after_s=after_s,
        before_s=before_s,
        wants_inputs=document.get("include_inputs") is True,
    )


def parse_billing_query(document: Any) -> BillingQuery | Refusal:
    """Read a request for charges and refunds, which has the listing's rules for pages and times."""
    if not isinstance(document, dict):
        return Refusal(status=400, message="the request body must be a JSON object")
    names = {"created_after": document.get("start_time"), "created_before": document.get("end_time")}
    span = parse_history_query({"page": document.get("page"), "page_size": document.get("page_size"), **names})
    if isinstance(span, Refusal):
        return span
    kind = document.get("billing_type") or None
    if kind not in (None, "deduct", "refund"):
        return Refusal(status=400, message="billing_type must be deduct or refund")
    return BillingQuery(
        page=span.page,
        page_size=span.page_size,
        billing_type=kind,
        after_s=span.after_s,
        before_s=span.before_s,
        model=document.get("model_uuid") or None,
    )


def _outputs(record: PredictionRecord, *, origin: str, extension: str) -> list[str]:
    return [f"{origin}/output/{record.id}/{n}.{extension}" for n in range(1, record.images + 1)]


def _request_schema(properties: Mapping[str, VendorProperty]) -> dict[str, Any]:
    listed: dict[str, Any] = {}
    for name, known in properties.items():
        entry: dict[str, Any] = {"type": known.type, "description": known.description, "default": known.default}
        entry |= {"minimum": known.minimum, "maximum": known.maximum, "enum": list(known.enum) or None}
        listed[name] = {key: value for key, value in entry.items() if value is not None}
    return {
        "type": "object",
        "properties": listed,
        "required": [name for name, known in properties.items() if known.required],
        "x-order-properties": list(properties),
    }


def _dump(document: Any) -> bytes:
    # ASCII escapes, so that a lone surrogate in a prompt can be answered too.
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _usd(micro_usd: int) -> float:
    return round(micro_usd / 1_000_000, 6)


def _moment(at_s: float, *, digits: int) -> str:
    whole_s, nanoseconds = divmod(int(at_s * 1_000_000_000), 1_000_000_000)
    fraction = f"{nanoseconds:09d}"[:digits]
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}.{fraction}Z"


def _parse_moment(text: Any, *, default: float) -> float | None:
    if text is None or text == "":
        return default
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    zone = "+00:00" if match[4] in "Zz" else match[4]
    try:
        whole_s = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").timestamp()
    except ValueError:
        return None
    return whole_s + float(match[3] or 0)


def _is_page(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
