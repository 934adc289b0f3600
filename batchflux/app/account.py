"""Holds a run's books against the account: its history, and its charges and refunds, of the time the run was at work.

Asks and never submits. What can't be asked is said as a problem, since then nothing was confirmed.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.family import relatives_of, run_command
from batchflux.app.findings import Findings
from batchflux.app.job import Job
from batchflux.app.keys import key_for
from batchflux.app.rundir import SANDBOX_ORIGIN, RunIdentity, check_origin
from batchflux.core.accounting import (
    REFUND_WITHIN_MS,
    Comparison,
    Difference,
    DifferenceKind,
    Orphan,
    Span,
    compare,
)
from batchflux.core.books import Books
from batchflux.core.budget import usd
from batchflux.core.errors import UsageError
from batchflux.core.model import Fault
from batchflux.engine.listing import Listing, list_charges, list_history
from batchflux.io.client import ApiKey, Client
from batchflux.io.facts import read_facts
from batchflux.sandbox import SandboxProcess

__all__ = ["AccountStanding", "check_account"]

_HOUR_MS: Final = 3_600_000
_WEEK_MS: Final = 7 * 24 * _HOUR_MS  # [docs] as far as the history reaches back
# Facts further apart than this belong to two sessions of the run; what the account did in between isn't looked at.
_PAUSE_MS: Final = _HOUR_MS
_POST_MS: Final = 60_000  # the longest that a submission can be open
_KNOWN_SKEW_MS: Final = 5_000
_UNKNOWN_SKEW_MS: Final = 15 * 60_000
_SLICE: Final = 5_000  # predictions listed at a time: fifty pages


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStanding:
    """The run's own predictions as the books and as the account have them, in USD; None is not known."""

    predictions: int
    books_usd: float
    charged_usd: float | None
    refunded_usd: float | None
    orphans: tuple[Orphan, ...]

    def lines(self) -> list[str]:
        """Return it as people read it."""
        said = "the account's charges are not known"
        if self.charged_usd is not None and self.refunded_usd is not None:
            said = (
                f"the account charged {_dollars(self.charged_usd)} for them and refunded {_dollars(self.refunded_usd)}"
            )
        return [f"account: {self.predictions:,} predictions, {_dollars(self.books_usd)} in the books; {said}"]


def check_account(
    job: Job,
    identity: RunIdentity,
    books: Books,
    findings: Findings,
    *,
    unknown_cells: int,
    allow_hosts: frozenset[str],
    is_at_work: bool,
    now_ms: int,
) -> AccountStanding | None:
    """Tell what differs between the books and the account; None where neither listing could be had.

    Raises UsageError for a key that is missing and a host that isn't to be trusted with it.
    """
    ours = books.predictions()
    offset_ms = books.clock_offset_ms()
    spans = _spans(job, books.activity_ms(), offset_ms=offset_ms)
    if is_at_work:
        # What is younger may be on its way into the books.
        until = now_ms + (offset_ms or 0) - _POST_MS - round(job.spec.api.settle_s * 1000)
        spans = [(first, min(last, until)) for first, last in spans if first < until]
        findings.notes.add("account", "the run is at work, so its last minutes are not judged yet")
    if not spans:
        return None
    if spans[0][0] < now_ms + (offset_ms or 0) - _WEEK_MS:
        findings.notes.add(
            "account", "the history reaches back 7 days: older predictions are held against charges only"
        )
    moments = np.asarray(ours["created_at_ms"].fill_null(0), dtype=np.int64)
    with ExitStack() as stack:
        try:
            base_url, key = stack.enter_context(_service(job, identity, allow_hosts, is_at_work=is_at_work))
        except UsageError as error:
            if identity.origin != SANDBOX_ORIGIN:
                raise
            findings.problems.add("account not reached", str(error), "try again when no run is at work here")
            return None
        listed, charges = asyncio.run(
            _list(job, base_url, key, spans, moments, is_sandbox=identity.origin == SANDBOX_ORIGIN)
        )
    history = _table(listed, "history", findings)
    billing = _table(charges, "billing", findings)
    if history is None and billing is None:
        return None
    history, billing = _without_relatives(job.run_dir, history, billing)
    found = compare(ours, history, billing, spans=spans, now_ms=now_ms)
    _tell(found, findings, unknown_cells=unknown_cells, command=run_command(job.run_dir))
    return AccountStanding(
        predictions=found.predictions,
        books_usd=found.books_micro_usd / 1e6,
        charged_usd=None if found.charged_micro_usd is None else found.charged_micro_usd / 1e6,
        refunded_usd=None if found.refunded_micro_usd is None else found.refunded_micro_usd / 1e6,
        orphans=found.orphans,
    )


