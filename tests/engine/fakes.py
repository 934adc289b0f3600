"""Fakes of the engine's ports: a sink in memory, a service by arithmetic, images that need no network.

The sink passes the same contract as `CheckpointWriter` (`test_sink_contract`).
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from batchflux.core.budget import Budget
from batchflux.core.errors import StorageError
from batchflux.core.limits import Breaker, Health, Pace, Window
from batchflux.core.model import Fact, FactKind, Fault, JsonValue, SavedFile
from batchflux.core.progress import Progress
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.steps import CellState
from batchflux.engine.control import Admission
from batchflux.engine.downloading import DownloadPool
from batchflux.engine.local import Engine
from batchflux.engine.ports import Download, Observer, StopReason, Transport, Work
from tests.core.answers import answer, completed_data, prediction_data
from tests.core.lives import PRICE, START_MS, a_cell

BASE = "http://127.0.0.1:9/api/v3"


def disk_full() -> StorageError:
    """What a sink on a full disk raises."""
    return StorageError(Path("journal"), doing="write the journal", cause=OSError(28, "No space left on device"))


class MemorySink:
    """Keeps facts in order; `durable` are those that would survive a power cut. Refuses from `full_after` facts on."""

    def __init__(self, *, full_after: int | None = None) -> None:
        self.facts: list[Fact] = []
        self.durable = 0
        self._full_after = full_after
        self._has_news = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.durable = len(self.facts)

    def record(self, fact: Fact) -> None:
        if self._full_after is not None and len(self.facts) >= self._full_after:
            raise disk_full()
        self.facts.append(fact)
        self._has_news.set()

    async def intent(self, fact: Fact) -> None:
        self.record(fact)
        await asyncio.sleep(0)
        self.durable = len(self.facts)

    async def run(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            self.durable = len(self.facts)

    def of(self, kind: FactKind) -> list[Fact]:
        return [fact for fact in self.facts if fact.kind is kind]

    def last(self) -> dict[str, Fact]:
        """The last state of each cell."""
        return {fact.cell_id: fact for fact in self.facts if fact.kind is not FactKind.FILES}


@dataclass(kw_only=True)
class Service:
    """A transport: accepts submissions after `post_s` and completes them after `work_s`; keeps its own books.

    `reply(number, request)` may answer a submission (counted from 1) otherwise, `look(prediction_id)` a query.
    `fault`: completed, or a failure's code.
    """

    post_s: float = 0.1
    work_s: float = 1.0
    query_s: float = 0.01
    reply: Callable[[int, HttpRequest], HttpAnswer | TransportFault | None] = lambda number, request: None
    look: Callable[[str], HttpAnswer | TransportFault | None] = lambda prediction_id: None
    code_of: Callable[[int], int] = lambda number: 0
    most: int | None = None
    posts: list[tuple[float, bytes]] = field(default_factory=list)
    done_at_s: dict[str, float] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    open_posts: int = 0
    peak_open_posts: int = 0
    refused: int = 0
    queries: Counter[str] = field(default_factory=Counter)

    def in_flight(self) -> int:
        now_s = asyncio.get_running_loop().time()
        return sum(done_s > now_s for done_s in self.done_at_s.values())

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        if request.method == "GET":
            return await self._result(request.url.split("/")[-2])
        if request.url.endswith("/predictions"):
            return answer(None, status=404)  # a service that lists no history: what is lost is held
        self.posts.append((asyncio.get_running_loop().time(), request.body or b""))
        number = len(self.posts)
        self.open_posts += 1
        self.peak_open_posts = max(self.peak_open_posts, self.open_posts)
        try:
            await asyncio.sleep(self.post_s)
        finally:
            self.open_posts -= 1
        other = self.reply(number, request)
        if other is not None:
            return other
        if self.most is not None and self.in_flight() >= self.most:
            self.refused += 1
            return answer(None, status=429)
        prediction_id = f"prediction-{number}"
        self.done_at_s[prediction_id] = asyncio.get_running_loop().time() + self.work_s
        self.codes[prediction_id] = self.code_of(number)
        self.peak = max(self.peak, self.in_flight())
        return answer(prediction_data(id=prediction_id))

    async def _result(self, prediction_id: str) -> HttpAnswer | TransportFault:
        await asyncio.sleep(self.query_s)
        self.queries[prediction_id] += 1
        other = self.look(prediction_id)
        if other is not None:
            return other
        if prediction_id not in self.done_at_s:
            return answer(None, status=404)
        if asyncio.get_running_loop().time() < self.done_at_s[prediction_id]:
            return answer(prediction_data(id=prediction_id, status="processing"))
        if code := self.codes[prediction_id]:
            return answer(completed_data(id=prediction_id, status="failed", code=code, outputs=[], error="a reason"))
        return answer(completed_data(id=prediction_id, outputs=[f"https://h.example/{prediction_id}.png"]))


@dataclass(kw_only=True)
class Images:
    """Downloads without a network: every URL is saved at once, or as `fate(url, try)` says."""

    fate: Callable[[str, int], Fault | None] = lambda url, tries: None
    seconds: float = 0.0
    tries: Counter[str] = field(default_factory=Counter)
    tried_at_s: list[float] = field(default_factory=list)
    odd: Mapping[str, Any] = field(default_factory=dict)

    async def save(
        self, url: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None = None
    ) -> SavedFile | Fault:
        await asyncio.sleep(self.seconds)
        self.tries[url] += 1
        self.tried_at_s.append(asyncio.get_running_loop().time())
        fault = self.fate(url, self.tries[url])
        return fault or replace(
            SavedFile(path=name("png"), sha256="0" * 64, size_bytes=9, width=8, height=8), **self.odd
        )


class Notes:
    """An observer that writes down."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.notes: list[tuple[str, dict[str, JsonValue]]] = []
        self.ticks = 0

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    def note(self, event: str, **details: JsonValue) -> None:
        self.notes.append((event, details))

    def tick(self, progress: Progress) -> None:
        self.ticks += 1


