"""Runs a job from start to end: prepare, ask, run, publish. Read `run_async` from top to bottom.

Money is spent by the engine alone, and only between the checkpoint's opening and its closing. Everything before it may
refuse, everything after it only tells.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from batchflux.app.job import Job, shown_path
from batchflux.app.keys import key_for
from batchflux.app.limits import neighbours_of
from batchflux.app.plan import Plan
from batchflux.app.preflight import Preflight
from batchflux.app.prepare import Ask, MakeObserver, Question, RunOptions, Session, prepare, resubmits
from batchflux.app.publish import publish_results
from batchflux.app.reading import read_known
from batchflux.app.redo import build_redo, flagged_cells
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


def run(job: Job, options: RunOptions | None = None) -> Result:
    """Run a job to its end, or go on where an earlier run of it stopped; also inside a running event loop.

    Raises BatchfluxError for what stops it before anything is submitted, or where the disk refuses. Nothing is asked:
    calling it is the consent, `run.budget` its bound.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_async(job, options))
    # A notebook's loop is running already: the run gets a loop of its own in a thread of its own.
    found: list[Result | BaseException] = []
    done = threading.Event()
    bell = Bell()

    def in_thread() -> None:
        try:
            found.append(asyncio.run(run_async(job, options, bell=bell)))
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
    hooks = _Hooks(ask=ask, observe=observe, on_plan=on_plan, on_notice=on_notice, bell=bell)
    if options.redo is not None:
        return await _draw_anew(job, read_rejects(options.redo), options, hooks, of=job.run_dir, is_sandbox=is_sandbox)
    result = await _run_here(job, options, hooks, is_sandbox=is_sandbox)
    return await _reseed(job, result, options, hooks, is_sandbox=is_sandbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hooks:
    """Who is asked and told."""

    ask: Ask | None
    observe: MakeObserver | None
    on_plan: Callable[[Plan, Preflight], None] | None
    on_notice: Callable[[str], None] | None
    bell: Bell | None


async def _draw_anew(
    job: Job, picked: Collection[str], options: RunOptions, hooks: _Hooks, *, of: Path, is_sandbox: bool
) -> Result:
    """Run the job that draws some cells of the run in `of` anew; `job` is whose budget bears it."""
    with TemporaryDirectory(prefix="batchflux-") as folder:
        redo = await asyncio.to_thread(build_redo, job, of, picked, folder=Path(folder))
        # Both are on one budget, so only one of them may spend at a time.
        with RunLock(job.run_dir) if redo.run_dir != job.run_dir else nullcontext():
            return await _run_here(redo, replace(options, redo=None), hooks, is_sandbox=is_sandbox)


async def _reseed(job: Job, result: Result, options: RunOptions, hooks: _Hooks, *, is_sandbox: bool) -> Result:
    """Draw flagged cells anew, and those that come flagged again, as often as the spec says."""
    run = job.spec.run
    if run.on_nsfw != "reseed" or result.stop is not None or options.download_only or options.limit is not None:
        return result
    places, spent_usd = [job.run_dir], result.spent_now_usd
    for number in range(run.max_redo):
        flagged = [(place, each) for place in places for each in flagged_cells(place, round_number=number)]
        places = []
        for place, picked in flagged:
            left = options.budget_micro_usd
            if left is not None:
                left = max(0, left - round(spent_usd * 1_000_000))
            bounded = replace(options, budget_micro_usd=left)
            try:
                redone = await _draw_anew(job, picked, bounded, hooks, of=place, is_sandbox=is_sandbox)
            except UsageError as error:  # a no of the user's is one; what was run before it has its result all the same
                stop = StopReason(kind="asked", message=f"flagged cells were not drawn anew: {error}")
                return replace(result, stop=stop, exit_status=max(result.exit_status, 3))
            result, spent_usd = result.with_redone(redone), spent_usd + redone.spent_now_usd
            places.append(redone.run_dir)
            if redone.stop is not None:
                return result
    return result


async def _run_here(job: Job, options: RunOptions, hooks: _Hooks, *, is_sandbox: bool) -> Result:
    """Run a job in its run directory, and nothing else."""
    on_notice = hooks.on_notice
    origin = SANDBOX_ORIGIN if is_sandbox else job.spec.api.origin
    # What is refused leaves no trace: a directory gets its identity only when the run may begin, and by one process.
    check_origin(job.run_dir, RunIdentity.read(job.run_dir), origin=origin)
    key = ApiKey("sandbox") if is_sandbox else key_for(job.spec.api, allow_hosts=options.allow_hosts)
    with ExitStack() as stack:
        lock = stack.enter_context(RunLock(job.run_dir))
        identity = RunIdentity.open(job.run_dir, origin=origin)
        base_url = _start_sandbox(job, identity, options, stack) if is_sandbox else job.spec.api.base_url
        known = await _read_known(job, identity, options)
        proxy = None if is_sandbox else job.spec.api.proxy
        ca_file = Path(job.spec.api.ca_file) if job.spec.api.ca_file else None
        neighbours = stack.enter_context(neighbours_of(key, base_url, is_rehearsal=is_sandbox))
        async with Client(key, proxy=proxy, ca_file=ca_file) as client:
            reuse = await asyncio.to_thread(find_reuse, job, known, origin=origin)
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
        # Still under the lock: a run that begins now must not have its manifest replaced by this one's.
        if sink.has_recorded or options.retry_failed:
            known = await asyncio.to_thread(read_known, job.grid, job.run_dir, identity)
        await asyncio.to_thread(publish_results, job, known, base_url=base_url)
    if options.download_only:
        job = job.with_images()
    result = summarise(job, known, stop=stop, started=session.started, spent_before=session.spent_before)
    if stop is not None and stop.kind == "signal":
        return result  # whoever sent it waits for the end
    return replace(result, report=await asyncio.to_thread(report_at_end, job, on_notice))


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
