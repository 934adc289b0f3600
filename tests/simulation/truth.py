"""The promises, held against the service's own list of creations. Each check raises AssertionError and says what."""

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchflux.app.resume import Known
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import STATUS_CODES, Progress
from batchflux.sandbox.behaviour import RETENTION_S, PredictionRecord
from tests.simulation.service import Service, body_text

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["check_books", "check_progress", "count_unknown", "overspent"]

# The vendor's error-codes page: what failed for the service's own reasons and is paid back.
_REFUNDED = frozenset({1406, 5000, 5003})


def overspent(
    service: Service, *, session: int, life_micro_usd: int | None, session_micro_usd: int | None
) -> list[str]:
    """Return where more is spent now than the run's life, or the session that asked, was given."""
    now_s = service.clock_s()
    life = own = 0
    for each in service.creations:
        if not (_is_refunded(service, each.record) and each.record.finished_at_s <= now_s):
            life += each.record.price_micro_usd
            own += each.record.price_micro_usd if each.session == session else 0
    problems = []
    if life_micro_usd is not None and life > life_micro_usd:
        problems.append(f"{life} spent of a budget of {life_micro_usd}")
    if session_micro_usd is not None and own > session_micro_usd:
        problems.append(f"{own} spent of --budget {session_micro_usd}")
    return problems


def check_progress(progress: Progress, known: Known) -> None:
    """What the run said when it ended is what the disk tells."""
    told = {status: progress.counts[status] for status in CellStatus}
    found = {status: int(np.sum(known.statuses == code)) for status, code in STATUS_CODES.items()}
    # A cell with an intent and no answer is unknown to the disk; the run that left it so says pending.
    told[CellStatus.UNKNOWN] += told.pop(CellStatus.PENDING)
    found[CellStatus.UNKNOWN] += found.pop(CellStatus.PENDING)
    assert told == found, f"the run said {told}, the disk says {found}"
    assert sum(found.values()) == progress.n_cells


def count_unknown(state: pa.Table) -> int:
    """Return how many cells are unknown."""
    return int(state["status"].to_pylist().count(str(CellStatus.UNKNOWN)))


def check_books(world: "World", *, is_finished: bool) -> None:
    """Hold every fact on the disk against what the service really did."""
    assert not world.problems, world.problems[0]
    facts, state = world.disk.facts(), world.disk.state().to_pylist()
    records = {each.record.id: each.record for each in world.service.creations}
    ids = [row["cell_id"] for row in state]
    assert len(ids) == len(set(ids))
    assert set(ids) <= world.bodies.keys(), "a cell that the job doesn't have"
    accepted = _accepted(facts)
    _check_ids(world, accepted, records)
    _check_licences(world, accepted, records)
    held = _held(facts)
    _check_orphans(world, accepted, held, is_finished=is_finished)
    if is_finished:
        _check_ends(world, state, records)
        _check_cost(world, state, accepted, held, records)


def _accepted(facts: list[Fact]) -> dict[str, list[str]]:
    """Return each cell's predictions in order, as the facts have them."""
    found: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.kind is FactKind.ACCEPTED and fact.prediction_id is not None:
            found[fact.cell_id].append(fact.prediction_id)
    return found


def _held(facts: list[Fact]) -> Counter[str]:
    """Return how many submissions of each cell nothing more is known of."""
    held: Counter[str] = Counter()
    for fact in facts:
        if fact.kind is FactKind.INTENT:
            held[fact.cell_id] += 1
        elif fact.kind is FactKind.ACCEPTED or (
            fact.prediction_id is None and fact.kind in (FactKind.RELEASED, FactKind.OUTCOME)
        ):
            held[fact.cell_id] -= 1
    assert all(count >= 0 for count in held.values())
    return held


def _is_refunded(service: Service, record: PredictionRecord) -> bool:
    return record.code in _REFUNDED and math.isfinite(record.finished_at_s) and not service.is_codeless(record.id)


def _check_ids(world: "World", accepted: dict[str, list[str]], records: dict[str, PredictionRecord]) -> None:
    every = [each for ids in accepted.values() for each in ids]
    twice = [each for each, count in Counter(every).items() if count > 1]
    assert not twice, f"predictions in the books twice: {twice}"
    for cell_id, ids in accepted.items():
        for each in ids:
            assert each in records, f"cell {cell_id} has {each}, which isn't ours"
            assert body_text(records[each].parsed_inputs()) == world.bodies[cell_id], f"cell {cell_id}: wrong prompt"


