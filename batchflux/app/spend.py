"""Runs the engine over what is left of a job, and keeps the house while it is at work. The one place that spends."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import numpy as np

from batchflux.app.job import Job
from batchflux.app.limits import LimitsKeeper
from batchflux.app.prepare import LEAST_FREE_BYTES, MakeObserver, RunOptions, Session, resubmits
from batchflux.app.publish import publish_results
from batchflux.app.resume import Known
from batchflux.app.rundir import is_rehearsal
from batchflux.app.stopping import Bell, Signals
from batchflux.app.work import backlog, downloads_of, harmed_cells, known_ids, lost_submissions, run_clock, work_left
from batchflux.core.errors import RunInterrupted
from batchflux.core.limits import AUTO_MOST, Breaker, Health, Pace, Window
from batchflux.core.model import CellStatus
from batchflux.core.progress import Progress
from batchflux.engine.control import Admission
from batchflux.engine.downloading import DownloadPool
from batchflux.engine.local import Engine
from batchflux.engine.observers import Several
from batchflux.engine.ports import Observer, StopReason
from batchflux.io.checkpoint import CheckpointWriter
from batchflux.io.client import Client
from batchflux.io.neighbours import Neighbours
from batchflux.io.runlog import RunLog, log_level
from batchflux.io.storage import free_bytes

__all__ = ["spend"]

_DISK_EVERY_S = 10.0
# The manifest is refreshed only while that costs less than a hundredth of the time since the last one.
_MANIFEST_SHARE = 0.01
_MANIFEST_EVERY_S = 60.0


async def spend(
    job: Job,
    options: RunOptions,
    known: Known,
    client: Client,
    sink: CheckpointWriter,
    *,
    session: Session,
    neighbours: Neighbours,
    observe: MakeObserver | None,
    bell: Bell | None,
) -> StopReason | None:
    """Run the engine over what is left; returns why it stopped early, if it did."""
    spec, loop = job.spec, asyncio.get_running_loop()
    progress = Progress.of(known.statuses)
    progress.spent_micro_usd = session.spent_before
    progress.is_rehearsal = is_rehearsal(job.run_dir)
    log = RunLog(job.run_dir / "run.log", level=log_level())
    seen = observe(progress) if observe is not None else None
    observer: Observer = Several([log, seen]) if seen is not None else log
    dice, wall_ms = random.Random().random, run_clock()  # jitter is no secret, and the system's dice cost more
    concurrency = spec.run.concurrency
    admission = Admission(
        window=Window.learned() if concurrency is None else Window.capped(concurrency),
        pace=Pace(images_per_s=spec.run.rate_limit_per_s),
        breaker=Breaker(),
        health=Health(patience_s=spec.run.patience_s, began_at_s=loop.time()),
        budget=session.budget,
        max_cells=options.limit,
        until_s=None if options.until_at_s is None else loop.time() + options.until_at_s - time.time(),
    )
    limits = LimitsKeeper(run_dir=job.run_dir, admission=admission, progress=progress, neighbours=neighbours)
    limits.begin()
    async with AsyncExitStack() as stack:
        pool = None
        harmed = np.zeros(len(known.statuses), dtype=np.bool_)
        if options.download_only:
            harmed = await asyncio.to_thread(harmed_cells, job, known)
        if spec.output.download or options.download_only:
            from batchflux.io.downloads import Downloader  # loads aiohttp: 0.13 s of CPU at a start

            downloader = await stack.enter_async_context(
                Downloader(job.run_dir, allow_loopback=session.is_loopback, proxy=client.proxy, tls=client.tls)
            )
            pool = DownloadPool(
                downloads=downloader,
                transport=client,
                sink=sink,
                observer=observer,
                progress=progress,
                base_url=session.base_url,
                wall_ms=wall_ms,
                dice=dice,
                look_up=lambda cells: asyncio.to_thread(downloads_of, job, np.asarray(cells)),
                backlog=await asyncio.to_thread(backlog, job, known, harmed=harmed),
                embeds=spec.output.embed_metadata,
            )
        engine = Engine(
            transport=client,
            sink=sink,
            observer=observer,
            admission=admission,
            progress=progress,
            downloads=pool,
            base_url=session.base_url,
            max_attempts=spec.run.max_attempts,
            timeout_s=spec.run.timeout_s,
            most_workers=min(concurrency or AUTO_MOST, max(1, progress.n_cells - progress.n_done)),
            settle_s=spec.api.settle_s,
            known_ids=known_ids(job),
            ids_before=known.newest_ids,
            listed_params=session.listed_params,
            resubmits_unknown=resubmits(job, options),
            drops_flagged=spec.run.on_nsfw == "drop",
            price_of=lambda work: session.prices.of(work.cell, job.shapes),
            wall_ms=wall_ms,
            dice=dice,
            pulse=_pulse(
                job, sink, progress, observer, admission, known=known, limits=limits, base_url=session.base_url
            ),
        )
        admission.expected_s = engine.expected_s
        observer.note("start", cells=progress.n_cells, pending=progress.counts[CellStatus.PENDING])
        work = iter(()) if options.download_only else work_left(job, known, options)
        lost = [] if options.download_only else lost_submissions(job, known, now_ms=wall_ms())
        with Signals(admission, bell, observer) as signals:
            try:
                stop = await engine.run(work, lost)
            except asyncio.CancelledError:
                if signals.hurried_by is None:
                    raise
                raise RunInterrupted(name=signals.hurried_by.name, number=signals.hurried_by) from None
            finally:
                progress.in_flight = admission.window.in_flight
                limits.remember(limits.now())
                observer.tick(progress)
                observer.note("stop", **{str(status): count for status, count in progress.counts.items()})
                if seen is not None:
                    seen.close()
                log.close()
    return stop


def _pulse(
    job: Job,
    sink: CheckpointWriter,
    progress: Progress,
    observer: Observer,
    admission: Admission,
    *,
    known: Known,
    limits: LimitsKeeper,
    base_url: str,
) -> Callable[[], Awaitable[None]]:
    """Return what is done once a second while a run is at work: seal, look at the disk, show, refresh the manifest."""
    loop = asyncio.get_running_loop()
    due = {"disk": 0.0, "manifest": loop.time() + _MANIFEST_EVERY_S}

    async def pulse() -> None:
        now_s = loop.time()
        await sink.seal_if_due(now_s)
        observer.tick(progress)
        limits.exchange()
        if limits.is_due(now_s):
            await asyncio.to_thread(limits.remember, limits.now())
        if now_s >= due["disk"]:
            due["disk"] = now_s + _DISK_EVERY_S
            free = free_bytes(job.run_dir)
            if free < LEAST_FREE_BYTES:
                message = f"the disk is nearly full ({free >> 20} MB free): make room, then run again"
                admission.switch.stop(StopReason(kind="trouble", message=message))
        if now_s >= due["manifest"]:
            await asyncio.to_thread(publish_results, job, known, base_url=base_url)
            took_s = loop.time() - now_s
            due["manifest"] = loop.time() + max(_MANIFEST_EVERY_S, took_s / _MANIFEST_SHARE)

    return pulse
