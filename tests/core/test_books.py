"""A run's books: what facts cost, replayed from what moves money, and the predictions that were paid for."""

import random
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.books import BOOK_COLUMNS, Books, Ending
from batchflux.core.ledger import fold
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.journal import encode_fact
from batchflux.io.parts import build_table

PRICE = 80_000
CELL = "0" * 31 + "a"


def fact(kind: FactKind, status: CellStatus, *, cost: int, cell: str = CELL, **more: Any) -> Fact:
    """Return a fact of one cell, at a moment that says nothing."""
    return Fact(cell_id=cell, kind=kind, at_ms=1_000_000, attempt=1, status=status, cost_micro_usd=cost, **more)


def intent(cost: int, *, price: int = PRICE, **more: Any) -> Fact:
    """Return the fact before a submission; `cost` is the cell's with it."""
    return fact(FactKind.INTENT, CellStatus.UNKNOWN, cost=cost, price_micro_usd=price, **more)


def accepted(cost: int, name: str = "p1", **more: Any) -> Fact:
    """Return the fact of an accepted submission."""
    return fact(FactKind.ACCEPTED, CellStatus.SUBMITTED, cost=cost, prediction_id=name, **more)


def completed(cost: int, name: str = "p1", **more: Any) -> Fact:
    """Return the fact of a completed prediction."""
    return fact(FactKind.OUTCOME, CellStatus.COMPLETED, cost=cost, prediction_id=name, **more)


def failed(cost: int, name: str | None = "p1", *, kind: str = "generation_failed", error: str = "it broke") -> Fact:
    """Return the fact of a failure for good."""
    return fact(FactKind.OUTCOME, CellStatus.FAILED, cost=cost, prediction_id=name, error_kind=kind, error=error)


def released(cost: int, name: str | None = None) -> Fact:
    """Return the fact of a submission that cost nothing; with a name, of one that is refunded and tried again."""
    return fact(FactKind.RELEASED, CellStatus.PENDING, cost=cost, prediction_id=name, error_kind="network")


