"""Rows × axes as arithmetic on an index: counted, sliced, ordered and told apart without being expanded.

A cell's index is row * combinations + combination, the last axis fastest; cells that `exclude` leaves out keep their
index and are skipped. Keys of a slice of rows come from two additions in numpy; only what must be hashed one by one
(drawn seeds) is. The rows' texts are not here: `cell` is given the row's part.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from batchflux.core.identity import (
    Key,
    add_keys,
    cell_id,
    drawn_seed,
    ordinal_key,
    parameter_key,
    row_seed,
)
from batchflux.core.model import Axis, Cell, JsonValue, Params
from batchflux.core.order import Order, balanced
from batchflux.core.ordinals import Groups, group_rows
from batchflux.core.rows import NO_SEED, KeyArray, RowArrays, RowPart, RowRecipe, name_of_row, same_value, word_text

__all__ = ["Grid", "GridSlice"]

Indexes = npt.NDArray[np.int64]
_Scalar = TypeVar("_Scalar", bound=np.generic)

# Cells looked at in one step: a few megabytes of keys.
_CHUNK_CELLS = 131072


class GridSlice(NamedTuple):
    """Some cells of the grid in grid order: their indexes (n,), keys (n, 2) and, where seeds are drawn, seeds (n,).

    A seed is `NO_SEED` where the job gives the cell one.
    """

    indexes: Indexes
    keys: KeyArray
    seeds: Indexes | None


@dataclass(frozen=True)
class Grid:
    """A job's cells. `rows` are the selected rows; `recipe` and `axes` say how they become requests."""

    recipe: RowRecipe
    axes: tuple[Axis, ...]
    rows: RowArrays

    # ---------------------------------------------------------------- counting

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The axes' sizes, in order."""
        return tuple(len(axis.values) for axis in self.axes)

    @cached_property
    def n_combinations(self) -> int:
        """How many combinations of axis values there are, excluded ones included."""
        return prod(self.shape)

    @property
    def n_indexes(self) -> int:
        """How many indexes there are: rows × combinations, excluded ones included."""
        return self.rows.n_rows * self.n_combinations

    @cached_property
    def n_cells(self) -> int:
        """How many cells there are."""
        rows_by_set = np.bincount(self.rows.signature, minlength=len(self.rows.rule_sets))
        return int((rows_by_set * self._allowed.sum(axis=1)).sum())

    @cached_property
    def n_cells_by_combination(self) -> npt.NDArray[np.int64]:
        """How many cells each combination of axis values has, (combinations,)."""
        rows_by_set = np.bincount(self.rows.signature, minlength=len(self.rows.rule_sets))
        counts: npt.NDArray[np.int64] = (rows_by_set[:, None] * self._allowed).sum(axis=0)
        return counts

    @cached_property
    def _allowed(self) -> npt.NDArray[np.bool_]:
        """(rule sets, combinations): which combinations stay, for the rows that meet a set of rules."""
        allowed = np.ones((max(1, len(self.rows.rule_sets)), self.n_combinations), dtype=np.bool_)
        matched = [self._combinations_matching(rule.of_axes) for rule in self.recipe.rules]
        for place, met in enumerate(self.rows.rule_sets):
            for rule in met:
                allowed[place] &= ~matched[rule]
        return allowed

    def _combinations_matching(self, wanted: Params) -> npt.NDArray[np.bool_]:
        mask = np.ones(self.shape or (1,), dtype=np.bool_)
        for place, axis in enumerate(self.axes):
            if axis.name in wanted:
                hits = np.array([same_value(value, wanted[axis.name]) for value in axis.values], dtype=np.bool_)
                mask &= _along(hits, place, self.shape)
        return mask.reshape(-1)

    def is_cell(self, indexes: Indexes) -> npt.NDArray[np.bool_]:
        """Return which indexes are cells, (n,): the others are excluded."""
        rows, combinations = np.divmod(indexes, self.n_combinations)
        result: npt.NDArray[np.bool_] = self._allowed[self.rows.signature[rows], combinations]
        return result

    @property
    def excludes_any(self) -> bool:
        """Whether any index is excluded."""
        return self.n_cells != self.n_indexes

    def images_of(self, indexes: Indexes) -> Indexes:
        """Return how many images each of some cells asks for, (n,)."""
        axis = next((axis for axis in self.axes if axis.name == "num_images"), None)
        if axis is not None:
            return np.array(axis.values, dtype=np.int64)[self.value_places(axis.name)[indexes % self.n_combinations]]
        stated = self.recipe.params.get("num_images")
        default = int(stated) if isinstance(stated, int | float) else 1
        own = self.rows.images[indexes // self.n_combinations]
        return np.where(own > 0, own, default)

    @cached_property
    def most_images(self) -> int:
        """How many images one cell asks for at most."""
        axis = next((axis for axis in self.axes if axis.name == "num_images"), None)
        if axis is not None:
            return max(int(value) for value in axis.values if isinstance(value, int | float))
        stated = self.recipe.params.get("num_images")
        default = int(stated) if isinstance(stated, int | float) else 1
        return max(default, int(self.rows.images.max()))

    def models_of(self, indexes: Indexes) -> Indexes:
        """Return the place of each cell's model among `recipe.models`, (n,)."""
        n_words = prod(len(axis.values) for axis in self.recipe.word_axes)
        return self._variant_of[indexes % self.n_combinations] // n_words

    def variants_of(self, indexes: Indexes) -> Indexes:
        """Return the place of each cell's model and words among `recipe.variants()`, (n,)."""
        return self._variant_of[indexes % self.n_combinations]

    def value_places(self, name: str) -> Indexes:
        """Return, for each combination, which value of an axis it holds, (combinations,)."""
        place = next(place for place, axis in enumerate(self.axes) if axis.name == name)
        values = _along(np.arange(self.shape[place], dtype=np.int64), place, self.shape)
        return np.broadcast_to(values, self.shape).reshape(-1)

    # ---------------------------------------------------------------- keys

    @cached_property
    def _variant_of(self) -> npt.NDArray[np.int64]:
        """(combinations,): which of the rows' variants (model × words) a combination belongs to."""
        sizes = [len(self.recipe.models), *(len(axis.values) for axis in self.recipe.word_axes)]
        places = {axis.name: step + 1 for step, axis in enumerate(self.recipe.word_axes)}
        variant = np.zeros(self.shape or (1,), dtype=np.int64)
        for place, axis in enumerate(self.axes):
            step = 0 if axis.kind == "model" else places.get(axis.name)
            if step is not None:
                variant = variant + _along(np.arange(len(axis.values)) * prod(sizes[step + 1 :]), place, self.shape)
        return variant.reshape(-1)

    @cached_property
    def _combination_keys(self) -> KeyArray:
        """(combinations, 2): what the axes' parameters add to a cell's key."""
        return self._keys_of_axes(axis for axis in self.axes if axis.kind == "parameter")

    def _keys_of_axes(self, axes: Iterable[Axis]) -> KeyArray:
        total = np.zeros((*(self.shape or (1,)), 2), dtype=np.uint64)
        n_words = prod(len(axis.values) for axis in self.recipe.word_axes)
        models = (self._variant_of // n_words).reshape(self.shape or (1,))
        for axis in axes:
            place = self.axes.index(axis)
            keys = np.array(
                [[parameter_key(model, axis.name, value) for value in axis.values] for model in self.recipe.models],
                dtype=np.uint64,
            )
            values = _along(np.arange(len(axis.values)), place, self.shape)
            total = total + keys[models, np.broadcast_to(values, models.shape)]
        return total.reshape(-1, 2)

    def seedless_keys(self, indexes: Indexes) -> KeyArray:
        """Return the keys of some cells' requests without seed and ordinal, (n, 2): alike where only those differ."""
        rows, combinations = np.divmod(indexes, self.n_combinations)
        keys: KeyArray = self.rows.keys[self._variant_of[combinations], rows]
        keys = keys + self._seedless_combination_keys[combinations]
        seeds, places = np.unique(self.rows.own_seed[rows], return_inverse=True)
        # No model has a default seed, so a seed's key is the same for all of them.
        none = Key(0, 0)
        stated = [none if seed == NO_SEED else parameter_key("", "seed", seed) for seed in seeds.tolist()]
        return keys - np.array(stated, dtype=np.uint64).reshape(-1, 2)[places]

    @cached_property
    def _seedless_combination_keys(self) -> KeyArray:
        return self._keys_of_axes(axis for axis in self.axes if axis.kind == "parameter" and axis.name != "seed")

    @cached_property
    def _seed_axis(self) -> int | None:
        """The place of the axis of row seeds, if there is one."""
        return next((place for place, axis in enumerate(self.axes) if axis.kind == "row_seed"), None)

    @cached_property
    def draws_seeds(self) -> bool:
        """Whether cells without a given seed get one drawn from their content."""
        return "seed" not in self.recipe.params and all(axis.name != "seed" for axis in self.axes)

    @property
    def hashes_cells(self) -> bool:
        """Whether a cell's key takes a hash of its own, since a seed is drawn from its content: 10 µs and not 0.1."""
        return self.draws_seeds or self._seed_axis is not None

    @cached_property
    def _groups(self) -> "Groups":
        return group_rows(self.rows, allowed=self._allowed, find_taken=self.draws_seeds)

    @cached_property
    def _ordinal_keys(self) -> KeyArray:
        """(ordinals, 2): what each place among equal bodies adds to a key."""
        most = int(self._groups.ordinals.max(initial=0))
        return np.array([ordinal_key(ordinal) for ordinal in range(most + 1)], dtype=np.uint64)

    def keys_of(self, indexes: Indexes) -> KeyArray:
        """Return the keys of some cells, (n, 2), whatever their order; only where not `hashes_cells`."""
        rows, combinations = np.divmod(indexes, self.n_combinations)
        keys: KeyArray = self.rows.keys[self._variant_of[combinations], rows] + self._combination_keys[combinations]
        ordinals = self._groups.ordinals[rows]
        for place in np.flatnonzero(self._groups.is_uneven(rows)).tolist():
            ordinals[place] = self._groups.ordinal(int(rows[place]), int(combinations[place]))
        is_repeated = ordinals > 0
        keys[is_repeated] += self._ordinal_keys[ordinals[is_repeated]]
        return keys

    def keys_of_rows(self, first: int, last: int) -> GridSlice:
        """Return the cells of rows first <= row < last, in grid order."""
        span = np.arange(first, last, dtype=np.int64)
        keys = self.rows.keys[self._variant_of[None, :], span[:, None]] + self._combination_keys[None, :, :]
        mask = self._allowed[self.rows.signature[first:last]]
        seeds: Indexes | None = None
        if self.hashes_cells:
            seeds = self._finish_one_by_one(keys, mask, first)
        else:
            for row in self._groups.repeated_within(first, last):
                keys[row - first] += self._ordinal_keys[self._groups.ordinals_of(row, self.n_combinations)]
        indexes = span[:, None] * self.n_combinations + np.arange(self.n_combinations, dtype=np.int64)[None, :]
        if mask.all():  # as almost always, and without a copy
            return GridSlice(indexes.reshape(-1), keys.reshape(-1, 2), None if seeds is None else seeds.reshape(-1))
        return GridSlice(indexes[mask], keys[mask], None if seeds is None else seeds[mask])

    def _finish_one_by_one(self, keys: KeyArray, mask: npt.NDArray[np.bool_], first: int) -> Indexes:
        """Add what depends on each cell's own seed, in place; returns the seeds, in the shape of the mask."""
        seeds = np.full(mask.shape, NO_SEED, dtype=np.int64)
        for offset, combination in np.argwhere(mask).tolist():
            seedless = Key(*keys[offset, combination].tolist())
            key, seed = self._with_seed(seedless, first + offset, combination)
            keys[offset, combination] = key
            if seed is not None:
                seeds[offset, combination] = seed
        return seeds

    def _with_seed(self, seedless: Key, row: int, combination: int) -> tuple[Key, int | None]:
        """Return a cell's whole key, and the seed drawn for it (None where the job gives one)."""
        groups = self._groups
        ordinal = groups.ordinal(row, combination)
        if not self.hashes_cells:
            return add_keys(seedless, ordinal_key(ordinal)) if ordinal else seedless, None
        variant = int(self._variant_of[combination])
        model = self.recipe.models[variant // prod(len(axis.values) for axis in self.recipe.word_axes)]
        if self._seed_axis is not None:
            assert self.rows.prompt_keys is not None  # noqa: S101
            axis = self.axes[self._seed_axis]
            position = int(np.unravel_index(combination, self.shape)[self._seed_axis])
            prompt = Key(*self.rows.prompt_keys[variant, row].tolist())
            seed = row_seed(prompt, key=axis.key, position=position, ordinal=ordinal)
            return add_keys(seedless, parameter_key(model, "seed", seed)), seed
        if self.draws_seeds and self.rows.own_seed[row] == NO_SEED:
            # Rows of the same body that state a seed own it: the draw walks past those.
            taken = groups.taken.get(row, frozenset())
            seed = _draw(seedless, ordinal, taken=taken)
            return add_keys(seedless, parameter_key(model, "seed", seed)), seed
        return add_keys(seedless, ordinal_key(ordinal)), None

    def slices(self, cells: int = _CHUNK_CELLS) -> Iterator[GridSlice]:
        """Yield every cell once, in grid order, some rows at a time: as many as have about that many cells."""
        step = self.rows_at_once(cells)
        for first in range(0, self.rows.n_rows, step):
            yield self.keys_of_rows(first, min(first + step, self.rows.n_rows))

    def rows_at_once(self, cells: int) -> int:
        """Return how many rows `slices` takes at a time."""
        return max(1, cells // max(1, self.n_combinations))

    def repeated(self) -> Indexes:
        """Return the indexes of cells that ask for exactly what another cell asks for, (n,): each is bought again."""
        if self.hashes_cells:
            return np.zeros(0, dtype=np.int64)
        groups = self._groups
        return np.array(
            [
                row * self.n_combinations + combination
                for row in groups.repeated_within(0, self.rows.n_rows)
                for combination, allowed in enumerate(self._allowed[self.rows.signature[row]].tolist())
                if allowed and groups.ordinal(row, combination) > 0
            ],
            dtype=np.int64,
        )

    # ---------------------------------------------------------------- order

    def in_order(self, order: Order) -> Iterator[Indexes]:
        """Yield every index once, in chunks, excluded ones included, in the order in which they are to be run."""
        total = self.n_indexes
        for first in range(0, total, _CHUNK_CELLS):
            steps = np.arange(first, min(first + _CHUNK_CELLS, total), dtype=np.int64)
            yield steps if order == "rows" else balanced(steps, self.rows.n_rows, self.n_combinations)

    # ---------------------------------------------------------------- one cell

    def combination_values(self, combination: int) -> dict[str, JsonValue]:
        """Return the axis values of a combination, by axis name; a row seed's is its position."""
        return dict(self._values_of(combination).named)

    def cell(self, index: int, part: RowPart) -> Cell:
        """Return the cell at an index; `part` is its row's part."""
        row, combination = divmod(index, self.n_combinations)
        values = self._values_of(combination)
        seedless = add_keys(Key(*self.rows.keys[values.variant, row].tolist()), values.key)
        key, seed = self._with_seed(seedless, row, combination)
        words = {**part.words, **values.words}
        params: dict[str, JsonValue] = {**self.recipe.params, **part.params, **values.params}
        if seed is not None:
            params["seed"] = seed
        body: dict[str, JsonValue] = {"prompt": self.recipe.template.render(words), **params}
        asked = body.get("num_images", 1)
        return Cell(
            index=index,
            cell_id=cell_id(key),
            row=row,
            prompt_id=name_of_row(self.recipe, part),
            model=values.model,
            body=body,
            images=asked if isinstance(asked, int) and asked > 0 else 1,
        )

    def _values_of(self, combination: int) -> "_Values":
        found = self._values_seen.get(combination)
        if found is None:
            places = np.unravel_index(combination, self.shape) if self.shape else ()
            named = {axis.name: axis.values[int(place)] for axis, place in zip(self.axes, places, strict=True)}
            kinds = {axis.name: axis.kind for axis in self.axes}
            found = _Values(
                named=named,
                variant=int(self._variant_of[combination]),
                key=Key(*self._combination_keys[combination].tolist()),
                model=str(named["model"]) if "model" in kinds else self.recipe.models[0],
                words={name: word_text(value) for name, value in named.items() if kinds[name] == "word"},
                params={name: value for name, value in named.items() if kinds[name] == "parameter"},
            )
            if len(self._values_seen) < 65536:
                self._values_seen[combination] = found
        return found

    @cached_property
    def _values_seen(self) -> dict[int, "_Values"]:
        return {}


class _Values(NamedTuple):
    """What a combination says, however many rows it is joined with."""

    named: Params
    variant: int
    key: Key
    model: str
    words: Mapping[str, str]
    params: Params


def _along(values: npt.NDArray[_Scalar], place: int, shape: Sequence[int]) -> npt.NDArray[_Scalar]:
    """Return values laid along one axis of a shape, ready to broadcast."""
    return values.reshape([-1 if step == place else 1 for step in range(len(shape))])


def _draw(seedless: Key, ordinal: int, *, taken: frozenset[int]) -> int:
    """Return the ordinal-th seed of a body's walk, not counting those taken."""
    if not taken:
        return drawn_seed(seedless, ordinal)
    walk = (drawn_seed(seedless, place) for place in count())
    return next(islice((seed for seed in walk if seed not in taken), ordinal, None))
