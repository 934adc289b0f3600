"""Drives one cell's flow by hand: answers given in order, a clock that only waits move, every command written down."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, assert_never

from batchflux.core.flow import cell_flow
from batchflux.core.model import Cell, Fact, FactKind, Fault, Prediction
from batchflux.core.polling import LatencyBook
from batchflux.core.protocol import (
    Accepted,
    NotSent,
    Rejected,
    SubmitAnswer,
    TransportFault,
    Unanswered,
    decipher_result,
)
from batchflux.core.steps import (
    Answered,
    CellState,
    Command,
    Event,
    FlowRules,
    Looked,
    NoMore,
    Poll,
    Record,
    Submit,
    Wait,
)
from tests.core.answers import answer, completed_data, prediction_data

PRICE = 80_000
BODY = '{"prompt":"An owl","seed":7}'
START_MS = 1_795_341_600_000

Reply = SubmitAnswer | NoMore


def a_cell(index: int = 0, *, images: int = 1) -> Cell:
    """A cell like any other."""
    return Cell(
        index=index,
        cell_id=f"{index:032x}",
        row=index,
        prompt_id=f"p{index}",
        model="wavespeed-ai/flux-kontext-max/text-to-image",
        body={"prompt": f"An owl, the {index}th", "seed": 7},
        images=images,
    )


def accepted(prediction_id: str = "first") -> Accepted:
    """The service took the submission."""
    return Accepted(prediction=Prediction(id=prediction_id, status="created", created_at_ms=START_MS - 500))


def too_many(retry_after_s: float | None = None) -> Rejected:
    """429."""
    return Rejected(fault=Fault(kind="rate_limit", message="slow", retry_after_s=retry_after_s), concerns="moment")


def refused(kind: Any = "invalid_request", *, concerns: Any = "cell") -> Rejected:
    """Another refusal."""
    return Rejected(fault=Fault(kind=kind, message="no"), concerns=concerns)


UNANSWERED = Unanswered(fault=Fault(kind="unknown_outcome", message="reset"))
NOT_SENT = NotSent(fault=Fault(kind="network", message="refused"))


def seen(prediction_id: str = "first", **changes: Any) -> Prediction | Fault:
    """What a query of a prediction brings: processing, or as the changes say."""
    return decipher_result(
        answer(prediction_data(**{"id": prediction_id, "status": "processing", **changes})), prediction_id
    )


def done(prediction_id: str = "first", **changes: Any) -> Prediction | Fault:
    """A completed prediction."""
    return decipher_result(answer(completed_data(**{"id": prediction_id, **changes})), prediction_id)


def failed(code: int | None, prediction_id: str = "first", *, status: str = "failed") -> Prediction | Fault:
    """A failed prediction."""
    data = completed_data(id=prediction_id, status=status, code=code, outputs=[], error="a reason")
    return decipher_result(answer(data), prediction_id)


MISSING = decipher_result(answer(None, status=404), "first")
BROKEN = decipher_result(answer(None, status=503), "first")
LOST = decipher_result(TransportFault(sent=True, message="reset"), "first")


@dataclass(kw_only=True)
class Life:
    """What a flow did: its commands in order, its facts, the clock, and what it returned."""

    commands: list[Command] = field(default_factory=list)
    ending: Fact | None = None
    now_s: float = 0.0

    @property
    def facts(self) -> list[Fact]:
        return [command.fact for command in self.commands if isinstance(command, Record)]

    @property
    def last(self) -> Fact:
        return self.facts[-1]

    @property
    def kinds(self) -> list[FactKind]:
        return [fact.kind for fact in self.facts]

    @property
    def intents(self) -> list[Fact]:
        return [command.intent for command in self.commands if isinstance(command, Submit)]

    @property
    def polls(self) -> list[str]:
        return [command.prediction_id for command in self.commands if isinstance(command, Poll)]

    @property
    def waits(self) -> list[float]:
        return [command.seconds for command in self.commands if isinstance(command, Wait)]

    @property
    def freed(self) -> int:
        return sum(command.frees_micro_usd for command in self.commands if isinstance(command, Record))


def live(
    replies: Iterable[Reply] = (),
    looks: Iterable[Prediction | Fault] | Callable[[float], Prediction | Fault] = (),
    *,
    state: CellState | None = None,
    max_attempts: int = 4,
    timeout_s: float = 1800.0,
    price: int = PRICE,
    images: int = 1,
    book: LatencyBook | None = None,
    dice: float = 0.5,
    post_s: float = 0.1,
    query_s: float = 0.1,
) -> Life:
    """Live one cell's life to its end. `looks` are the queries' results in order, or a function of the time."""
    life, reply_of = Life(), iter(replies)
    look_of = None if callable(looks) else iter(looks)

    def looked(result: Prediction | Fault | None = None) -> Looked:
        at_ms = START_MS + round(life.now_s * 1000)
        return Looked(at_ms=at_ms, now_s=life.now_s, dice=dice, result=result)

    flow: Generator[Command, Event, Fact | None] = cell_flow(
        a_cell(images=images),
        body_json=BODY,
        rules=FlowRules(max_attempts=max_attempts, timeout_s=timeout_s, price_micro_usd=price),
        book=book or LatencyBook(),
        state=state or CellState(),
        start=looked(),
    )
    event: Event | None = None
    while True:
        try:
            command = next(flow) if event is None else flow.send(event)
        except StopIteration as end:
            life.ending = end.value
            return life
        life.commands.append(command)
        match command:
            case Submit():
                reply = next(reply_of)
                if isinstance(reply, NoMore):
                    event = reply
                    continue
                sent_at_ms = START_MS + round(life.now_s * 1000)
                life.now_s += post_s
                at_ms = START_MS + round(life.now_s * 1000)
                event = Answered(answer=reply, sent_at_ms=sent_at_ms, at_ms=at_ms, now_s=life.now_s)
            case Poll():
                life.now_s += query_s
                event = looked(looks(life.now_s) if look_of is None and callable(looks) else next(look_of or iter(())))
            case Wait(seconds=seconds):
                assert seconds > 0, "a wait of nothing would be a loop without a pause"
                life.now_s += seconds
                event = looked()
            case Record():
                event = looked()
            case _:
                assert_never(command)
