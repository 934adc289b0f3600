"""One simulated life of a job: sessions that run, die and start again until it is finished, then the truth is told.

The engine, the flows, the fold and the laying over are the real ones, and so is what `app.work` makes of them; network,
disk and clock are simulated. Nothing here decides what a run does next: it only starts it, kills it and looks.
"""

import asyncio
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pyarrow as pa

from batchflux.app import work as app_work
from batchflux.app.job import Job, load_job
from batchflux.app.prepare import RunOptions
from batchflux.app.reading import lay_over
from batchflux.app.resume import Known
from batchflux.core.budget import Budget
from batchflux.core.errors import StorageError
from batchflux.core.limits import AUTO_MOST, Breaker, Health, Pace, Window
from batchflux.core.model import CellStatus, Fact, FactKind, JsonValue
from batchflux.core.progress import Progress
from batchflux.core.steps import CellState
from batchflux.engine.control import Admission
from batchflux.engine.local import Engine
from batchflux.engine.ports import StopReason
from batchflux.sandbox.behaviour import RETENTION_S
from tests.engine.virtual import run_virtually
from tests.simulation import truth
from tests.simulation.disk import Disk, SimulatedSink
from tests.simulation.plans import PRICE_MICRO_USD, JobShape, Plan, Session
from tests.simulation.service import BASE_URL, EPOCH_S, Creation, Service, Weather, body_text

__all__ = ["Story", "World", "calm", "live"]

# No session may last longer: the longest outage, the longest timeouts and all retries fit in many times over.
_LONGEST_SESSION_S = 12 * 3600.0
# A prediction that waits longer than `timeout` in the service's queue is left to the next session.
_MOST_CALM_SESSIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened in one life, for the totals."""

    seed: int
    cells: int
    sessions: int
    crashes: int
    submissions: int
    created: int
    adopted: int
    unknown: int
    virtual_s: float
    met: Counter[str]


class _Silent:
    """An observer that keeps the notes, to be read when a seed has failed."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Mapping[str, JsonValue]]] = []

    def fact(self, fact: Fact) -> None:
        """Facts are on the disk."""

    def note(self, event: str, **details: JsonValue) -> None:
        """Keep a note."""
        self.notes.append((event, details))

    def tick(self, progress: Progress) -> None:
        """Nothing is shown."""


