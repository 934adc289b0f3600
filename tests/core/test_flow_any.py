"""A cell's life under any sequence of answers: licensed submissions only, books that add up, and an end."""

from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.core.model import CellStatus, FactKind, Fault, Prediction
from batchflux.core.protocol import final_fault, is_final, is_refunded
from batchflux.core.steps import CellState, NoMore, Record, Submit
from tests.core.lives import (
    BROKEN,
    LOST,
    MISSING,
    NOT_SENT,
    PRICE,
    UNANSWERED,
    Life,
    Reply,
    accepted,
    done,
    failed,
    live,
    refused,
    seen,
    too_many,
)

replies: st.SearchStrategy[Reply] = st.sampled_from(
    [
        accepted("first"),
        accepted("first"),
        accepted("first"),
        too_many(),
        too_many(0.0),
        NOT_SENT,
        UNANSWERED,
        refused(),
        refused("auth", concerns="job"),
        NoMore(),
    ]
)
looks: st.SearchStrategy[Prediction | Fault] = st.sampled_from(
    [
        seen(),
        seen("other"),
        done(),
        done(outputs=[]),
        failed(5000),
        failed(1406),
        failed(1200),
        failed(None),
        failed(None, status="deleted"),
        MISSING,
        LOST,
        BROKEN,
    ]
)
states = st.sampled_from(
    [
        CellState(),
        CellState(cost_micro_usd=PRICE),
        CellState(attempts=1, cost_micro_usd=PRICE, prediction_id="first", price_micro_usd=PRICE),
        CellState(attempts=4, cost_micro_usd=2 * PRICE, prediction_id="first", price_micro_usd=PRICE),
    ]
)


def lives() -> st.SearchStrategy[tuple[Life, CellState, int]]:
    """Whole lives; after the drawn answers the run stops submitting and every query says "processing"."""

    @st.composite
    def draw_life(draw: st.DrawFn) -> tuple[Life, CellState, int]:
        state, most = draw(states), draw(st.integers(1, 4))
        answers = [*draw(st.lists(replies, max_size=8)), NoMore()]
        results = iter(draw(st.lists(looks, max_size=25)))
        life = live(
            answers, lambda now_s: next(results, seen()), state=state, max_attempts=most, timeout_s=300.0, dice=0.0
        )
        return life, state, most

    return draw_life()


@given(lives())
@settings(max_examples=400)
def test_no_submission_without_a_licence(told: tuple[Life, CellState, int]) -> None:
    """Between two submissions lies a proof: not sent, rejected for the moment, or failed and refunded."""
    life, _, _ = told
    licensed = True
    for command in life.commands:
        if isinstance(command, Submit):
            assert licensed, "a second POST without a licence"
            licensed = False
        elif isinstance(command, Record) and command.fact.kind is FactKind.RELEASED:
            assert command.fact.status is CellStatus.PENDING
            licensed = True
        elif isinstance(command, Record):
            licensed = False


@given(lives())
@settings(max_examples=400)
def test_the_books_add_up(told: tuple[Life, CellState, int]) -> None:
    """Every fact's cost is what was reserved and not given back by then, and attempts count acceptances."""
    life, state, most = told
    cost, attempts = state.cost_micro_usd, state.attempts
    for command in life.commands:
        if isinstance(command, Submit):
            cost += command.intent.price_micro_usd or 0
            assert (command.intent.cost_micro_usd, command.intent.attempts) == (cost, attempts)
            assert command.attempt == command.intent.attempt == attempts + 1
        elif isinstance(command, Record):
            fact = command.fact
            cost -= command.frees_micro_usd
            attempts += fact.kind is FactKind.ACCEPTED
            assert (fact.cost_micro_usd, fact.attempts) == (cost, attempts)
            assert fact.cell_id == life.facts[0].cell_id
            assert (fact.error_kind is None) == (fact.status is CellStatus.COMPLETED or fact.kind is FactKind.ACCEPTED)
            assert fact.kind is not FactKind.OUTCOME or fact.status in ("completed", "failed", "submitted")
    assert cost >= 0
    assert attempts <= max(most, state.attempts)


@given(lives())
@settings(max_examples=400)
def test_every_flow_ends_with_what_it_stated(told: tuple[Life, CellState, int]) -> None:
    """A flow ends; what it returns is its last fact, or nothing where the cell is still pending."""
    life, _, _ = told
    if life.ending is not None:
        assert life.ending is life.last
        assert life.ending.status is not CellStatus.PENDING
    else:
        assert not life.facts or life.last.status is CellStatus.PENDING
    assert life.now_s < 10_000


@given(st.lists(looks, max_size=25))
@settings(max_examples=300)
def test_polling_never_submits(results: list[Prediction | Fault]) -> None:
    """Whatever queries bring, only a refunded failure is followed by a submission."""
    looked = iter(results)
    life = live([accepted(), NoMore()], lambda now_s: next(looked, seen()), timeout_s=300.0)
    finals = [result for result in results[: len(life.polls)] if isinstance(result, Prediction) and is_final(result)]
    refunded = any((fault := final_fault(result)) is not None and is_refunded(fault) for result in finals)
    assert len(life.intents) == (2 if refunded else 1)