@dataclass(kw_only=True)
class Scene:
    """One run of the engine against fakes, or a real server; what it left behind is read afterwards."""

    cells: int = 8
    transport: Any = None
    sink: MemorySink = field(default_factory=MemorySink)
    images: Images | None = None
    backlog: Iterable[Download] = ()
    looked_up: list[list[int]] = field(default_factory=list)
    window: Window = field(default_factory=Window.learned)
    rate_per_s: float | None = None
    budget_micro_usd: int | None = None
    session_micro_usd: int | None = None
    spent_micro_usd: int = 0
    max_cells: int | None = None
    until_s: float | None = None
    patience_s: float | None = None
    max_attempts: int = 4
    timeout_s: float = 1800.0
    settle_s: float = 60.0
    most_workers: int = 64
    images_each: int = 1
    price: int = PRICE
    base_url: str = BASE
    resumed: dict[int, CellState] = field(default_factory=dict)
    during: Callable[["Scene"], Coroutine[None, None, None]] | None = None
    stop: StopReason | None = None
    took_s: float = 0.0

    def work(self) -> Iterator[Work]:
        for index in sorted(range(self.cells), key=lambda index: index not in self.resumed):
            state = self.resumed.get(index, CellState())
            yield Work(cell=a_cell(index, images=self.images_each), state=state, labels={"seed": index})

    async def play(self) -> Self:
        loop = asyncio.get_running_loop()
        self.transport = Service() if self.transport is None else self.transport
        self.notes = Notes()
        observer: Observer = self.notes
        transport: Transport = self.transport
        self.progress = Progress.of(np.zeros(self.cells, dtype=np.uint8))
        self.budget = Budget(
            life_limit_micro_usd=self.budget_micro_usd,
            session_limit_micro_usd=self.session_micro_usd,
            life_micro_usd=self.spent_micro_usd,
        )
        self.admission = Admission(
            window=self.window,
            pace=Pace(images_per_s=self.rate_per_s),
            breaker=Breaker(),
            health=Health(patience_s=self.patience_s, began_at_s=loop.time()),
            budget=self.budget,
            max_cells=self.max_cells,
            until_s=None if self.until_s is None else loop.time() + self.until_s,
        )
        began_s = loop.time()
        pool = None
        if self.images is not None:
            pool = DownloadPool(
                downloads=self.images,
                transport=transport,
                sink=self.sink,
                observer=observer,
                progress=self.progress,
                base_url=self.base_url,
                wall_ms=lambda: START_MS + round((loop.time() - began_s) * 1000),
                dice=lambda: 0.5,
                look_up=self.look_up,
                backlog=iter(self.backlog),
            )

        async def pulse() -> None:
            observer.tick(self.progress)

        engine = Engine(
            transport=transport,
            sink=self.sink,
            observer=observer,
            admission=self.admission,
            progress=self.progress,
            downloads=pool,
            base_url=self.base_url,
            max_attempts=self.max_attempts,
            timeout_s=self.timeout_s,
            most_workers=self.most_workers,
            price_of=lambda work: self.price * work.cell.images,
            wall_ms=lambda: START_MS + round((loop.time() - began_s) * 1000),
            dice=lambda: 0.5,
            pulse=pulse,
            settle_s=self.settle_s,
            known_ids=self.known_ids,
        )
        self.admission.expected_s = engine.expected_s
        async with self.sink:
            if self.during is None:
                self.stop = await engine.run(self.work())
            else:
                async with asyncio.TaskGroup() as group:
                    beside = group.create_task(self.during(self))
                    self.stop = await engine.run(self.work())
                    beside.cancel()
            self.took_s = loop.time() - began_s
        return self

    async def look_up(self, cells: Sequence[int]) -> Iterator[Download]:
        """What the checkpoint says of completed cells, after a second."""
        self.looked_up.append(list(cells))
        await asyncio.sleep(1)
        return self._durable(cells)

    def _durable(self, cells: Sequence[int]) -> Iterator[Download]:
        outcomes = {fact.cell_id: fact for fact in self.sink.of(FactKind.OUTCOME)}
        for index in cells:
            cell = a_cell(index, images=self.images_each)
            fact = outcomes[cell.cell_id]
            yield Download(
                cell=cell,
                labels={"seed": index},
                attempt=fact.attempt,
                prediction_id=fact.prediction_id or "",
                urls=fact.outputs,
            )

    async def known_ids(self, since_ms: int) -> dict[str, int | None]:
        """Every prediction id that the facts hold."""
        return {fact.prediction_id: fact.created_at_ms for fact in self.sink.facts if fact.prediction_id is not None}

    @property
    def statuses(self) -> Counter[str]:
        """How many cells are in each state by their facts; untouched ones are pending."""
        last = self.sink.last()
        counts = Counter(str(fact.status) for fact in last.values())
        counts["pending"] += self.cells - len(last)
        return +counts

    def spent(self) -> int:
        """What the facts say that the cells cost."""
        return sum(fact.cost_micro_usd for fact in self.sink.last().values())


def times_submitted(service: Service) -> Counter[str]:
    """How often each body was sent."""
    return Counter(json.loads(body)["prompt"] for _, body in service.posts)


def gaps(moments: Iterable[float]) -> list[float]:
    """The times between moments."""
    return [later - sooner for sooner, later in itertools.pairwise(moments)]
