"""What each request of a job costs, by its shape: the model and every parameter that it states, but for the seed.

Shapes are numbered by arithmetic on a cell's index, as cells are, and never expanded: what the rows say times what the
axes say. Decides which shapes the service is asked about, and what those cost that it wasn't asked about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchflux.core.grid import Grid
from batchflux.core.model import Axis, Cell, JsonValue, Params
from batchflux.core.rows import UNTOLD_SHAPE

__all__ = ["MOST_QUOTES", "PriceList", "Shape", "Shapes", "build_prices"]

# Quotes are free, but each is a request: what a job of more shapes than this costs is bounded, not known.
MOST_QUOTES = 20

Indexes = npt.NDArray[np.int64]


class Shape(NamedTuple):
    """What requests of one price have in common."""

    model: str
    params: Params

    @property
    def images(self) -> int:
        """How many images such a request asks for."""
        said = self.params.get("num_images", 1)
        return int(said) if isinstance(said, int | float) else 1


@dataclass(frozen=True)
class Shapes:
    """The shapes of a grid's requests, numbered from 0; `UNTOLD_SHAPE` stands for rows of too many kinds."""

    grid: Grid

    @cached_property
    def _axes(self) -> tuple[Axis, ...]:
        axes = self.grid.axes
        return tuple(
            axis for axis in axes if axis.kind == "model" or (axis.kind == "parameter" and axis.name != "seed")
        )

    @cached_property
    def _n_of_axes(self) -> int:
        return prod(len(axis.values) for axis in self._axes)

    @cached_property
    def _of_combination(self) -> Indexes:
        """(combinations,): the number of what the axes say."""
        number = np.zeros(self.grid.n_combinations, dtype=np.int64)
        for axis in self._axes:
            number = number * len(axis.values) + self.grid.value_places(axis.name)
        return number

    def __len__(self) -> int:
        return len(self.grid.rows.shapes) * self._n_of_axes

    @property
    def are_all_told(self) -> bool:
        """Whether every row's own parameters are among the shapes."""
        return not bool((self.grid.rows.shape == UNTOLD_SHAPE).any())

    def of(self, indexes: Indexes) -> Indexes:
        """Return the shape of each of some cells, (n,)."""
        rows, combinations = np.divmod(indexes, self.grid.n_combinations)
        of_row = self.grid.rows.shape[rows].astype(np.int64)
        numbers = of_row * self._n_of_axes + self._of_combination[combinations]
        return np.where(of_row == UNTOLD_SHAPE, np.int64(UNTOLD_SHAPE), numbers)

    def of_one(self, index: int) -> int:
        """Return the shape of one cell."""
        row, combination = divmod(index, self.grid.n_combinations)
        of_row = int(self.grid.rows.shape[row])
        return of_row if of_row == UNTOLD_SHAPE else of_row * self._n_of_axes + int(self._of_combination[combination])

    def shape(self, number: int) -> Shape:
        """Return the shape of a number."""
        of_row, rest = divmod(number, self._n_of_axes)
        said: dict[str, JsonValue] = {**self.grid.recipe.params, **self.grid.rows.shapes[of_row]}
        model = self.grid.recipe.models[0]
        for axis in reversed(self._axes):
            rest, place = divmod(rest, len(axis.values))
            if axis.kind == "model":
                model = str(axis.values[place])
            else:
                said[axis.name] = axis.values[place]
        return Shape(model, {name: value for name, value in said.items() if name != "seed"})

    def to_ask(self, most: int = MOST_QUOTES) -> list[int]:
        """Return the shapes to ask the price of: all, or of too many one a model, the extremes and an even sample."""
        count = len(self)
        if count <= most:
            return list(range(count))
        models = [0]
        ends: list[int] = []
        lowest = highest = 0
        step = self._n_of_axes
        for axis in self._axes:
            step //= len(axis.values)
            low, high = _ends(axis)
            lowest, highest = lowest + low * step, highest + high * step
            ends += [low * step, high * step]
            if axis.kind == "model":
                models = [place * step for place in range(len(axis.values))]
        spread = [number * (count - 1) // (most - 1) for number in range(most)]
        return list(dict.fromkeys([*models, lowest, highest, *ends, *spread]))[: max(most, len(models))]


def _ends(axis: Axis) -> tuple[int, int]:
    """Return where the least and the greatest value stand; of what has no order, the first and the last."""
    numbers = [(value, place) for place, value in enumerate(axis.values) if isinstance(value, int | float)]
    if len(numbers) < len(axis.values):
        return 0, len(axis.values) - 1
    return min(numbers)[1], max(numbers)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """What requests cost, in micro-USD: so much an image by model, but for shapes that are quoted otherwise.

    `of_shape` holds the price of the whole request.
    """

    an_image: Mapping[str, int]
    of_shape: Mapping[int, int] = field(default_factory=dict)

    def of(self, cell: Cell, shapes: Shapes) -> int:
        """Return what one cell costs."""
        otherwise = self.of_shape.get(shapes.of_one(cell.index)) if self.of_shape else None
        return otherwise if otherwise is not None else self.an_image[cell.model] * cell.images

    def of_many(self, indexes: Indexes, shapes: Shapes) -> Indexes:
        """Return what each of some cells costs, (n,); 0 where nothing tells a model's price."""
        grid = shapes.grid
        by_model = np.array([self.an_image.get(model, 0) for model in grid.recipe.models], dtype=np.int64)
        costs: Indexes = grid.images_of(indexes) * by_model[grid.models_of(indexes)]
        if self.of_shape:
            numbers = shapes.of(indexes)
            for number, price in self.of_shape.items():
                costs[numbers == number] = price
        return costs

    def dearest(self, *, images: int) -> int:
        """Return what a request of at most so many images can cost."""
        return max([max(self.an_image.values()) * images, *self.of_shape.values()])


def build_prices(shapes: Shapes, quotes: Mapping[int, int], *, otherwise: Mapping[str, int]) -> PriceList:
    """Return the price list from the quotes of some shapes; `otherwise` is an image's price by model without any.

    A shape that wasn't quoted counts an image as the dearest that was, so that no budget is passed for want of asking.
    """
    an_image = dict(otherwise)
    asked: dict[str, int] = {}
    for number, price in quotes.items():
        shape = shapes.shape(number)
        asked[shape.model] = max(asked.get(shape.model, 0), -(-price // max(1, shape.images)))
    an_image |= asked
    told = {number: shapes.shape(number) for number in quotes}
    of_shape = {
        number: quotes[number]
        for number, shape in told.items()
        if quotes[number] != an_image[shape.model] * shape.images
    }
    return PriceList(an_image=an_image, of_shape=of_shape)