def _check_licences(world: "World", accepted: dict[str, list[str]], records: dict[str, PredictionRecord]) -> None:
    """After an accepted submission another one follows only where the first failed and was refunded, or as asked."""
    for cell_id, ids in accepted.items():
        if not world.has_retried:
            assert len(ids) <= world.plan.max_attempts
            for each in ids[:-1]:
                assert _is_refunded(world.service, records[each]), f"cell {cell_id} was bought again after {each}"


def _check_orphans(world: "World", accepted: dict[str, list[str]], held: Counter[str], *, is_finished: bool) -> None:
    """What the service made and no cell has is explained by submissions whose answer is not known."""
    known = {each for ids in accepted.values() for each in ids}
    orphans = Counter(each.body for each in world.service.creations if each.record.id not in known)
    for cell_id, count in held.items():
        orphans[world.bodies[cell_id]] -= count
    unexplained = {body: count for body, count in orphans.items() if count > 0}
    assert not unexplained, f"created and not in the books: {unexplained}"
    if not world.has_resubmitted:
        assert all(count <= 1 for count in held.values()), "sent again without knowing"
    if is_finished and world.can_tell_all and not world.has_resubmitted:
        assert not any(held.values()), f"unknown although the history tells: {held}"


def _check_ends(world: "World", state: list[dict[str, object]], records: dict[str, PredictionRecord]) -> None:
    """Every cell is final, or unknown for a reason; what it says is what the service says."""
    assert {row["cell_id"] for row in state} == world.bodies.keys(), "a cell was never run"
    now_s = world.service.clock_s()
    for row in state:
        cell_id, status = row["cell_id"], row["status"]
        record = records.get(str(row["prediction_id"])) if row["prediction_id"] else None
        match status:
            case CellStatus.COMPLETED:
                assert record is not None
                assert record.status_at(now_s) == "completed"
                wanted = [f"http://127.0.0.1:9/output/{record.id}/{n}.png" for n in range(1, record.images + 1)]
                assert row["outputs"] == wanted, f"cell {cell_id} has another's outputs"
            case CellStatus.FAILED if record is not None and row["error_kind"] == "not_found":
                assert now_s - record.created_at_s >= RETENTION_S, f"cell {cell_id}: {row['error']}"
            case CellStatus.FAILED if record is not None:
                assert record.code != 0, f"cell {cell_id} failed ({row['error']}), the service says it did not"
                assert record.status_at(now_s) == "failed"
            case CellStatus.FAILED:
                assert world.service.rejected[world.bodies[str(cell_id)]] > 0, f"cell {cell_id}: {row['error']}"
            case CellStatus.SUBMITTED:
                assert record is not None
                assert row["error_kind"] == "timeout"
                assert math.isinf(record.finished_at_s), f"cell {cell_id} gave up too early"
            case CellStatus.UNKNOWN:
                assert row["error"], f"cell {cell_id} is unknown for no reason"
                assert not world.can_tell_all, f"cell {cell_id} is unknown although the history tells"
            case _:
                raise AssertionError(f"cell {cell_id} is {status} in the end")


def _check_cost(
    world: "World",
    state: list[dict[str, object]],
    accepted: dict[str, list[str]],
    held: Counter[str],
    records: dict[str, PredictionRecord],
) -> None:
    """The books' cost is what the service charged and didn't refund, and what is held, to the micro-dollar."""
    price = next(iter(records.values())).price_micro_usd if records else 0
    for row in state:
        cell_id = str(row["cell_id"])
        # What became of it nobody told in time: it may have been paid for.
        forgotten = row["prediction_id"] if row["error_kind"] == "not_found" else None
        paid = sum(
            0 if _is_refunded(world.service, records[each]) and each != forgotten else records[each].price_micro_usd
            for each in accepted.get(cell_id, [])
        )
        held_price = held[cell_id] * (price or int(str(row["price_micro_usd"] or 0)))
        assert row["cost_micro_usd"] == paid + held_price, (
            f"cell {cell_id} costs {row['cost_micro_usd']} in the books; paid {paid}, held {held_price}"
        )
