"""The account's own history on the wire, without IO: listings of predictions. Witness to submissions nobody answered.

Sources: [docs] the predictions API; [SDK] the official clients' code. `include_inputs` is an undocumented flag that
older official clients sent: it is asked for and never relied on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batchflux.core.identity import canonical_json
from batchflux.core.model import Fault, Prediction
from batchflux.core.protocol import (
    HttpAnswer,
    HttpRequest,
    TransportFault,
    decipher_list,
    decipher_prediction,
)

__all__ = ["PAGE_SIZE", "HistoryItem", "HistoryPage", "build_history", "decipher_history", "rfc3339"]

PAGE_SIZE = 100  # [docs] the most that a page holds
_MAX_PAGE_BYTES = 8 << 20  # a hundred predictions with prompts of some ten thousand characters each


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryItem:
    """One prediction of the account's history; `inputs` are None where the service doesn't give them."""

    prediction: Prediction
    inputs: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """One page of a listing, newest first. `is_odd`: something on it was no prediction, so it proves nothing."""

    items: tuple[HistoryItem, ...]
    is_odd: bool


def build_history(
    base_url: str, *, page: int, after_ms: int, before_ms: int, model: str | None, asks_inputs: bool = True
) -> HttpRequest:
    """Return the POST that lists predictions created in a span of the service's clock; it creates nothing [docs]."""
    query: dict[str, Any] = {
        "page": page,
        "page_size": PAGE_SIZE,
        "created_after": rfc3339(after_ms),
        "created_before": rfc3339(before_ms),
    }
    if asks_inputs:
        query["include_inputs"] = True
    if model is not None:
        query["model"] = model
    body = json.dumps(query, separators=(",", ":")).encode()
    return HttpRequest(method="POST", url=f"{base_url}/predictions", body=body, max_answer_bytes=_MAX_PAGE_BYTES)


def decipher_history(answer: HttpAnswer | TransportFault) -> HistoryPage | Fault:
    """Return one page, or why there is none; a Fault `not_found` means that this service lists no history."""
    found = decipher_list(answer, "items")
    if isinstance(found, Fault):
        return found
    items: list[HistoryItem] = []
    for entry in found:
        prediction = decipher_prediction(entry)
        if prediction is not None:
            given = [entry.get(name) for name in ("inputs", "input")]
            inputs = next((value for value in given if isinstance(value, dict) and _is_json(value)), None)
            items.append(HistoryItem(prediction=prediction, inputs=inputs))
    return HistoryPage(items=tuple(items), is_odd=len(items) < len(found))


def _is_json(value: Mapping[str, Any]) -> bool:
    """Return whether a parsed value is JSON in the strict sense: Python's parser lets NaN and infinities through."""
    try:
        canonical_json(dict(value))
    except (ValueError, RecursionError):
        return False
    return True


def rfc3339(at_ms: int) -> str:
    """Return a moment as the service's listings take it [docs]: strict RFC 3339, UTC."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
