"""The run's books against the account's listings: orphans, charges and refunds, by prediction."""

from typing import Any

import pyarrow as pa
import pytest

from batchflux.core.accounting import (
    CHARGE_SCHEMA,
    LISTED_SCHEMA,
    REFUND_WITHIN_MS,
    Comparison,
    compare,
)
from batchflux.core.books import PREDICTION_SCHEMA, Ending

PRICE = 80_000
SPANS = [(1_000, 2_000)]
NOW_MS = 10 * REFUND_WITHIN_MS


def ours(*rows: dict[str, Any]) -> pa.Table:
    """Return predictions of the run; what a row leaves out is that of a completed one."""
    usual = {"cell_id": "c", "price_micro_usd": PRICE, "ending": Ending.COMPLETED, "created_at_ms": 1_500}
    return pa.Table.from_pylist([{**usual, "ended_at_ms": 1_600, **row} for row in rows], schema=PREDICTION_SCHEMA)


def listed(*names: str, at_ms: int | None = 1_500) -> pa.Table:
    """Return a history of predictions."""
    rows = [{"prediction_id": name, "created_at_ms": at_ms, "model": "some/model"} for name in names]
    return pa.Table.from_pylist(rows, schema=LISTED_SCHEMA)


def charges(*rows: tuple[str | None, int], at_ms: int = 1_500) -> pa.Table:
    """Return charges, and refunds where an amount is negative."""
    entries = [
        {"key": f"row-{n}", "prediction_id": name, "is_refund": amount < 0, "amount_micro_usd": abs(amount)}
        for n, (name, amount) in enumerate(rows)
    ]
    return pa.Table.from_pylist([{**entry, "at_ms": at_ms} for entry in entries], schema=CHARGE_SCHEMA)


def judged(mine: pa.Table, history: pa.Table | None, billing: pa.Table | None, *, now_ms: int = NOW_MS) -> Comparison:
    """Compare within the usual span."""
    return compare(mine, history, billing, spans=SPANS, now_ms=now_ms)


def test_what_agrees_differs_in_nothing() -> None:
    """Each of our predictions listed once and charged its price; rows that came twice count once."""
    twice = charges(("p1", PRICE), ("p2", PRICE))
    found = judged(
        ours({"prediction_id": "p1"}, {"prediction_id": "p2"}),
        listed("p1", "p2", "p1"),
        pa.concat_tables([twice, twice]),
    )
    assert (found.orphan_count, found.counts, found.predictions, found.unlisted) == (0, {}, 2, 0)
    assert (found.books_micro_usd, found.charged_micro_usd, found.refunded_micro_usd) == (2 * PRICE, 2 * PRICE, 0)


@pytest.mark.fault("S21")
@pytest.mark.parametrize(
    ("row", "billing", "kind"),
    [
        ({}, [("p1", PRICE), ("p1", PRICE)], "charged_twice"),
        ({}, [("p1", PRICE), ("p1", PRICE), ("p1", -PRICE)], "charged_twice"),
        ({}, [("p1", 40_000)], "other_price"),
        ({}, [], "not_charged"),
        ({"ending": Ending.RETURNED}, [("p1", PRICE)], "not_refunded"),
        ({"ending": Ending.RETURNED}, [("p1", PRICE), ("p1", -1)], "not_refunded"),
        ({}, [("p1", PRICE), ("p1", -PRICE)], "refunded_unasked"),
        ({"ending": Ending.KEPT}, [("p1", PRICE), ("p1", -PRICE)], "refunded_unasked"),
    ],
)
def test_each_difference_has_its_kind(row: dict[str, Any], billing: list[tuple[str | None, int]], kind: str) -> None:
    """One prediction whose money differs, among one that agrees, is named once with all amounts."""
    found = judged(
        ours({"prediction_id": "fine"}, {"prediction_id": "p1", **row}),
        listed("fine", "p1"),
        charges(("fine", PRICE), *billing),
    )
    assert found.counts == {kind: 1}
    (difference,) = found.differences[kind]  # type: ignore[index]
    charged = [amount for _, amount in billing if amount > 0]
    assert (difference.prediction_id, difference.price_micro_usd) == ("p1", PRICE)
    assert (difference.charges, difference.charged_micro_usd) == (len(charged), sum(charged))
    assert difference.refunded_micro_usd == -sum(amount for _, amount in billing if amount < 0)


