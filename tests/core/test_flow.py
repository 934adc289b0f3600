"""One cell's life, driven by hand-written events: every path, every fact and every cent."""

import pytest

from batchflux.core.model import CellStatus, Fact, FactKind, Fault, Prediction
from batchflux.core.polling import LatencyBook
from batchflux.core.protocol import HttpAnswer, decipher_result
from batchflux.core.steps import CellState, NoMore, Submit, Wait
from tests.core.lives import (
    BODY,
    BROKEN,
    LOST,
    MISSING,
    NOT_SENT,
    PRICE,
    START_MS,
    UNANSWERED,
    Reply,
    accepted,
    done,
    failed,
    live,
    refused,
    seen,
    too_many,
)

RESUMED = CellState(
    attempts=1, cost_micro_usd=PRICE, prediction_id="first", price_micro_usd=PRICE, submitted_at_ms=START_MS - 60_000
)


def test_accepted_then_completed() -> None:
    """The plain life: intent, accepted with its id, completed with everything that the service told."""
    life = live([accepted()], [seen(), done()])
    assert life.kinds == [FactKind.ACCEPTED, FactKind.OUTCOME]
    assert life.polls == ["first", "first"]
    assert life.intents[0] == Fact(
        cell_id=life.last.cell_id,
        kind=FactKind.INTENT,
        at_ms=START_MS,
        attempt=1,
        status=CellStatus.UNKNOWN,
        attempts=0,
        cost_micro_usd=PRICE,
        prompt_id="p0",
        model="wavespeed-ai/flux-kontext-max/text-to-image",
        body=BODY,
        price_micro_usd=PRICE,
        error_kind="unknown_outcome",
        error="the run ended before the service answered",
    )
    taken = life.facts[0]
    assert (taken.status, taken.attempt, taken.attempts, taken.cost_micro_usd) == (CellStatus.SUBMITTED, 1, 1, PRICE)
    assert (taken.prediction_id, taken.submitted_at_ms, taken.at_ms) == ("first", START_MS, START_MS + 100)
    assert (taken.error_kind, taken.error, taken.body) == (None, None, None)
    last = life.last
    assert (last.status, last.attempts, last.cost_micro_usd, last.prediction_id) == ("completed", 1, PRICE, "first")
    assert last.outputs == ("https://host.example/0123456789abcdef0123456789abcdef/1.png",)
    assert (last.has_nsfw_contents, last.inference_ms, last.error_kind, last.warnings) == ((False,), 8123, None, ())
    assert last.completed_at_ms == last.at_ms == START_MS + round(life.now_s * 1000)
    assert last.latency_ms == last.at_ms - START_MS
    assert life.ending == last
    assert life.freed == 0


def test_facts_are_stated_before_what_follows_from_them() -> None:
    """The accepted id is a fact before the first query, and a query never comes before a submission's answer."""
    names = [type(command).__name__ for command in live([accepted()], [done()]).commands]
    assert names == ["Submit", "Record", "Wait", "Poll", "Record"]


@pytest.mark.fault("S09")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1200, "content_policy"),
        (1400, "invalid_request"),
        (1401, "invalid_request"),
        (1402, "invalid_request"),
        (1403, "generation_failed"),
        (1405, "generation_failed"),
        (1407, "credit"),
        (5004, "generation_failed"),
        (None, "generation_failed"),
    ],
)
def test_failed_for_good(code: int | None, kind: str) -> None:
    """A failure that the service doesn't refund ends the cell at once, and its price stays spent."""
    life = live([accepted()], [failed(code)])
    assert (life.last.status, life.last.error_kind, life.last.cost_micro_usd) == ("failed", kind, PRICE)
    assert life.last.error == ("a reason" if code is None else f"a reason (code {code})")
    assert (len(life.intents), life.freed) == (1, 0)


@pytest.mark.fault("S09", "S22")
@pytest.mark.parametrize("code", [1406, 5000, 5003])
def test_refunded_failures_are_tried_again(code: int) -> None:
    """The service's own failure gives the money back and makes a next attempt, counted from 1."""
    life = live([accepted("first"), accepted("second")], [failed(code), done("second")])
    assert life.kinds == [FactKind.ACCEPTED, FactKind.RELEASED, FactKind.ACCEPTED, FactKind.OUTCOME]
    released, last = life.facts[1], life.last
    assert (released.status, released.attempt, released.attempts, released.cost_micro_usd) == ("pending", 1, 1, 0)
    assert (released.error_kind, released.prediction_id) == ("generation_failed", "first")
    assert (last.status, last.attempt, last.attempts, last.cost_micro_usd) == ("completed", 2, 2, PRICE)
    assert [intent.attempt for intent in life.intents] == [1, 2]
    assert [intent.cost_micro_usd for intent in life.intents] == [PRICE, PRICE]
    assert life.polls == ["first", "second"]
    assert life.freed == PRICE


