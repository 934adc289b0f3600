"""Bad nights by name, in virtual time: what they cost in unknown cells, in failed ones and in speed."""

import asyncio
from dataclasses import replace

import pytest

from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.engine.control import MAX_OPEN_POSTS
from batchflux.sandbox.config import HistoryInputs, Latency, SandboxConfig
from tests.engine.virtual import run_virtually
from tests.simulation import truth
from tests.simulation.plans import JobShape, Plan
from tests.simulation.service import EPOCH_S, Outage, Weather
from tests.simulation.world import World, calm

SETTLE_S = 60.0


def plan(cells: int, *, weather: Weather, latency_s: float, history_inputs: HistoryInputs = "on") -> Plan:
    """Return a job of so many cells on a service without limits, in some weather."""
    return Plan(
        seed=0,
        shape=JobShape(rows=cells, alike=1, seeds=1, images=1),
        config=SandboxConfig(
            latency=Latency(median_s=latency_s, sigma=0.0), concurrency=None, history_inputs=history_inputs
        ),
        weather=weather,
        settle_s=SETTLE_S,
        skew_s=0.0,
        sessions=(),
        concurrency=None,
        rate_per_s=None,
        max_attempts=4,
        timeout_s=1800.0,
        patience_s=12 * 3600.0,
        budget_micro_usd=None,
        foreign=0,
        order="rows",
    )


def run_once(scene: Plan) -> tuple[World, float]:
    """Run one session to its end; returns the world and how long it took in virtual seconds."""
    world = World(scene)

    async def main() -> float:
        await world.run_session(calm(0.0))
        truth.check_books(world, is_finished=True)
        return asyncio.get_running_loop().time()

    return world, run_virtually(main())


def between(facts: list[Fact], from_s: float, to_s: float) -> list[Fact]:
    """Return the facts of a span of virtual time."""
    return [fact for fact in facts if from_s <= fact.at_ms / 1000 - EPOCH_S < to_s]


def statuses(world: World) -> list[str]:
    """Return every cell's status."""
    return [str(status) for status in world.disk.state()["status"].to_pylist()]


@pytest.mark.fault("H18")
@pytest.mark.parametrize("history_inputs", ["on", "absent"])
def test_half_an_hour_of_502_after_create_costs_a_dozen_submissions(history_inputs: HistoryInputs) -> None:
    """At 83 submissions a second the breaker lets no more be lost than were open, and a dozen probes."""
    storm = Outage(kind="created_502", from_s=20.0, to_s=20.0 + 1800.0)
    scene = plan(2600, weather=Weather(outages=(storm,), most_way_s=0.05), latency_s=0.3, history_inputs=history_inputs)
    world, _ = run_once(replace(scene, rate_per_s=83.0))
    facts = world.disk.facts()
    started = [fact for fact in between(facts, 10.0, 20.0) if fact.kind is FactKind.ACCEPTED]
    assert len(started) >= 0.95 * 83 * 10, "the run was not at full speed when the storm began"
    lost = [fact for fact in between(facts, storm.from_s, storm.to_s + 30) if fact.kind is FactKind.UNANSWERED]
    assert 3 <= len({fact.cell_id for fact in lost}) <= MAX_OPEN_POSTS + 12
    unknown = statuses(world).count(CellStatus.UNKNOWN)
    assert unknown == (0 if history_inputs == "on" else len({fact.cell_id for fact in lost}))
    assert statuses(world).count(CellStatus.COMPLETED) == 2600 - unknown


def test_one_answer_in_five_lost_only_slows_down() -> None:
    """A hundred cells are all done, in at most twice the undisturbed time and the settling with its second look."""
    weather = Weather(submit={"lost_after": 0.2})
    _, undisturbed_s = run_once(plan(100, weather=Weather(), latency_s=10.0))
    world, took_s = run_once(plan(100, weather=weather, latency_s=10.0))
    assert world.service.met["lost_after"] >= 10
    assert statuses(world) == [CellStatus.COMPLETED] * 100
    assert took_s <= 2 * undisturbed_s + SETTLE_S * 7 / 6, (took_s, undisturbed_s)


def rates_around_an_hour_of_refusals() -> tuple[World, float, float]:
    """Live through an hour of 429 to all submissions; returns the acceptances a second before it and soon after it."""
    storm = Outage(kind="refusing_posts", from_s=60.0, to_s=60.0 + 3600.0)
    world, _ = run_once(replace(plan(3000, weather=Weather(outages=(storm,)), latency_s=4.0), concurrency=64))
    accepted = [fact for fact in world.disk.facts() if fact.kind is FactKind.ACCEPTED]
    before, after = between(accepted, 30.0, 60.0), between(accepted, storm.to_s + 120.0, storm.to_s + 150.0)
    return world, len(before) / 30, len(after) / 30


@pytest.mark.fault("H15")
def test_an_hour_of_refusals_fails_no_cell() -> None:
    """Every submission is answered with 429 for an hour, with all sorts of advice when to come again."""
    world, before_per_s, after_per_s = rates_around_an_hour_of_refusals()
    assert statuses(world) == [CellStatus.COMPLETED] * 3000
    probes = [fact for fact in between(world.disk.facts(), 120.0, 3600.0) if fact.kind is FactKind.INTENT]
    assert len(probes) <= (3600 - 120) / 10, "the service is asked again too often"
    assert after_per_s >= 0.4 * before_per_s


@pytest.mark.fault("H15")
def test_full_speed_is_back_two_minutes_after_an_hour_of_refusals() -> None:
    """The storm says nothing of how many predictions the service holds."""
    _, before_per_s, after_per_s = rates_around_an_hour_of_refusals()
    assert after_per_s >= 0.95 * before_per_s
