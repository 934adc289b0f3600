"""Runs a job from start to end: prepare, ask, run, publish. Read `run_async` from top to bottom.

Money is spent by the engine alone, and only between the checkpoint's opening and its closing. Everything before it may
refuse, everything after it only tells.
"""

import asyncio
import errno
import json
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.job import Job
from batchflux.app.plan import Plan, make_plan
from batchflux.app.preflight import Preflight, ask_service, prices_of
from batchflux.app.publish import publish_results
from batchflux.app.resume import Known, lay_over
from batchflux.app.rundir import SANDBOX_ORIGIN, RunIdentity, check_origin, freeze_job, read_facts_of, twin_of
from batchflux.app.stopping import Bell, Signals
from batchflux.app.summary import Result, summarise
from batchflux.core.budget import Budget
from batchflux.core.errors import RunInterrupted, StorageError, UsageError
from batchflux.core.flow import CellState
from batchflux.core.limits import AUTO_MOST, Breaker, Health, Pace, Window
from batchflux.core.model import CellStatus
from batchflux.core.origin import host_of, is_loopback_host
from batchflux.core.progress import Progress
from batchflux.core.resolution import Unresolved
from batchflux.engine.control import Admission
from batchflux.engine.downloading import DownloadPool
from batchflux.engine.local import Engine
from batchflux.engine.observers import Several
from batchflux.engine.ports import Download, Observer, StopReason, Watcher, Work
from batchflux.io.checkpoint import CheckpointWriter, read_facts
from batchflux.io.client import ApiKey, Client
from batchflux.io.downloads import Downloader
from batchflux.io.lock import RunLock
from batchflux.io.runlog import RunLog, log_level
from batchflux.io.storage import free_bytes
from batchflux.sandbox import SandboxProcess

__all__ = ["Question", "RunOptions", "run", "run_async"]

# Below this the next images, parts and manifest may not fit, and a full disk is the worst place to stop.
_LEAST_FREE_BYTES = 64 << 20
_DISK_EVERY_S = 10.0
# The manifest is refreshed only while that costs less than a hundredth of the time since the last one.
_MANIFEST_SHARE = 0.01
_MANIFEST_EVERY_S = 60.0
# The history reaches back a week (documentation), so no older id can be listed.
_WEEK_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line adds to a spec, for this time only. `until_at_s` is seconds since the epoch."""

    limit: int | None = None
    budget_micro_usd: int | None = None
    until_at_s: float | None = None
    sandbox: bool = False
    sandbox_options: tuple[str, ...] = ()
    retry_failed: bool = False
    resubmit_unknown: bool = False
    download_only: bool = False
    allow_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked before money is spent: the plan, the balance, and how many cells that buys."""

    plan: Plan
    cost_micro_usd: int
    balance_micro_usd: int | None
    affordable_cells: int | None


Ask = Callable[[Question], bool]
MakeObserver = Callable[[Progress], Watcher]


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
    bell: Bell | None = None,
) -> Result:
    """Run a job; see `run`. `ask` is asked before money is spent, `observe` makes what watches the run.

    `bell` stops it from another thread.
    """
    options = options or RunOptions()
    job, is_sandbox = _place(job, options)
    origin = SANDBOX_ORIGIN if is_sandbox else job.spec.api.origin
    # What is refused leaves no trace: a directory gets its identity only when the run may begin, and by one process.
    check_origin(job.run_dir, RunIdentity.read(job.run_dir), origin=origin)
    key = ApiKey("sandbox") if is_sandbox else _key(job, options)
    with ExitStack() as stack:
        stack.enter_context(RunLock(job.run_dir))
        identity = RunIdentity.open(job.run_dir, origin=origin)
        base_url = _start_sandbox(job, options, stack) if is_sandbox else job.spec.api.base_url
        known = lay_over(job.grid, await asyncio.to_thread(read_facts_of, job.run_dir, identity))
        if options.retry_failed:
            known = known.taking_up(CellStatus.FAILED)
        proxy = None if is_sandbox else job.spec.api.proxy
        ca_file = Path(job.spec.api.ca_file) if job.spec.api.ca_file else None
        async with Client(key, proxy=proxy, ca_file=ca_file) as client:
            session = await _prepare(job, options, known, client, base_url, ask=ask, on_plan=on_plan)
            job = freeze_job(job)
            async with _checkpoint(job.run_dir, identity) as sink:
                stop = await _spend(job, options, known, client, sink, session=session, observe=observe, bell=bell)
        # Still under the lock: a run that begins now must not have its manifest replaced by this one's.
        facts = await asyncio.to_thread(read_facts_of, job.run_dir, identity)
        known = lay_over(job.grid, facts)
        await asyncio.to_thread(publish_results, job, known, base_url=base_url)
    if options.download_only:
        job = job.with_images()
    return summarise(job, known, stop=stop, started=session.started, spent_before=session.spent_before)


