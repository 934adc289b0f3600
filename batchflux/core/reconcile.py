"""Unanswered submissions + the service's history → adopted, proven not accepted, or held. Pure; decides, asks nothing.

The listing must be complete and settled (two alike, the service done with what it was sent): the caller sees to that.
With inputs an equal body is the same request, so k equal submissions and k equal predictions match in any order.
Without inputs nothing is adopted, ever: the likeliest is not known, and a wrong image under a prompt is worse than
eight cents.
"""

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchflux.core.catalog import known_model
from batchflux.core.history import HistoryItem
from batchflux.core.identity import parameter_key
from batchflux.core.model import JsonValue, Params

__all__ = ["Adopted", "Held", "LostSubmission", "Verdicts", "judge"]

# A listing that shows the beginnings of prompts shows more than this; shorter, many prompts begin alike.
_LEAST_KEPT = 32


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
    the service's own and makes no difference; what it lacks of ours might, and so might another spelling.
    """
    if item.prediction.model is not None and item.prediction.model != lost.model:
        return "other"
    if item.inputs is None:
        return "unclear"
    listed = (listed_params or {}).get(lost.model)
    ours = {name: value for name, value in lost.body.items() if listed is None or name in listed}
    wanted = {name: key for name, value in ours.items() if any(key := parameter_key(lost.model, name, value))}
    found = {name: key for name, value in item.inputs.items() if any(key := parameter_key(lost.model, name, value))}
    apart = [name for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    more = found.keys() - wanted.keys()
    model = known_model(lost.model)
    stated = dict(ours)
    if model is not None:
        apart += [name for name in more if name in model.parameters]
        stated = {name: parameter.default for name, parameter in model.parameters.items()} | ours
    if not all(_is_nearly(stated.get(name), item.inputs[name]) for name in apart):
        return "other"
    return "unclear" if apart or wanted.keys() - found.keys() or (more and model is None) else "same"


def _is_nearly(ours: JsonValue, theirs: Any) -> bool:
    """Return whether a value may be ours as a service keeps it: trimmed or cut, a number as text or of fewer digits."""
    number, kept_number = _as_number(ours), _as_number(theirs)
    if number is not None and kept_number is not None:
        is_rounded = not number.is_integer() and math.isclose(number, kept_number, rel_tol=1e-6)
        return number == kept_number or is_rounded
    if not isinstance(ours, str) or not isinstance(theirs, str):
        return False
    whole, kept = (_letters(text) for text in (ours, theirs))
    return kept == whole or (len(kept) >= _LEAST_KEPT and whole.startswith(kept.rstrip(".")))


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()
