"""Two jobs against each other: which cells are in both, only here or only there, in all and for each value of an axis.

Only ids are compared, some cells at a time, in the memory of an index of one of the grids. Reads nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from batchflux.app.job import Job
from batchflux.core.budget import usd
from batchflux.core.cellstates import CellIndex
from batchflux.core.identity import add_keys, canonical_json, model_key, parameter_key
from batchflux.core.model import JsonValue
from batchflux.core.pricing import PriceList

__all__ = ["Comparison", "ValueChange", "compare"]

_MOST_SHOWN: Final = 12
_MOST_CHARS: Final = 60

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """The cells of one value of an axis: in both jobs, only in the first, only in the second; money in USD."""

    value: JsonValue
    both: int
    only_this: int
    only_other: int
    only_this_usd: float | None
    only_other_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two specs' cells against each other: how many are in both, only in the first, only in the second.

    Money in USD, None where nothing tells a price. A row is new or gone where no row of the other job has its prompt
    and parameters. `axes` has every axis of either job whose values are said, with every value of either.
    """

    both: int
    only_this: int
    only_other: int
    only_this_usd: float | None
    only_other_usd: float | None
    rows_new: int
    rows_gone: int
    axes: Mapping[str, tuple[ValueChange, ...]]

    def __str__(self) -> str:
        return "\n  ".join(self.lines())

    def lines(self) -> list[str]:
        """Return it for people: the sums, the rows, and the values of axes that make the difference."""
        lines = [
            f"against the other: {self.both:,} cells in both, {self.only_this:,} only here "
            f"({_money(self.only_this_usd)}), {self.only_other:,} only there ({_money(self.only_other_usd)})"
        ]
        if self.rows_new or self.rows_gone:
            lines.append(f"rows: {self.rows_new:,} new, {self.rows_gone:,} gone")
        told = [
            f"{name} {_shown(each.value)}: {', '.join(_change_words(each))}"
            for name, values in self.axes.items()
            if len({(bool(each.both), bool(each.only_this), bool(each.only_other)) for each in values}) > 1
            for each in values
            if each.only_this or each.only_other
        ]
        if len(told) > _MOST_SHOWN:
            told = [*told[:_MOST_SHOWN], f"and {len(told) - _MOST_SHOWN:,} more values; --json has them all"]
        return lines + told


def _change_words(each: ValueChange) -> Iterator[str]:
    if each.only_this:
        yield f"{each.only_this:,} new ({_money(each.only_this_usd)})"
    if each.only_other:
        yield f"{each.only_other:,} gone ({_money(each.only_other_usd)})"


def _shown(value: JsonValue) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _MOST_CHARS else text[: _MOST_CHARS - 1] + "…"


def _money(amount: float | None) -> str:
    return "unknown: say run.price" if amount is None else usd(round(amount * 1_000_000))


def compare(job: Job, other: Job) -> Comparison:
    """Return how two jobs' cells overlap, by their ids."""
    here, there = _Side.of(job, against=other), _Side.of(other, against=job)
    rows_here, rows_there = _rows(job, other), _rows(other, job)
    return Comparison(
        both=int(here.shared.sum()),
        only_this=int(here.alone.sum()),
        only_other=int(there.alone.sum()),
        only_this_usd=here.dollars(here.cost.sum()),
        only_other_usd=there.dollars(there.cost.sum()),
        rows_new=_n_alone(rows_here, rows_there),
        rows_gone=_n_alone(rows_there, rows_here),
        axes=_axes(here, there),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One job's cells by combination of axis values: those shared, those of it alone, and what these cost."""

    job: Job
    shared: _Ints
    alone: _Ints
    cost: _Ints
    is_priced: bool

    @classmethod
    def of(cls, job: Job, *, against: Job) -> "_Side":
        grid, index = job.grid, CellIndex(against.grid)
        listed = {model: job.spec.list_price_micro_usd(model) for model in job.spec.models}
        prices = PriceList(an_image={model: price for model, price in listed.items() if price is not None})
        shared, alone, cost = (np.zeros(grid.n_combinations, dtype=np.int64) for _ in range(3))
        for piece in grid.slices():
            is_shared = index.find_keys(piece.keys) >= 0
            combinations = piece.indexes % grid.n_combinations
            shared += np.bincount(combinations[is_shared], minlength=grid.n_combinations)
            alone += np.bincount(combinations[~is_shared], minlength=grid.n_combinations)
            left = piece.indexes[~is_shared]
            np.add.at(cost, left % grid.n_combinations, prices.of_many(left, job.shapes))
        return cls(job=job, shared=shared, alone=alone, cost=cost, is_priced=None not in listed.values())

    def dollars(self, micro_usd: Any) -> float | None:
        return int(micro_usd) / 1e6 if self.is_priced or not self.alone.any() else None

    def by_value(self, name: str) -> dict[str, tuple[JsonValue, int, int, int]]:
        """Return, by each value's text, the value, cells shared, cells alone and what these cost."""
        axis = next((axis for axis in self.job.grid.axes if axis.name == name and axis.kind != "row_seed"), None)
        if axis is None:
            return {}
        places = self.job.grid.value_places(name)
        sums = np.zeros((3, len(axis.values)), dtype=np.int64)
        for row, column in zip(sums, (self.shared, self.alone, self.cost), strict=True):
            np.add.at(row, places, column)
        return {
            canonical_json(value): (value, both, alone, cost)
            for value, (both, alone, cost) in zip(axis.values, sums.T.tolist(), strict=True)
        }


def _axes(here: _Side, there: _Side) -> dict[str, tuple[ValueChange, ...]]:
    names = dict.fromkeys(axis.name for side in (here, there) for axis in side.job.grid.axes if axis.kind != "row_seed")
    found = {}
    for name in names:
        ours, theirs = here.by_value(name), there.by_value(name)
        changes = []
        for text in {**ours, **theirs}:
            value, both, only_this, cost = ours.get(text, (None, 0, 0, 0))
            other, shared, only_other, other_cost = theirs.get(text, (None, 0, 0, 0))
            changes.append(
                ValueChange(
                    value=value if text in ours else other,
                    both=both if text in ours else shared,
                    only_this=only_this,
                    only_other=only_other,
                    only_this_usd=here.dollars(cost),
                    only_other_usd=there.dollars(other_cost),
                )
            )
        found[name] = tuple(changes)
    return found


def _rows(job: Job, other: Job) -> npt.NDArray[np.uint64]:
    """Return a number for each row's prompt and own parameters, sorted; rows of jobs with equal ones are equal."""
    recipe = job.grid.recipe
    theirs = [words for _, words in other.grid.recipe.variants()]
    variants = list(recipe.variants())
    place = next((place for place, (_, words) in enumerate(variants) if words in theirs), 0)
    model = variants[place][0]
    constants = [
        parameter_key(model, name, value) for name, value in recipe.params.items() if name not in recipe.row_params
    ]
    # Lanes are added modulo 2**64, so what isn't the row's is taken away again.
    common = np.uint64(add_keys(model_key(model), *constants).lane0)
    return np.sort(job.grid.rows.keys[place, :, 0] - common)


def _n_alone(these: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> int:
    """Return how many of these (sorted) the others lack, equal ones counted one by one."""
    values, counts = np.unique(these, return_counts=True)
    low, high = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
    return int(np.maximum(0, counts - (high - low)).sum())