@dataclass(kw_only=True)
class _Session:
    """What is settled before the engine starts."""

    base_url: str
    prices: Mapping[str, int]
    budget: Budget
    started: float
    spent_before: int
    is_loopback: bool
    listed_params: Mapping[str, frozenset[str]]


def _place(job: Job, options: RunOptions) -> tuple[Job, bool]:
    """Return the job at the directory that it runs in, and whether that is a sandbox's."""
    is_twin = job.is_run_dir and (found := RunIdentity.read(job.run_dir)) is not None and found.origin == SANDBOX_ORIGIN
    if options.sandbox and not is_twin:
        return job.at(twin_of(job.run_dir)), True
    return job, is_twin


def _start_sandbox(job: Job, options: RunOptions, stack: ExitStack) -> str:
    """Start a rehearsal's sandbox for the time of the run; returns its base URL. Raises UsageError."""
    state = ["--state", str(job.run_dir / "sandbox")]
    return stack.enter_context(SandboxProcess([*state, *options.sandbox_options])).base_url


def _key(job: Job, options: RunOptions) -> ApiKey:
    """Return the key for a host that may have it. Raises UsageError."""
    api = job.spec.api
    if not (api.is_default_host or api.is_loopback or api.host in options.allow_hosts):
        raise UsageError(
            f"api.base_url names the host {api.host}, which would be sent your key; "
            f"if you trust it, add --allow-host {api.host}"
        )
    return ApiKey.from_environment(api.key_env)


def _resubmits(job: Job, options: RunOptions) -> bool:
    """Return whether what can't be told is sent again, though it may be paid twice."""
    return options.resubmit_unknown or job.spec.run.on_unknown == "resubmit"


async def _prepare(
    job: Job,
    options: RunOptions,
    known: Known,
    client: Client,
    base_url: str,
    *,
    ask: Ask | None,
    on_plan: Callable[[Plan, Preflight], None] | None,
) -> _Session:
    """Ask the service, say what will be spent, and ask the user. Raises before anything is spent."""
    preflight = Preflight(balance_micro_usd=None, prices_micro_usd={})
    prices: dict[str, int] = {}
    if known.has_open_cells() and not options.download_only:
        preflight = await ask_service(client, job.spec, job.grid, base_url=base_url)
        prices = prices_of(job.spec, preflight.prices_micro_usd)
    # What may be sent again is planned as if it were: the history may yet show that it need not be.
    planned = known.taking_up(CellStatus.UNKNOWN) if _resubmits(job, options) else known
    plan = make_plan(job, known=planned, prices=prices)
    to_pay = plan.to_pay if prices else 0
    spent = known.spent_micro_usd
    is_loopback = is_loopback_host(host_of(base_url))
    if on_plan is not None:
        on_plan(plan, preflight)
    if to_pay and not is_loopback:
        cost = round((plan.cost_usd or 0) * 1_000_000)
        most = min([cost, *_bounds(job, options, prices, spent_micro_usd=spent)])
        balance = preflight.balance_micro_usd
        too_little = balance is not None and balance < most
        if ask is not None and (too_little or spent + most > _agreed(job.run_dir)):
            affordable = balance * plan.to_pay // cost if too_little and balance is not None else None
            question = Question(plan=plan, cost_micro_usd=most, balance_micro_usd=balance, affordable_cells=affordable)
            if not ask(question):
                raise UsageError("nothing was submitted")
        # What was bounded was agreed to in these bounds alone.
        _agree(job.run_dir, spent + most)
    _check_disk(job)
    budget = Budget(
        life_limit_micro_usd=job.spec.run.budget_micro_usd,
        session_limit_micro_usd=options.budget_micro_usd,
        life_micro_usd=spent,
    )
    return _Session(
        base_url=base_url,
        prices=prices,
        budget=budget,
        started=time.monotonic(),
        spent_before=spent,
        is_loopback=is_loopback,
        listed_params=preflight.listed_params,
    )


