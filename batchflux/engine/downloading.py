"""Fetches images beside the submissions and never holds them back: a queue, a few fetchers, bounded tries.

A download that fails is tried five times within a minute, a dead URL once more from a fresh query of the prediction;
then it is left to the next run, and the cell stays completed. So is all that waits when nothing else is left to do and
nobody has given an image for three minutes. Where images come faster than they can be fetched, only so many are
queued: of the others the cell's number is kept, and the checkpoint is asked for them when there is time.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from batchflux.core.flagged import drop_flagged
from batchflux.core.model import CellStatus, Fact, FactKind, Fault, Prediction, SavedFile
from batchflux.core.naming import image_path, image_words
from batchflux.core.progress import Progress
from batchflux.core.protocol import build_result, decipher_result
from batchflux.core.retry import Backoff
from batchflux.core.sanity import image_warnings
from batchflux.engine.ports import Download, Downloads, Observer, Sink, Transport

__all__ = ["DownloadPool"]

TRIES = 5
_BACKOFF = Backoff(first_s=1.0, most_s=16.0, jitter=0.5)
_WITHIN_S = 60.0  # no try begins later than this after the first: a host that hangs must not hold the run's end
_FETCHERS = 12
_MOST_QUEUED = 4096  # of a kilobyte and more each; the others take eight bytes
# Longer than a download may take: a host that is merely slow has answered by then.
_GONE_AFTER_S = 180.0
# What says that the URL is dead and not the line: a fresh query gives a fresh URL, for as long as the service keeps it.
_DEAD = frozenset({403, 404, 410})


@dataclass(kw_only=True)
class DownloadPool:
    """The run's downloads. `backlog` are those that an earlier run left; they are fetched after what is new.

    `look_up` gives the images of completed cells by their numbers, from what is durable of them.
    `embeds`: each image gets the words of its cell into its own metadata.
    """

    downloads: Downloads
    transport: Transport
    sink: Sink
    observer: Observer
    progress: Progress
    base_url: str
    wall_ms: Callable[[], int]
    dice: Callable[[], float]
    look_up: Callable[[Sequence[int]], Awaitable[Iterator[Download]]]
    backlog: Iterator[Download] = field(default_factory=lambda: iter(()))
    embeds: bool = False

    def __post_init__(self) -> None:
        self._queue: deque[Download] = deque()
        self._later = array("q")
        self._looked_up = 0
        self._is_looking_up = False
        self._silent_since_s: float | None = None
        self._is_left = False
        self._news = asyncio.Event()
        self._closed = False

    def fetchers(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        """Return what the engine is to run beside its workers, each in a task of its own."""
        return [self._fetch] * _FETCHERS

    def put(self, download: Download) -> None:
        """Queue a completed cell's images."""
        if len(self._queue) < _MOST_QUEUED:
            self._queue.append(download)
        else:
            self._later.append(download.cell.index)
        self._count()
        self._news.set()

    def close(self) -> None:
        """Nothing more is put: fetchers end when nothing is left."""
        self._closed = True
        self._news.set()

    async def _fetch(self) -> None:
        while not self._leaves_the_rest():
            if (item := self._next()) is not None:
                await self._save_all(item)
            elif self._later and not self._is_looking_up:
                await self._look_up()
            elif self._closed and not self._is_looking_up:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _next(self) -> Download | None:
        item = self._queue.popleft() if self._queue else next(self.backlog, None)
        if item is not None:
            self._count()
        return item

    def _leaves_the_rest(self) -> bool:
        """Return whether images hold up nothing but the run's end and nobody answers: the next run may find them."""
        if not self._closed or self._silent_since_s is None:
            return False
        is_gone = asyncio.get_running_loop().time() - self._silent_since_s > _GONE_AFTER_S
        if is_gone and not self._is_left:
            self._is_left = True
            self.observer.note("images_left", silent_s=_GONE_AFTER_S)
        return is_gone

    def _heard(self, found: SavedFile | Fault) -> None:
        if not isinstance(found, Fault) or found.kind != "network":
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = asyncio.get_running_loop().time()

    async def _look_up(self) -> None:
        """Make those that found the queue full the backlog, which has come to its end."""
        cells, self._later = self._later, array("q")
        self._looked_up, self._is_looking_up = len(cells), True
        try:
            self.backlog = self._counted(await self.look_up(cells))
        finally:
            self._is_looking_up = False
            self._news.set()  # for those who wait beside, and for the end

    def _counted(self, found: Iterator[Download]) -> Iterator[Download]:
        for download in found:
            self._looked_up -= 1
            yield download
        self._looked_up = 0
        self._count()

    def _count(self) -> None:
        self.progress.downloads_waiting = len(self._queue) + len(self._later) + self._looked_up

    async def _save_all(self, item: Download) -> None:
        """Fetch a cell's images and state what became of them."""
        saved: list[SavedFile] = []
        fault: Fault | None = None
        urls = list(item.urls)
        for number in range(len(urls)):
            found = await self._save(item, urls, number)
            if isinstance(found, Fault):
                fault = found
                break
            saved.append(found)
        fact = Fact(
            cell_id=item.cell.cell_id,
            kind=FactKind.FILES,
            at_ms=self.wall_ms(),
            attempt=item.attempt,
            status=CellStatus.COMPLETED,
            prediction_id=item.prediction_id,
            files=tuple(file.path for file in saved) if fault is None else (),
            sha256=tuple(file.sha256 for file in saved) if fault is None else (),
            file_bytes=tuple(file.size_bytes for file in saved) if fault is None else (),
            error_kind=None if fault is None else "download",
            error=None if fault is None else fault.message,
            warnings=image_warnings(item.cell.body, saved) if fault is None else (),
            fetched_sha256=_fetched(saved) if fault is None else (),
        )
        self.sink.record(fact)
        self.progress.apply(item.cell.index, fact, now_s=asyncio.get_running_loop().time())
        self.observer.fact(fact)

    async def _save(self, item: Download, urls: list[str], number: int) -> SavedFile | Fault:
        name = partial(_name, item, number + 1)
        words = image_words(item.cell, number=number + 1) if self.embeds else None
        refreshed = False
        fault = Fault(kind="download", message="not tried")
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _WITHIN_S
        for tries in range(1, TRIES + 1):
            found = await self.downloads.save(urls[number], name, words)
            self._heard(found)
            if isinstance(found, SavedFile):
                return found
            fault = found
            is_dead = fault.code in _DEAD or tries == 2
            if is_dead and not refreshed and item.prediction_id:
                refreshed = True
                fresh = await self._fresh_urls(item)
                if len(fresh) > number and fresh[number] != urls[number]:
                    urls[: len(fresh)] = fresh
                    continue
                if fault.code in _DEAD:
                    break
            wait_s = _BACKOFF.wait_s(tries, dice=self.dice())
            if tries == TRIES or loop.time() + wait_s > until_s:
                break
            await asyncio.sleep(wait_s)
        return fault

    async def _fresh_urls(self, item: Download) -> tuple[str, ...]:
        answer = await self.transport.send(build_result(self.base_url, item.prediction_id))
        result = decipher_result(answer, item.prediction_id)
        if isinstance(result, Prediction):
            # A cell that came without its flagged images must not get one of them in another's place.
            is_whole = len(result.outputs) == len(item.urls)
            return result.outputs if is_whole else drop_flagged(result).outputs
        self.observer.note("query", prediction_id=item.prediction_id, error_kind=result.kind, error=result.message)
        return ()


def _fetched(saved: Sequence[SavedFile]) -> tuple[str, ...]:
    """Return the hashes of what the service sent, or nothing where the files are just that."""
    if all(file.fetched_sha256 is None for file in saved):
        return ()
    return tuple(file.fetched_sha256 or file.sha256 for file in saved)


def _name(item: Download, number: int, extension: str) -> str:
    return image_path(item.cell, item.labels, number=number, extension=extension)
