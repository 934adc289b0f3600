"""Runs a job from start to end: prepare, ask, run, publish. Read `run_async` from top to bottom.

Money is spent by the engine alone, and only between the checkpoint's opening and its closing. Everything before it may
refuse, everything after it only tells.
"""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

from batchflux.app.again import draw_anew, less, reseed, submit_twice
from batchflux.app.eventloop import run_to_end
from batchflux.app.family import main_of
from batchflux.app.job import Job, shown_path
from batchflux.app.keys import key_for
from batchflux.app.limits import neighbours_of
from batchflux.app.pairs import read_agreement
from batchflux.app.plan import Plan
from batchflux.app.preflight import Preflight
from batchflux.app.prepare import Ask, MakeObserver, Question, RunOptions, Session, prepare, resubmits
from batchflux.app.publish import publish_results
from batchflux.app.reading import read_known
from batchflux.app.reporting import report_at_end
from batchflux.app.resume import Known
from batchflux.app.reuse import Reuse, find_reuse
from batchflux.app.rundir import SANDBOX_ORIGIN, RunIdentity, check_origin, freeze_job, freeze_spec, twin_of
from batchflux.app.spend import spend
from batchflux.app.stopping import Bell
from batchflux.app.summary import Result, summarise
from batchflux.app.takeover import take_over
from batchflux.app.torn import look_up
from batchflux.core.errors import UsageError
from batchflux.core.model import CellStatus
from batchflux.engine.ports import StopReason
from batchflux.export.picks import read_rejects
from batchflux.io.checkpoint import CheckpointWriter
from batchflux.io.client import ApiKey, Client
from batchflux.io.lock import RunLock
from batchflux.io.runlog import RunLog, log_level
from batchflux.sandbox import SandboxProcess

__all__ = ["Question", "RunOptions", "run", "run_async"]

_LAST_OWN_STATUS = 4  # of run's exit statuses; what is greater says which signal ended it