def _without_relatives(run_dir: Path, *listed: pa.Table | None) -> list[pa.Table | None]:
    """Return listings without what belongs to runs that draw cells of this one anew or submit them twice."""
    ids = [read_facts(place, columns=["prediction_id"], tolerate=True).facts for place in relatives_of(run_dir)]
    theirs = pa.chunked_array([chunk for facts in ids for chunk in facts["prediction_id"].chunks], pa.string())
    return [
        None if table is None else table.filter(pc.invert(pc.is_in(table["prediction_id"], value_set=theirs)))
        for table in listed
    ]


# ------------------------------------------------------------------------------------------------------ asking


@contextmanager
def _service(
    job: Job, identity: RunIdentity, allow_hosts: frozenset[str], *, is_at_work: bool
) -> Iterator[tuple[str, ApiKey]]:
    """Give the base URL and the key; of a rehearsal, its sandbox started for as long. Raises UsageError."""
    api = job.spec.api
    if identity.origin == SANDBOX_ORIGIN:
        state = job.run_dir / "sandbox"
        if is_at_work:
            yield f"http://127.0.0.1:{_port(state)}/api/v3", ApiKey("sandbox")
            return
        with SandboxProcess(["--state", str(state)]) as process:
            yield process.base_url, ApiKey("sandbox")
        return
    check_origin(job.run_dir, identity, origin=api.origin)
    yield api.base_url, key_for(api, allow_hosts=allow_hosts)


