"""How a cell's life asks: what it tells the book, when its turn is, and that it leaves nothing counted behind."""

from collections.abc import Callable

import pytest

from batchflux.core.flow import cell_flow
from batchflux.core.model import Fault, Prediction
from batchflux.core.polling import LatencyBook, PollPace
from batchflux.core.steps import Answered, CellState, FlowRules, Looked, Poll, Record, Submit, Wait
from tests.core.lives import BODY, BROKEN, MISSING, PRICE, START_MS, a_cell, accepted, done, failed, live, seen

Look = Callable[[float], Prediction | Fault]


class Notes(LatencyBook):
    """A book that also keeps what it was told, as it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[float, float, float]] = []
        self.ended: list[tuple[float, float, int | None, float]] = []

    def saw_running(self, looked_s: float, *, before_s: float = 0.0, trip_s: float = 0.0) -> None:
        self.ran.append((looked_s, before_s, trip_s))
        super().saw_running(looked_s, before_s=before_s, trip_s=trip_s)

    def learn(
        self, looked_s: float, *, before_s: float = 0.0, inference_ms: int | None = None, trip_s: float = 0.0
    ) -> None:
        self.ended.append((looked_s, before_s, inference_ms, trip_s))
        super().learn(looked_s, before_s=before_s, inference_ms=inference_ms, trip_s=trip_s)


def resumed(age_s: float = 0.0, prediction_id: str = "first") -> CellState:
    """A cell whose prediction an earlier run submitted, so long ago by the wall clock."""
    sent_at_ms = START_MS - round(age_s * 1000)
    return CellState(attempts=1, prediction_id=prediction_id, price_micro_usd=PRICE, submitted_at_ms=sent_at_ms)


def test_every_look_is_told() -> None:
    """Each look at one still running, the last one, and how long it took: the intervals join without a gap."""
    book = Notes()
    life = live([accepted()], lambda now_s: done() if now_s > 3 else seen(), book=book, query_s=0.2)
    assert len(life.polls) == len(book.ran) + 1 > 3
    moments = [0.0, *(looked_s for looked_s, _, _ in book.ran)]
    assert [before_s for _, before_s, _ in book.ran] == moments[:-1]
    ((looked_s, before_s, told_ms, trip_s),) = book.ended
    assert before_s == moments[-1] < 3 - 0.1 <= looked_s
    assert told_ms is not None
    assert {round(each, 9) for *_, each in [*book.ran, (trip_s,)]} == {0.2}


def test_a_look_that_fails_tells_nothing() -> None:
    """The prediction may have been done meanwhile, hours ago in an outage: when is learned from good looks alone."""
    book = Notes()
    live([accepted()], [seen(), BROKEN, MISSING, BROKEN, done()], book=book)
    assert (len(book.ran), book.ended) == (1, [])
    live([accepted()], [seen(), BROKEN, seen(), done()], book=book)
    assert len(book.ran) == 3
    assert book.ended[0][1] == book.ran[2][0]
    assert book.ran[2][1] == book.ran[1][0]


def test_failed_predictions_date_nothing() -> None:
    """A prediction refused at once is no quick one, but it did run until its last look."""
    book = Notes()
    live([accepted()], [seen(), failed(1200)], book=book)
    assert (len(book.ran), book.ended) == (1, [])


def test_resumed_predictions_are_asked_for_in_turn() -> None:
    """The first one at once, each of the others a little after the one before, and none is learned from."""
    book = Notes()
    waits = [live(looks=[seen(), done()], state=resumed(), book=book).waits for _ in range(50)]
    assert len(waits[0]) == 1, "at once, and once more"
    assert [len(each) for each in waits[1:]] == [2] * 49
    assert [each[0] for each in waits[1:]] == pytest.approx([number / 250 for number in range(1, 50)])
    assert (book.ran, book.ended) == ([], [])


def test_a_resumed_prediction_is_as_old_as_it_is() -> None:
    """One that has run for a minute is not asked for as if it had just begun; a clock set back makes none younger."""
    young = live(looks=[seen(), seen(), done()], state=resumed(0.0)).waits
    old = live(looks=[seen(), seen(), done()], state=resumed(60.0)).waits
    future = live(looks=[seen(), seen(), done()], state=resumed(-3600.0)).waits
    assert all(wait_s < 0.1 for wait_s in young)
    assert all(9 < wait_s < 13 for wait_s in old)
    assert future == pytest.approx(young)


def test_first_looks_are_jittered() -> None:
    """Two cells whose predictions were accepted at once don't ask at once."""
    assert live([accepted()], [done()], dice=0.0).waits[0] < live([accepted()], [done()], dice=1.0).waits[0]


def test_a_crowd_is_asked_less_often_also_where_looks_fail() -> None:
    """With 10,000 others to be looked at again every step lasts 40 s, backoffs after a failed look included."""
    book = LatencyBook()
    for number in range(10_000):
        book.pace.again(f"other-{number}")
    life = live([accepted()], [seen(), BROKEN, seen(), done()], book=book)
    assert life.waits[0] == 0.5
    assert all(40.0 <= wait_s < 50.0 for wait_s in life.waits[1:])


@pytest.mark.parametrize(
    ("looks", "timeout_s"),
    [
        (lambda now_s: done() if now_s > 3 else seen(), 1800.0),
        (lambda now_s: failed(1200) if now_s > 3 else seen(), 1800.0),
        (lambda now_s: MISSING, 1800.0),
        (lambda now_s: seen(), 60.0),
        (lambda now_s: BROKEN, 60.0),
    ],
    ids=["completed", "failed", "not found", "over its time", "service gone"],
)
def test_nobody_stays_counted(looks: Look, timeout_s: float) -> None:
    """However a prediction ends, it widens no other's steps any more."""
    book = LatencyBook(PollPace())
    for state in (None, resumed()):
        live([accepted()], looks, book=book, timeout_s=timeout_s, state=state)
    assert book.pace.least_s() == 0.0


def test_nobody_stays_counted_where_the_run_stops() -> None:
    """A flow that is closed while it waits lets go of its place."""
    book = LatencyBook()
    rules = FlowRules(max_attempts=1, timeout_s=1800.0, price_micro_usd=PRICE)
    start = Looked(at_ms=START_MS, now_s=0.0, dice=0.5)
    flow = cell_flow(a_cell(), body_json=BODY, rules=rules, book=book, state=CellState(), start=start)
    assert isinstance(next(flow), Submit)
    answered = Answered(answer=accepted(), sent_at_ms=START_MS, at_ms=START_MS, now_s=0.0)
    assert isinstance(flow.send(answered), Record)
    assert isinstance(flow.send(start), Wait)
    assert isinstance(flow.send(start), Poll)
    assert isinstance(flow.send(Looked(at_ms=START_MS, now_s=0.5, dice=0.5, result=seen())), Wait)
    assert book.pace.least_s() > 0.0
    flow.close()
    assert book.pace.least_s() == 0.0