def run(job: Job, options: RunOptions | None = None) -> Result:
    """Run a job to its end, or go on where an earlier run of it stopped; also inside a running event loop.

    Raises BatchfluxError for what stops it before anything is submitted, or where the disk refuses. Nothing is asked:
    calling it is the consent, `run.budget` its bound.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_to_end(run_async(job, options))
    # A notebook's loop is running already: the run gets a loop of its own in a thread of its own.
    found: list[Result | BaseException] = []
    done = threading.Event()
    bell = Bell()

    def in_thread() -> None:
        try:
            found.append(run_to_end(run_async(job, options, bell=bell)))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread whole
            found.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=in_thread, name="batchflux-run")
    thread.start()
    interrupted: KeyboardInterrupt | None = None
    while not done.is_set():
        try:
            done.wait()  # a join that is interrupted takes the thread for ended
        except KeyboardInterrupt as error:  # the thread hears no signal, and must not go on spending
            interrupted = error
            bell.ring(signal.SIGINT)
    thread.join()
    if interrupted is not None:
        raise interrupted
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


async def run_async(
    job: Job,
    options: RunOptions | None = None,
    *,
    ask: Ask | None = None,
    observe: MakeObserver | None = None,
    on_plan: Callable[[Plan, Preflight], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    bell: Bell | None = None,
) -> Result:
    """Run a job; see `run`. `ask` is asked before money is spent, `observe` makes what watches the run.

    `on_notice` is told what the user waits for before that, `bell` stops the run from another thread.
    """
    options = options or RunOptions()
    job, is_sandbox = _place(job, options)
    main = main_of(job.run_dir)
    if main is not None:
        raise UsageError(
            f"{shown_path(job.run_dir)}: holds cells that {shown_path(main)} submits a second time, and is run with "
            f"it: batchflux run {shown_path(main)}"
        )
    hooks = _Hooks(ask=ask, observe=observe, on_plan=on_plan, on_notice=on_notice, bell=bell)
    run_here = partial(_run_here, hooks=hooks, is_sandbox=is_sandbox)
    if options.redo is not None:
        return await draw_anew(job, read_rejects(options.redo), options, run_here, of=job.run_dir)
    return await reseed(job, await run_here(job, options), options, run_here)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hooks:
    """Who is asked and told."""

    ask: Ask | None
    observe: MakeObserver | None
    on_plan: Callable[[Plan, Preflight], None] | None
    on_notice: Callable[[str], None] | None
    bell: Bell | None


async def _run_here(job: Job, options: RunOptions, *, hooks: _Hooks, is_sandbox: bool) -> Result:
    """Run a job in its run directory, and nothing else."""
    origin = SANDBOX_ORIGIN if is_sandbox else job.spec.api.origin
    # What is refused leaves no trace: a directory gets its identity only when the run may begin, and by one process.
    check_origin(job.run_dir, RunIdentity.read(job.run_dir), origin=origin)
    key = ApiKey("sandbox") if is_sandbox else key_for(job.spec.api, allow_hosts=options.allow_hosts)
    with ExitStack() as stack:
        lock = stack.enter_context(RunLock(job.run_dir))
        identity = RunIdentity.open(job.run_dir, origin=origin)
        base_url = _start_sandbox(job, identity, options, stack) if is_sandbox else job.spec.api.base_url
        ended = await _spend_here(job, options, hooks, identity, lock, base_url=base_url, key=key)
        ended_at = time.monotonic()
        # Still under the lock: a run that begins now must not have its manifest replaced by this one's.
        await asyncio.to_thread(publish_results, ended.job, ended.known, base_url=base_url)
        again: tuple[Result, ...] = ()
        stop = ended.stop
        if stop is None:
            again, stop = await submit_twice(
                ended.job,
                ended.known,
                less(options, ended.session.budget.session_micro_usd),
                partial(_run_here, hooks=hooks, is_sandbox=is_sandbox),
            )
        if again:
            await asyncio.to_thread(publish_results, ended.job, ended.known, base_url=base_url)
    job = ended.job.with_images() if options.download_only else ended.job
    result = summarise(
        job,
        ended.known,
        stop=stop,
        started=ended.session.started,
        ended=ended_at,
        spent_before=ended.session.spent_before,
        replicates=read_agreement(job.run_dir),
    ).with_replicated(again)
    if result.exit_status > _LAST_OWN_STATUS:
        return result  # whoever sent the signal waits for the end
    return replace(result, report=await asyncio.to_thread(report_at_end, job, hooks.on_notice))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A run that has come to its end in its run directory: the job as it ran, and what is known of it."""

    job: Job
    known: Known
    session: Session
    stop: StopReason | None


async def _spend_here(
    job: Job, options: RunOptions, hooks: _Hooks, identity: RunIdentity, lock: RunLock, *, base_url: str, key: ApiKey
) -> _Ended:
    """Prepare, ask, and run the engine; the one who holds the lock publishes."""
    on_notice, is_sandbox = hooks.on_notice, identity.origin == SANDBOX_ORIGIN
    known = await _read_known(job, identity, options)
    proxy = None if is_sandbox else job.spec.api.proxy
    ca_file = Path(job.spec.api.ca_file) if job.spec.api.ca_file else None
    with neighbours_of(key, base_url, is_rehearsal=is_sandbox) as neighbours:
        async with Client(key, proxy=proxy, ca_file=ca_file) as client:
            reuse = await asyncio.to_thread(find_reuse, job, known, origin=identity.origin)
            session = await prepare(
                job, options, known, client, base_url, ask=hooks.ask, on_plan=hooks.on_plan, reuse=reuse
            )
            # The directory's own spec names the earlier runs for as long as it needs them, and no longer.
            is_kept = job.is_run_dir and bool(job.spec.reuse)
            job = freeze_job(job if reuse.n_cells else job.without_reuse())
            async with _checkpoint(job.run_dir, identity, lock) as sink:
                if sink.torn and session.may_spend:
                    await _look_up_lost(job, options, known, client, sink, session=session, on_notice=on_notice)
                    known = await _read_known(job, identity, options)
                    session.take_over(known)
                if reuse.n_cells or is_kept:
                    job, known = await _reuse(
                        job, identity, options, known, reuse=reuse, sink=sink, on_notice=on_notice
                    )
                stop = await spend(
                    job,
                    options,
                    known,
                    client,
                    sink,
                    session=session,
                    neighbours=neighbours,
                    observe=hooks.observe,
                    bell=hooks.bell,
                )
    if sink.has_recorded or options.retry_failed:
        known = await asyncio.to_thread(read_known, job.grid, job.run_dir, identity)
    return _Ended(job=job, known=known, session=session, stop=stop)