@pytest.mark.parametrize(
    ("row", "billing"),
    [
        ({"ending": Ending.RETURNED}, [("p1", PRICE), ("p1", -PRICE)]),
        ({"ending": Ending.RETURNED}, []),
        ({"ending": Ending.KEPT}, [("p1", PRICE)]),
        ({"ending": Ending.OPEN}, [("p1", PRICE)]),
        ({"ending": Ending.OPEN}, []),
        ({"price_micro_usd": 0}, []),
    ],
)
def test_what_is_fair_is_no_difference(row: dict[str, Any], billing: list[tuple[str | None, int]]) -> None:
    """Refunded failures, failures never charged, moderation that is kept, and what is not final yet."""
    assert judged(ours({"prediction_id": "p1", **row}), listed("p1"), charges(*billing)).counts == {}


@pytest.mark.fault("S22")
def test_a_refund_is_awaited_for_three_hours() -> None:
    """Until then it is due, after that it is missing."""
    mine, billing = ours({"prediction_id": "p1", "ending": Ending.RETURNED}), charges(("p1", PRICE))
    last_ms = 1_600 + REFUND_WITHIN_MS
    assert judged(mine, None, billing, now_ms=last_ms - 1).counts == {"refund_awaited": 1}
    assert judged(mine, None, billing, now_ms=last_ms).counts == {"not_refunded": 1}


@pytest.mark.fault("S19")
def test_orphans_are_told_by_either_witness() -> None:
    """In the history alone, charged alone, both, or given back: each once, with what it cost in the end."""
    found = judged(
        ours({"prediction_id": "mine"}),
        listed("mine", "both", "free"),
        charges(("mine", PRICE), ("both", PRICE), ("charged", 40_000), ("given-back", PRICE), ("given-back", -PRICE)),
    )
    assert {orphan.prediction_id: (orphan.charges, orphan.net_micro_usd) for orphan in found.orphans} == {
        "both": (1, PRICE),
        "free": (0, 0),
        "charged": (1, 40_000),
        "given-back": (1, 0),
    }
    assert found.orphan_count == 4
    assert next(o for o in found.orphans if o.prediction_id == "both").model == "some/model"


def test_what_lies_outside_the_runs_time_is_nobodys_business() -> None:
    """Predictions and charges of other times, refunds of other predictions, and charges for other things."""
    late = charges(("theirs", PRICE), at_ms=2_001)
    refund = charges(("older", -PRICE), (None, PRICE)).set_column(0, "key", pa.array(["row-8", "row-9"]))
    found = judged(ours(), listed("other", at_ms=999), pa.concat_tables([late, refund]))
    assert found.orphan_count == 0
    assert judged(ours({"prediction_id": "p1", "created_at_ms": 2_001}), listed(), charges()).predictions == 0


def test_without_billing_orphans_have_no_price_and_nothing_is_compared() -> None:
    """No charges known is not the same as no charges."""
    found = judged(ours({"prediction_id": "p1"}), listed("other"), None)
    assert (found.counts, found.charged_micro_usd, found.unlisted) == ({}, None, 1)
    assert [(orphan.prediction_id, orphan.net_micro_usd) for orphan in found.orphans] == [("other", None)]


def test_very_many_differences_are_counted_and_some_shown() -> None:
    """A thousand become objects, however many there are."""
    names = [f"p{n}" for n in range(2_500)]
    found = judged(
        ours(*({"prediction_id": name} for name in names)), listed(*(f"x{name}" for name in names)), charges()
    )
    assert (found.counts, found.orphan_count) == ({"not_charged": 2_500}, 2_500)
    assert (len(found.differences["not_charged"]), len(found.orphans)) == (1_000, 1_000)
