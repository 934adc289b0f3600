"""A run's own books against the service's: which predictions no attempt explains, and whose money differs. Pure.

Three witnesses are laid side by side by prediction id: the attempts of the run, the account's history, and its charges
and refunds. Works on whole columns; only what differs becomes a Python object, and no more of that than is shown.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.core.books import Ending

__all__ = ["CHARGE_SCHEMA", "LISTED_SCHEMA", "Comparison", "Difference", "DifferenceKind", "Orphan", "Span", "compare"]

LISTED_SCHEMA: Final = pa.schema(
    [("prediction_id", pa.string()), ("created_at_ms", pa.int64()), ("model", pa.string())]
)
CHARGE_SCHEMA: Final = pa.schema(
    [
        ("key", pa.string()),
        ("prediction_id", pa.string()),
        ("is_refund", pa.bool_()),
        ("amount_micro_usd", pa.int64()),
        ("at_ms", pa.int64()),
    ]
)

REFUND_WITHIN_MS: Final = 3 * 3600 * 1000  # [docs] failed predictions are refunded within three hours
MOST_SHOWN: Final = 1000

Span = tuple[int, int]  # first and last millisecond of the service's clock

# What can be wrong with a prediction of ours; the last two cost nothing, and are told all the same.
DifferenceKind = Literal[
    "charged_twice", "other_price", "not_charged", "not_refunded", "refund_awaited", "refunded_unasked"
]

_Ints = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A prediction of the account that no attempt of the run explains; what isn't known of it is None."""

    prediction_id: str
    created_at_ms: int | None
    model: str | None
    charges: int
    net_micro_usd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A prediction of the run whose money differs."""

    prediction_id: str
    cell_id: str
    price_micro_usd: int
    charges: int
    charged_micro_usd: int
    refunded_micro_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs: by kind how many, and the first MOST_SHOWN of them; and the totals of the run's own predictions.

    `books_micro_usd` is what the books count for those predictions, the others what the account says of them; None
    where the billing is not known. `unlisted` counts those that neither history nor billing holds.
    """

    predictions: int
    orphan_count: int
    orphans: tuple[Orphan, ...]
    counts: dict[DifferenceKind, int]
    differences: dict[DifferenceKind, tuple[Difference, ...]]
    books_micro_usd: int
    charged_micro_usd: int | None
    refunded_micro_usd: int | None
    unlisted: int


