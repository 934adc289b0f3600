"""A run's page that follows it: how the run stands, asked of its facts again and again, and the page's data made anew.

A process of its own beside the run. It reads what the run wrote, holds no lock, and writes nothing into the run
directory but thumbnails, as the page at a run's end does. How often it looks follows from what a look costs in its
own thread, so that a large run is looked at seldom rather than dearly.
"""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from batchflux.app.advice import advice_for
from batchflux.app.blocks import Block
from batchflux.app.job import Job, load_job, shown_path
from batchflux.app.reporting import page_source
from batchflux.app.status import Status, read_status
from batchflux.core.arrow import Ints, as_ints, from_ints, list_lengths
from batchflux.core.errors import BatchfluxError, StorageError
from batchflux.core.model import CellStatus
from batchflux.core.sanity import WARNING_KINDS
from batchflux.io.facts import CHECKPOINT_DIR, JOURNAL_DIR
from batchflux.io.lock import is_run_at_work
from batchflux.report.page import build_page
from batchflux.report.pagefiles import REPORT_DIR, THUMBNAILS, write_data
from batchflux.report.serving import serving
from batchflux.report.thumbnails import make_thumbnail, thumbnail_name

__all__ = ["LiveRun", "follow_run"]

_LEAST_S: Final = 2.0
_SHARE: Final = 0.03  # of a core, for each of the two kinds of work
_THUMBNAILS_S: Final = 10.0  # at a time: what is left comes with the next data
_NEWEST: Final = 16
_PACE_BARS: Final = 60
_FOLDERS_KEPT: Final = 3  # a page may still be reading the last ones