def _port(state: Path) -> int:
    try:
        return int((state / "port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise UsageError("the rehearsal at work has a sandbox of its own, whose port can't be told") from None


async def _list(
    job: Job, base_url: str, key: ApiKey, spans: list[Span], moments: npt.NDArray[np.int64], *, is_sandbox: bool
) -> tuple[Listing | Fault, Listing | Fault]:
    """Ask for both listings at once; charges also of the hours after, in which refunds come."""
    api = job.spec.api
    dice = random.SystemRandom().random
    later = [(first, last + REFUND_WITHIN_MS + _HOUR_MS) for first, last in spans]
    ca_file = Path(api.ca_file) if api.ca_file else None
    async with (
        Client(key, proxy=None if is_sandbox else api.proxy, ca_file=ca_file) as client,
        asyncio.TaskGroup() as group,
    ):
        history = group.create_task(list_history(client, base_url, _slices(spans, moments), dice=dice))
        billing = group.create_task(list_charges(client, base_url, _slices(later, moments), dice=dice))
    return history.result(), billing.result()


def _spans(job: Job, activity_ms: npt.NDArray[np.int64], *, offset_ms: int | None) -> list[Span]:
    """Return the times on the service's clock in which the run was at work, and could have made predictions."""
    if not len(activity_ms):
        return []
    skew_ms = _UNKNOWN_SKEW_MS if offset_ms is None else _KNOWN_SKEW_MS
    shift = offset_ms or 0
    after_ms = _POST_MS + round(job.spec.api.settle_s * 1000) + skew_ms
    breaks = np.flatnonzero(np.diff(activity_ms) > _PAUSE_MS) + 1
    return [
        (int(part[0]) + shift - skew_ms, int(part[-1]) + shift + after_ms) for part in np.split(activity_ms, breaks)
    ]


def _slices(spans: list[Span], moments: npt.NDArray[np.int64]) -> list[Span]:
    """Cut spans where so many predictions of ours lie between; neighbours share a second, in case ends are left out."""
    ordered = np.sort(moments)
    slices: list[Span] = []
    for first, last in spans:
        inside = ordered[(ordered > first) & (ordered < last)]
        cuts = [first, *inside[_SLICE::_SLICE].tolist(), last]
        slices += [(begin, min(last, end + 1000)) for begin, end in pairwise(cuts)]
    return slices


def _table(found: Listing | Fault, name: str, findings: Findings) -> pa.Table | None:
    if isinstance(found, Fault):
        findings.problems.add(
            f"{name} not reached",
            f"{found.kind}: {found.message}",
            "so nothing is confirmed by it: check api.base_url, the key and the network, then verify again",
        )
        return None
    if found.odd:
        findings.problems.add(
            f"{name} not wholly read",
            f"{found.odd:,} of its entries are nothing that batchflux knows",
            "what follows may lack something: please report this",
        )
    return found.table


# ------------------------------------------------------------------------------------------------------ telling

_WORDS: Final[dict[DifferenceKind, tuple[str, str]]] = {
    "charged_twice": ("charged twice", "ask the service's support about it, by this id"),
    "other_price": ("charged another price", "correct run.price, or ask the service's support"),
    "not_charged": (
        "not charged",
        "the books count it all the same; the account may not be the run's, or its charge yet to come",
    ),
    "not_refunded": ("failed and not refunded", "ask the service's support about it, by this id"),
    "refund_awaited": ("refund awaited", "the service refunds within 3 hours of the failure: verify again then"),
    "refunded_unasked": ("refunded though the books count it", "the account has more than the books say"),
}
_HARMLESS: Final = frozenset({"refund_awaited", "refunded_unasked"})


def _tell(found: Comparison, findings: Findings, *, unknown_cells: int, command: str) -> None:
    theirs = "made by something else with this account, or by a submission whose answer was lost"
    advice = f"{command} asks again whose it is" if unknown_cells else "it isn't in the run's budget"
    findings.problems.add_each(
        "no attempt of the run explains",
        (_orphan_words(orphan) for orphan in found.orphans),
        count=found.orphan_count,
        instead=f"{theirs}: {advice}",
    )
    for kind, count in found.counts.items():
        what, instead = _WORDS[kind]
        lines = findings.notes if kind in _HARMLESS else findings.problems
        lines.add_each(what, (_money_words(each) for each in found.differences[kind]), count=count, instead=instead)
    if found.unlisted and found.charged_micro_usd is None:
        findings.notes.add("account", f"{found.unlisted:,} predictions of the run are not in the history")


def _orphan_words(orphan: Orphan) -> str:
    money = "its price not known"
    if orphan.net_micro_usd is not None:
        money = usd(orphan.net_micro_usd) if orphan.charges else "not charged"
    made = ""
    if orphan.created_at_ms is not None:
        made = f", made at {datetime.fromtimestamp(orphan.created_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    model = f", {orphan.model}" if orphan.model else ""
    return f"prediction {orphan.prediction_id}, {money}{made}{model}"


def _money_words(each: Difference) -> str:
    charged = (
        f"{usd(each.charged_micro_usd)} in {each.charges} charges" if each.charges > 1 else usd(each.charged_micro_usd)
    )
    refunded = f", refunded {usd(each.refunded_micro_usd)}" if each.refunded_micro_usd else ""
    return (
        f"prediction {each.prediction_id} (cell {each.cell_id}): {usd(each.price_micro_usd)} in the books, "
        f"charged {charged}{refunded}"
    )


def _dollars(amount: float) -> str:
    return usd(round(amount * 1e6))
