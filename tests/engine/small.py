"""An engine with nothing around it: a scripted service, facts in a list, virtual time. For one bug a test."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from batchflux.core.budget import Budget
from batchflux.core.limits import Breaker, Health, Pace, Window
from batchflux.core.model import Cell, Fact, JsonValue
from batchflux.core.progress import Progress
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.resolution import Unresolved
from batchflux.core.steps import CellState
from batchflux.engine.control import Admission
from batchflux.engine.local import Engine
from batchflux.engine.ports import Work

BASE_URL = "http://127.0.0.1:9/api/v3"
MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
START_MS = 1_790_000_000_000
PRICE = 80_000

Answer = HttpAnswer | TransportFault


def work(index: int = 0, state: CellState | None = None) -> Work:
    """Return a cell to be run."""
    cell = Cell(
        index=index,
        cell_id=f"{index:032x}",
        row=index,
        prompt_id=f"p{index}",
        model=MODEL,
        body={"prompt": f"An owl, the {index}th", "seed": 7},
        images=1,
    )
    return Work(cell=cell, state=state or CellState(), labels={})


def answer(data: object, *, status: int = 200, retry_after: str | None = None) -> HttpAnswer:
    """Return an answer in the service's envelope."""
    body = json.dumps({"code": status, "message": "", "data": data}).encode()
    return HttpAnswer(status=status, body=body, retry_after=retry_after)


def now_ms() -> int:
    """Return our clock, which follows the loop's."""
    return START_MS + round(asyncio.get_running_loop().time() * 1000)


def rfc3339(at_ms: int) -> str:
    """Return a moment as the service writes it."""
    text = np.datetime_as_string(np.datetime64(at_ms, "ms"))
    return f"{text}Z"


class Facts:
    """A sink that keeps facts in a list, each durable at once."""

    def __init__(self) -> None:
        self.all: list[Fact] = []

    def record(self, fact: Fact) -> None:
        """Keep a fact."""
        self.all.append(fact)

    async def intent(self, fact: Fact) -> None:
        """Keep a fact."""
        self.record(fact)

    async def run(self) -> None:
        """There is nothing to flush."""
        await asyncio.get_running_loop().create_future()


class Quiet:
    """An observer that does nothing."""

    def fact(self, fact: Fact) -> None:
        """Facts are in the sink."""

    def note(self, event: str, **details: JsonValue) -> None:
        """Nobody reads."""

    def tick(self, progress: Progress) -> None:
        """Nothing is shown."""


@dataclass(kw_only=True)
class SmallEngine:
    """Builds and runs one engine. `submit`, `poll` and `history` answer requests; each may be a coroutine function."""

    submit: Callable[[Mapping[str, JsonValue]], object]
    poll: Callable[[str], object] = lambda name: answer(None, status=404)
    history: Callable[[Mapping[str, JsonValue]], object] = lambda query: answer(None, status=404)
    session_limit_micro_usd: int | None = None
    life_micro_usd: int = 0
    settle_s: float = 10.0
    workers: int = 4
    known: Mapping[str, int | None] = field(default_factory=dict)
    sink: Facts = field(default_factory=Facts)
    posts: list[float] = field(default_factory=list)

    async def send(self, request: HttpRequest) -> Answer:
        """Answer a request by its kind, 0.1 s later or when the script says."""
        await asyncio.sleep(0.05)
        if request.method == "GET":
            found = self.poll(request.url.split("/")[-2])
        elif request.url.endswith("/predictions"):
            found = self.history(json.loads(request.body or b""))
        else:
            self.posts.append(asyncio.get_running_loop().time())
            found = self.submit(json.loads(request.body or b""))
        if asyncio.iscoroutine(found):
            found = await found
        assert isinstance(found, HttpAnswer | TransportFault)
        await asyncio.sleep(0.05)
        return found

    def engine(self, cells: int) -> Engine:
        """Return the engine; must be called in a running loop."""
        loop = asyncio.get_running_loop()
        return Engine(
            transport=self,
            sink=self.sink,
            observer=Quiet(),
            admission=Admission(
                window=Window.capped(self.workers),
                pace=Pace(images_per_s=None),
                breaker=Breaker(),
                health=Health(patience_s=None, began_at_s=loop.time()),
                budget=Budget(
                    life_limit_micro_usd=None,
                    session_limit_micro_usd=self.session_limit_micro_usd,
                    life_micro_usd=self.life_micro_usd,
                ),
            ),
            progress=Progress.of(np.zeros(cells, dtype=np.uint8)),
            downloads=None,
            base_url=BASE_URL,
            max_attempts=3,
            timeout_s=600,
            most_workers=self.workers,
            settle_s=self.settle_s,
            known_ids=self._known_ids,
            price_of=lambda item: PRICE,
            wall_ms=now_ms,
            dice=lambda: 0.5,
            pulse=_nothing,
        )

    async def run(self, items: Iterable[Work], lost: Sequence[tuple[Work, Unresolved]] = ()) -> Engine:
        """Run cells to the end and return the engine that did it."""
        cells = list(items)
        engine = self.engine(len(cells) + len(lost))
        await engine.run(iter(cells), lost)
        return engine

    async def _known_ids(self, since_ms: int) -> Mapping[str, int | None]:
        own = {fact.prediction_id: fact.created_at_ms for fact in self.sink.all if fact.prediction_id is not None}
        return {**self.known, **own}


async def _nothing() -> None:
    pass
