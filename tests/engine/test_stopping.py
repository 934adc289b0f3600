"""How a run ends early: signals keep what is known, a refusing disk is raised, and open POSTs are heard out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchflux.core.errors import StorageError
from batchflux.core.limits import Window
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.protocol import HttpAnswer, HttpRequest
from batchflux.engine.control import StopSwitch
from batchflux.engine.ports import Sink, StopReason
from batchflux.io.checkpoint import CheckpointWriter, read_facts
from tests.core.answers import answer, prediction_data
from tests.engine import virtual
from tests.engine.fakes import Images, MemorySink, Scene, Service, disk_full, times_submitted
from tests.io.durable import make_fact

SIGNAL = StopReason(kind="signal", message="stopped by SIGINT", signal=2)


def stopping_at(
    seconds: float, reason: StopReason = SIGNAL, *, abandon: bool = True
) -> Callable[[Scene], Coroutine[None, None, None]]:
    async def during(scene: Scene) -> None:
        await asyncio.sleep(seconds)
        scene.admission.switch.stop(reason, abandon=abandon)

    return during


@pytest.mark.fault("P04")
def test_a_signal_keeps_what_is_known() -> None:
    """No submission leaves after it, every open POST's answer is recorded, and predictions in flight stay submitted."""
    service = Service(post_s=3.0, work_s=500.0)
    scene = virtual.run(Scene(cells=100, transport=service, window=Window.capped(64), during=stopping_at(4.0)).play())
    assert scene.stop == SIGNAL
    assert all(at_s <= 1004.0 for at_s, _ in service.posts)
    assert service.open_posts == 0
    assert scene.statuses["submitted"] == len(service.done_at_s) == len(service.posts) > 4
    assert "unknown" not in scene.statuses
    assert {fact.prediction_id for fact in scene.sink.of(FactKind.ACCEPTED)} == set(service.done_at_s)
    assert scene.took_s < 8


def test_a_signal_does_not_wait_for_an_answer_that_never_comes() -> None:
    """Open POSTs are heard out for ten seconds; what hasn't answered by then is an intent, so unknown."""
    service = Service(post_s=1000.0)
    scene = virtual.run(Scene(cells=100, transport=service, window=Window.capped(64), during=stopping_at(4.0)).play())
    assert scene.took_s == pytest.approx(14.0, abs=0.1)
    assert {fact.kind for fact in scene.sink.last().values()} == {FactKind.INTENT}
    assert len(scene.sink.last()) == len(service.posts)


def test_a_signal_before_anything_was_sent() -> None:
    """A run that is stopped at its first moment has submitted nothing."""
    service = Service()
    scene = Scene(cells=10, transport=service, rate_per_s=0.001)
    scene.during = stopping_at(1.0)
    virtual.run(scene.play())
    assert scene.stop == SIGNAL
    assert len(service.posts) == 1


def test_a_signal_lets_go_of_downloads() -> None:
    """Images under way are left to the next run."""
    images = Images(seconds=1000.0)
    scene = virtual.run(Scene(cells=10, images=images, during=stopping_at(20.0)).play())
    assert scene.took_s < 21
    assert scene.statuses == {"completed": 10}
    assert scene.sink.of(FactKind.FILES) == []


def test_without_abandon_predictions_are_waited_for() -> None:
    """A run that stops for trouble still brings in what it has paid for."""
    trouble = StopReason(kind="trouble", message="the disk is nearly full")
    service = Service(work_s=60.0)
    scene = virtual.run(
        Scene(cells=100, transport=service, images=Images(), during=stopping_at(5.0, trouble, abandon=False)).play()
    )
    assert scene.stop == trouble
    assert scene.statuses["completed"] == len(service.posts)
    assert len(scene.sink.of(FactKind.FILES)) == len(service.posts)


@pytest.mark.fault("D01")
@pytest.mark.parametrize("full_after", [0, 1, 2, 3, 7, 20, 41])
def test_a_refusing_disk_ends_the_run_as_itself(full_after: int) -> None:
    """D01: whichever write it refuses, StorageError is what is raised, and nothing is sent without its intent."""
    service = Service()
    scene = Scene(cells=100, transport=service, sink=MemorySink(full_after=full_after), images=Images())
    with pytest.raises(StorageError, match="No space left"):
        virtual.run(scene.play())
    intents = [fact.body for fact in scene.sink.of(FactKind.INTENT)]
    assert all(body.decode() in intents for _, body in service.posts)


class TightSink(MemorySink):
    """A disk that is full from some moment on, but for what was kept free for answers."""

    def __init__(self, *, full_from_s: float) -> None:
        super().__init__()
        self._full_from_s = full_from_s

    def record(self, fact: Fact) -> None:
        if fact.kind is FactKind.INTENT and asyncio.get_running_loop().time() >= self._full_from_s:
            raise disk_full()
        super().record(fact)


def test_a_full_disk_lets_open_submissions_be_heard_out() -> None:
    """D01: answers that come within a minute of a refused write are stated, nothing more leaves, 0 are unknown."""
    service = Service(post_s=45.0, work_s=500.0)
    scene = Scene(cells=100, transport=service, sink=TightSink(full_from_s=1060.0), window=Window.capped(64))
    scene.rate_per_s = 0.2
    with pytest.raises(StorageError, match="No space left"):
        virtual.run(scene.play())
    assert service.open_posts == 0
    assert scene.statuses["submitted"] == len(service.posts) == len(service.done_at_s) > 4
    assert "unknown" not in scene.statuses
    assert max(at_s for at_s, _ in service.posts) < 1060


