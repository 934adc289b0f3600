"""A run's books: the money of every fact added up anew, cell by cell, and the predictions that it paid for. Pure.

A cell's last fact states what the cell has cost. Here that sum is replayed from what moves money (`flow`,
`resolution`): an intent reserves its price; a release, a refusal and a failure that the service refunds give the price
of the cell's last intent back; nothing else costs anything. Works on whole columns: some 25 bytes a fact are held.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.arrow import as_flags, as_ints, equals, from_ints
from batchflux.core.ledger import cell_ids, cell_keys
from batchflux.core.model import CellStatus, FactKind, Fault
from batchflux.core.protocol import is_refunded

__all__ = ["BOOK_COLUMNS", "PREDICTION_SCHEMA", "Books", "Ending"]

BOOK_COLUMNS: Final = (
    "cell_id",
    "kind",
    "at",
    "status",
    "cost_micro_usd",
    "price_micro_usd",
    "prediction_id",
    "submitted_at",
    "created_at",
    "completed_at",
    "error_kind",
    "error",
    "reused_from",
)


class Ending:
    """What the books say became of a prediction's price: a code of `predictions()`'s column `ending`."""

    OPEN: Final = 0
    COMPLETED: Final = 1
    KEPT: Final = 2  # it failed, and the price stays spent
    RETURNED: Final = 3  # it failed, and is refunded
    ELSEWHERE: Final = 4  # another run paid for it, from which this one took it over


PREDICTION_SCHEMA: Final = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("cell_id", pa.string()),
        ("price_micro_usd", pa.int64()),
        ("ending", pa.int8()),
        ("created_at_ms", pa.int64()),  # the service's clock
        ("ended_at_ms", pa.int64()),  # ours
    ]
)

_Ints = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]

# How `flow` ends the message of a failure that came with a code.
_CODE_SUFFIX: Final = r"\(code (?P<code>-?\d{1,10})\)$"


@dataclass(kw_only=True)
class Books:
    """Takes facts in, in writing order, in as many tables as they come; each has BOOK_COLUMNS.

    `keeps_predictions` is whether predictions, activity and clock will be asked for: some 100 bytes more an attempt.
    """

    keeps_predictions: bool = False
    _keys: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    _is_intent: list[_Flags] = field(default_factory=list)
    _gives_back: list[_Flags] = field(default_factory=list)
    _prices: list[_Ints] = field(default_factory=list)
    _costs: list[_Ints] = field(default_factory=list)
    _at_ms: list[_Ints] = field(default_factory=list)
    _offsets_ms: list[_Ints] = field(default_factory=list)
    _predictions: list[pa.Table] = field(default_factory=list)
    _rows: int = 0

    def add(self, facts: pa.Table) -> None:
        """Take in the next facts. Raise ValueError for a cell id that is none."""
        facts = facts.filter(pc.invert(equals(facts["kind"], str(FactKind.FILES))))
        if facts.num_rows == 0:
            return
        gives_back = _gives_back(facts)
        self._keys.append(cell_keys(facts["cell_id"]))
        self._is_intent.append(_flags(equals(facts["kind"], str(FactKind.INTENT))))
        self._gives_back.append(gives_back)
        self._prices.append(_ints(facts["price_micro_usd"]))
        self._costs.append(_ints(facts["cost_micro_usd"]))
        if self.keeps_predictions:
            self._at_ms.append(_ints(facts["at"]))
            self._offsets_ms.append(_offsets(facts))
            self._predictions.append(_of_predictions(facts, gives_back=gives_back, first_row=self._rows))
        self._rows += facts.num_rows

    def wrong_costs(self) -> pa.Table:
        """Return the cells whose stated cost isn't what their facts add up to: `cell_id, stated, replayed`."""
        if not self._rows:
            return pa.table({"cell_id": pa.nulls(0, pa.string()), "stated": _array([]), "replayed": _array([])})
        replay = self._replay()
        is_wrong = replay.stated != replay.replayed
        return pa.table(
            {
                "cell_id": cell_ids(replay.keys[is_wrong]),
                "stated": _array(replay.stated[is_wrong]),
                "replayed": _array(replay.replayed[is_wrong]),
            }
        )

    def predictions(self) -> pa.Table:
        """Return every prediction that an attempt of the run was given, once, as PREDICTION_SCHEMA."""
        tables = [table for table in self._predictions if table.num_rows]
        if not tables:
            return PREDICTION_SCHEMA.empty_table()
        facts = pa.concat_tables(tables)
        codes, count = _codes(facts["prediction_id"])
        last = np.zeros(count, dtype=np.int64)
        last[codes] = np.arange(len(codes))  # numpy keeps the last of repeated assignments
        facts = facts.take(_array(last))
        prices = self._replay().prices_by_row[_ints(facts["row"])]
        return (
            facts.drop_columns(["row"]).append_column("price_micro_usd", _array(prices)).select(PREDICTION_SCHEMA.names)
        )

    def activity_ms(self) -> _Ints:
        """Return the moments of all facts on our clock, ascending."""
        return np.sort(np.concatenate(self._at_ms)) if self._at_ms else np.empty(0, dtype=np.int64)

    def clock_offset_ms(self) -> int | None:
        """Return the service's clock minus ours, the median over all predictions; None before there is one."""
        offsets = np.concatenate(self._offsets_ms) if self._offsets_ms else np.empty(0, dtype=np.int64)
        return round(float(np.median(offsets))) if len(offsets) else None

    def _replay(self) -> "_Replay":
        keys, is_intent = np.concatenate(self._keys), np.concatenate(self._is_intent)
        gives_back, prices = np.concatenate(self._gives_back), np.concatenate(self._prices)
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: a cell's facts stay in writing order
        keys, is_intent, gives_back, prices = keys[order], is_intent[order], gives_back[order], prices[order]
        is_first = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)])
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(keys)) - 1
        last_intent = np.maximum.accumulate(np.where(is_intent, np.arange(len(keys)), -1))
        has_intent = last_intent >= np.repeat(starts, ends - starts + 1)
        current = np.where(has_intent, prices[last_intent], 0)
        moves = np.where(is_intent, prices, np.where(gives_back, -current, 0))
        by_row = np.empty(len(keys), dtype=np.int64)
        by_row[order] = current
        return _Replay(
            keys=keys[starts],
            stated=np.concatenate(self._costs)[order][ends],
            replayed=np.add.reduceat(moves, starts),
            prices_by_row=by_row,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    """The cells' sums, and for each fact in writing order the price of its cell's last intent until then."""

    keys: npt.NDArray[np.uint64]
    stated: _Ints
    replayed: _Ints
    prices_by_row: _Ints


def _gives_back(facts: pa.Table) -> _Flags:
    """Tell which facts give the price of their cell's last intent back."""
    is_released = _flags(equals(facts["kind"], str(FactKind.RELEASED)))
    failed = pc.and_(
        equals(facts["kind"], str(FactKind.OUTCOME)),
        equals(facts["status"], str(CellStatus.FAILED)),
    )
    is_failed = _flags(failed)
    if not is_failed.any():
        return is_released
    was_refused = is_failed & _flags(pc.is_null(facts["prediction_id"]))
    gives_back: _Flags = is_released | was_refused | (is_failed & _is_refunded(facts))
    return gives_back


def _is_refunded(facts: pa.Table) -> _Flags:
    """Tell which facts state an error that the service refunds; asked of each distinct one once."""
    codes = pc.struct_field(pc.extract_regex(facts["error"], _CODE_SUFFIX), "code")
    found = np.zeros(facts.num_rows, dtype=np.bool_)
    for code in pc.unique(codes).to_pylist():
        if code is not None and is_refunded(Fault(kind="generation_failed", message="", code=int(code))):
            found |= _flags(equals(codes, code))
    of_kind: _Flags = found & _flags(equals(facts["error_kind"], "generation_failed"))
    return of_kind


def _of_predictions(facts: pa.Table, *, gives_back: _Flags, first_row: int) -> pa.Table:
    """Return the facts that name a prediction, with what they say of its price."""
    endings = np.full(facts.num_rows, Ending.OPEN, dtype=np.int8)
    endings[_flags(equals(facts["status"], str(CellStatus.COMPLETED)))] = Ending.COMPLETED
    endings[_flags(equals(facts["status"], str(CellStatus.FAILED)))] = Ending.KEPT
    endings[gives_back] = Ending.RETURNED
    endings[_flags(pc.is_valid(facts["reused_from"]))] = Ending.ELSEWHERE
    table = pa.table(
        {
            "prediction_id": facts["prediction_id"],
            "cell_id": facts["cell_id"],
            "ending": from_ints(endings.astype(np.int64)).cast(pa.int8()),
            "created_at_ms": facts["created_at"].cast(pa.int64()),
            "ended_at_ms": facts["completed_at"].cast(pa.int64()),
            "row": _array(np.arange(first_row, first_row + facts.num_rows)),
        }
    )
    return table.filter(pc.is_valid(facts["prediction_id"]))


def _offsets(facts: pa.Table) -> _Ints:
    accepted = facts.filter(equals(facts["kind"], str(FactKind.ACCEPTED)))
    known = accepted.filter(pc.and_(pc.is_valid(accepted["created_at"]), pc.is_valid(accepted["submitted_at"])))
    return _ints(known["created_at"]) - _ints(known["submitted_at"])


def _codes(column: pa.ChunkedArray) -> tuple[_Ints, int]:
    """Number a column's values: a number a row, and how many there are."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices).astype(np.int64), len(encoded.dictionary)


def _flags(column: Any) -> _Flags:
    return as_flags(column)


def _ints(column: pa.ChunkedArray) -> _Ints:
    return as_ints(column.cast(pa.int64()))


def _array(values: Any) -> pa.Array:
    return from_ints(np.asarray(values, dtype=np.int64))
