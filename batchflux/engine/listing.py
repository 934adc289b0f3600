"""Reads the account's own listings to their ends: its history, and its charges and refunds. Submits nothing.

A listing is read in slices of time, since a service answers its thousandth page slower than its first, and until a
page brings nothing new; it is tried again where the service is silent or busy, and given up where it refuses.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import pyarrow as pa

from batchflux.core.accounting import CHARGE_SCHEMA, LISTED_SCHEMA, Span
from batchflux.core.billing import BillingPage, build_billing, decipher_billing
from batchflux.core.history import HistoryPage, build_history, decipher_history
from batchflux.core.model import Fault
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.retry import Backoff
from batchflux.engine.ports import Transport

__all__ = ["Listing", "list_charges", "list_history"]

_TRIES: Final = 4
_BACKOFF: Final = Backoff(first_s=0.5, most_s=30.0, jitter=0.3)
_ROWS_AT_ONCE: Final = 4096
_HOPELESS: Final = frozenset({"not_found", "auth"})

_Page = TypeVar("_Page", HistoryPage, BillingPage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A listing read to its end; `odd` counts entries that can't be read, so that it may lack something."""

    table: pa.Table
    odd: int


async def list_history(
    transport: Transport, base_url: str, slices: list[Span], *, dice: Callable[[], float]
) -> Listing | Fault:
    """Return the predictions created in the slices, as accounting.LISTED_SCHEMA, or why they can't be had."""
    rows = _Rows(schema=LISTED_SCHEMA)
    odd = 0
    for first, last in slices:
        seen: set[str] = set()
        page = 0
        while True:
            page += 1
            request = build_history(base_url, page=page, after_ms=first, before_ms=last, model=None, asks_inputs=False)
            found = await _ask(transport, request, decipher_history, dice=dice)
            if isinstance(found, Fault):
                return found
            fresh = [item.prediction for item in found.items if item.prediction.id not in seen]
            for prediction in fresh:
                seen.add(prediction.id)
                rows.add(prediction_id=prediction.id, created_at_ms=prediction.created_at_ms, model=prediction.model)
            odd += found.is_odd and (bool(fresh) or page == 1)
            if not fresh:  # an empty page, or one that a service repeats which doesn't look at the page's number
                break
    return Listing(table=rows.table(), odd=odd)


async def list_charges(
    transport: Transport, base_url: str, slices: list[Span], *, dice: Callable[[], float]
) -> Listing | Fault:
    """Return the charges and refunds made in the slices, as accounting.CHARGE_SCHEMA, or why they can't be had."""
    rows = _Rows(schema=CHARGE_SCHEMA)
    odd = 0
    for first, last in slices:
        seen: set[str] = set()
        page, has_more = 0, True
        while has_more:
            page += 1
            request = build_billing(base_url, page=page, after_ms=first, before_ms=last)
            found = await _ask(transport, request, decipher_billing, dice=dice)
            if isinstance(found, Fault):
                return found
            fresh = [row for row in found.rows if row.key not in seen]
            for row in fresh:
                seen.add(row.key)
                rows.add(
                    key=row.key,
                    prediction_id=row.prediction_id,
                    is_refund=row.kind == "refund",
                    amount_micro_usd=row.amount_micro_usd,
                    at_ms=row.at_ms,
                )
            odd += found.odd
            has_more = bool(fresh) and found.has_more is not False
    return Listing(table=rows.table(), odd=odd)


@dataclass(kw_only=True)
class _Rows:
    """Gathers rows as a table; they are Python values for no longer than some pages."""

    schema: pa.Schema
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, **values: Any) -> None:
        self._rows.append(values)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._turn()

    def table(self) -> pa.Table:
        self._turn()
        return pa.concat_tables(self._tables)

    def _turn(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows = []


async def _ask(
    transport: Transport,
    request: HttpRequest,
    decipher: Callable[[HttpAnswer | TransportFault], _Page | Fault],
    *,
    dice: Callable[[], float],
) -> _Page | Fault:
    """Ask for one page, again where that can help: a listing changes nothing, so that it may be asked for freely."""
    tries = 1
    while True:
        found = decipher(await transport.send(request))
        if not isinstance(found, Fault) or found.kind in _HOPELESS or tries >= _TRIES:
            return found
        await asyncio.sleep(_BACKOFF.wait_for(found, tries, dice=dice()))
        tries += 1