def _bounds(job: Job, options: RunOptions, prices: Mapping[str, int], *, spent_micro_usd: int) -> list[int]:
    """Return what this run can't spend more than, in micro-USD, as its budgets and its limit of cells say."""
    bounds = []
    if options.budget_micro_usd is not None:
        bounds.append(options.budget_micro_usd)
    if job.spec.run.budget_micro_usd is not None:
        bounds.append(max(0, job.spec.run.budget_micro_usd - spent_micro_usd))
    if options.limit is not None:
        bounds.append(options.limit * max(prices.values()) * job.grid.most_images)
    return bounds


_AGREED_FILE = "agreed.json"


def _agreed(run_dir: Path) -> int:
    """Return the micro-USD up to which the user has agreed that this run may cost in its whole life."""
    try:
        return int(json.loads((run_dir / _AGREED_FILE).read_text())["micro_usd"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _agree(run_dir: Path, micro_usd: int) -> None:
    from batchflux.io.storage import publish_bytes

    if micro_usd > _agreed(run_dir):
        publish_bytes(run_dir / _AGREED_FILE, json.dumps({"micro_usd": micro_usd}).encode())


def _check_disk(job: Job) -> None:
    free = free_bytes(job.run_dir)
    if free < _LEAST_FREE_BYTES:
        full = OSError(errno.ENOSPC, f"only {free >> 20} MB are free on this disk")
        raise StorageError(job.run_dir, doing="begin the run", cause=full)


@asynccontextmanager
async def _checkpoint(run_dir: Path, identity: RunIdentity) -> AsyncIterator[CheckpointWriter]:
    writer = await asyncio.to_thread(CheckpointWriter.open, run_dir, identity.run_id)
    async with writer:
        yield writer


async def _spend(
    job: Job,
    options: RunOptions,
    known: Known,
    client: Client,
    sink: CheckpointWriter,
    *,
    session: _Session,
    observe: MakeObserver | None,
    bell: Bell | None,
) -> StopReason | None:
    """Run the engine over what is left; returns why it stopped early, if it did."""
    spec, loop = job.spec, asyncio.get_running_loop()
    progress = Progress.of(known.statuses)
    progress.spent_micro_usd = session.spent_before
    log = RunLog(job.run_dir / "run.log", level=log_level())
    seen = observe(progress) if observe is not None else None
    observer: Observer = Several([log, seen]) if seen is not None else log
    dice = random.SystemRandom().random
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
    async with Downloader(job.run_dir, allow_loopback=session.is_loopback, proxy=spec.api.proxy) as downloader:
        pool = None
        if spec.output.download or options.download_only:
            pool = DownloadPool(
                downloads=downloader,
                transport=client,
                sink=sink,
                observer=observer,
                progress=progress,
                base_url=session.base_url,
                wall_ms=_wall_ms,
                dice=dice,
                backlog=_backlog(job, known, look_on_disk=options.download_only),
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
            known_ids=_known_ids(job),
            listed_params=session.listed_params,
            resubmits_unknown=_resubmits(job, options),
            price_of=lambda work: session.prices[work.cell.model] * work.cell.images,
            wall_ms=_wall_ms,
            dice=dice,
            pulse=_pulse(job, sink, progress, observer, admission, base_url=session.base_url),
        )
        admission.expected_s = engine.expected_s
        observer.note("start", cells=progress.n_cells, pending=progress.counts[CellStatus.PENDING])
        work = iter(()) if options.download_only else _work(job, known, options)
        lost = [] if options.download_only else _lost(job, known)
        with Signals(admission, bell, observer) as signals:
            try:
                stop = await engine.run(work, lost)
            except asyncio.CancelledError:
                if signals.hurried_by is None:
                    raise
                raise RunInterrupted(name=signals.hurried_by.name, number=signals.hurried_by) from None
            finally:
                progress.in_flight = admission.window.in_flight
                observer.tick(progress)
                observer.note("stop", **{str(status): count for status, count in progress.counts.items()})
                if seen is not None:
                    seen.close()
                log.close()
    return stop


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _work(job: Job, known: Known, options: RunOptions) -> Iterator[Work]:
    """Yield what the service knows already, then what is pending, each with what is known of it."""
    pending = known.pending(job.grid, job.spec.run.order)  # before any of those that are in flight can fail
    for index, state in known.states(known.places(CellStatus.SUBMITTED)):
        yield _work_of(job, index, state)
    before = dict(known.states(known.places(CellStatus.PENDING, CellStatus.FAILED, CellStatus.UNKNOWN)))
    untried = CellState()
    for index in pending:
        state = before.get(index, untried)
        if options.retry_failed:
            # Failed cells get max_attempts anew; what they have cost stays counted.
            state = replace(state, attempts=0) if state.attempts else state
        yield _work_of(job, index, state)


def _lost(job: Job, known: Known) -> list[tuple[Work, Unresolved]]:
    """Return the submissions whose answers an earlier run didn't hear, with their cells."""
    return [(_work_of(job, index, lost.before), lost) for index, lost in known.lost(now_ms=_wall_ms())]


def _known_ids(job: Job) -> Callable[[int], Awaitable[Mapping[str, int | None]]]:
    """Return what tells every prediction id that the run was given since a moment, by the service's time of it."""

    def read(since_ms: int) -> dict[str, int | None]:
        facts = read_facts(job.run_dir, columns=["at", "prediction_id", "created_at"])
        since = pa.scalar(since_ms - _WEEK_MS, pa.timestamp("ms", tz="UTC"))
        recent = facts.filter(pc.and_(pc.is_valid(facts["prediction_id"]), pc.greater_equal(facts["at"], since)))
        times = pc.cast(recent["created_at"], pa.int64()).to_pylist()
        return dict(zip(recent["prediction_id"].to_pylist(), times, strict=True))

    async def known_ids(since_ms: int) -> Mapping[str, int | None]:
        return await asyncio.to_thread(read, since_ms)

    return known_ids


def _work_of(job: Job, index: int, state: CellState) -> Work:
    row, combination = divmod(index, job.grid.n_combinations)
    cell = job.grid.cell(index, job.rows.part(row))
    labels = job.grid.combination_values(combination)
    shown = {
        axis.name: cell.body.get("seed") if axis.kind == "row_seed" else labels[axis.name] for axis in job.grid.axes
    }
    return Work(cell=cell, state=state, labels=shown)


def _backlog(job: Job, known: Known, *, look_on_disk: bool) -> Iterator[Download]:
    """Yield the images that an earlier run left: completed cells without files, or whose files are gone."""
    places = known.places(CellStatus.COMPLETED)
    columns = ["attempt", "prediction_id", "outputs", "files"]
    for first in range(0, len(places), 1024):
        some = places[first : first + 1024]
        rows = known.facts.select(columns).take(some).to_pylist()
        for index, row in zip(known.indexes[some].tolist(), rows, strict=True):
            files = row["files"] or []
            if files and not (look_on_disk and not all((job.run_dir / file).is_file() for file in files)):
                continue
            if row["outputs"]:
                work = _work_of(job, index, CellState())
                yield Download(
                    cell=work.cell,
                    labels=work.labels,
                    attempt=row["attempt"],
                    prediction_id=row["prediction_id"] or "",
                    urls=tuple(row["outputs"]),
                )


def _pulse(
    job: Job,
    sink: CheckpointWriter,
    progress: Progress,
    observer: Observer,
    admission: Admission,
    *,
    base_url: str,
) -> Callable[[], Awaitable[None]]:
    """Return what is done once a second while a run is at work: seal, look at the disk, show, refresh the manifest."""
    loop = asyncio.get_running_loop()
    due = {"disk": 0.0, "manifest": loop.time() + _MANIFEST_EVERY_S}

    async def pulse() -> None:
        now_s = loop.time()
        await sink.seal_if_due(now_s)
        observer.tick(progress)
        if now_s >= due["disk"]:
            due["disk"] = now_s + _DISK_EVERY_S
            free = free_bytes(job.run_dir)
            if free < _LEAST_FREE_BYTES:
                message = f"the disk is nearly full ({free >> 20} MB free): make room, then run again"
                admission.switch.stop(StopReason(kind="trouble", message=message))
        if now_s >= due["manifest"]:
            await asyncio.to_thread(_refresh_manifest, job, base_url)
            took_s = loop.time() - now_s
            due["manifest"] = loop.time() + max(_MANIFEST_EVERY_S, took_s / _MANIFEST_SHARE)

    return pulse


def _refresh_manifest(job: Job, base_url: str) -> None:
    identity = RunIdentity.read(job.run_dir)
    publish_results(job, lay_over(job.grid, read_facts_of(job.run_dir, identity)), base_url=base_url)
