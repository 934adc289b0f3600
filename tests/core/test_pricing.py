"""Shapes of requests against a naive expansion, and what follows from the prices of some of them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.grid import Grid
from batchflux.core.model import Axis, Cell
from batchflux.core.pricing import MOST_QUOTES, PriceList, Shapes, build_prices
from batchflux.core.rows import UNTOLD_SHAPE
from tests.core.test_grid import MODEL, Row, axis, build, cells

OTHER = "vendor/other"

some_axes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.just(axis("seed", 1, 2)),
        "drawn": st.just(Axis(name="seed", kind="row_seed", values=(0, 1))),
        "guidance_scale": st.just(axis("guidance_scale", 2.5, 5, 7.5)),
        "num_images": st.just(axis("num_images", 1, 4)),
        "style": st.just(Axis(name="style", kind="word", values=("ink", "oil"))),
        "model": st.just(Axis(name="model", kind="model", values=(MODEL, OTHER))),
    },
).map(lambda found: [found[name] for name in found if name != "drawn" or "seed" not in found])
some_rows = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from(["a", "b"])},
        optional={"aspect_ratio": st.sampled_from(["1:1", "16:9"]), "seed": st.sampled_from([5, 6])},
    ),
    min_size=1,
    max_size=5,
)


def priced(cell: Cell) -> tuple[str, Counter[tuple[str, object]]]:
    """What a cell's price may hang on."""
    return cell.model, Counter((name, value) for name, value in cell.body.items() if name not in ("prompt", "seed"))


@given(rows=some_rows, axes=some_axes, guidance=st.sampled_from([None, 3.5]))
def test_a_shape_is_all_that_a_request_says_but_prompt_and_seed(
    rows: list[Row], axes: list[Axis], guidance: float | None
) -> None:
    """Cells are of one shape just where their bodies differ in prompt and seed alone, and the shape says the rest."""
    names = {each.name for each in axes}
    params = {"guidance_scale": guidance} if guidance is not None and "guidance_scale" not in names else {}
    template = "{prompt} in {style}" if "style" in names else None
    columns = {"aspect_ratio": "aspect_ratio", "seed": "seed", **({} if template else {"prompt": "prompt"})}
    grid, parts = build(rows, axes, params=dict(params), template=template, columns=columns)
    shapes = Shapes(grid)
    found = cells(grid, parts)
    numbers = shapes.of(np.array([cell.index for cell in found])).tolist()
    assert numbers == [shapes.of_one(cell.index) for cell in found]
    for cell, number in zip(found, numbers, strict=True):
        assert 0 <= number < len(shapes)
        shape = shapes.shape(number)
        assert (shape.model, Counter(shape.params.items())) == priced(cell)
        assert shape.images == cell.images


def test_rows_of_too_many_kinds_are_not_told_apart() -> None:
    """A column of arbitrary numbers fills no memory: what is beyond the bound costs as what wasn't asked about."""
    rows: list[Row] = [{"prompt": "a", "guidance_scale": 1 + row / 1000} for row in range(1100)]
    grid, parts = build(rows, [], columns={"prompt": "prompt", "guidance_scale": "guidance_scale"})
    shapes = Shapes(grid)
    assert not shapes.are_all_told
    assert len(shapes) == 1024
    numbers = shapes.of(np.arange(1100)).tolist()
    assert numbers == [*range(1024), *[UNTOLD_SHAPE] * 76]
    prices = PriceList(an_image={MODEL: 80_000}, of_shape={3: 40_000})
    assert prices.of(grid.cell(1099, parts[1099]), shapes) == 80_000
    assert prices.of_many(np.array([3, 1099]), shapes).tolist() == [40_000, 80_000]


def many_shapes() -> Grid:
    """A grid of 2 × 100 × 4 shapes."""
    guidance = axis("guidance_scale", *(1 + (step * 37 % 100) / 20 for step in range(100)))
    models = Axis(name="model", kind="model", values=(MODEL, OTHER))
    return build([{"prompt": "a"}], [models, guidance, axis("num_images", 4, 1, 3, 2), axis("seed", 1, 2)])[0]


def test_few_shapes_are_all_asked_about() -> None:
    """The seed makes no shape of its own."""
    grid, _ = build([{"prompt": "a"}, {"prompt": "b"}], [axis("num_images", 1, 2), axis("seed", *range(50))])
    assert Shapes(grid).to_ask() == [0, 1]


def test_of_many_shapes_the_extremes_are_asked_about() -> None:
    """Every model, the least and the greatest of each number and of all together, and no more than the bound."""
    shapes = Shapes(many_shapes())
    asked = [shapes.shape(number) for number in shapes.to_ask()]
    assert len(asked) == MOST_QUOTES
    assert len(shapes) == 800
    assert {shape.model for shape in asked} == {MODEL, OTHER}
    said = [(shape.params["guidance_scale"], shape.params["num_images"]) for shape in asked]
    assert {(1.0, 1), (5.95, 4)} <= set(said)


def test_more_models_than_the_bound_are_all_asked_about() -> None:
    """Nothing else may tell the price of one that nothing ships for."""
    models = Axis(name="model", kind="model", values=tuple(f"vendor/{number}" for number in range(30)))
    shapes = Shapes(build([{"prompt": "a"}], [models, axis("num_images", 1, 2)])[0])
    assert {shapes.shape(number).model for number in shapes.to_ask()} == set(models.values)


def test_what_was_not_asked_costs_as_the_dearest_that_was() -> None:
    """Image by image, rounded up, for its own model; no budget is passed for want of asking."""
    shapes = Shapes(many_shapes())
    quotes = {number: 10_001 * shapes.shape(number).images for number in shapes.to_ask()}
    dear = next(number for number in quotes if shapes.shape(number)[0] == MODEL and shapes.shape(number).images == 4)
    quotes[dear] = 100_001
    prices = build_prices(shapes, quotes, otherwise={MODEL: 1, OTHER: 2})
    assert prices.an_image == {MODEL: 25_001, OTHER: 10_001}
    indexes = np.arange(shapes.grid.n_indexes)
    costs = dict(zip(shapes.of(indexes).tolist(), prices.of_many(indexes, shapes).tolist(), strict=True))
    for number, cost in costs.items():
        shape = shapes.shape(number)
        assert cost == quotes.get(number, prices.an_image[shape.model] * shape.images)
    assert prices.dearest(images=4) == 100_004


@pytest.mark.parametrize("images", [1, 3])
def test_prices_that_hang_on_images_alone_need_no_look_at_the_shape(images: int) -> None:
    """The usual case: so much an image, and nothing kept besides."""
    grid, parts = build([{"prompt": "a"}], [axis("num_images", 1, images + 1), axis("aspect_ratio", "1:1", "2:1")])
    shapes = Shapes(grid)
    quotes = {number: 80_000 * shapes.shape(number).images for number in range(len(shapes))}
    prices = build_prices(shapes, quotes, otherwise={})
    assert prices == PriceList(an_image={MODEL: 80_000})
    assert [prices.of(cell, shapes) for cell in cells(grid, parts)] == [
        80_000 * cell.images for cell in cells(grid, parts)
    ]
