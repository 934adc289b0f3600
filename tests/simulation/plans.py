"""What one seed means: the job, the service's manners, the weather, and how each session of the run ends."""

import random
from dataclasses import dataclass, replace
from typing import Literal

from batchflux.sandbox.config import Latency, Rate, SandboxConfig
from tests.simulation.service import Outage, OutageKind, Weather

__all__ = ["JobShape", "Plan", "Session", "draw_plan"]

PRICE_MICRO_USD = 80_000

_SUBMIT_FAULTS = (
    "not_sent", "lost_before", "lost_after", "late", "hang_before", "hang_after", "429", "400", "500_before",
    "502_after", "408_after", "409_before", "garbage_before", "garbage_after", "html_after", "stale_after", "slow",
)  # fmt: skip
_POLL_FAULTS = ("lost", "404", "500", "502", "429", "garbage", "word", "empty")
_HISTORY_FAULTS = ("lost", "429", "500", "garbage", "html", "missing")
_OUTAGES: tuple[OutageKind, ...] = (
    "unreachable",
    "bad_gateway",
    "created_502",
    "refusing",
    "refusing_posts",
    "hanging",
)
_CODES = (1200, 1403, 1405, 1406, 5000, 5003)

Ending = Literal["end", "kill", "power", "disk", "signal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobShape:
    """A job: rows (some of them alike), seeds stated or drawn, images a request."""

    rows: int
    alike: int
    seeds: int
    images: int

    @property
    def cells(self) -> int:
        """How many cells the job has."""
        return self.rows * max(1, self.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One process: its options, how it ends and when, and how long nothing runs before it."""

    after_s: float
    ending: Ending
    at_s: float
    at_flush: int
    limit: int | None
    budget_micro_usd: int | None
    resubmits: bool
    retries_failed: bool
    is_calm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about one seed that is settled before it begins."""

    seed: int
    shape: JobShape
    config: SandboxConfig
    weather: Weather
    settle_s: float
    skew_s: float
    sessions: tuple[Session, ...]
    concurrency: int | None
    rate_per_s: float | None
    max_attempts: int
    timeout_s: float
    patience_s: float
    budget_micro_usd: int | None
    foreign: int
    order: Literal["rows", "balanced"]
    slow_flush_share: float = 0.0

    @property
    def can_tell_all(self) -> bool:
        """Whether the history says in the end what became of every submission."""
        return self.weather.has_history and self.config.history_inputs == "on"


def draw_plan(seed: int) -> Plan:
    """Draw everything from one seed."""
    dice = random.Random(f"plan {seed}")
    shape = JobShape(
        rows=dice.randint(5, 30),
        alike=dice.choice((1, 1, 2, 4)),
        seeds=dice.choice((0, 0, 1, 2)),
        images=dice.choice((1, 1, 1, 3)),
    )
    settle_s = dice.choice((6.0, 20.0, 60.0))
    cost = shape.cells * shape.images * PRICE_MICRO_USD
    weather = _weather(dice)
    config = _config(dice, settle_s=settle_s, cost_usd=cost / 1e6)
    if config.concurrency is not None:
        weather = replace(
            weather, stuck_share=0.0
        )  # what never ends would hold its place, and the others out, for ever
    return Plan(
        seed=seed,
        shape=shape,
        config=config,
        weather=weather,
        settle_s=settle_s,
        skew_s=dice.choice((0.0, dice.uniform(-3, 3), dice.uniform(-600, 600))),
        sessions=tuple(_session(dice, cells=shape.cells, cost=cost) for _ in range(dice.randint(0, 6))),
        concurrency=dice.choice((None, None, 1, 3, 10)),
        rate_per_s=dice.choice((None, None, None, 0.5, 5.0)),
        max_attempts=dice.randint(1, 4),
        timeout_s=dice.choice((120.0, 600.0, 1800.0)),
        patience_s=dice.choice((60.0, 600.0, 3600.0)),
        budget_micro_usd=dice.choice((None, None, round(cost * dice.uniform(0.1, 1.0)))),
        foreign=dice.choice((0, 0, 5, 120)),
        order=dice.choice(("rows", "balanced")),
        slow_flush_share=dice.choice((0.0, 0.01)),
    )


def _some(dice: random.Random, faults: tuple[str, ...], *, most: float) -> dict[str, float]:
    chosen = [fault for fault in faults if dice.random() < 0.35]
    return {fault: dice.uniform(0.005, most / max(1, len(chosen))) for fault in chosen}


def _weather(dice: random.Random) -> Weather:
    submit = _some(dice, _SUBMIT_FAULTS, most=0.7)
    for rare in ("401", "redirect"):
        if dice.random() < 0.05:
            submit[rare] = 0.01
    outages = []
    for _ in range(dice.choice((0, 0, 0, 1, 1, 2))):
        from_s = dice.uniform(0, 240)
        to_s = from_s + dice.choice((5.0, 60.0, 600.0, 2400.0)) * dice.random()
        outages.append(Outage(kind=dice.choice(_OUTAGES), from_s=from_s, to_s=to_s))
    return Weather(
        submit=submit,
        poll=_some(dice, _POLL_FAULTS, most=0.5),
        history=_some(dice, _HISTORY_FAULTS, most=0.5),
        outages=tuple(outages),
        has_history=dice.random() < 0.85,
        stuck_share=dice.choice((0.0, 0.0, 0.0, 0.03)),
        codeless_share=dice.choice((0.0, 0.3)),
        slow_share=dice.choice((0.0, 0.1)),
    )


def _config(dice: random.Random, *, settle_s: float, cost_usd: float) -> SandboxConfig:
    chosen = [code for code in _CODES if dice.random() < 0.3]
    return SandboxConfig(
        latency=Latency(median_s=dice.choice((0.3, 2.0, 10.0)), sigma=dice.choice((0.0, 0.35, 1.0))),
        concurrency=dice.choice((None, 3, 16)),
        rate=dice.choice((None, None, Rate(images=10), Rate(images=200))),
        over_limit=dice.choice(("queue", "refuse")),
        retry_after=dice.random() < 0.5,
        failures={code: dice.uniform(0.01, 0.6 / len(chosen)) for code in chosen},
        refund_after_s=dice.choice((0.0, 5.0)),
        history_inputs=dice.choice(("on", "on", "on", "off", "absent")),
        history_lag_s=dice.choice((0.0, settle_s / 4)),
        schema="page",
        balance_usd=dice.choice((1e6, 1e6, 1e6, round(cost_usd * dice.random(), 2))),
        price_usd=0.08,
    )


def _session(dice: random.Random, *, cells: int, cost: int) -> Session:
    return Session(
        after_s=8 * 86400.0 if dice.random() < 0.02 else dice.choice((0.05, 2.0, 60.0, 3600.0)) * dice.random(),
        ending=dice.choice(("end", "kill", "kill", "power", "power", "disk", "signal")),
        at_s=dice.choice((0.5, 5.0, 30.0, 300.0)) * dice.random(),
        at_flush=dice.randint(1, 2 * cells),
        limit=dice.choice((None, None, None, dice.randint(1, cells))),
        budget_micro_usd=dice.choice((None, None, None, round(cost * dice.random()))),
        resubmits=dice.random() < 0.08,
        retries_failed=dice.random() < 0.08,
    )