class _Seen:
    """Notes the newest images and when cells ended, of all blocks that pass by."""

    COLUMNS: Final = ("files", "sha256", "completed_at")

    def __init__(self) -> None:
        self._newest: list[tuple[int, int, str, str]] = []
        self._ended_ms: list[Ints] = []

    def add(self, block: Block) -> None:
        """Take in a block."""
        ended_ms = as_ints(block.facts["completed_at"], null=-1)
        self._ended_ms.append(ended_ms[ended_ms >= 0])
        saved = np.flatnonzero(list_lengths(block.facts["files"]) > 0)
        newest = saved[np.argsort(ended_ms[saved], kind="stable")][-_NEWEST:]
        rows = block.facts.select(["files", "sha256"]).take(from_ints(newest)).to_pylist()
        for place, row in zip(newest.tolist(), rows, strict=True):
            self._newest.append((int(ended_ms[place]), int(block.cells[place]), row["files"][0], row["sha256"][0]))
        self._newest = sorted(self._newest)[-_NEWEST:]

    def newest(self) -> list[tuple[int, str, str]]:
        """Return (grid index, file, hash) of the newest images, the newest first."""
        return [each[1:] for each in reversed(self._newest)]

    def pace(self) -> dict[str, Any] | None:
        """Return how many cells ended in each of equal spans of the run's time."""
        ended = np.concatenate([np.empty(0, dtype=np.int64), *self._ended_ms])
        if len(ended) < 2:
            return None
        begin, end = int(ended.min()), int(ended.max()) + 1
        step_ms = max(1000, -(-(end - begin) // _PACE_BARS))
        counts = np.bincount((ended - begin) // step_ms)
        return {"begin": begin, "step_s": step_ms / 1000, "counts": counts.tolist()}


@dataclass(kw_only=True)
class LiveRun:
    """What is served of one run: made by `look` and `draw`, which block, and read by the server at any time.

    `root` is a folder for the page's data, which nobody else uses.
    """

    run_dir: Path
    root: Path
    _job: Job | None = None
    _stamp: tuple[object, ...] = ()
    _drawn: tuple[object, ...] = ()
    _stand: dict[str, Any] = field(default_factory=dict)
    _folders: deque[str] = field(default_factory=deque)

    # ------------------------------------------------------------------------------------------- what is served

    def page(self) -> str:
        """Return the page as it is now."""
        title = self.run_dir.name if self._job is None else self._job.name
        folder, thumbnails = f"{REPORT_DIR}/{self._folders[-1]}", f"{REPORT_DIR}/{THUMBNAILS}"
        return build_page(title=title, folder=folder, thumbnails=thumbnails, is_live=True)

    def now(self) -> bytes:
        """Return how the run stands, as JSON."""
        return json.dumps({**self._stand, "folder": f"{REPORT_DIR}/{self._folders[-1]}"}).encode()

    def data_folder(self, name: str) -> Path | None:
        """Return where the page's data of that name lie."""
        return self.root / name if name in self._folders else None

    @property
    def thumbnails(self) -> Path:
        """Where the thumbnails lie."""
        return self.run_dir / REPORT_DIR / THUMBNAILS

    @property
    def images(self) -> Path:
        """Where the run's images lie."""
        return self.run_dir / "images"

    # --------------------------------------------------------------------------------------------- what is seen

    def has_news(self) -> bool:
        """Return whether anything was written since the last look, or the run has begun or ended; cheap."""
        return _stamp(self.run_dir) != self._stamp

    def has_turned(self) -> bool:
        """Return whether the run has begun or ended since the last look."""
        return is_run_at_work(self.run_dir) != (self._stand.get("state") == "at work")

    def look(self) -> None:
        """See how the run stands. Raises BatchfluxError where that can't be told."""
        stamp = _stamp(self.run_dir)
        seen = _Seen()
        status, self._job, _ = read_status(self.run_dir, columns=seen.COLUMNS, on_block=seen.add)
        newest = [self._image(*image) for image in seen.newest()]
        self._stand = _as_mapping(status) | {"newest": newest, "pace": seen.pace()}
        self._stamp = stamp

    def trouble(self, error: BatchfluxError) -> None:
        """Say on the page that the last look failed; what was seen before stays."""
        self._stand = {**self._stand, "problem": str(error)}

    def is_drawn(self) -> bool:
        """Return whether the page's data are of the last look."""
        return self._drawn == self._stamp

    def draw(self) -> None:
        """Make the page's data of what is known now. Raises BatchfluxError."""
        stamp = self._stamp
        job = load_job(self.run_dir)
        folder = write_data(self.root, self.run_dir, page_source(job, self.run_dir), thumbnails_s=_THUMBNAILS_S)
        self._folders.append(folder)
        if len(self._folders) > _FOLDERS_KEPT:
            _clear(self.root / self._folders.popleft())
        self._drawn = stamp

    def _image(self, index: int, file: str, sha256: str) -> dict[str, Any]:
        assert self._job is not None  # noqa: S101
        row, combination = divmod(index, self._job.grid.n_combinations)
        cell = self._job.grid.cell(index, self._job.rows.part(row))
        values = ", ".join(f"{name} {value}" for name, value in self._job.grid.combination_values(combination).items())
        key = int(sha256[:16], 16)
        small = None
        with suppress(StorageError):  # a directory that can't be written shows the images themselves
            if make_thumbnail(key, self.run_dir / file, self.thumbnails):
                small = f"{REPORT_DIR}/{THUMBNAILS}/{thumbnail_name(key)}"
        label = f"{cell.prompt_id}; {values}" if values else cell.prompt_id
        return {"index": index, "file": file, "thumbnail": small, "label": label}


def _as_mapping(status: Status) -> dict[str, Any]:
    standing = status.standing
    state = "at work" if status.is_at_work else "stopped"
    if not status.is_at_work and not (standing.pending or standing.submitted or standing.unknown):
        state = "finished"
    return {
        "at": time.time_ns() // 1_000_000,
        "state": state,
        "newest_at": status.newest_at,
        "cells": standing.cells,
        "counts": {str(each): getattr(standing, each) for each in CellStatus},
        "rate_per_min": status.rate_per_min,
        "eta": None if status.eta is None else [status.eta.soonest_s, status.eta.likely_s, status.eta.latest_s],
        "limit": status.limit,
        "spent_usd": standing.cost_usd,
        "budget_usd": status.budget_usd,
        "rehearsal": status.is_rehearsal,
        "images": standing.images,
        "images_missing": standing.images_missing,
        "errors": [{"kind": kind, "count": n, "advice": advice_for(kind)} for kind, n in standing.errors.items()],
        "warnings": [{"words": WARNING_KINDS[kind], "count": n} for kind, n in standing.warnings.items()],
        "next": f"batchflux run {shown_path(status.run_dir)}",
        "problem": None,
    }


def _stamp(run_dir: Path) -> tuple[object, ...]:
    """Return what changes whenever the run writes a fact, begins or ends."""
    found: list[object] = [is_run_at_work(run_dir)]
    for folder in (CHECKPOINT_DIR, JOURNAL_DIR):
        with suppress(FileNotFoundError), os.scandir(run_dir / folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # sealed meanwhile
                    found.append((entry.name, entry.stat().st_size))
    return tuple(sorted(found, key=str))


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# ------------------------------------------------------------------------------------------------------ following


async def follow_run(run_dir: Path, *, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a run's live page until SIGINT or SIGTERM; `on_ready` is told its address.

    Raises UsageError, CheckpointDamaged or StorageError where there is nothing to be served at first.
    """
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    with tempfile.TemporaryDirectory(prefix="batchflux-live-") as root:
        live = LiveRun(run_dir=run_dir, root=Path(root))
        await asyncio.to_thread(live.look)
        await asyncio.to_thread(live.draw)
        async with serving(live, port=port) as address, asyncio.TaskGroup() as group:
            follower = group.create_task(_follow(live))
            on_ready(address)
            await over.wait()
            follower.cancel()


async def _follow(live: LiveRun) -> None:
    """Look again where there is news, and make the page's data anew; each rests in proportion to what it took."""
    rest_until = dict.fromkeys((live.look, live.draw), 0.0)
    while True:
        await asyncio.sleep(_LEAST_S)
        if live.has_turned():  # a run's end is seen at once
            rest_until = dict.fromkeys(rest_until, 0.0)
        try:
            if live.has_news():
                await _rested(live.look, rest_until)
            if not live.is_drawn():
                await _rested(live.draw, rest_until)
        except BatchfluxError as error:
            live.trouble(error)


async def _rested(work: Callable[[], None], rest_until: dict[Callable[[], None], float]) -> None:
    def timed() -> float:
        began_s = time.thread_time()
        work()
        return time.thread_time() - began_s

    if time.monotonic() >= rest_until[work]:
        took_s = await asyncio.to_thread(timed)
        rest_until[work] = time.monotonic() + took_s / _SHARE