def test_attempts_end_at_the_most() -> None:
    """After `max_attempts` accepted submissions the cell is failed, each refund counted once, nothing spent."""
    ids = ["a", "b", "c"]
    life = live([accepted(i) for i in ids], [failed(5000, i) for i in ids], max_attempts=3)
    assert len(life.intents) == 3
    assert (life.last.kind, life.last.status, life.last.attempts) == (FactKind.OUTCOME, "failed", 3)
    assert (life.last.cost_micro_usd, life.freed) == (0, 3 * PRICE)
    places = [place for place, command in enumerate(life.commands) if isinstance(command, Submit)]
    backoffs = [command for place in places[1:] if isinstance(command := life.commands[place - 1], Wait)]
    assert [wait.seconds for wait in backoffs] == [1.25, 2.5]


def test_a_later_attempts_failure_for_good_keeps_only_its_own_price() -> None:
    """Refunded attempts are left out of what a cell has cost, the last one is in."""
    life = live([accepted("a"), accepted("b")], [failed(5003, "a"), failed(1200, "b")])
    assert (life.last.status, life.last.attempts, life.last.cost_micro_usd) == ("failed", 2, PRICE)


@pytest.mark.fault("H14")
def test_429_then_accepted() -> None:
    """A refusal for the moment burns no attempt, costs nothing and is tried again."""
    life = live([too_many(2.0), too_many(), accepted()], [done()])
    assert life.kinds == [FactKind.RELEASED, FactKind.RELEASED, FactKind.ACCEPTED, FactKind.OUTCOME]
    for released in life.facts[:2]:
        assert (released.status, released.attempts, released.cost_micro_usd) == ("pending", 0, 0)
        assert released.error_kind == "rate_limit"
    assert [intent.attempt for intent in life.intents] == [1, 1, 1]
    assert (life.last.attempts, life.last.cost_micro_usd, life.freed) == (1, PRICE, 2 * PRICE)


def test_not_sent_is_tried_again() -> None:
    """Where no connection was made nothing can have been bought: the money is free and the cell goes on."""
    life = live([NOT_SENT, accepted()], [done()])
    assert (life.facts[0].kind, life.facts[0].status, life.facts[0].error_kind) == ("released", "pending", "network")
    assert (life.last.attempts, life.freed) == (1, PRICE)


@pytest.mark.parametrize("kind", ["auth", "credit", "not_found"])
def test_what_concerns_the_job_leaves_the_cell_pending(kind: str) -> None:
    """A refused key or no credit is no fate of the cell's: it stays pending, and the flow ends."""
    life = live([refused(kind, concerns="job")])
    assert (life.last.kind, life.last.status, life.last.cost_micro_usd) == (FactKind.RELEASED, "pending", 0)
    assert (life.ending, life.freed, life.polls) == (None, PRICE, [])


@pytest.mark.fault("H08")
def test_rejected_for_good() -> None:
    """The service's refusal of this very request fails the cell without an attempt and without a cent."""
    life = live([refused()])
    assert (life.last.status, life.last.attempts, life.last.cost_micro_usd) == ("failed", 0, 0)
    assert (life.last.error_kind, life.last.completed_at_ms, life.freed) == ("invalid_request", START_MS + 100, PRICE)
    assert life.ending == life.last


def test_unanswered_ends() -> None:
    """A lost answer ends the flow at once: unknown, its price held, nothing sent again."""
    life = live([UNANSWERED])
    assert (life.last.kind, life.last.status, life.last.attempts) == (FactKind.UNANSWERED, "unknown", 0)
    assert (life.last.cost_micro_usd, life.last.error_kind, life.freed) == (PRICE, "unknown_outcome", 0)
    assert (len(life.intents), life.polls) == (1, [])