async def _read_known(job: Job, identity: RunIdentity, options: RunOptions) -> Known:
    """Return what earlier runs left, with the cells taken up again that the user names."""
    known = await asyncio.to_thread(read_known, job.grid, job.run_dir, identity)
    return known.taking_up(CellStatus.FAILED) if options.retry_failed else known


async def _reuse(
    job: Job,
    identity: RunIdentity,
    options: RunOptions,
    known: Known,
    *,
    reuse: Reuse,
    sink: CheckpointWriter,
    on_notice: Callable[[str], None] | None,
) -> tuple[Job, Known]:
    """Take cells over from earlier runs, which the directory needs no more after that."""
    names = ", ".join(shown_path(source.run_dir) for source in reuse.sources)
    if on_notice is not None and reuse.n_cells:
        on_notice(f"taking over {reuse.n_cells:,} cells from {names}")
    await take_over(job, known, reuse.within(known), sink)
    job = job.without_reuse()
    freeze_spec(job)
    return job, await _read_known(job, identity, options)


async def _look_up_lost(
    job: Job,
    options: RunOptions,
    known: Known,
    client: Client,
    sink: CheckpointWriter,
    *,
    session: Session,
    on_notice: Callable[[str], None] | None,
) -> None:
    """Ask the service for what torn journals may have lost. Raises CheckpointDamaged where it can't tell."""
    if on_notice is not None:
        on_notice("a journal's end is torn: looking in the service's history for what it may have held")
    log = RunLog(job.run_dir / "run.log", level=log_level())
    try:
        adopted = await look_up(
            sink.torn,
            job,
            known,
            transport=client,
            sink=sink,
            observer=log,
            base_url=session.base_url,
            listed_params=session.listed_params,
            price_of=lambda work: session.prices.of(work.cell, job.shapes),
            accepts=resubmits(job, options),
        )
    finally:
        log.close()
    await sink.flushed()
    for torn in sink.torn:
        await asyncio.to_thread(torn.put_away)
    if on_notice is not None:
        on_notice(f"found there: {adopted} cells that were submitted" if adopted else "nothing was lost")


def _place(job: Job, options: RunOptions) -> tuple[Job, bool]:
    """Return the job at the directory that it runs in, and whether that is a sandbox's."""
    is_twin = job.is_run_dir and (found := RunIdentity.read(job.run_dir)) is not None and found.origin == SANDBOX_ORIGIN
    if options.sandbox and not is_twin:
        return job.at(twin_of(job.run_dir)), True
    return job, is_twin


def _start_sandbox(job: Job, identity: RunIdentity, options: RunOptions, stack: ExitStack) -> str:
    """Start a rehearsal's sandbox for the time of the run; returns its base URL. Raises UsageError."""
    state = ["--state", str(job.run_dir / "sandbox")]
    # Sandboxes of one seed give the same ids, and one run may take over what another's sandbox made.
    seed = ["--seed", str(crc32(identity.run_id.encode()))]
    return stack.enter_context(SandboxProcess([*state, *seed, *options.sandbox_options])).base_url


@asynccontextmanager
async def _checkpoint(run_dir: Path, identity: RunIdentity, lock: RunLock) -> AsyncIterator[CheckpointWriter]:
    writer = await asyncio.to_thread(
        CheckpointWriter.open, run_dir, identity.run_id, was_left=lock.was_left, is_ours=lock.is_held
    )
    async with writer:
        yield writer
