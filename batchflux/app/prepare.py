"""What is settled before a run spends: the service's word, the plan, the user's consent, the bounds, room on the disk.

Raises before anything is spent, and spends nothing. What was agreed to is kept, so that going on asks no more.
"""

import errno
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchflux.app.family import main_of, spent_beside, spent_within
from batchflux.app.job import Job
from batchflux.app.plan import Plan, make_plan
from batchflux.app.preflight import Preflight, ask_service, prices_of
from batchflux.app.resume import Known
from batchflux.app.reuse import Reuse
from batchflux.core.budget import Budget
from batchflux.core.errors import StorageError, UsageError
from batchflux.core.model import CellStatus
from batchflux.core.origin import host_of, is_loopback_host
from batchflux.core.pricing import PriceList
from batchflux.core.progress import Progress
from batchflux.engine.ports import Watcher
from batchflux.io.client import Client
from batchflux.io.storage import free_bytes

__all__ = ["LEAST_FREE_BYTES", "Ask", "MakeObserver", "Question", "RunOptions", "Session", "prepare", "resubmits"]

# Below this the next images, parts and manifest may not fit, and a full disk is the worst place to stop.
LEAST_FREE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line adds to a spec, for this time only. `until_at_s` is seconds since the epoch.

    `redo` is a CSV file of cells to be drawn anew, instead of running the job.
    """

    limit: int | None = None
    budget_micro_usd: int | None = None
    until_at_s: float | None = None
    sandbox: bool = False
    sandbox_options: tuple[str, ...] = ()
    retry_failed: bool = False
    resubmit_unknown: bool = False
    download_only: bool = False
    redo: Path | None = None
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


@dataclass(kw_only=True)
class Session:
    """What is settled before the engine starts."""

    base_url: str
    prices: PriceList
    budget: Budget
    started: float
    spent_before: int
    is_loopback: bool
    listed_params: Mapping[str, frozenset[str]]
    spent_elsewhere: int = 0  # on this run's budget, by a run that draws its cells anew, or that it draws anew

    @property
    def may_spend(self) -> bool:
        """Whether anything may be submitted."""
        return bool(self.prices.an_image)

    def take_over(self, known: Known) -> None:
        """Count as spent before what was found to have been."""
        self.spent_before = known.spent_micro_usd
        self.budget.life_micro_usd = known.spent_micro_usd + self.spent_elsewhere


def resubmits(job: Job, options: RunOptions) -> bool:
    """Return whether what can't be told is sent again, though it may be paid twice."""
    return options.resubmit_unknown or job.spec.run.on_unknown == "resubmit"


async def prepare(
    job: Job,
    options: RunOptions,
    known: Known,
    client: Client,
    base_url: str,
    *,
    ask: Ask | None,
    on_plan: Callable[[Plan, Preflight], None] | None,
    reuse: Reuse,
) -> Session:
    """Ask the service, say what will be spent, and ask the user. Raises before anything is spent."""
    preflight = Preflight(balance_micro_usd=None)
    prices: PriceList | None = None
    if reuse.over(known).has_open_cells() and not options.download_only:
        preflight = await ask_service(client, job.spec, job.shapes, base_url=base_url)
        prices = prices_of(job.spec, job.shapes, preflight.quotes_micro_usd)
    # What may be sent again is planned as if it were: the history may yet show that it need not be.
    planned = known.taking_up(CellStatus.UNKNOWN) if resubmits(job, options) else known
    plan = make_plan(job, known=planned, prices=prices, reuse=reuse)
    to_pay = plan.to_pay if prices is not None else 0
    spent = known.spent_micro_usd
    elsewhere = spent_beside(job.run_dir) if job.spec.run.budget_micro_usd is not None else 0
    is_loopback = is_loopback_host(host_of(base_url))
    if on_plan is not None:
        on_plan(plan, preflight)
    if prices is not None and to_pay and not is_loopback:
        cost = round((plan.cost_usd or 0) * 1_000_000)
        most = min([cost, *_bounds(job, options, prices, spent_micro_usd=spent + elsewhere)])
        balance = preflight.balance_micro_usd
        too_little = balance is not None and balance < most
        # A run is agreed to together with what it submits a second time.
        home = main_of(job.run_dir) or job.run_dir
        in_all = spent + spent_within(job.run_dir) + most
        if ask is not None and (too_little or in_all > _agreed(home)):
            affordable = balance * plan.to_pay // cost if too_little and balance is not None else None
            question = Question(plan=plan, cost_micro_usd=most, balance_micro_usd=balance, affordable_cells=affordable)
            if not ask(question):
                raise UsageError("nothing was submitted")
        # What was bounded was agreed to in these bounds alone.
        _agree(home, in_all)
    _check_disk(job)
    budget = Budget(
        life_limit_micro_usd=job.spec.run.budget_micro_usd,
        session_limit_micro_usd=options.budget_micro_usd,
        life_micro_usd=spent + elsewhere,
    )
    return Session(
        base_url=base_url,
        prices=prices if prices is not None else PriceList(an_image={}),
        budget=budget,
        started=time.monotonic(),
        spent_before=spent,
        is_loopback=is_loopback,
        listed_params=preflight.listed_params,
        spent_elsewhere=elsewhere,
    )


def _bounds(job: Job, options: RunOptions, prices: PriceList, *, spent_micro_usd: int) -> list[int]:
    """Return what this run can't spend more than, in micro-USD, as its budgets and its limit of cells say."""
    bounds = []
    if options.budget_micro_usd is not None:
        bounds.append(options.budget_micro_usd)
    if job.spec.run.budget_micro_usd is not None:
        bounds.append(max(0, job.spec.run.budget_micro_usd - spent_micro_usd))
    if options.limit is not None:
        bounds.append(options.limit * prices.dearest(images=job.grid.most_images))
    return bounds


_AGREED_FILE = "agreed.json"


def _agreed(run_dir: Path) -> int:
    """Return the micro-USD up to which the user has agreed that this run may cost in its whole life."""
    try:
        return int(json.loads((run_dir / _AGREED_FILE).read_text())["micro_usd"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0


def _agree(run_dir: Path, micro_usd: int) -> None:
    from batchflux.io.storage import publish_bytes

    if micro_usd > _agreed(run_dir):
        publish_bytes(run_dir / _AGREED_FILE, json.dumps({"micro_usd": micro_usd}).encode())


def _check_disk(job: Job) -> None:
    free = free_bytes(job.run_dir)
    if free < LEAST_FREE_BYTES:
        needed = f"{LEAST_FREE_BYTES >> 20} MB are the least"
        full = OSError(errno.ENOSPC, f"only {free >> 20} MB are free on this disk, where {needed}")
        raise StorageError(job.run_dir, doing="begin the run", cause=full)
