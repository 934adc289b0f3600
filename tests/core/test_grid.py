"""The grid against a naive expansion, and its ids against what an edit may and may not change."""

from collections import Counter
from itertools import product
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.grid import Grid
from batchflux.core.identity import Key, axis_seeds, body_key, cell_id, ordinal_key
from batchflux.core.model import Axis, Cell, JsonValue
from batchflux.core.ordinals import clashing_rows
from batchflux.core.rows import RowPart, RowReader, RowRecipe, Rule
from batchflux.core.template import Template

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
Row = dict[str, JsonValue]


def axis(name: str, *values: JsonValue) -> Axis:
    """Return a plain parameter axis."""
    return Axis(name=name, kind="parameter", values=values)


def build(
    rows: list[Row],
    axes: list[Axis],
    *,
    params: dict[str, JsonValue] | None = None,
    template: str | None = None,
    rules: list[Rule] | None = None,
    columns: dict[str, str] | None = None,
) -> tuple[Grid, list[RowPart]]:
    """Return a grid over rows given as mappings, and the rows' parts."""
    models = next((tuple(map(str, a.values)) for a in axes if a.kind == "model"), (MODEL,))
    recipe = RowRecipe(
        columns=columns or {"prompt": "prompt", "seed": "seed", "aspect_ratio": "aspect_ratio"},
        template=Template.parse(template) if template else Template.of_column("prompt"),
        models=models,
        word_axes=tuple(a for a in axes if a.kind == "word"),
        axis_names=frozenset(a.name for a in axes),
        params=params or {},
        rules=tuple(rules or ()),
        parse_text=lambda name, text: int(text) if name == "seed" else text,
        check_value=lambda name, value: None,
    )
    reader = RowReader(recipe, keep_prompt_keys=any(a.kind == "row_seed" for a in axes))
    table = {name: [row.get(name) for row in rows] for name in recipe.needed}
    reader.add(table, lambda offset: f"row {offset + 1}", count=len(rows))
    assert not reader.problems
    parts = [reader.part(table, offset, str) for offset in range(len(rows))]
    return Grid(recipe, tuple(axes), reader.arrays()), [part for part in parts if part]