def test_unanswered_after_a_refund_holds_one_price() -> None:
    """The second attempt's lost answer holds its own price on top of nothing."""
    life = live([accepted("a"), UNANSWERED], [failed(5000, "a")])
    assert (life.last.status, life.last.attempts, life.last.cost_micro_usd) == ("unknown", 1, PRICE)
    assert life.last.attempt == 2


@pytest.mark.parametrize("replies", [[NoMore()], [too_many(), NoMore()], [NOT_SENT, NoMore()]])
def test_no_more_leaves_the_cell_as_it_is(replies: list[Reply]) -> None:
    """A run that stops submitting states nothing new about a cell that waits."""
    life = live(replies)
    assert life.ending is None
    assert life.kinds == [FactKind.RELEASED] * (len(replies) - 1)


def test_no_more_after_a_refund_leaves_it_pending() -> None:
    """Between two attempts a cell is pending, so that a run which stops there can make the next one later."""
    life = live([accepted(), NoMore()], [failed(5000)])
    assert (life.last.status, life.last.cost_micro_usd, life.ending) == ("pending", 0, None)


# ---------------------------------------------------------------------------------------------------- queries


@pytest.mark.fault("S11")
def test_over_its_time_it_stays_submitted() -> None:
    """A prediction that outlasts `timeout` keeps its id, its price and its status, and no second one is made."""
    life = live([accepted()], lambda now_s: seen(), timeout_s=30.0)
    assert (life.last.kind, life.last.status, life.last.error_kind) == (FactKind.OUTCOME, "submitted", "timeout")
    assert (life.last.prediction_id, life.last.cost_micro_usd, life.last.completed_at_ms) == ("first", PRICE, None)
    assert 25 <= life.now_s <= 31
    assert (len(life.intents), life.freed) == (1, 0)


@pytest.mark.fault("S12")
def test_polls_survive_faults() -> None:
    """S12: lost, broken and slowed queries cost nothing but time: the prediction completes."""
    life = live([accepted()], [LOST, BROKEN, seen(), LOST, MISSING, BROKEN, done()])
    assert (life.last.status, life.last.attempts, len(life.intents)) == ("completed", 1, 1)


@pytest.mark.fault("H14")
def test_a_retry_after_of_nothing_is_no_loop_without_a_pause() -> None:
    """H14: a service that says "0 seconds" at every query is still not asked without a pause."""
    at_once = decipher_result(HttpAnswer(status=429, body=b"{}", retry_after="0"), "first")
    life = live([accepted()], lambda now_s: at_once, timeout_s=60.0, query_s=0.001)
    assert len(life.polls) <= 130


@pytest.mark.fault("S11")
def test_an_outage_longer_than_the_timeout_never_resubmits() -> None:
    """A service that answers no query until the time is over leaves the cell submitted."""
    life = live([accepted()], lambda now_s: LOST, timeout_s=600.0)
    assert (life.last.status, life.last.error_kind, len(life.intents)) == ("submitted", "timeout", 1)
    assert len(life.polls) < 100, "waits between failing queries must grow"


@pytest.mark.fault("S02")
def test_a_404_is_believed_after_two_minutes() -> None:
    """S02: nothing but 404 for 120 s means that the service doesn't know the prediction: failed, its price spent."""
    life = live([accepted()], lambda now_s: MISSING)
    assert (life.last.status, life.last.error_kind, life.last.cost_micro_usd) == ("failed", "not_found", PRICE)
    assert 120 <= life.now_s <= 140
    assert len(life.intents) == 1


@pytest.mark.fault("S01")
def test_a_404_that_passes_is_forgotten() -> None:
    """S01: a prediction that shows up within the grace time is waited for as any other, and so is the next 404."""
    life = live([accepted()], lambda now_s: seen() if 100 < now_s < 130 else (MISSING if now_s < 200 else done()))
    assert life.last.status == "completed"


@pytest.mark.parametrize("between", [LOST, BROKEN])
def test_a_404_is_believed_only_for_two_minutes_of_them(between: Prediction | Fault) -> None:
    """Two 404s with an outage between them are not two minutes of 404."""
    life = live(
        [accepted()],
        lambda now_s: done() if now_s > 200 else (MISSING if now_s < 5 or now_s > 190 else between),
    )
    assert life.last.status == "completed"


@pytest.mark.fault("S06")
def test_completed_without_outputs_is_looked_at_again() -> None:
    """S06: completed may be read too early: images that come with a later look are taken."""
    for early in (1, 2, 3):
        life = live([accepted()], [*[done(outputs=[])] * early, done()])
        assert (life.last.status, len(life.polls)) == ("completed", early + 1)


