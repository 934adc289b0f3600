"""What passes between one cell's flow and whoever drives it: the state that it begins with, commands out, events in."""

from dataclasses import dataclass
from typing import TypeAlias

from batchflux.core.model import Fact, Fault, Prediction
from batchflux.core.protocol import SubmitAnswer

__all__ = [
    "Answered",
    "CellState",
    "Command",
    "Event",
    "FlowRules",
    "Looked",
    "NoMore",
    "Poll",
    "Record",
    "Submit",
    "Wait",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """What is known of a cell when its flow begins; the defaults are those of a cell never tried."""

    attempts: int = 0
    cost_micro_usd: int = 0
    prediction_id: str | None = None
    price_micro_usd: int = 0  # of the attempt that `prediction_id` is
    submitted_at_ms: int | None = None
    created_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRules:
    """The spec's part in a flow."""

    max_attempts: int
    timeout_s: float
    price_micro_usd: int
    drops_flagged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Ask for a place, make the intent durable, send the POST, and say what came back (`Answered` or `NoMore`)."""

    attempt: int
    intent: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Ask for the prediction's result; `Looked` comes back."""

    prediction_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Let so much time pass; `Looked` without a result comes back."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Make a fact part of the journal at once; `Looked` without a result comes back."""

    fact: Fact
    frees_micro_usd: int = 0


Command: TypeAlias = Submit | Poll | Wait | Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a submission; moments on both clocks."""

    answer: SubmitAnswer
    sent_at_ms: int
    at_ms: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMore:
    """The run submits nothing any more: the cell stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Time has passed; `result` holds what a poll brought."""

    at_ms: int
    now_s: float
    dice: float
    result: Prediction | Fault | None = None


Event: TypeAlias = Answered | NoMore | Looked
