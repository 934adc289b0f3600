"""Charges and refunds on the wire: what is asked, and what is believed of the answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.billing import BillingPage, BillingRow, build_billing, decipher_billing
from batchflux.core.model import Fault
from batchflux.core.protocol import HttpAnswer, TransportFault

ROW: dict[str, Any] = {
    "uuid": "row-1",
    "billing_type": "deduct",
    "price": 0.08,
    "created_at": "2026-11-22T10:00:00.684123456Z",
    "access_key_name": "mine",
    "prediction": {"uuid": "a" * 32, "model_uuid": "some/model", "status": "completed"},
    "order": None,
    "consumption": None,
}


def answered(data: Any, *, status: int = 200, code: int = 200) -> HttpAnswer:
    """Return an answer in the service's envelope."""
    return HttpAnswer(status=status, body=json.dumps({"code": code, "message": "m", "data": data}).encode())


def page(*rows: Any, **more: Any) -> BillingPage:
    """Return a page of such rows, deciphered."""
    found = decipher_billing(answered({"page": 1, "items": list(rows), **more}))
    assert isinstance(found, BillingPage)
    return found


def test_a_page_is_asked_for_in_strict_times() -> None:
    """The request names its page, the most that a page holds, and the span in RFC 3339."""
    request = build_billing("https://api.example/api/v3", page=3, after_ms=0, before_ms=1_500)
    assert (request.method, request.url) == ("POST", "https://api.example/api/v3/billings/search")
    assert json.loads(request.body or b"") == {
        "page": 3,
        "page_size": 100,
        "start_time": "1970-01-01T00:00:00.000Z",
        "end_time": "1970-01-01T00:00:01.500Z",
    }


def test_a_charge_and_a_refund_are_read() -> None:
    """Amounts are whole micro-dollars without a sign; the kind says which way the money went."""
    refund = {**ROW, "uuid": "row-2", "billing_type": "refund", "price": -0.08}
    found = page(ROW, refund, has_more=True)
    charge = BillingRow(
        key="row-1", kind="charge", amount_micro_usd=80_000, prediction_id="a" * 32, at_ms=1_795_341_600_684
    )
    assert found.rows[0] == charge
    assert (found.rows[1].kind, found.rows[1].amount_micro_usd) == ("refund", 80_000)
    assert (found.odd, found.has_more) == (0, True)
    assert page(ROW).has_more is None


def test_a_row_without_a_name_is_known_by_what_it_says() -> None:
    """The same row listed twice has one key, and another one has another."""
    nameless = {name: value for name, value in ROW.items() if name != "uuid"}
    first, again, other = page(nameless, dict(nameless), {**nameless, "created_at": "2026-11-22T10:00:01Z"}).rows
    assert first.key == again.key != other.key


def test_a_charge_for_something_else_is_read_without_a_prediction() -> None:
    """Training and storage are charged too."""
    assert page({**ROW, "prediction": None}).rows[0].prediction_id is None


@pytest.mark.parametrize(
    "row",
    [
        None, 7, "row", [], {},
        {**ROW, "billing_type": "gift"}, {**ROW, "billing_type": None}, {**ROW, "billing_type": ["deduct"]},
        {**ROW, "price": None}, {**ROW, "price": "0.08"}, {**ROW, "price": True}, {**ROW, "price": 1e12},
        {**ROW, "prediction": {"uuid": "../../etc"}}, {**ROW, "prediction": {"uuid": 7}},
    ],
)  # fmt: skip
def test_what_is_no_charge_is_counted_as_odd(row: Any) -> None:
    """It is never taken for nothing, since then a charge could be missed in silence."""
    found = page(ROW, row)
    assert (len(found.rows), found.odd) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (answered(None, status=404, code=404), "not_found"),
        (answered(None, status=401, code=401), "auth"),
        (answered({"page": 1}), "bad_response"),
        (answered(None, code=403), "auth"),
        (HttpAnswer(status=200, body=b"<html>"), "bad_response"),
        (HttpAnswer(status=502, body=b"gone"), "server"),
        (TransportFault(sent=False, message="refused"), "network"),
    ],
)
def test_no_page_is_a_fault(answer: HttpAnswer | TransportFault, kind: str) -> None:
    """Whatever is no listing says why."""
    found = decipher_billing(answer)
    assert isinstance(found, Fault)
    assert found.kind == kind


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "items"]), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.dictionaries(st.sampled_from(list(ROW)), json_values))
def test_nothing_makes_it_raise(data: Any, changes: dict[str, Any]) -> None:
    """Any JSON in any place is a page or a fault, and no amount is negative."""
    for given_data in (data, {"items": data}, {"items": [{**ROW, **changes}]}):
        found = decipher_billing(answered(given_data))
        assert isinstance(found, Fault) or all(row.amount_micro_usd >= 0 for row in found.rows)