def cells(grid: Grid, parts: list[RowPart]) -> list[Cell]:
    """Return all cells one by one, in grid order."""
    indexes = np.concatenate([piece.indexes for piece in grid.slices()])
    return [grid.cell(int(index), parts[int(index) // grid.n_combinations]) for index in indexes]


def ids(grid: Grid) -> list[str]:
    """Return all cell ids by slices."""
    return [cell_id(Key(*key)) for piece in grid.slices() for key in piece.keys.tolist()]


prompts = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=6)
some_axes = st.fixed_dictionaries(
    {},
    optional={
        "guidance_scale": st.lists(st.sampled_from([1, 2.5, 3.5, 5]), min_size=1, max_size=3, unique=True),
        "seed": st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
        "aspect_ratio": st.lists(st.sampled_from(["1:1", "16:9"]), min_size=1, max_size=2, unique=True),
    },
)


@given(prompts, some_axes)
def test_a_grid_is_the_naive_product_with_ids_from_bodies(texts: list[str], values: dict[str, list[JsonValue]]) -> None:
    """Bodies are the product of rows and axes; ids are the body's key plus an ordinal, and all differ."""
    grid, parts = build([{"prompt": text} for text in texts], [axis(name, *each) for name, each in values.items()])
    found = cells(grid, parts)
    expected = [
        {"prompt": text, **dict(zip(values, combination, strict=True))}
        for text in texts
        for combination in product(*values.values())
    ]
    assert [{name: value for name, value in cell.body.items() if name in {"prompt", *values}} for cell in found] == (
        expected
    )
    assert grid.n_cells == len(found) == len({cell.cell_id for cell in found})
    assert [cell.cell_id for cell in found] == ids(grid)
    seen: Counter[Key] = Counter()
    for cell in found:
        key = body_key(MODEL, cell.body)
        total = cell_id(Key(*((a + b) % 2**64 for a, b in zip(key, ordinal_key(seen[key]), strict=True))))
        assert cell.cell_id == total
        seen[key] += 1


@given(prompts, st.permutations(["guidance_scale", "aspect_ratio", "seed"]), st.randoms())
def test_orders_change_no_id(texts: list[str], names: list[str], random: object) -> None:
    """Neither the order of the rows, of the axes nor of an axis's values is part of a cell."""
    values: dict[str, list[JsonValue]] = {"guidance_scale": [2, 3.5], "aspect_ratio": ["1:1", "4:3"], "seed": [1, 2]}
    one, _ = build([{"prompt": text} for text in texts], [axis(name, *each) for name, each in values.items()])
    two, _ = build(
        [{"prompt": text} for text in reversed(texts)], [axis(name, *reversed(values[name])) for name in names]
    )
    assert set(ids(one)) == set(ids(two))


@given(prompts, st.booleans())
def test_drawn_seeds_differ_for_equal_rows_and_survive_being_stated(texts: list[str], balanced: bool) -> None:
    """Equal rows draw different seeds; stating the drawn seeds in the table, for any of the rows, keeps the cells."""
    grid, parts = build([{"prompt": text} for text in texts], [axis("guidance_scale", 3.5, 5)][balanced:])
    if grid.n_combinations > 1:
        assert len(set(ids(grid))) == grid.n_cells
        return
    found = cells(grid, parts)
    drawn = {(cell.body["prompt"], cell.body["seed"]) for cell in found}
    assert len(drawn) == len(found)
    for pinned in range(len(texts)):
        rows: list[Row] = [{"prompt": text} for text in texts]
        rows[pinned]["seed"] = found[pinned].body["seed"]
        again, _ = build(rows, [])
        assert set(ids(again)) == set(ids(grid))


@given(prompts, st.integers(1, 4), st.integers(1, 4))
def test_row_seeds_grow_without_changing(texts: list[str], few: int, more: int) -> None:
    """Drawing more seeds a row keeps the first ones, rows draw their own, and an added axis keeps them too."""

    def seeds(count: int) -> Axis:
        return Axis(name="seed", kind="row_seed", values=tuple(range(count)), key=7)

    rows: list[Row] = [{"prompt": text} for text in texts]
    small, _ = build(rows, [seeds(few)])
    large, parts = build(rows, [seeds(few + more)])
    wide, _ = build(rows, [axis("guidance_scale", 3.5, 7), seeds(few)])
    assert set(ids(small)) <= set(ids(large))
    assert set(ids(small)) <= set(ids(wide))
    assert len(set(ids(large))) == large.n_cells
    assert [cell.cell_id for cell in cells(large, parts)] == ids(large)


def test_a_default_said_anywhere_is_the_same_cell() -> None:
    """A parameter at its default may be absent, a constant, an axis of one or the row's: one id."""
    bare, _ = build([{"prompt": "a"}], [axis("seed", 1)])
    said = [
        build([{"prompt": "a"}], [axis("seed", 1)], params={"guidance_scale": 3.5}),
        build([{"prompt": "a"}], [axis("seed", 1), axis("aspect_ratio", "1:1")]),
        build([{"prompt": "a", "aspect_ratio": "1:1"}], [axis("seed", 1)]),
        build([{"prompt": "a", "seed": "1"}], [], params={"num_images": 1, "safety_tolerance": "2"}),
        build([{"prompt": "a"}], [], params={"seed": 1.0}),
    ]
    assert {tuple(ids(grid)) for grid, _ in said} == {tuple(ids(bare))}


def test_what_a_spec_states_is_sent_though_it_is_the_default() -> None:
    """Only the id drops a default; the body keeps it as written."""
    grid, parts = build([{"prompt": "a"}], [axis("seed", 1)], params={"guidance_scale": 3.5, "aspect_ratio": "1:1"})
    assert cells(grid, parts)[0].body == {"prompt": "a", "guidance_scale": 3.5, "aspect_ratio": "1:1", "seed": 1}


def test_excluded_cells_are_not_counted_and_shift_no_ordinal() -> None:
    """Rules match axes, row parameters and constants; equal rows of which one is excluded stay one cell."""
    rules = [
        Rule(of_row={}, of_axes={"seed": 2, "guidance_scale": 5.0}),
        Rule(of_row={"aspect_ratio": "16:9"}, of_axes={"seed": 1}),
    ]
    rows: list[Row] = [{"prompt": "a"}, {"prompt": "b", "aspect_ratio": "16:9"}, {"prompt": "a"}]
    grid, parts = build(rows, [axis("seed", 1, 2), axis("guidance_scale", 2, 5)], rules=rules)
    left = [(cell.row, cell.body["seed"], cell.body["guidance_scale"]) for cell in cells(grid, parts)]
    assert left == [(0, 1, 2), (0, 1, 5), (0, 2, 2), (1, 2, 2), (2, 1, 2), (2, 1, 5), (2, 2, 2)]
    assert grid.n_cells == 7
    assert grid.n_cells_by_combination.tolist() == [2, 2, 3, 0]
    words = [Rule(of_row={"who": "x"}, of_axes={})]
    columns = {"aspect_ratio": "aspect_ratio"}
    two: list[Row] = [{"who": "x", "what": "y z"}, {"who": "x y", "what": "z"}]
    whole, _ = build(two, [], template="{who} {what}", columns=columns)
    part, _ = build(two, [], template="{who} {what}", rules=words, columns=columns)
    alone, _ = build(two[1:], [], template="{who} {what}", columns=columns)
    assert ids(part) == ids(alone) == ids(whole)[:1]


@given(st.integers(1, 40), st.integers(1, 30))
def test_balanced_order_visits_every_index_once(n_rows: int, n_values: int) -> None:
    """The balanced order is a permutation, whatever the sizes."""
    grid, _ = build([{"prompt": f"p{row}"} for row in range(n_rows)], [axis("seed", *range(n_values))])
    order = np.concatenate(list(grid.in_order("balanced")))
    assert sorted(order.tolist()) == list(range(n_rows * n_values))


def test_any_prefix_of_the_balanced_order_is_spread_evenly() -> None:
    """After a tenth of the cells, every value of every axis has had its share, within a fifth, and rows too."""
    grid, _ = build(
        [{"prompt": f"p{row}"} for row in range(200)],
        [axis("seed", *range(4)), axis("guidance_scale", 1, 2, 3, 4, 5)],
    )
    prefix = np.concatenate(list(grid.in_order("balanced")))[:400]
    rows, combinations = np.divmod(prefix, 20)
    assert np.bincount(rows // 20, minlength=10).tolist() == [40] * 10
    seeds, guidance = np.divmod(combinations, 5)
    assert np.abs(np.bincount(seeds, minlength=4) - 100).max() <= 20
    assert np.abs(np.bincount(guidance, minlength=5) - 80).max() <= 16


def test_axes_that_make_equal_prompts_from_different_rows_are_found() -> None:
    """Both rows are named; equal rows, and templates that tell all rows apart, are no clash."""
    style = Axis(name="style", kind="word", values=("ink", "red ink"))
    columns = {"aspect_ratio": "aspect_ratio"}

    def clashes(*scenes: str) -> list[tuple[int, int]]:
        grid, _ = build([{"scene": s} for s in scenes], [style], template="{scene} {style}", columns=columns)
        return clashing_rows(grid.rows, grid.recipe)

    assert clashes("fox", "owl", "fox red") == [(0, 2)]
    assert clashes("fox", "owl", "fox") == []


def test_models_have_their_own_defaults_and_ids() -> None:
    """The model is part of a cell, and a default of one model is a plain value of another."""
    models = Axis(name="model", kind="model", values=(MODEL, "someone/else"))
    plain, parts = build([{"prompt": "a"}], [axis("seed", 1), models])
    said, _ = build([{"prompt": "a"}], [axis("seed", 1), models], params={"guidance_scale": 3.5})
    assert [cell.model for cell in cells(plain, parts)] == [MODEL, "someone/else"]
    assert ids(plain)[0] == ids(said)[0]
    assert ids(plain)[1] != ids(said)[1]
    assert [cell.cell_id for cell in cells(plain, parts)] == ids(plain)


def test_axis_seeds_begin_with_fewer() -> None:
    """A larger `random` begins with the smaller one's seeds, and all differ."""
    assert axis_seeds(50, 7)[:10] == axis_seeds(10, 7)
    assert len(set(axis_seeds(5000, 7))) == 5000


@given(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4), st.data())
def test_seedless_keys_are_alike_where_only_the_seed_differs(prompts: list[str], data: st.DataObject) -> None:
    """Whoever gives the seed: an axis, a row, a row's own axis, or nobody."""
    seeds = data.draw(st.sampled_from(["axis", "row", "row_seed", "drawn"]))
    axes = [axis("guidance_scale", 2.5, 3.5)]
    rows: list[Row] = [{"prompt": prompt} for prompt in prompts]
    if seeds == "axis":
        axes.append(axis("seed", 1, 2))
    if seeds == "row_seed":
        axes.insert(0, Axis(name="seed", kind="row_seed", values=(0, 1), key=7))
    if seeds == "row":
        rows = [{"prompt": row["prompt"], "seed": data.draw(st.sampled_from([None, 5, 6]))} for row in rows]
    grid, parts = build(rows, axes)
    made = cells(grid, parts)
    keys = grid.seedless_keys(np.array([cell.index for cell in made])).tolist()
    seedless = [{name: value for name, value in cell.body.items() if name != "seed"} for cell in made]
    assert [Key(*key) for key in keys] == [body_key(MODEL, body) for body in seedless]


@given(
    st.lists(st.sampled_from([("x", "y z"), ("x y", "z"), ("v", "w")]), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_keys_of_some_cells_are_those_of_the_slices(words: list[tuple[str, str]], random: Random) -> None:
    """In whatever order they are asked for, of equal rows too, whose ordinals an exclusion makes uneven."""
    rules = [Rule(of_row={"who": "x"}, of_axes={"seed": 2})]
    rows: list[Row] = [{"who": who, "what": what} for who, what in words]
    grid, parts = build(rows, [axis("seed", 1, 2, 3)], rules=rules, template="{who} {what}", columns={})
    keys = {
        index: key for piece in grid.slices(4) for index, key in zip(piece.indexes, piece.keys.tolist(), strict=True)
    }
    indexes = random.sample(sorted(keys), len(keys))
    assert grid.keys_of(np.array(indexes, dtype=np.int64)).tolist() == [keys[index] for index in indexes]
    made = [cell_id(Key(*keys[index])) for index in sorted(keys)]
    assert made == [cell.cell_id for cell in cells(grid, parts)]
