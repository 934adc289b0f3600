"""The fold: facts in, the state of every cell out."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.ledger import FOLD_COLUMNS, cell_ids, cell_keys, compact, fold
from batchflux.core.model import CellStatus, Fact, FactKind
from tests.io.durable import as_table, facts, make_fact, valid_text

histories = st.lists(facts(strings=valid_text), max_size=30)


def naive_fold(history: list[Fact]) -> list[dict[str, Any]]:
    """The same fold as a plain loop over each cell's facts."""
    cells: dict[str, list[Fact]] = {}
    for fact in history:
        cells.setdefault(fact.cell_id, []).append(fact)
    rows: list[dict[str, Any]] = as_table([naive_state(own) for own in cells.values()]).to_pylist()
    return rows


def naive_state(own: list[Fact]) -> Fact:
    states = [fact for fact in own if fact.kind is not FactKind.FILES]
    state = (states or own)[-1]
    saved = [fact for fact in own if fact.kind is FactKind.FILES and fact.attempt == state.attempt]
    intents = [fact for fact in own if fact.kind is FactKind.INTENT]
    error_kind, error = state.error_kind, state.error
    if error_kind is None and saved and saved[-1].error_kind is not None:
        error_kind, error = saved[-1].error_kind, saved[-1].error
    status = state.status
    if state.kind is FactKind.INTENT:
        status, error_kind = CellStatus.UNKNOWN, "unknown_outcome"
        error = "the run ended before the answer to this submission was known"
    if not states:
        status, error_kind = CellStatus.UNKNOWN, "unknown_outcome"
        error = "only the cell's files are on record, not how it came to them"
    return dataclasses.replace(
        state,
        status=status,
        error_kind=error_kind,
        error=error,
        prompt_id=intents[-1].prompt_id if intents else None,
        model=intents[-1].model if intents else None,
        body=intents[-1].body if intents else None,
        price_micro_usd=intents[-1].price_micro_usd if intents else None,
        files=saved[-1].files if saved else (),
        sha256=saved[-1].sha256 if saved else (),
        file_bytes=saved[-1].file_bytes if saved else (),
        fetched_sha256=saved[-1].fetched_sha256 if saved else (),
        warnings=state.warnings + (saved[-1].warnings if states and saved else ()),
    )


@given(histories)
def test_fold_is_the_plain_fold(history: list[Fact]) -> None:
    """The column-wise fold gives, row by row and in order, what a loop over dictionaries gives."""
    assert fold(as_table(history)).to_pylist() == naive_fold(history)


@given(histories, st.data())
def test_repeated_segments_change_nothing(history: list[Fact], data: st.DataObject) -> None:
    """A stretch of facts that is read twice in a row, as after a crash between two steps, folds to the same state."""
    start = data.draw(st.integers(0, len(history)))
    end = data.draw(st.integers(start, len(history)))
    repeated = history[:end] + history[start:end] + history[end:]
    assert fold(as_table(repeated)).equals(fold(as_table(history)))


@given(histories, st.integers(0, 30))
def test_compacting_any_prefix_changes_no_state(history: list[Fact], cut: int) -> None:
    """What compacting drops is needed neither for the state now nor after any later facts."""
    whole, start = as_table(history), compact(as_table(history[:cut]))
    assert start.num_rows <= min(cut, len(history))
    folded = fold(pa.concat_tables([start, as_table(history[cut:])])).to_pylist()
    assert sorted(folded, key=lambda row: row["cell_id"]) == sorted(
        fold(whole).to_pylist(), key=lambda row: row["cell_id"]
    )


def test_compact_keeps_order_and_drops_what_is_past() -> None:
    """Of a finished cell remain its last intent, its outcome and its files, in the order they were written."""
    kinds = [FactKind.INTENT, FactKind.RELEASED, FactKind.INTENT, FactKind.ACCEPTED, FactKind.OUTCOME, FactKind.FILES]
    kept = compact(as_table([make_fact(1, kind=kind, latency_ms=place) for place, kind in enumerate(kinds)]))
    assert kept.column("latency_ms").to_pylist() == [2, 4, 5]
    without_intents = as_table([make_fact(1, kind=kind, latency_ms=place) for place, kind in enumerate(kinds)])
    kept = compact(without_intents.select([*FOLD_COLUMNS, "latency_ms"]))
    assert kept.column("latency_ms").to_pylist() == [4, 5]


