"""Cells' states in a few bytes each: whatever came, and however it was cut, they say what `fold` says."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core.arrow import Ints
from batchflux.core.cellstates import CellIndex, CellStates
from batchflux.core.grid import GridSlice
from batchflux.core.ledger import cell_ids, fold
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import STATUS_CODES
from batchflux.core.rows import KeyArray
from tests.io.durable import as_table, facts

CELLS = 5


def cells_of(table: pa.Table) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The cells of a table of `facts`, which are numbered by their ids."""
    return np.array([int(name, 16) for name in table["cell_id"].to_pylist()], dtype=np.int64)


@settings(derandomize=True, max_examples=60)
@given(st.lists(facts(cells=CELLS), max_size=25), st.lists(st.integers(0, 25), max_size=4))
def test_states_are_what_a_fold_says(history: list[Fact], cuts: list[int]) -> None:
    """Status, attempts, cost and whether files are there, of every cell, though facts come in pieces."""
    table = as_table(history)
    states = CellStates(CELLS)
    places = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
    for first, last in pairwise(places):
        piece = table.slice(first, last - first)
        states.add(cells_of(piece), piece)
    folded = {int(row["cell_id"], 16): row for row in fold(table).to_pylist()}
    statuses, saved = states.statuses(), states.is_saved()
    for cell in range(CELLS):
        row = folded.get(cell)
        if row is None:
            assert (statuses[cell], bool(saved[cell]), states.of(cell).cost_micro_usd) == (0, False, 0)
            continue
        assert statuses[cell] == STATUS_CODES[CellStatus(row["status"])]
        assert states.of(cell)[1:4] == (row["attempt"], row["attempts"], row["cost_micro_usd"])
        assert bool(saved[cell]) == bool(row["files"])
        is_open = row["status"] not in ("completed", "failed")
        assert bool(states.is_open(np.array([cell]))[0]) == is_open
    assert states.n_touched == len(folded)
    assert states.cost_micro_usd == sum(row["cost_micro_usd"] for row in folded.values())


def test_files_of_an_attempt_before_count_where_the_state_is_of_it() -> None:
    """Though files of another attempt came later, and another time."""
    states = CellStates(1)
    for kind, attempt in ((FactKind.FILES, 1), (FactKind.FILES, 2), (FactKind.OUTCOME, 1)):
        files = ("images/1.png",) if kind is FactKind.FILES else ()
        fact = Fact(
            cell_id="0" * 32, kind=kind, at_ms=1, attempt=attempt, status=CellStatus.COMPLETED, attempts=1, files=files
        )
        states.add(np.array([0]), as_table([fact]))
    assert states.is_saved().tolist() == [True]


def test_more_states_than_two_bytes_tell_apart() -> None:
    """A cost of its own for each of 70,000 cells is no state lost."""
    count = 70_000
    history = [
        Fact(
            cell_id=f"{number:032x}",
            kind=FactKind.OUTCOME,
            at_ms=number,
            attempt=1,
            status=CellStatus.COMPLETED,
            cost_micro_usd=number,
        )
        for number in range(count)
    ]
    states, table = CellStates(count), as_table(history)
    for first in range(0, count, 20_000):
        piece = table.slice(first, 20_000)
        states.add(cells_of(piece), piece)
    assert [states.of(cell).cost_micro_usd for cell in (0, 65_535, 65_536, count - 1)] == [0, 65_535, 65_536, count - 1]
    assert states.cost_micro_usd == sum(range(count))


@dataclass
class SomeKeys:
    """As much of a grid as an index asks for: cells with keys of our choice, every second index excluded."""

    keys: list[tuple[int, int]]
    hashes_cells: bool

    @property
    def n_cells(self) -> int:
        """How many cells there are."""
        return len(self.keys)

    @property
    def n_indexes(self) -> int:
        """How many indexes there are."""
        return 2 * len(self.keys)

    def slices(self) -> Iterator[GridSlice]:
        """Yield the cells, three at a time."""
        keys = np.array(self.keys, dtype=np.uint64).reshape(-1, 2)
        for first in range(0, len(keys), 3):
            piece = keys[first : first + 3]
            yield GridSlice(2 * np.arange(first, first + len(piece)), piece, None)

    def keys_of(self, indexes: Ints) -> KeyArray:
        """Return the keys of some cells, where a grid has them by arithmetic."""
        assert not self.hashes_cells
        return np.array(self.keys, dtype=np.uint64).reshape(-1, 2)[indexes // 2]


def ids_of(keys: list[tuple[int, int]]) -> pa.ChunkedArray:
    """The ids of keys, each twice, in two chunks."""
    array = cell_ids(np.array(keys, dtype=np.uint64).reshape(-1, 2))
    return pa.chunked_array([array, array])


LANES = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**63, 2**63 + 1])


@settings(derandomize=True, max_examples=100)
@given(
    st.lists(st.tuples(LANES, LANES), min_size=1, max_size=40, unique=True),
    st.lists(st.tuples(LANES, LANES)),
    st.booleans(),
    st.sampled_from([0, 2**22]),
)
def test_an_index_finds_every_cell_and_no_other(
    keys: list[tuple[int, int]], others: list[tuple[int, int]], hashes_cells: bool, cells_sorted: int
) -> None:
    """Sorted whole or in shares; cells whose ids begin alike are told apart, and other ids are found nowhere."""
    if hashes_cells:  # only the second lanes are sure to be compared
        keys = list({lane1: (lane0, lane1) for lane0, lane1 in keys}.values())
        others = [key for key in others if key[1] not in {lane1 for _, lane1 in keys}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchflux.core.cellstates._CELLS_SORTED", cells_sorted)
        index = CellIndex(SomeKeys(keys, hashes_cells))  # type: ignore[arg-type]
    assert index.find(ids_of(keys)).tolist() == 2 * [2 * place for place in range(len(keys))]
    strangers = [key for key in others if key not in keys]
    if strangers:
        assert set(index.find(ids_of(strangers)).tolist()) == {-1}


@pytest.mark.parametrize("hashes_cells", [False, True])
def test_cells_alike_in_their_first_lane_are_all_found(hashes_cells: bool) -> None:
    """The search goes on past every one of them."""
    keys = [(7 << 32, number) for number in range(10)]
    index = CellIndex(SomeKeys(keys, hashes_cells))  # type: ignore[arg-type]
    assert index.find(ids_of(keys)).tolist() == 2 * [2 * place for place in range(10)]
    assert set(index.find(ids_of([(7 << 32, 10)])).tolist()) == {-1}


def test_what_is_no_cell_id_is_refused() -> None:
    """A fact without one would otherwise be some cell's."""
    index = CellIndex(SomeKeys([(1, 1)], False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cell id"):
        index.find(pa.chunked_array([pa.array(["x"])]))
    with pytest.raises(ValueError, match="cell id"):
        index.find(pa.chunked_array([pa.array([None], pa.string())]))
