"""What the engine asks of the outside, as small protocols: it knows no network, no disk and no terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from batchflux.core.model import Cell, Fact, Fault, JsonValue, SavedFile
from batchflux.core.progress import Progress
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.steps import CellState

__all__ = ["Download", "Downloads", "Observer", "Sink", "StopReason", "Transport", "Watcher", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A cell to be run, with what is known of it; `labels` are its axis values, for the names of its files.

    `is_again`: this session has started it before. `is_paid_before`: what its open submission may cost was reserved
    by an earlier session.
    """

    cell: Cell
    state: CellState
    labels: Mapping[str, JsonValue]
    is_again: bool = False
    is_paid_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Images to be fetched of one completed cell, in the order of its outputs."""

    cell: Cell
    labels: Mapping[str, JsonValue]
    attempt: int
    prediction_id: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReason:
    """Why a run stops before its end. `asked`: as the user said; `trouble`: it needs the user; `signal`: a signal."""

    kind: Literal["asked", "trouble", "signal"]
    message: str
    fault: Fault | None = None
    signal: int | None = None


class Transport(Protocol):
    """Sends one request once; `io.client.Client` is one."""

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        """Return the answer, or why there is none."""


class Sink(Protocol):
    """Where facts become durable; `io.checkpoint.CheckpointWriter` is one. All may raise StorageError."""

    def record(self, fact: Fact) -> None:
        """Write a fact at once: a killed process loses nothing of it."""

    async def intent(self, fact: Fact) -> None:
        """Write a fact and return when it would survive a power cut."""

    async def run(self) -> None:
        """Flush what nobody waits for, until cancelled."""


class Downloads(Protocol):
    """Fetches one image; `io.downloads.Downloader` is one."""

    async def save(
        self, url: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None = None
    ) -> SavedFile | Fault:
        """Publish the image at a URL under the name for its extension, with words in it; raises StorageError."""


class Observer(Protocol):
    """Hears what happens; does nothing by default (`observers`). Never disturbs the run."""

    def fact(self, fact: Fact) -> None:
        """A fact was stated."""

    def note(self, event: str, **details: JsonValue) -> None:
        """Something worth a line in the log happened that is no fact about a cell."""

    def tick(self, progress: Progress) -> None:
        """A second or so has passed."""


class Watcher(Observer, Protocol):
    """An observer that holds something of the screen until it is closed."""

    def close(self) -> None:
        """Leave the screen as whoever writes next expects it."""