@lru_cache(maxsize=512)
def _job_of(shape: JobShape, order: str) -> Job:
    """Return the job of a shape, read by the real reader."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / "p.csv"
        rows = [f"prompt {row // shape.alike}" for row in range(shape.rows)]
        table.write_text("prompt\n" + "\n".join(rows) + "\n")
        seeds = f"grid: {{seed: {list(range(1, shape.seeds + 1))}}}\n" if shape.seeds else ""
        params = f"params: {{num_images: {shape.images}}}\n" if shape.images > 1 else ""
        text = f"prompts: {{path: p.csv}}\noutput: {{download: false}}\nrun: {{order: {order}}}\n{seeds}{params}"
        (Path(folder) / "job.yaml").write_text(text)
        return load_job(Path(folder) / "job.yaml")


class World:
    """One seed's job, service and disk. `live` runs it to its end; raises AssertionError where a promise is broken."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.job = _job_of(plan.shape, plan.order)
        self.disk = Disk()
        self.dice = random.Random(f"world {plan.seed}")
        self.service = Service(
            plan.config,
            weather=plan.weather,
            settle_s=plan.settle_s,
            skew_s=plan.skew_s,
            dice=random.Random(f"service {plan.seed}"),
        )
        self.service.before_post = self._before_post
        self.service.on_creation = self._on_creation
        self.life_budget = plan.budget_micro_usd
        self.session_budgets: dict[int, int | None] = {}
        self.observer = _Silent()
        self.crashes = 0
        self.has_resubmitted = self.has_retried = self.has_slept_long = False
        self.problems: list[str] = []
        self._intents: dict[str, list[int]] = defaultdict(list)
        self._posts: Counter[str] = Counter()
        self._bodies: dict[str, str] = {}
        for index in range(self.job.grid.n_indexes):
            work = app_work.work_of(self.job, index, CellState())
            self._bodies[work.cell.cell_id] = body_text(dict(work.cell.body))

    # ------------------------------------------------------------------------------------------ what is watched

    def _heard(self, fact: Fact) -> None:
        if fact.kind is FactKind.INTENT:
            self._intents[self._bodies[fact.cell_id]].append(len(self.disk.payloads))

    def _before_post(self, body: str) -> None:
        self._posts[body] += 1
        if sum(place <= self.disk.flushed for place in self._intents[body]) < self._posts[body]:
            self.problems.append(f"a POST of {body} left before its intent was durable")

    def _on_creation(self, creation: Creation) -> None:
        self.problems += truth.overspent(
            self.service,
            session=creation.session,
            life_micro_usd=self.life_budget,
            session_micro_usd=self.session_budgets[creation.session],
        )

    # ------------------------------------------------------------------------------------------ sessions

    def known(self) -> Known:
        """Return what the disk tells, laid over the grid."""
        return lay_over(self.job.grid, self.disk.table())

    def wall_ms(self) -> int:
        """Return our own clock."""
        return round((EPOCH_S + asyncio.get_running_loop().time()) * 1000)

    async def run_session(self, session: Session) -> StopReason | None:
        """Start a process over what the disk holds and see it to the end that the session has."""
        await asyncio.sleep(session.after_s)
        self.disk.start_again()
        self.service.begin_session()
        self._intents.clear()
        self._posts.clear()
        self.session_budgets[self.service.session] = session.budget_micro_usd
        self.has_resubmitted |= session.resubmits
        self.has_slept_long |= session.after_s > RETENTION_S
        self.has_retried |= session.retries_failed
        known = self.known()
        options = RunOptions(retry_failed=session.retries_failed, resubmit_unknown=session.resubmits)
        if session.retries_failed:
            known = known.taking_up(CellStatus.FAILED)
        sink = SimulatedSink(
            self.disk,
            dice=self.dice,
            fails_at_flush=session.at_flush if session.ending == "disk" else None,
            heard=self._heard,
            slow_share=self.plan.slow_flush_share,
        )
        progress = Progress.of(known.statuses)
        engine = self._engine(session, known, sink, progress)
        lost = [
            (app_work.work_of(self.job, index, each.before), each) for index, each in known.lost(now_ms=self.wall_ms())
        ]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        task = loop.create_task(engine.run(app_work.work_left(self.job, known, options), lost))
        if session.ending in ("kill", "power", "signal"):
            loop.call_later(session.at_s, self._end, session, task, sink, engine)
        loop.call_later(_LONGEST_SESSION_S, task.cancel, "too long")
        try:
            stop = await task
        except asyncio.CancelledError:
            assert loop.time() - began_s < _LONGEST_SESSION_S, "a session that doesn't end"
            return None
        except StorageError:
            assert session.ending == "disk"
            self.crashes += 1
            sink.die()
            if self.dice.random() < 0.5:
                self.disk.cut_power(self.dice)
            return None
        sink.die()
        assert engine.admission.open_posts == 0 or stop is not None
        if not session.retries_failed:  # cells that were to be tried again and were not are failed as before
            truth.check_progress(progress, self.known())
        return stop

    def _end(
        self, session: Session, task: "asyncio.Task[StopReason | None]", sink: SimulatedSink, engine: Engine
    ) -> None:
        """End a process as the session says, if it is still there."""
        if task.done():
            return
        if session.ending == "signal":
            engine.admission.switch.stop(StopReason(kind="signal", message="SIGINT", signal=2), abandon=True)
            return
        self.crashes += 1
        sink.die()
        if session.ending == "power":
            self.disk.cut_power(self.dice)
        task.cancel()

    def _engine(self, session: Session, known: Known, sink: SimulatedSink, progress: Progress) -> Engine:
        """Return the engine as `app.spend` makes it, with simulated parts."""
        plan, loop, dice = self.plan, asyncio.get_running_loop(), random.Random(self.dice.random())
        concurrency = plan.concurrency
        progress.spent_micro_usd = known.spent_micro_usd
        admission = Admission(
            window=Window.learned() if concurrency is None else Window.capped(concurrency),
            pace=Pace(images_per_s=plan.rate_per_s),
            breaker=Breaker(),
            health=Health(patience_s=plan.patience_s, began_at_s=loop.time()),
            budget=Budget(
                life_limit_micro_usd=self.life_budget,
                session_limit_micro_usd=session.budget_micro_usd,
                life_micro_usd=known.spent_micro_usd,
            ),
            max_cells=session.limit,
        )
        engine = Engine(
            transport=self.service,
            sink=sink,
            observer=self.observer,
            admission=admission,
            progress=progress,
            downloads=None,
            base_url=BASE_URL,
            max_attempts=plan.max_attempts,
            timeout_s=plan.timeout_s,
            most_workers=min(concurrency or AUTO_MOST, max(1, progress.n_cells - progress.n_done)),
            settle_s=plan.settle_s,
            known_ids=self._known_ids,
            resubmits_unknown=session.resubmits,
            price_of=lambda work: PRICE_MICRO_USD * work.cell.images,
            wall_ms=self.wall_ms,
            dice=dice.random,
            pulse=_no_pulse,
        )
        admission.expected_s = engine.expected_s
        return engine

    async def _known_ids(self, since_ms: int) -> Mapping[str, int | None]:
        """Return what `app.work` tells of the ids on record, read from the simulated disk."""

        def stream(
            run_dir: Path, *, columns: list[str], begin: Callable[[], Callable[[pa.Table], None]]
        ) -> tuple[str, ...]:
            begin()(self.disk.table().select(columns))
            return ()

        with patch.object(app_work, "stream_facts", stream), patch.object(asyncio, "to_thread", _at_once):
            return await app_work.known_ids(self.job)(since_ms)

    # ------------------------------------------------------------------------------------------ a life

    async def live(self) -> Story:
        """Run all sessions, then calm ones until the job is finished, and hold everything against the truth."""
        loop = asyncio.get_running_loop()
        for number in range(self.plan.foreign):
            loop.call_later(self.dice.uniform(0, 300), self.service.create_foreign, number)
        for session in self.plan.sessions:
            await self.run_session(session)
            if self.dice.random() < 0.3:
                self.service.top_up(self.dice.uniform(0.1, 3.0))
            truth.check_books(self, is_finished=False)
        await self._finish()
        truth.check_books(self, is_finished=True)
        await self._run_again()
        return self._story()

    async def _finish(self) -> None:
        """Let the sun shine, give all the money, and let the job come to its end."""
        weather = self.service.weather
        self.service.weather = Weather(has_history=weather.has_history, codeless_share=weather.codeless_share)
        self.service.top_up(1e6)
        self.life_budget = None
        self.service.behaviour.config = replace(self.service.behaviour.config, rate=None)
        for _ in range(_MOST_CALM_SESSIONS):
            stop = await self.run_session(calm(self._queue_s() + 2 * self.plan.settle_s + 60))
            assert stop is None, f"in calm weather the run stopped: {stop}"
            if not self._is_waiting():
                return
        raise AssertionError("the job doesn't end")

    def _is_waiting(self) -> bool:
        """Return whether a cell waits for a prediction that will end."""
        ends = {each.record.id: each.record.finished_at_s for each in self.service.creations}
        rows = self.disk.state().to_pylist()
        return any(row["status"] == "submitted" and math.isfinite(ends[row["prediction_id"]]) for row in rows)

    def _queue_s(self) -> float:
        """Return how long the service will still be at work on what it has."""
        ends = [each.record.finished_at_s for each in self.service.creations]
        return max([0.0, *(end - self.service.clock_s() for end in ends if math.isfinite(end))])

    async def _run_again(self) -> None:
        """A finished job submits nothing more, and has nothing else to do than to ask after what is unknown."""
        posts, state = self.service.posts, self.disk.state()
        stop = await self.run_session(calm(1.0))
        assert stop is None
        assert self.service.posts == posts, "a rerun of a finished job submitted something"
        assert self.disk.state()["status"].equals(state["status"])

    def _story(self) -> Story:
        facts = self.disk.facts()
        intents = {(fact.cell_id, fact.attempt) for fact in facts if fact.kind is FactKind.UNANSWERED}
        return Story(
            seed=self.plan.seed,
            cells=self.job.grid.n_cells,
            sessions=self.service.session,
            crashes=self.crashes,
            submissions=self.service.posts,
            created=len(self.service.creations),
            adopted=sum(fact.kind is FactKind.ACCEPTED and (fact.cell_id, fact.attempt) in intents for fact in facts),
            unknown=truth.count_unknown(self.disk.state()),
            virtual_s=asyncio.get_running_loop().time(),
            met=self.service.met,
        )

    @property
    def can_tell_all(self) -> bool:
        """Return whether the history says in the end what became of every submission."""
        return self.plan.can_tell_all and not self.has_slept_long

    @property
    def bodies(self) -> Mapping[str, str]:
        """Each cell's request body as text, by cell id."""
        return self._bodies


def calm(after_s: float) -> Session:
    """Return a session without any end of its own, begun so much later."""
    return Session(
        after_s=after_s,
        ending="end",
        at_s=0.0,
        at_flush=0,
        limit=None,
        budget_micro_usd=None,
        resubmits=False,
        retries_failed=False,
        is_calm=True,
    )


async def _no_pulse() -> None:
    """There is no house to keep."""


async def _at_once(function, *args):  # type: ignore[no-untyped-def]
    return function(*args)


def live(plan: Plan) -> Story:
    """Live one plan in virtual time; raises AssertionError where a promise is broken."""

    async def main() -> Story:
        with suppress(asyncio.CancelledError):
            return await World(plan).live()
        raise AssertionError("the whole simulation was cancelled")

    return run_virtually(main())
