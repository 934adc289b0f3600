"""The frozen values that travel between the rooms. Nothing here decides anything.

Money is in integer micro-dollars (`_micro_usd`) until it is shown; moments (`_at`) are aware UTC datetimes or,
where they are persisted as facts, integer milliseconds since the epoch (`_at_ms`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

__all__ = [
    "Axis",
    "AxisKind",
    "Cell",
    "CellStatus",
    "ErrorKind",
    "Fact",
    "FactKind",
    "Fault",
    "JsonValue",
    "Params",
    "Prediction",
    "SavedFile",
]

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
Params: TypeAlias = Mapping[str, JsonValue]

ErrorKind = Literal[
    "invalid_request",
    "auth",
    "credit",
    "not_found",
    "rate_limit",
    "content_policy",
    "generation_failed",
    "server",
    "network",
    "timeout",
    "bad_response",
    "unknown_outcome",
    "download",
]


# A word is one that the template names; a row seed is drawn anew for each row, its values are mere positions.
AxisKind = Literal["parameter", "word", "model", "row_seed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of the grid: its distinct values in the order written; `key` is what row seeds are drawn from."""

    name: str
    kind: AxisKind
    values: tuple[JsonValue, ...]
    key: int = 0


class CellStatus(StrEnum):
    """What is durable knowledge about a cell; the manifest's `status`."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"


class FactKind(StrEnum):
    """What one journal record states about one cell. The first five carry the cell's whole state (see `Fact`)."""

    INTENT = "intent"  # a POST may be leaving: unknown until answered
    RELEASED = "released"  # not sent, or rejected and worth another try: pending again
    ACCEPTED = "accepted"  # the service gave a prediction id
    UNANSWERED = "unanswered"  # the answer never came or can't be believed
    OUTCOME = "outcome"  # final, or `submitted` with error_kind `timeout`
    FILES = "files"  # images whole on disk, or `error_kind` download; says nothing else about the cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One durable statement about one cell: a journal record, and one row of a checkpoint part.

    Every kind but FILES carries the cell's whole state at that moment, so that folding is: the last such fact,
    plus the last FILES fact of the same attempt, whose warnings are added to the cell's. `attempt` is the number (from
    1) of the attempt spoken of; `attempts` counts the submissions accepted so far; `cost_micro_usd` is what the cell
    has cost so far (an intent's and an unknown's price included: it may have been spent).
    """

    cell_id: str
    kind: FactKind
    at_ms: int
    attempt: int
    status: CellStatus
    attempts: int = 0
    cost_micro_usd: int = 0
    prompt_id: str | None = None  # INTENT only, as is `model` and `body`: what retired cells are told from
    model: str | None = None
    body: str | None = None  # the request body as sent, JSON
    price_micro_usd: int | None = None  # INTENT only
    prediction_id: str | None = None
    submitted_at_ms: int | None = None  # our clock, when the POST left
    completed_at_ms: int | None = None  # our clock, when the final status was known
    latency_ms: int | None = None
    created_at_ms: int | None = None  # the service's clock
    inference_ms: int | None = None
    outputs: tuple[str, ...] = ()
    has_nsfw_contents: tuple[bool | None, ...] = ()
    files: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    file_bytes: tuple[int, ...] = ()
    error_kind: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    fetched_sha256: tuple[str, ...] = ()  # FILES only, and only where words were written into the images since
    reused_from: str | None = None  # the run directory, by name, that a completed cell was taken over from


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row with one value of each axis, ready to be submitted.

    `index` is its place in grid order, `cell_id` the 32 hex digits of its content hash, `body` the request body as
    it will be sent, `images` how many images the body asks for.
    """

    index: int
    cell_id: str
    row: int
    prompt_id: str
    model: str
    body: Params
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why something did not work, as a value: what befalls one cell is never an exception."""

    kind: ErrorKind
    message: str
    code: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The service's own object as deciphered: fields that it left out, or that can't be believed, are None."""

    id: str
    status: str
    outputs: tuple[str, ...] = ()
    has_nsfw_contents: tuple[bool | None, ...] = ()
    created_at_ms: int | None = None
    inference_ms: int | None = None
    error: str = ""
    code: int | None = None
    model: str | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFile:
    """An image whole on disk: its path relative to the run directory, its hash and its size.

    `fetched_sha256` is the hash of what the service sent, where words were written into the image since.
    """

    path: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    is_one_colour: bool = False
    fetched_sha256: str | None = None
