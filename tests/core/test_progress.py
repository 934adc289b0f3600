"""A run's numbers: counts by what changes, rates over the last minutes, memory that doesn't grow."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import EXCLUDED, STATUS_CODES, Progress


def fact(status: CellStatus = CellStatus.COMPLETED, kind: FactKind = FactKind.OUTCOME, **changes: Any) -> Fact:
    return Fact(cell_id="0" * 32, kind=kind, at_ms=0, attempt=1, status=status, **changes)


def pending(count: int) -> Progress:
    return Progress.of(np.zeros(count, dtype=np.uint8))


def test_counts_at_the_start() -> None:
    """An earlier run's cells count as they are; what `exclude` leaves out is no cell."""
    codes = [STATUS_CODES[CellStatus.COMPLETED], STATUS_CODES[CellStatus.FAILED], 0, EXCLUDED, EXCLUDED]
    progress = Progress.of(np.array(codes, dtype=np.uint8))
    assert (progress.n_cells, progress.n_done) == (3, 2)
    assert progress.counts[CellStatus.PENDING] == 1


def test_a_cells_way() -> None:
    """Each fact moves its cell to its status; an intent and a saved file move nothing."""
    progress = pending(2)
    progress.apply(0, fact(CellStatus.UNKNOWN, FactKind.INTENT), now_s=0.0)
    assert progress.counts[CellStatus.PENDING] == 2
    progress.apply(0, fact(CellStatus.SUBMITTED, FactKind.ACCEPTED), now_s=1.0)
    assert (progress.counts[CellStatus.SUBMITTED], progress.submitted_now) == (1, 1)
    progress.apply(0, fact(), now_s=2.0)
    progress.apply(0, fact(kind=FactKind.FILES, files=("a.png", "b.png")), now_s=3.0)
    assert (progress.n_done, progress.images_saved, progress.n_cells) == (1, 2, 2)


def test_errors_by_kind() -> None:
    """What ends a cell badly counts by kind; a refusal for the moment is no error of a cell."""
    progress = pending(3)
    progress.apply(0, fact(CellStatus.PENDING, FactKind.RELEASED, error_kind="rate_limit"), now_s=0.0)
    progress.apply(0, fact(CellStatus.FAILED, error_kind="content_policy"), now_s=0.0)
    progress.apply(1, fact(CellStatus.UNKNOWN, FactKind.UNANSWERED, error_kind="unknown_outcome"), now_s=0.0)
    assert dict(progress.errors) == {"content_policy": 1, "unknown_outcome": 1}


def test_rate_and_eta() -> None:
    """The rate is of the last two minutes, and what is left of the run follows from it; unknown before there is one."""
    progress = pending(1000)
    assert progress.rate_per_s(0.0) is None
    assert progress.eta_s(0.0) is None
    for number in range(300):
        progress.apply(number, fact(), now_s=float(number))
    assert progress.rate_per_s(300.0) == pytest.approx(1.0, rel=0.02)
    assert progress.eta_s(300.0) == pytest.approx(700.0, rel=0.02)
    assert progress.rate_per_s(10_000.0) is None


def test_memory_is_flat_though_nobody_asks_for_the_rate() -> None:
    """A night's moments aren't kept: a bar that computes its own rate never asks for ours."""
    progress = pending(1)
    for number in range(50_000):
        progress.apply(0, fact(), now_s=number / 10)
    assert len(progress.finished) <= 1300


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(CellStatus), st.sampled_from(FactKind)), max_size=60))
def test_counts_always_agree_with_the_cells(steps: list[tuple[int, CellStatus, FactKind]]) -> None:
    """Whatever happens in whatever order, the counts are those of the cells one by one."""
    progress = pending(5)
    for index, status, kind in steps:
        progress.apply(index, fact(status, kind), now_s=0.0)
    for status, code in STATUS_CODES.items():
        assert progress.counts[status] == int((progress.statuses == code).sum())
    assert progress.n_cells == 5