def books_of(*facts: Fact, pieces: int = 1) -> Books:
    """Return the books of facts that come in so many tables."""
    books = Books(keeps_predictions=True)
    step = -(-len(facts) // pieces)
    for first in range(0, len(facts), step):
        table = build_table([encode_fact(each) for each in facts[first : first + step]])
        books.add(table.select(list(BOOK_COLUMNS)))
    return books


def wrong(books: Books) -> list[tuple[int, int]]:
    """Return (stated, replayed) of the cells whose cost doesn't add up."""
    return [(row["stated"], row["replayed"]) for row in books.wrong_costs().to_pylist()]


LIVES = {
    "completed": [intent(PRICE), accepted(PRICE), completed(PRICE)],
    "not sent, then completed": [intent(PRICE), released(0), intent(PRICE), accepted(PRICE), completed(PRICE)],
    "refused": [intent(PRICE), failed(0, None, kind="invalid_request")],
    "moderated": [intent(PRICE), accepted(PRICE), failed(PRICE, kind="content_policy", error="flagged (code 1200)")],
    "failed without a refund": [intent(PRICE), accepted(PRICE), failed(PRICE, error="no idea (code 1405)")],
    "failed without a code": [intent(PRICE), accepted(PRICE), failed(PRICE)],
    "failed and refunded": [intent(PRICE), accepted(PRICE), failed(0, error="oops (code 5003)")],
    "refunded, then completed": [
        intent(PRICE), accepted(PRICE), released(0, "p1"), intent(PRICE), accepted(PRICE, "p2"), completed(PRICE, "p2"),
    ],
    "unanswered": [intent(PRICE), fact(FactKind.UNANSWERED, CellStatus.UNKNOWN, cost=PRICE)],
    "unanswered, then found not accepted": [
        intent(PRICE), fact(FactKind.UNANSWERED, CellStatus.UNKNOWN, cost=PRICE), released(0),
    ],
    "held, then sent again": [
        intent(PRICE), fact(FactKind.UNANSWERED, CellStatus.UNKNOWN, cost=PRICE),
        intent(2 * PRICE), accepted(2 * PRICE), completed(2 * PRICE),
    ],
    "killed before the answer": [intent(PRICE)],
    "bought again at another price": [
        intent(PRICE), accepted(PRICE), failed(PRICE, error="no idea (code 1405)"),
        intent(PRICE + 40_000, price=40_000), released(PRICE), intent(PRICE + 40_000, price=40_000),
        accepted(PRICE + 40_000, "p2"), completed(PRICE + 40_000, "p2"),
    ],
    "over its time, then completed": [
        intent(PRICE), accepted(PRICE),
        fact(FactKind.OUTCOME, CellStatus.SUBMITTED, cost=PRICE, prediction_id="p1", error_kind="timeout"),
        completed(PRICE),
    ],
}  # fmt: skip


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_a_true_life_adds_up(life: list[Fact]) -> None:
    """Whatever befalls a cell, the cost that its last fact states is what its facts come to."""
    assert wrong(books_of(*life)) == []


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
@pytest.mark.parametrize("off", [-PRICE, -1, 1, PRICE])
def test_a_forged_cost_does_not(life: list[Fact], off: int) -> None:
    """A last fact that states a cent more or less, or a whole price, is found with both amounts."""
    true = life[-1].cost_micro_usd
    forged = [*life[:-1], replace(life[-1], cost_micro_usd=true + off)]
    assert wrong(books_of(*forged)) == [(true + off, true)]


def test_a_refund_that_the_service_never_gives_is_found() -> None:
    """A moderated prediction that the books give back is wrong, and so is a code of the service's that they keep."""
    given = [intent(PRICE), accepted(PRICE), failed(0, kind="content_policy", error="flagged (code 1200)")]
    kept = [intent(PRICE), accepted(PRICE), failed(PRICE, error="oops (code 5000)")]
    assert wrong(books_of(*given)) == [(0, PRICE)]
    assert wrong(books_of(*kept)) == [(PRICE, 0)]


def test_a_price_is_never_another_cells() -> None:
    """A release whose own intent is not on record gives nothing back, though a cell before it has one."""
    other = replace(released(0), cell_id="f" * 32)
    assert wrong(books_of(*LIVES["completed"], other)) == []


def test_images_cost_nothing() -> None:
    """Facts about files state no cost, and change none."""
    files = fact(FactKind.FILES, CellStatus.COMPLETED, cost=0, files=("images/a.png",), prediction_id="p1")
    books = books_of(*LIVES["completed"], files)
    assert wrong(books) == []
    assert books.predictions().num_rows == 1


@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_interleaved_cells_in_any_pieces_add_up_alone(dice: random.Random, pieces: int) -> None:
    """Cells whose facts are mixed, cut into any tables, add up as they do alone; a forged one is found by its id."""
    lives = [
        [replace(each, cell_id=f"{number:032x}", prediction_id=each.prediction_id and f"{each.prediction_id}-{number}")
         for each in life]
        for number, life in enumerate(LIVES.values())
    ]  # fmt: skip
    forged = dice.randrange(len(lives))
    lives[forged][-1] = replace(lives[forged][-1], cost_micro_usd=lives[forged][-1].cost_micro_usd + 7)
    mixed = []
    left = [list(life) for life in lives]
    while any(left):
        mixed.append(dice.choice([life for life in left if life]).pop(0))
    books = books_of(*mixed, pieces=pieces)
    assert [row["cell_id"] for row in books.wrong_costs().to_pylist()] == [f"{forged:032x}"]
    table = build_table([encode_fact(each) for each in mixed])
    stated = sum(fold(table)["cost_micro_usd"].to_pylist())
    spent = sum(row["price_micro_usd"] for row in books.predictions().to_pylist() if row["ending"] != Ending.RETURNED)
    unknown = 3 * PRICE  # of the lives, three hold a submission that nobody answered
    assert stated == spent + unknown + 7


def test_predictions_come_once_with_their_price_and_ending() -> None:
    """Every prediction of every attempt, with the price of its own intent and what became of it."""
    rows = books_of(
        intent(PRICE), accepted(PRICE, created_at_ms=5, submitted_at_ms=2), released(0, "p1"),
        intent(50_000, price=50_000), accepted(50_000, "p2", created_at_ms=9, submitted_at_ms=6),
        completed(50_000, "p2", created_at_ms=9, completed_at_ms=20),
    ).predictions().to_pylist()  # fmt: skip
    assert [(row["prediction_id"], row["price_micro_usd"], row["ending"]) for row in rows] == [
        ("p1", PRICE, Ending.RETURNED),
        ("p2", 50_000, Ending.COMPLETED),
    ]
    assert (rows[1]["cell_id"], rows[1]["created_at_ms"], rows[1]["ended_at_ms"]) == (CELL, 9, 20)


def test_the_clocks_differ_by_the_median() -> None:
    """One prediction that was made late doesn't turn the service's clock."""
    books = books_of(
        *(accepted(PRICE, f"p{n}", submitted_at_ms=1000 * n, created_at_ms=1000 * n + late)
          for n, late in enumerate((300, 310, 90_000)))
    )  # fmt: skip
    assert books.clock_offset_ms() == 310


def test_no_facts_make_empty_books() -> None:
    """A run that never submitted anything has nothing wrong, no prediction and no time."""
    books = Books(keeps_predictions=True)
    assert books.wrong_costs().num_rows == 0
    assert books.predictions().num_rows == 0
    assert len(books.activity_ms()) == 0
    assert books.clock_offset_ms() is None
    assert isinstance(books.predictions(), pa.Table)