def test_a_failing_disk_does_not_wait_for_ever() -> None:
    """A POST has a minute at most: what hasn't answered by then is an intent, so unknown."""
    began_s = 1000.0
    service = Service(post_s=10_000.0)
    scene = Scene(cells=100, transport=service, sink=TightSink(full_from_s=1002.0), window=Window.capped(64))
    scene.rate_per_s = 1.0

    async def timed() -> float:
        with pytest.raises(StorageError):
            await scene.play()
        return asyncio.get_running_loop().time()

    assert virtual.run(timed()) == pytest.approx(began_s + 62, abs=1.1)
    assert {fact.kind for fact in scene.sink.last().values()} == {FactKind.INTENT}


def test_what_was_let_in_before_a_signal_does_not_leave_after_it() -> None:
    """P04: a submission whose intent is being flushed when the signal comes is taken back, its price with it."""

    class SlowDisk(MemorySink):
        async def intent(self, fact: Fact) -> None:
            self.record(fact)
            await asyncio.sleep(2.0)

    service = Service(work_s=500.0)
    scene = Scene(cells=100, transport=service, sink=SlowDisk(), window=Window.capped(8), during=stopping_at(1.0))
    virtual.run(scene.play())
    assert scene.stop == SIGNAL
    assert service.posts == []
    assert scene.statuses == {"pending": 100}
    assert len(scene.sink.of(FactKind.INTENT)) == len(scene.sink.of(FactKind.RELEASED)) == 8
    assert scene.budget.life_micro_usd == scene.spent() == 0


@pytest.mark.fault("D03", "P10")
def test_a_sink_that_fails_to_flush_ends_the_run() -> None:
    """D03: a failed flush of what nobody waits for ends the run too."""

    class Failing(MemorySink):
        async def run(self) -> None:
            await asyncio.sleep(2.0)
            raise disk_full()

    with pytest.raises(StorageError):
        virtual.run(Scene(cells=1000, sink=Failing()).play())


@pytest.mark.fault("P09")
def test_a_run_stopped_and_gone_on_with_submits_no_cell_twice() -> None:
    """Stopped at any of many moments and gone on with from its facts, every cell is sent once but the unknown ones."""
    for at_s in (0.05, 0.15, 0.9, 1.2, 2.0, 3.3):
        service = Service()
        first = virtual.run(Scene(cells=40, transport=service, during=stopping_at(at_s)).play())
        left = [index for index in range(40) if f"{index:032x}" not in first.sink.last()]
        pending = {cell_id for cell_id, fact in first.sink.last().items() if fact.status is CellStatus.PENDING}
        assert not pending
        assert len(service.posts) == 40 - len(left)
        assert set(times_submitted(service).values()) == {1}


# ---------------------------------------------------------------------------------------------------- the switch


def test_the_weightiest_reason_is_told() -> None:
    """A signal outranks trouble, trouble outranks what was asked; of equal ones the first stays."""
    switch = StopSwitch(lambda: None)
    asked, trouble = StopReason(kind="asked", message="a"), StopReason(kind="trouble", message="t")
    for reason, told in [(asked, asked), (trouble, trouble), (asked, trouble), (SIGNAL, SIGNAL), (trouble, SIGNAL)]:
        switch.stop(reason)
        assert switch.reason is told
    assert not switch.abandoned.is_set()
    switch.stop(asked, abandon=True)
    assert switch.abandoned.is_set()


# ---------------------------------------------------------------------------------------------------- the contract


@asynccontextmanager
async def real_sink(folder: Path) -> AsyncIterator[Sink]:
    async with CheckpointWriter.open(folder, "job") as writer:
        yield writer


@asynccontextmanager
async def fake_sink(folder: Path) -> AsyncIterator[Sink]:
    async with MemorySink() as sink:
        yield sink
        sinks[folder] = sink


sinks: dict[Path, MemorySink] = {}


@pytest.mark.parametrize("make", [real_sink, fake_sink])
def test_sink_contract(make: object, tmp_path: Path) -> None:
    """The fake and the real writer alike: facts come back in writing order, intents among them, after a clean end."""
    assert callable(make)
    facts = [make_fact(number, kind=kind) for number, kind in enumerate([*FactKind, FactKind.OUTCOME])]

    async def scene() -> None:
        async with make(tmp_path) as sink, asyncio.TaskGroup() as group:
            running = group.create_task(sink.run())
            for fact in facts:
                if fact.kind is FactKind.INTENT:
                    await sink.intent(fact)
                else:
                    sink.record(fact)
            running.cancel()

    asyncio.run(scene())
    if tmp_path in sinks:
        kept = [fact.cell_id for fact in sinks[tmp_path].facts]
        assert sinks[tmp_path].durable == len(facts)
    else:
        kept = read_facts(tmp_path).column("cell_id").to_pylist()
    assert kept == [fact.cell_id for fact in facts]


def test_a_late_answer_of_a_stopped_run_is_not_lost() -> None:
    """The answer that comes just within the ten seconds is recorded before the run ends."""

    def late(number: int, request: HttpRequest) -> HttpAnswer:
        return answer(prediction_data(id=f"late-{number}"))

    service = Service(post_s=9.0, reply=late)
    scene = virtual.run(Scene(cells=4, transport=service, window=Window.capped(4), during=stopping_at(0.5)).play())
    assert scene.statuses == {"submitted": 4}
    assert scene.took_s == pytest.approx(9.0, abs=0.1)
