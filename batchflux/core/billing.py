"""The account's charges and refunds on the wire, without IO: what the service itself says that predictions cost.

Source: [SDK] the official command line's code; the documentation shows another endpoint, which no client uses.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from batchflux.core.fields import as_micro_usd, as_moment_ms, clip, parse_object
from batchflux.core.history import PAGE_SIZE, rfc3339
from batchflux.core.model import Fault
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault, decipher_list, is_prediction_id

__all__ = ["BillingPage", "BillingRow", "build_billing", "decipher_billing"]

_MAX_PAGE_BYTES = 8 << 20
_KINDS: dict[str, Literal["charge", "refund"]] = {"deduct": "charge", "refund": "refund"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingRow:
    """One charge or refund, its amount without a sign. `key` is equal for the same row listed twice.

    `prediction_id` is None where the row is about no prediction; `at_ms` where it gives no time.
    """

    key: str
    kind: Literal["charge", "refund"]
    amount_micro_usd: int
    prediction_id: str | None
    at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingPage:
    """One page of rows, newest first. `odd` counts entries that are no charge or refund that can be read.

    `has_more` is None where the page doesn't say whether there are more.
    """

    rows: tuple[BillingRow, ...]
    odd: int
    has_more: bool | None


def build_billing(base_url: str, *, page: int, after_ms: int, before_ms: int) -> HttpRequest:
    """Return the POST that lists charges and refunds made in a span of the service's clock; it changes nothing."""
    query = {"page": page, "page_size": PAGE_SIZE, "start_time": rfc3339(after_ms), "end_time": rfc3339(before_ms)}
    body = json.dumps(query, separators=(",", ":")).encode()
    return HttpRequest(method="POST", url=f"{base_url}/billings/search", body=body, max_answer_bytes=_MAX_PAGE_BYTES)


def decipher_billing(answer: HttpAnswer | TransportFault) -> BillingPage | Fault:
    """Return one page, or why there is none; a Fault `not_found` means that this service lists no billing."""
    found = decipher_list(answer, "items")
    if isinstance(found, Fault):
        return found
    rows = tuple(row for entry in found if (row := _row(entry)) is not None)
    envelope = parse_object(answer.body) if isinstance(answer, HttpAnswer) else None
    data = envelope.get("data") if envelope is not None else None
    more = data.get("has_more") if isinstance(data, dict) else None
    return BillingPage(rows=rows, odd=len(found) - len(rows), has_more=more if isinstance(more, bool) else None)


def _row(entry: Any) -> BillingRow | None:
    if not isinstance(entry, dict):
        return None
    said = entry.get("billing_type")
    kind = _KINDS.get(said) if isinstance(said, str) else None
    amount = _amount(entry.get("price"))
    if kind is None or amount is None:
        return None
    prediction = entry.get("prediction")
    named = prediction.get("uuid") if isinstance(prediction, dict) else None
    if named is not None and not is_prediction_id(named):
        return None
    uuid = entry.get("uuid")
    # Without a name of its own a row is known by all that it says.
    key = uuid if isinstance(uuid, str) and uuid else json.dumps([kind, named, amount, str(entry.get("created_at"))])
    return BillingRow(
        key=clip(key),
        kind=kind,
        amount_micro_usd=amount,
        prediction_id=named,
        at_ms=as_moment_ms(entry.get("created_at")),
    )


def _amount(value: Any) -> int | None:
    """The type says which way money went; a sign that says it again changes nothing."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return as_micro_usd(abs(value)) if is_number else None
