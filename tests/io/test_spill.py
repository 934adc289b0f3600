"""Rows on piles: every row on its own, in the order in which it came, in memory or not."""

import errno
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core.arrow import as_ints
from batchflux.core.errors import StorageError
from batchflux.io import spill
from batchflux.io.spill import Piles


def table_of(values: list[int]) -> pa.Table:
    """A table of numbers, and their texts."""
    return pa.table({"number": pa.array(values, pa.int64()), "text": pa.array([str(value) for value in values])})


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 99), max_size=8), max_size=8), st.sampled_from([1, 3]))
def test_piles_hold_what_was_put_on_them(tables: list[list[int]], count: int) -> None:
    """Whether there are few rows or more than are held at a time."""
    with (
        patch.object(spill, "_ROWS_AT_ONCE", 5),
        TemporaryDirectory() as folder,
        Piles(Path(folder), count, number_of=lambda table: as_ints(table["number"]) % count) as piles,
    ):
        for values in tables:
            piles.add(table_of(values))
        assert list(Path(folder).iterdir()) == []
        for number in [*range(count), *range(count)]:
            expected = [value for values in tables for value in values if value % count == number]
            found = piles.of(number)
            assert ([] if found is None else found["number"].to_pylist()) == expected
            assert found is None or found["text"].to_pylist() == [str(value) for value in expected]


def test_rows_that_became_useless_are_dropped(tmp_path: Path) -> None:
    """So that what is set down, or held, is no more than it must be."""

    def tidy(table: pa.Table) -> pa.Table:
        return table.slice(table.num_rows - 1)

    for count in (1, 2):
        with (
            patch.object(spill, "_ROWS_AT_ONCE", 3),
            Piles(tmp_path, count, number_of=lambda table: as_ints(table["number"]) % 2, tidy=tidy) as piles,
        ):
            for number in range(0, 40, 2):
                piles.add(table_of([number]))
            found = piles.of(0)
            assert found is not None
            assert found["number"].to_pylist()[-1] == 38
            assert found.num_rows < 12


def test_who_may_only_look_sets_rows_down_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run directory that belongs to somebody else can be checked all the same."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with Piles(tmp_path / "run", 2, number_of=lambda table: as_ints(table["number"])) as piles:
        piles.add(table_of([1]))
        assert piles.of(1) is not None


def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere: with the folder."""

    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageError, match=str(tmp_path)):
        Piles(tmp_path, 2, number_of=lambda table: as_ints(table["number"]))