def test_fold_over_many_chunks_and_slices() -> None:
    """Tables of many chunks, empty and sliced ones among them, fold like one of a single chunk."""
    history = [make_fact(number % 7, latency_ms=number) for number in range(40)]
    pieces = [as_table(history).slice(start, 10) for start in (0, 10, 20, 30)]
    chunked = pa.concat_tables([as_table([]), *pieces])
    assert fold(chunked).to_pylist() == naive_fold(history)
    assert compact(chunked).column("latency_ms").to_pylist() == list(range(33, 40))


def test_fold_needs_only_its_own_columns() -> None:
    """A table of the columns that a fold can't do without, and one more, folds to those columns."""
    table = as_table([make_fact(1), make_fact(2, kind=FactKind.INTENT)]).select([*FOLD_COLUMNS, "cost_micro_usd"])
    folded = fold(table)
    assert folded.column_names == [*FOLD_COLUMNS, "cost_micro_usd"]
    assert folded.column("status").to_pylist() == ["completed", "unknown"]


def test_a_later_attempt_has_none_of_the_files_before_it() -> None:
    """Files belong to an attempt: a cell that was taken up again shows none until they are saved anew."""
    saved = make_fact(1, kind=FactKind.FILES, files=("images/a.png",), sha256=("aa",), file_bytes=(5,))
    history = [make_fact(1), saved, make_fact(1, attempt=2)]
    assert fold(as_table(history)).column("files").to_pylist() == [[]]
    assert fold(as_table(history[:2])).column("files").to_pylist() == [["images/a.png"]]


@pytest.mark.parametrize("column", ["cell_id", "kind"])
def test_a_fact_of_nothing_is_refused(column: str) -> None:
    """A null where a cell or kind must stand is an error and never another cell's fact."""
    table = as_table([make_fact(1)])
    place = table.column_names.index(column)
    broken = table.set_column(place, column, pa.nulls(1, pa.string()))
    with pytest.raises(ValueError, match="without a cell id or kind"):
        fold(broken)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=10))
def test_cell_keys_and_ids_are_each_others_inverse(numbers: list[tuple[int, int]]) -> None:
    """The first 16 digits are the first lane, the last 16 the second, and back."""
    ids = [f"{high:016x}{low:016x}" for high, low in numbers]
    keys = cell_keys(pa.array(ids, pa.string()))
    assert keys.dtype == np.uint64
    assert [tuple(map(int, pair)) for pair in keys] == numbers
    assert cell_ids(keys).to_pylist() == ids
    assert cell_ids(keys).type == pa.string()


def test_cell_keys_of_slices_and_chunks() -> None:
    """Offsets into a longer array and chunk borders are respected."""
    ids = pa.array([f"{number:032x}" for number in range(10)])
    chunked = pa.chunked_array([ids.slice(2, 3), ids.slice(0, 0), ids.slice(9)])
    assert cell_keys(chunked)[:, 1].tolist() == [2, 3, 4, 9]
    assert cell_keys(ids.slice(7))[:, 1].tolist() == [7, 8, 9]


@pytest.mark.parametrize("wrong", ["f" * 31, "f" * 33, "F" * 32, "g" * 32, "é" * 16, "", None])
def test_cell_keys_refuse_what_is_no_cell_id(wrong: str | None) -> None:
    """Anything but 32 lowercase hex digits is refused, since its key would be another cell's."""
    with pytest.raises(ValueError, match="32 hex digits"):
        cell_keys(pa.array(["0" * 32, wrong], pa.string()))


def test_mixed_lengths_that_add_up_are_refused() -> None:
    """31 and 33 digits are two wrong ids and not two right ones."""
    with pytest.raises(ValueError, match="32 hex digits"):
        cell_keys(pa.array(["0" * 31, "0" * 33]))
