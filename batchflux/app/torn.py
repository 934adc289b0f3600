"""Before a run spends where a journal's end is torn: what it may have held is looked up in the service's history.

A record that was flushed and went bad is no other than one that a power cut tore, and it may have been the intent of a
submission that the service has accepted: its cell looks pending, and would be bought again.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.job import Job
from batchflux.app.resume import Known
from batchflux.app.work import known_ids, run_clock, work_of
from batchflux.core.cellstates import CellIndex
from batchflux.core.claims import Claims, claim
from batchflux.core.errors import CheckpointDamaged
from batchflux.core.flow import intent_fact
from batchflux.core.history import HistoryItem
from batchflux.core.model import Cell, Fact, Fault
from batchflux.core.protocol import encode_body
from batchflux.core.resolution import Unresolved, adopt
from batchflux.core.steps import CellState, FlowRules
from batchflux.engine.ports import Observer, Sink, Transport, Work
from batchflux.engine.reconciling import Found, Reconciler
from batchflux.io.facts import read_facts
from batchflux.io.recovery import TornJournal

__all__ = ["look_up"]

# The longest that a POST can be open (io.client); and what facts may differ from the order in which they were written.
_POST_MS = 60_000
_NAMED = 5
# So many predictions of our own show whether the history tells what was asked for.
_MOST_COMPARED = 100


async def look_up(
    torn: Sequence[TornJournal],
    job: Job,
    known: Known,
    *,
    transport: Transport,
    sink: Sink,
    observer: Observer,
    base_url: str,
    listed_params: Mapping[str, frozenset[str]],
    price_of: Callable[[Work], int],
    accepts: bool,
) -> int:
    """State as accepted what the torn journals may have lost; returns how many cells that were.

    `accepts` is the user's word to go on where the history can't tell. Without it that raises CheckpointDamaged.
    """
    starts = [each.since_ms - _POST_MS if each.since_ms is not None else 0 for each in torn]
    wall_ms = run_clock()
    until_ms = max(each.until_ms for each in torn) + _POST_MS
    if until_ms < max([known.pace.newest_at_ms or 0, *starts]):
        until_ms = wall_ms()  # a copy that was dated anew: it holds what is younger
    reconciler = Reconciler(
        transport=transport,
        observer=observer,
        base_url=base_url,
        settle_s=job.spec.api.settle_s,
        listed_params=listed_params,
        known_ids=known_ids(job),
        wall_ms=wall_ms,
        dice=random.SystemRandom().random,
    )
    found = await reconciler.find_strangers(
        since_ms=min(starts),
        until_ms=until_ms,
        clock_offsets_ms=known.clock_offsets()(until_ms),
    )
    if isinstance(found, Fault):
        if not accepts:
            raise _damaged(job, torn, f"the service's history can't tell what they were: {found.message}")
        found = Found((), ())
    ours = await asyncio.to_thread(_cells_of, found.ours[:_MOST_COMPARED], job)
    claims = claim(found.strangers, job.grid, known.statuses, listed_params=listed_params, ours=ours)
    # Submissions without an answer may explain as many, but nobody knows whether those were accepted at all.
    if claims.unclear and not accepts:
        named = ", ".join(item.prediction.id for item in claims.unclear[:_NAMED])
        more = f" and {len(claims.unclear) - _NAMED} more" if len(claims.unclear) > _NAMED else ""
        raise _damaged(job, torn, f"the service's history holds predictions that could be any cell's ({named}{more})")
    for fact in _facts(claims, job, known, price_of=price_of, at_ms=wall_ms()):
        sink.record(fact)
    observer.note("looked up", journals=len(torn), strangers=len(found.strangers), adopted=len(claims.found))
    return len(claims.found)


def _cells_of(items: Sequence[HistoryItem], job: Job) -> list[tuple[Cell, HistoryItem]]:
    """Return predictions of this run with the cells that they were made for, without those that have left the job."""
    by_id = {item.prediction.id: item for item in items}
    if not by_id:
        return []
    facts = read_facts(job.run_dir, columns=["cell_id", "prediction_id"])
    told = facts.filter(pc.is_in(facts["prediction_id"], value_set=pa.array(list(by_id), pa.string())))
    indexes = CellIndex(job.grid).find(told["cell_id"]).tolist()
    cells = dict(zip(told["prediction_id"].to_pylist(), indexes, strict=True))
    return [(work_of(job, index, CellState()).cell, by_id[name]) for name, index in cells.items() if index >= 0]


def _facts(claims: Claims, job: Job, known: Known, *, price_of: Callable[[Work], int], at_ms: int) -> list[Fact]:
    """Return the facts that a submission and its answer would have stated."""
    facts = []
    for index, item in claims.found:
        work = work_of(job, index, known.flow_of(index))
        created_ms = item.prediction.created_at_ms or at_ms
        rules = FlowRules(
            max_attempts=job.spec.run.max_attempts, timeout_s=job.spec.run.timeout_s, price_micro_usd=price_of(work)
        )
        body = encode_body(work.cell.body).decode()
        facts.append(intent_fact(work.cell, body_json=body, state=work.state, rules=rules, at_ms=created_ms))
        lost = Unresolved(
            cell_id=work.cell.cell_id,
            before=work.state,
            attempt=work.state.attempts + 1,
            price_micro_usd=rules.price_micro_usd,
            sent_at_ms=created_ms,
            seen_at_ms=created_ms,
        )
        facts.append(adopt(lost, item, at_ms=at_ms).fact)
    return facts


def _damaged(job: Job, torn: Sequence[TornJournal], why: str) -> CheckpointDamaged:
    names = ", ".join(f"{each.path.parent.name}/{each.path.name}" for each in torn)
    return CheckpointDamaged(
        job.run_dir,
        damage=[
            f"{names}: the end can't be read, so the last submissions may be missing here, and {why}; "
            "run again later, or move the file out of the run directory to accept that their cells may be bought "
            "again (--resubmit-unknown accepts it too, and sends every unknown cell again)"
        ],
    )