@pytest.mark.fault("S06")
def test_completed_without_outputs_for_good() -> None:
    """S06: after three more looks it is failed as a bad response, and was paid."""
    life = live([accepted()], [done(outputs=[])] * 4)
    assert (life.last.status, life.last.error_kind, life.last.cost_micro_usd) == ("failed", "bad_response", PRICE)
    assert len(life.polls) == 4


def test_failed_after_an_empty_look() -> None:
    """What is final in another way after an empty look ends the cell that way."""
    life = live([accepted()], [done(outputs=[]), failed(1200)])
    assert (life.last.status, life.last.error_kind) == ("failed", "content_policy")


@pytest.mark.fault("S10")
def test_another_predictions_answer_is_passed_over() -> None:
    """S10: an answer that tells of another prediction is asked for again."""
    life = live([accepted()], [seen("other"), done()])
    assert life.last.outputs


@pytest.mark.fault("S07")
def test_fewer_images_than_asked_are_completed_with_a_warning() -> None:
    """S07: what was delivered is kept, what is missing is told."""
    life = live([accepted()], [done(outputs=["https://h.example/1.png", "file:///x"])], images=4)
    assert life.last.status == "completed"
    assert life.last.warnings == ("an output is no http(s) URL: file:///x", "1 of 4 images arrived")


# ---------------------------------------------------------------------------------------------------- resuming


def test_resumed_predictions_are_asked_for_first() -> None:
    """What the service knows already is asked for at once, and nothing is submitted."""
    life = live(looks=[done()], state=RESUMED)
    assert [type(command).__name__ for command in life.commands] == ["Poll", "Record"]
    assert (life.last.status, life.last.attempts, life.last.cost_micro_usd) == ("completed", 1, PRICE)
    assert life.last.latency_ms == 60_100
    assert life.last.submitted_at_ms == START_MS - 60_000


def test_a_resumed_prediction_that_failed_is_tried_again_from_its_count() -> None:
    """Attempts and cost go on from what is known: the second attempt is the second, at the price of today."""
    life = live([accepted("second")], [failed(5000), done("second")], state=RESUMED, price=90_000)
    assert (life.last.attempt, life.last.attempts, life.last.cost_micro_usd) == (2, 2, 90_000)
    assert life.freed == PRICE


def test_a_resumed_prediction_at_its_last_attempt() -> None:
    """`max_attempts` counts over a cell's whole life."""
    state = CellState(attempts=4, cost_micro_usd=PRICE, prediction_id="first", price_micro_usd=PRICE)
    life = live(looks=[failed(5000)], state=state)
    assert (life.last.status, life.last.attempts, life.last.cost_micro_usd) == ("failed", 4, 0)
    assert life.last.latency_ms is None


@pytest.mark.fault("S03")
def test_a_resumed_prediction_that_is_gone() -> None:
    """S03: where the service no longer knows it, it is failed, not_found, after the grace time."""
    life = live(looks=lambda now_s: MISSING, state=RESUMED)
    assert (life.last.status, life.last.error_kind, life.last.prediction_id) == ("failed", "not_found", "first")


def test_cost_of_earlier_attempts_stays() -> None:
    """What a cell has cost before (a failure that wasn't refunded, taken up again) is part of every later fact."""
    life = live([accepted()], [done()], state=CellState(cost_micro_usd=PRICE))
    assert [fact.cost_micro_usd for fact in [*life.intents, *life.facts]] == [2 * PRICE] * 3


def test_latencies_are_learned_from_completed_predictions_of_this_run() -> None:
    """The polling learns what this run saw, not what waited through a night for its resume."""
    book = LatencyBook()
    for _ in range(8):
        live([accepted()], lambda now_s: done() if now_s > 20 else seen(), book=book)
    first = live([accepted()], [done()], book=book)
    assert 15 < first.waits[0] < 25
    fresh = LatencyBook()
    for _ in range(8):
        live(looks=lambda now_s: done() if now_s > 20 else seen(), state=RESUMED, book=fresh)
    assert live([accepted()], [done()], book=fresh).waits[0] < 1


def test_what_a_prediction_says_is_not_mixed_up() -> None:
    """The helper's own ground: a query that brings a prediction is a Prediction."""
    assert isinstance(done(), Prediction)
