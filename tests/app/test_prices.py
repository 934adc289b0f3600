"""A price that hangs on a request's parameters, end to end: quoted once a shape, the same in plan, budget and books."""

import asyncio
from pathlib import Path

import batchflux
from batchflux.app.plan import Plan
from batchflux.app.preflight import Preflight
from batchflux.app.prepare import RunOptions
from batchflux.app.run import run_async
from batchflux.sandbox import FaultRule, RunningSandbox
from tests.app.service import quick_service, write_spec

WIDE = {"aspect_ratio=16:9": 2.5}
TABLE = "prompt,ratio\nan owl,1:1\na fox,16:9\na cat,16:9\n"
COLUMNS = {"columns": {"prompt": "prompt", "aspect_ratio": "ratio"}}


def owed(service: RunningSandbox) -> int:
    """What the service charged in all, in micro-USD."""
    return sum(record.price_micro_usd for record in service.behaviour.everything())


def run(job: batchflux.Job, options: RunOptions | None = None) -> tuple[batchflux.Result, Plan, Preflight]:
    """Run a job; returns what was said before it too."""
    said: list[tuple[Plan, Preflight]] = []
    result = asyncio.run(run_async(job, options, on_plan=lambda plan, preflight: said.append((plan, preflight))))
    return result, *said[0]


def test_each_cell_costs_what_its_shape_is_quoted_at(tmp_path: Path) -> None:
    """Rows bring a parameter that makes them dearer: every cell's cost is what the account is charged for it."""
    with quick_service(dear=WIDE) as service:
        job = batchflux.load_job(write_spec(tmp_path, service, TABLE, COLUMNS, grid={"num_images": [1, 2]}))
        result, plan, preflight = run(job)
        charged = {record.id: record.price_micro_usd / 1e6 for record in service.behaviour.everything()}
    assert len(preflight.quotes_micro_usd) == 4
    assert preflight.warnings == ()
    assert (result.exit_status, plan.cost_usd) == (0, 1.44)
    cells = batchflux.read_manifest(result.run_dir)
    assert dict(zip(cells["prediction_id"], cells["cost_usd"], strict=True)) == charged
    assert sorted(charged.values()) == [0.08, 0.16, 0.2, 0.2, 0.4, 0.4]


def test_a_budget_is_kept_at_the_dearer_price(tmp_path: Path) -> None:
    """$0.50 buy two of $0.20, and of the cheap one what is left: at the list price all would have seemed to fit."""
    with quick_service(dear=WIDE) as service:
        spec = write_spec(tmp_path, service, TABLE, COLUMNS, grid={"seed": [1, 2]}, run={"budget": 0.5})
        result = batchflux.run(batchflux.load_job(spec))
        assert owed(service) == round(result.standing.cost_usd * 1e6) <= 500_000
    assert result.exit_status == 3


def test_a_price_in_the_spec_is_not_asked_about(tmp_path: Path) -> None:
    """It is the user's word, image by image."""
    with quick_service(dear=WIDE) as service:
        spec = write_spec(tmp_path, service, TABLE, COLUMNS, run={"price": 0.3})
        result, _, preflight = run(batchflux.load_job(spec))
    assert preflight.quotes_micro_usd == {}
    assert result.standing.cost_usd == 0.9


def test_a_price_that_is_quoted_for_some_shapes_only(tmp_path: Path) -> None:
    """The second quote fails: its cells count as the dearest that was quoted, and the run says so."""
    with quick_service(FaultRule(on="price", do="status", status=500, at=frozenset({2})), dear=WIDE) as service:
        job = batchflux.load_job(write_spec(tmp_path, service, TABLE, COLUMNS, grid={"num_images": [1, 2]}))
        _, plan, preflight = run(job, RunOptions(limit=0))
    assert any(
        "requests are of 4 kinds by their parameters, and the price of 3 was quoted" in words
        for words in preflight.warnings
    )
    assert plan.prices_usd == {job.spec.model: 0.2}
    assert plan.cheapest_usd == {job.spec.model: 0.08}
    assert "$0.08 to $0.20 an image" in str(plan)


def test_a_budget_is_kept_where_nothing_is_quoted_for_a_price(tmp_path: Path) -> None:
    """A quote of 0, and a charge all the same: the list price is counted."""
    free = FaultRule(on="price", do="patch", data={"price": 0, "discounted_price": 0})
    with quick_service(free) as service:
        spec = write_spec(tmp_path, service, TABLE, grid={"seed": [1, 2]}, run={"budget": 0.2})
        assert batchflux.run(batchflux.load_job(spec)).exit_status == 3
        assert owed(service) == 160_000
