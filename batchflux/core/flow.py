"""One cell's life as a generator: commands out, events in, read from top to bottom; any driver can run it.

It decides what follows from what befell the cell, and which facts are stated; it knows no clock, no network and no
other cell. Its rules:

- A submission follows another only where the first was not sent, was rejected for the moment (429), or was accepted
  and the service failed it for reasons of its own and refunds it, up to `max_attempts` accepted ones.
- An unanswered submission ends the flow: the cell is unknown, and nothing here sends it again.
- Polling never leads to a second submission, whatever it meets; over its time the cell stays submitted.
- Facts are stated before anything that follows from them happens.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, assert_never

from batchflux.core.flagged import drop_flagged, dropped_note
from batchflux.core.model import Cell, CellStatus, Fact, FactKind, Fault, Prediction
from batchflux.core.polling import LatencyBook
from batchflux.core.protocol import (
    Accepted,
    NotSent,
    Rejected,
    Unanswered,
    final_fault,
    is_final,
    is_refunded,
)
from batchflux.core.retry import ATTEMPT_BACKOFF, POLL_BACKOFF
from batchflux.core.steps import (
    Answered,
    CellState,
    Command,
    Event,
    FlowRules,
    Looked,
    Poll,
    Record,
    Submit,
    Wait,
)

__all__ = ["cell_flow", "intent_fact"]

# A 404 on a fresh prediction may pass: the service is believed after two minutes of nothing else (design: durability).
NOT_FOUND_GRACE_S = 120.0
# `completed` without outputs may be read too early: it is believed at the fourth look.
_EMPTY_LOOKS = 4
_MAX_IMAGES_NOTED = 8


def intent_fact(cell: Cell, *, body_json: str, state: CellState, rules: FlowRules, at_ms: int) -> Fact:
    """Return the fact that must be durable before a POST of the cell leaves; its price counts as spent."""
    return Fact(
        cell_id=cell.cell_id,
        kind=FactKind.INTENT,
        at_ms=at_ms,
        attempt=state.attempts + 1,
        status=CellStatus.UNKNOWN,
        attempts=state.attempts,
        cost_micro_usd=state.cost_micro_usd + rules.price_micro_usd,
        prompt_id=cell.prompt_id,
        model=cell.model,
        body=body_json,
        price_micro_usd=rules.price_micro_usd,
        error_kind="unknown_outcome",
        error="the run ended before the service answered",
    )


def cell_flow(
    cell: Cell, *, body_json: str, rules: FlowRules, book: LatencyBook, state: CellState, start: Looked
) -> Generator[Command, Event, Fact | None]:
    """Run one cell: yields commands, is sent events, returns the final fact (None where nothing was decided).

    `state.prediction_id` set means that the service already knows it: then the flow begins by asking for it.
    """
    at_ms, now_s, dice = start.at_ms, start.now_s, start.dice
    is_resumed = state.prediction_id is not None
    while True:
        if state.prediction_id is None:
            intent = intent_fact(cell, body_json=body_json, state=state, rules=rules, at_ms=at_ms)
            event = yield Submit(attempt=state.attempts + 1, intent=intent)
            if not isinstance(event, Answered):
                return None
            at_ms, now_s = event.at_ms, event.now_s
            verdict = _after_submission(intent, event, state=state, rules=rules)
            looked = yield Record(fact=verdict.fact, frees_micro_usd=verdict.frees_micro_usd)
            if isinstance(looked, Looked):
                dice = looked.dice
            if verdict.next == "end":
                return verdict.fact if verdict.fact.kind is not FactKind.RELEASED else None
            state = verdict.state
            if verdict.next == "again":
                continue
        try:
            outcome = yield from _watch(
                cell, state=state, rules=rules, book=book, now_s=now_s, dice=dice, is_resumed=is_resumed
            )
        finally:
            book.pace.ended(state.prediction_id or "")
        is_resumed = False
        if outcome.again:
            freed = state.price_micro_usd
            state = CellState(attempts=state.attempts, cost_micro_usd=state.cost_micro_usd - freed)
            looked = yield Record(fact=outcome.fact, frees_micro_usd=freed)
            if isinstance(looked, Looked):
                dice = looked.dice
            event = yield Wait(seconds=ATTEMPT_BACKOFF.wait_s(state.attempts, dice=dice))
            if isinstance(event, Looked):
                at_ms, now_s = event.at_ms, event.now_s
            continue
        yield Record(fact=outcome.fact, frees_micro_usd=outcome.frees_micro_usd)
        return outcome.fact


@dataclass(frozen=True, slots=True, kw_only=True)
class _AfterSubmission:
    fact: Fact
    next: Literal["watch", "again", "end"]
    state: CellState
    frees_micro_usd: int = 0


def _after_submission(intent: Fact, event: Answered, *, state: CellState, rules: FlowRules) -> _AfterSubmission:
    """Say what an answer to a submission means for the cell."""
    bare = partial(
        Fact,
        cell_id=intent.cell_id,
        at_ms=event.at_ms,
        attempt=intent.attempt,
        attempts=state.attempts,
        cost_micro_usd=intent.cost_micro_usd,
    )
    price = rules.price_micro_usd
    match event.answer:
        case NotSent(fault=fault) | Rejected(fault=fault, concerns="moment" | "job"):
            fact = bare(
                kind=FactKind.RELEASED,
                status=CellStatus.PENDING,
                cost_micro_usd=state.cost_micro_usd,
                error_kind=fault.kind,
                error=fault.message,
            )
            ends = isinstance(event.answer, Rejected) and event.answer.concerns == "job"
            return _AfterSubmission(fact=fact, next="end" if ends else "again", state=state, frees_micro_usd=price)
        case Rejected(fault=fault):
            fact = bare(
                kind=FactKind.OUTCOME,
                status=CellStatus.FAILED,
                cost_micro_usd=state.cost_micro_usd,
                completed_at_ms=event.at_ms,
                error_kind=fault.kind,
                error=fault.message,
            )
            return _AfterSubmission(fact=fact, next="end", state=state, frees_micro_usd=price)
        case Unanswered(fault=fault):
            fact = bare(
                kind=FactKind.UNANSWERED,
                status=CellStatus.UNKNOWN,
                submitted_at_ms=event.sent_at_ms,
                error_kind=fault.kind,
                error=fault.message,
            )
            return _AfterSubmission(fact=fact, next="end", state=state)
        case Accepted(prediction=prediction):
            after = CellState(
                attempts=state.attempts + 1,
                cost_micro_usd=state.cost_micro_usd + price,
                prediction_id=prediction.id,
                price_micro_usd=price,
                submitted_at_ms=event.sent_at_ms,
                created_at_ms=prediction.created_at_ms,
            )
            fact = bare(
                kind=FactKind.ACCEPTED,
                status=CellStatus.SUBMITTED,
                attempts=after.attempts,
                prediction_id=prediction.id,
                submitted_at_ms=event.sent_at_ms,
                created_at_ms=prediction.created_at_ms,
            )
            return _AfterSubmission(fact=fact, next="watch", state=after)
        case _:
            assert_never(event.answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    fact: Fact
    again: bool = False
    frees_micro_usd: int = 0


def _watch(
    cell: Cell,
    *,
    state: CellState,
    rules: FlowRules,
    book: LatencyBook,
    now_s: float,
    dice: float,
    is_resumed: bool,
) -> Generator[Command, Event, _Watched]:
    """Ask for an accepted prediction until it is final or over its time.

    One that an earlier run left is asked for as soon as its turn comes. Nothing is learned of it, since between the
    two runs nobody looked; how old it is by the wall clock says how long its steps are.
    """
    assert state.prediction_id is not None  # noqa: S101
    began_s, asked_s, older_s = now_s, now_s, 0.0
    faults = empty_looks = 0
    looked_before_s = 0.0
    is_blind = is_resumed  # whether it may long have been done unseen: then its age when found says nothing
    missing_since_s: float | None = None
    outcome = partial(
        Fact,
        cell_id=cell.cell_id,
        kind=FactKind.OUTCOME,
        attempt=max(1, state.attempts),
        attempts=state.attempts,
        cost_micro_usd=state.cost_micro_usd,
        prediction_id=state.prediction_id,
        submitted_at_ms=state.submitted_at_ms,
        created_at_ms=state.created_at_ms,
    )
    wait_s = book.pace.turn_s(now_s) if is_resumed else book.wait_s(0.0, dice=dice)
    while True:
        if wait_s > 0:
            event = yield Wait(seconds=wait_s)
            assert isinstance(event, Looked)  # noqa: S101
            asked_s = event.now_s
        event = yield Poll(prediction_id=state.prediction_id)
        assert isinstance(event, Looked)  # noqa: S101
        dice, waited_s, trip_s = event.dice, event.now_s - began_s, event.now_s - asked_s
        if is_resumed and state.submitted_at_ms is not None:
            older_s = max(0.0, (event.at_ms - state.submitted_at_ms) / 1000 - waited_s)
        match event.result:
            case Prediction() as prediction if is_final(prediction):
                faults, missing_since_s = 0, None
                is_empty = prediction.status == "completed" and not prediction.outputs
                empty_looks += is_empty
                if not is_empty or empty_looks >= _EMPTY_LOOKS:
                    if not is_blind and prediction.status == "completed":
                        told_ms = prediction.inference_ms
                        book.learn(waited_s, before_s=looked_before_s, inference_ms=told_ms, trip_s=trip_s)
                    return _finish(cell, outcome, prediction, event, state=state, rules=rules)
                wait_s = book.wait_s(older_s + waited_s, dice=dice)
            case Prediction():
                faults, missing_since_s = 0, None
                if not is_resumed:
                    book.saw_running(waited_s, before_s=looked_before_s, trip_s=trip_s)
                    looked_before_s, is_blind = waited_s, False
                wait_s = book.wait_s(older_s + waited_s, dice=dice)
            case Fault() as fault:
                faults += 1
                is_blind = True
                if fault.kind == "not_found":
                    missing_since_s = event.now_s if missing_since_s is None else missing_since_s
                    if event.now_s - missing_since_s >= NOT_FOUND_GRACE_S:
                        return _Watched(fact=_ended(outcome, event, status=CellStatus.FAILED, fault=fault))
                else:
                    missing_since_s = None
                wait_s = max(POLL_BACKOFF.wait_for(fault, faults, dice=dice), book.pace.least_s())
            case None:
                pass
        book.pace.again(state.prediction_id)
        # One that is missing is waited for until that is believed, or a short timeout would leave it open for ever.
        if waited_s + wait_s > rules.timeout_s and missing_since_s is None:
            over = Fault(kind="timeout", message=f"not final after {waited_s:.0f} s; every later run asks for it again")
            return _Watched(fact=_ended(outcome, event, status=CellStatus.SUBMITTED, fault=over))


def _ended(outcome: Callable[..., Fact], event: Looked, *, status: CellStatus, fault: Fault) -> Fact:
    final = event.at_ms if status is CellStatus.FAILED else None
    return outcome(at_ms=event.at_ms, status=status, completed_at_ms=final, error_kind=fault.kind, error=fault.message)


def _finish(
    cell: Cell,
    outcome: Callable[..., Fact],
    prediction: Prediction,
    event: Looked,
    *,
    state: CellState,
    rules: FlowRules,
) -> _Watched:
    """Turn a final prediction into the cell's outcome."""
    submitted_at_ms = state.submitted_at_ms
    latency_ms = None if submitted_at_ms is None else max(0, event.at_ms - submitted_at_ms)
    fault = final_fault(prediction)
    kept = drop_flagged(prediction) if rules.drops_flagged else prediction
    fact = outcome(
        at_ms=event.at_ms,
        status=CellStatus.COMPLETED if fault is None else CellStatus.FAILED,
        completed_at_ms=event.at_ms,
        latency_ms=latency_ms,
        created_at_ms=prediction.created_at_ms or state.created_at_ms,
        inference_ms=prediction.inference_ms,
        outputs=kept.outputs,
        has_nsfw_contents=kept.has_nsfw_contents,
        warnings=(*_warnings(cell, prediction), *dropped_note(len(prediction.outputs), len(kept.outputs))),
    )
    if fault is None:
        return _Watched(fact=fact)
    failed = replace(fact, error_kind=fault.kind, error=_with_code(fault))
    if not is_refunded(fault):
        return _Watched(fact=failed)
    failed = replace(failed, cost_micro_usd=state.cost_micro_usd - state.price_micro_usd)
    if state.attempts < rules.max_attempts:
        # Between two attempts the cell is pending: a run that stops here may make the next one.
        return _Watched(fact=replace(failed, kind=FactKind.RELEASED, status=CellStatus.PENDING), again=True)
    return _Watched(fact=failed, frees_micro_usd=state.price_micro_usd)


def _with_code(fault: Fault) -> str:
    return fault.message if fault.code is None else f"{fault.message} (code {fault.code})"


def _warnings(cell: Cell, prediction: Prediction) -> tuple[str, ...]:
    notes = list(prediction.notes[:_MAX_IMAGES_NOTED])
    if prediction.status == "completed" and 0 < len(prediction.outputs) < cell.images:
        notes.append(f"{len(prediction.outputs)} of {cell.images} images arrived")
    return tuple(notes)