def compare(
    ours: pa.Table, listed: pa.Table | None, charges: pa.Table | None, *, spans: list[Span], now_ms: int
) -> Comparison:
    """Compare the run's predictions (books.PREDICTION_SCHEMA) with the account's own listings of the same time.

    `listed` has LISTED_SCHEMA, `charges` CHARGE_SCHEMA, rows that came twice once or twice; None is not known.
    What is judged was created within `spans`, the time that the run was at work; `now_ms` is our clock.
    """
    ours = ours.filter(pa.array(_within(_ints(ours, "created_at_ms"), spans)))
    history = _once(LISTED_SCHEMA.empty_table() if listed is None else listed, "prediction_id")
    billing = _once(CHARGE_SCHEMA.empty_table() if charges is None else charges, "key")
    billing = billing.filter(billing["prediction_id"].is_valid())
    names, (our_codes, listed_codes, row_codes) = _number(ours, history, billing)
    money = _Money.of(billing, row_codes, count=len(names))
    is_ours = _marked(our_codes, count=len(names))
    is_listed = _marked(listed_codes, count=len(names))
    # What was taken over is known here and paid for elsewhere: no stranger, and none of this run's money.
    is_own = _ints(ours, "ending") != Ending.ELSEWHERE
    ours, our_codes = ours.filter(pa.array(is_own)), our_codes[is_own]

    in_time = _within(_ints(billing, "at_ms"), spans) & ~np.asarray(billing["is_refund"], dtype=np.bool_)
    is_seen = _marked(listed_codes[_within(_ints(history, "created_at_ms"), spans)], count=len(names))
    is_orphan = (is_seen | _marked(row_codes[in_time], count=len(names))) & ~is_ours
    masks = _masks(ours, our_codes, money, now_ms=now_ms) if charges is not None else {}
    is_returned = _ints(ours, "ending") == Ending.RETURNED
    return Comparison(
        predictions=ours.num_rows,
        orphan_count=int(is_orphan.sum()),
        orphans=_orphans(
            np.flatnonzero(is_orphan), names, history, listed_codes, money if charges is not None else None
        ),
        counts={kind: int(mask.sum()) for kind, mask in masks.items() if mask.any()},
        differences={kind: _differences(ours, our_codes, mask, money) for kind, mask in masks.items() if mask.any()},
        books_micro_usd=int(_ints(ours, "price_micro_usd")[~is_returned].sum()),
        charged_micro_usd=None if charges is None else int(money.charged[our_codes].sum()),
        refunded_micro_usd=None if charges is None else int(money.refunded[our_codes].sum()),
        unlisted=0 if listed is None else int((~is_listed[our_codes] & (money.charges[our_codes] == 0)).sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Money:
    """By the number of the prediction: how many charges, and the sums charged and refunded."""

    charges: _Ints
    charged: _Ints
    refunded: _Ints

    @classmethod
    def of(cls, billing: pa.Table, codes: _Ints, *, count: int) -> "_Money":
        amounts = _ints(billing, "amount_micro_usd")
        is_refund = np.asarray(billing["is_refund"], dtype=np.bool_)
        charges, charged, refunded = (np.zeros(count, dtype=np.int64) for _ in range(3))
        np.add.at(charges, codes[~is_refund], 1)
        np.add.at(charged, codes[~is_refund], amounts[~is_refund])
        np.add.at(refunded, codes[is_refund], amounts[is_refund])
        return cls(charges=charges, charged=charged, refunded=refunded)


def _masks(ours: pa.Table, codes: _Ints, money: _Money, *, now_ms: int) -> dict[DifferenceKind, _Flags]:
    """Tell for each kind of difference which of our predictions have it; each has one at most of the first three."""
    price, ending = _ints(ours, "price_micro_usd"), _ints(ours, "ending")
    charges, charged, refunded = money.charges[codes], money.charged[codes], money.refunded[codes]
    is_twice = charges > 1
    is_due = (ending == Ending.RETURNED) & (refunded < charged)
    is_awaited = _ints(ours, "ended_at_ms") + REFUND_WITHIN_MS > now_ms
    return {
        "charged_twice": is_twice,
        "other_price": (charges == 1) & (charged != price),
        "not_charged": (charges == 0) & (ending == Ending.COMPLETED) & (price > 0),
        "not_refunded": is_due & ~is_awaited & ~is_twice,
        "refund_awaited": is_due & is_awaited & ~is_twice,
        "refunded_unasked": (ending != Ending.RETURNED) & (refunded > 0) & ~is_twice,
    }


def _differences(ours: pa.Table, codes: _Ints, mask: _Flags, money: _Money) -> tuple[Difference, ...]:
    places = np.flatnonzero(mask)[:MOST_SHOWN]
    rows = ours.select(["prediction_id", "cell_id", "price_micro_usd"]).take(pa.array(places)).to_pylist()
    return tuple(
        Difference(
            **row,
            charges=int(money.charges[code]),
            charged_micro_usd=int(money.charged[code]),
            refunded_micro_usd=int(money.refunded[code]),
        )
        for row, code in zip(rows, codes[places], strict=True)
    )


def _orphans(
    found: _Ints, names: pa.Array, history: pa.Table, listed_codes: _Ints, money: _Money | None
) -> tuple[Orphan, ...]:
    place_of = np.full(len(names), -1, dtype=np.int64)
    place_of[listed_codes] = np.arange(len(listed_codes))
    orphans = []
    for code in found[:MOST_SHOWN].tolist():
        place = int(place_of[code])
        said: dict[str, Any] = history.slice(place, 1).to_pylist()[0] if place >= 0 else {}
        orphans.append(
            Orphan(
                prediction_id=names[code].as_py(),
                created_at_ms=said.get("created_at_ms"),
                model=said.get("model"),
                charges=0 if money is None else int(money.charges[code]),
                net_micro_usd=None if money is None else int(money.charged[code] - money.refunded[code]),
            )
        )
    return tuple(sorted(orphans, key=lambda orphan: (orphan.created_at_ms or 0, orphan.prediction_id)))


def _number(*tables: pa.Table) -> tuple[pa.Array, list[_Ints]]:
    """Number the prediction ids of all tables together: the ids, and for each table a number a row."""
    ids = pa.chunked_array([chunk for table in tables for chunk in table["prediction_id"].chunks], pa.string())
    encoded = ids.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices).astype(np.int64)
    ends = np.cumsum([table.num_rows for table in tables])
    return encoded.dictionary, np.split(codes, ends[:-1])


def _once(table: pa.Table, column: str) -> pa.Table:
    """Return the rows of a table without those whose value in a column was there before."""
    encoded = table[column].combine_chunks().dictionary_encode()
    _, firsts = np.unique(np.asarray(encoded.indices), return_index=True)
    return table.take(pa.array(np.sort(firsts)))


def _marked(codes: _Ints, *, count: int) -> _Flags:
    marks = np.zeros(count, dtype=np.bool_)
    marks[codes] = True
    return marks


def _within(moments: _Ints, spans: list[Span]) -> _Flags:
    """Tell which moments lie in one of the spans; one that isn't known (0) might."""
    inside: _Flags = moments == 0
    for first, last in spans:
        inside |= (moments >= first) & (moments <= last)
    return inside


def _ints(table: pa.Table, name: str) -> _Ints:
    return np.asarray(table[name].cast(pa.int64()).fill_null(0), dtype=np.int64)
