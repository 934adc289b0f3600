"""Unanswered submissions + the service's history → adopted, proven not accepted, or held. Pure; decides, asks nothing.

The listing must be complete and settled (two alike, the service done with what it was sent): the caller sees to that.
With inputs an equal body is the same request, so k equal submissions and k equal predictions match in any order.
Without inputs nothing is adopted, ever: the likeliest is not known, and a wrong image under a prompt is worse than
eight cents.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from batchflux.core.history import HistoryItem
from batchflux.core.identity import Key, body_key
from batchflux.core.model import Params

__all__ = ["Adopted", "Held", "LostSubmission", "Verdicts", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSubmission:
    """One submission whose answer is not known. `sent_at_ms` is our clock when its intent was written, `seen_at_ms`
    when it was given up; `index` is the cell's place in the grid."""

    cell_id: str
    index: int
    model: str
    body: Params
    sent_at_ms: int
    seen_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The service had accepted it: this is its prediction."""

    lost: LostSubmission
    item: HistoryItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """It can't be told: `candidates` are the ids of predictions that could be its own, none of them believed."""

    lost: LostSubmission
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What became of each lost submission, each once."""

    adopted: tuple[Adopted, ...]
    absent: tuple[LostSubmission, ...]
    held: tuple[Held, ...]


def judge(
    lost: Sequence[LostSubmission],
    listing: Sequence[HistoryItem],
    *,
    known_ids: Collection[str],
    listed_params: Mapping[str, frozenset[str]] | None = None,
) -> Verdicts:
    """Decide each lost submission by a complete, settled listing of the time in which they could have been accepted.

    `known_ids` are all prediction ids that this run has ever been given: those of earlier attempts too, since a
    cell's own failed attempt has the same body. `listed_params` gives each model's parameters as the service lists
    them, where known: what it drops in silence stands in no history.
    """
    fresh = {item.prediction.id: item for item in listing if item.prediction.id not in known_ids}
    told = [item for item in fresh.values() if item.inputs is not None]
    silent = [item for item in fresh.values() if item.inputs is None]
    by_key: dict[Key, list[HistoryItem]] = defaultdict(list)
    for item in sorted(told, key=lambda item: (item.prediction.created_at_ms or 0, item.prediction.id)):
        by_key[_key(item.prediction.model or "", item.inputs or {}, listed_params)].append(item)
    adopted: list[Adopted] = []
    absent: list[LostSubmission] = []
    held: list[Held] = []
    for each in sorted(lost, key=lambda each: (each.sent_at_ms, each.cell_id)):
        equal = by_key.get(_key(each.model, each.body, listed_params))
        could_be = tuple(item.prediction.id for item in silent if item.prediction.model in (None, each.model))
        if equal:
            adopted.append(Adopted(lost=each, item=equal.pop(0)))
        elif could_be:
            held.append(Held(lost=each, candidates=could_be))
        else:
            absent.append(each)
    return Verdicts(adopted=tuple(adopted), absent=tuple(absent), held=tuple(held))


def _key(model: str, body: Params, listed_params: Mapping[str, frozenset[str]] | None) -> Key:
    listed = (listed_params or {}).get(model)
    kept = body if listed is None else {name: value for name, value in body.items() if name in listed}
    return body_key(model, kept)
