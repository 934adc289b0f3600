"""Unanswered submissions + the service's history → adopted, proven not accepted, or held. Pure; decides, asks nothing.

The listing must be complete and settled (two alike, the service done with what it was sent): the caller sees to that.
With inputs an equal body is the same request, so k equal submissions and k equal predictions match in any order.
Without inputs nothing is adopted, ever: the likeliest is not known, and a wrong image under a prompt is worse than
eight cents.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from batchflux.core.catalog import known_model
from batchflux.core.history import HistoryItem
from batchflux.core.identity import parameter_key
from batchflux.core.model import Params

__all__ = ["Adopted", "Held", "LostSubmission", "Verdicts", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSubmission:
    """One submission whose answer is not known. `sent_at_ms` is our clock when its intent was written, `seen_at_ms`
    when it was given up; `index` is the cell's place in the grid; `clock_offsets_ms` as in `Unresolved`."""

    cell_id: str
    index: int
    model: str
    body: Params
    sent_at_ms: int
    seen_at_ms: int
    clock_offsets_ms: tuple[int, int] | None = None


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
    left = sorted(fresh.values(), key=lambda item: (item.prediction.created_at_ms or 0, item.prediction.id))
    adopted: list[Adopted] = []
    undecided: list[LostSubmission] = []
    for each in sorted(lost, key=lambda each: (each.sent_at_ms, each.cell_id)):
        item = next((item for item in left if _likeness(each, item, listed_params) == "same"), None)
        if item is None:
            undecided.append(each)
        else:
            left.remove(item)
            adopted.append(Adopted(lost=each, item=item))
    absent: list[LostSubmission] = []
    held: list[Held] = []
    for each in undecided:
        unclear = tuple(item.prediction.id for item in left if _likeness(each, item, listed_params) == "unclear")
        if unclear:
            held.append(Held(lost=each, candidates=unclear))
        else:
            absent.append(each)
    return Verdicts(adopted=tuple(adopted), absent=tuple(absent), held=tuple(held))


def _likeness(
    lost: LostSubmission, item: HistoryItem, listed_params: Mapping[str, frozenset[str]] | None
) -> Literal["same", "other", "unclear"]:
    """Say whether a prediction of the history is what was asked for.

    A default said and a default left out are the same. What the history adds beyond the model's known parameters is
    the service's own and makes no difference; what it lacks of ours might.
    """
    if item.prediction.model is not None and item.prediction.model != lost.model:
        return "other"
    if item.inputs is None:
        return "unclear"
    listed = (listed_params or {}).get(lost.model)
    ours = {name: value for name, value in lost.body.items() if listed is None or name in listed}
    wanted = {name: key for name, value in ours.items() if any(key := parameter_key(lost.model, name, value))}
    found = {name: key for name, value in item.inputs.items() if any(key := parameter_key(lost.model, name, value))}
    if any(wanted[name] != found[name] for name in wanted.keys() & found.keys()):
        return "other"
    model = known_model(lost.model)
    more = found.keys() - wanted.keys()
    if model is not None and any(name in model.parameters for name in more):
        return "other"
    return "unclear" if wanted.keys() - found.keys() or (more and model is None) else "same"
