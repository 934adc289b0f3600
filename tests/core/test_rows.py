"""The rows' side of the grid: what a row says, what is wrong with it, and its share of the cells' keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.identity import Key, add_keys, body_key, cell_id, model_key, parameter_key
from batchflux.core.model import Axis, JsonValue
from batchflux.core.rows import MAX_PROBLEMS, RowReader, RowRecipe, Rule, name_of_row, same_value, word_text
from batchflux.core.template import Template

MAX = "wavespeed-ai/flux-kontext-max/text-to-image"
PRO = "wavespeed-ai/flux-kontext-pro/text-to-image"


def parse_text(name: str, text: str) -> JsonValue:
    if name in ("seed", "num_images"):
        if not text.isdigit():
            raise ValueError(f"{text!r} is no whole number")
        return int(text)
    return float(text) if name == "guidance_scale" else text


def recipe(template: str = "{prompt}", **changes: Any) -> RowRecipe:
    """A recipe that reads prompts from the column of that name."""
    known: dict[str, Any] = {
        "columns": {"prompt": "prompt"},
        "template": Template.parse(template),
        "models": (MAX,),
        "word_axes": (),
        "axis_names": frozenset(),
        "params": {},
        "rules": (),
        "parse_text": parse_text,
        "check_value": lambda name, value: "99 is too much" if value == 99 else None,
    }
    return RowRecipe(**{**known, **changes})


def where(offset: int) -> str:
    return f"t.csv:{offset + 2}: row {offset + 1}"


def read(made: RowRecipe, columns: Mapping[str, Sequence[JsonValue]], **options: Any) -> RowReader:
    reader = RowReader(made, keep_prompt_keys=False, **options)
    reader.add(columns, where, count=len(next(iter(columns.values()))))
    return reader


def key_of(reader: RowReader, row: int, *, variant: int = 0) -> str:
    lane0, lane1 = reader.arrays().keys[variant, row].tolist()
    return f"{lane0:016x}{lane1:016x}"


def test_a_rows_key_is_its_bodys() -> None:
    """The key that a row adds is that of model, prompt, its own parameters and the job's, in no order."""
    made = recipe(columns={"prompt": "prompt", "seed": "s", "aspect_ratio": "r"}, params={"guidance_scale": 5})
    reader = read(made, {"prompt": ["An owl", "A fox"], "s": ["7", ""], "r": [None, "16:9"]})
    assert not reader.problems
    assert key_of(reader, 0) == cell_id(body_key(MAX, {"prompt": "An owl", "seed": 7, "guidance_scale": 5.0}))
    assert key_of(reader, 1) == cell_id(body_key(MAX, {"prompt": "A fox", "aspect_ratio": "16:9", "guidance_scale": 5}))
    assert reader.arrays().own_seed.tolist() == [7, -2]


def test_a_row_goes_before_the_jobs_parameters() -> None:
    """What a row brings itself replaces what the spec says for all; an axis replaces both and isn't in the share."""
    columns = {"prompt": "prompt", "aspect_ratio": "r"}
    reader = read(recipe(columns=columns, params={"aspect_ratio": "9:16"}), {"prompt": ["a", "b"], "r": ["16:9", ""]})
    assert key_of(reader, 0) == cell_id(body_key(MAX, {"prompt": "a", "aspect_ratio": "16:9"}))
    assert key_of(reader, 1) == cell_id(body_key(MAX, {"prompt": "b", "aspect_ratio": "9:16"}))
    axis = recipe(columns=columns, params={"aspect_ratio": "9:16"}, axis_names=frozenset({"aspect_ratio"}))
    assert axis.needed == ("prompt",)
    assert key_of(read(axis, {"prompt": ["a"]}), 0) == cell_id(body_key(MAX, {"prompt": "a"}))


def test_variants_are_models_outside_and_words_inside() -> None:
    """One share for each model and combination of the template's axis words, in a fixed order."""
    style = Axis(name="style", kind="word", values=("ukiyo-e", 1990.0))
    made = recipe("{prompt}, {style}", models=(MAX, PRO), word_axes=(style,))
    reader = read(made, {"prompt": ["An owl"]})
    bodies = [(model, {"prompt": f"An owl, {word}"}) for model in (MAX, PRO) for word in ("ukiyo-e", "1990")]
    assert [key_of(reader, 0, variant=v) for v in range(4)] == [cell_id(body_key(*each)) for each in bodies]
    assert made.row_text({"prompt": "An owl"}) == "An owl, {style}"


def test_values_of_one_look_keep_their_types() -> None:
    """True, 1, 1.0 and "1" are one key to a dictionary and not to a service: the cache keeps them apart."""
    values: list[JsonValue] = [1, True, 1.0, "1", [1], 1]
    made = recipe(columns={"prompt": "prompt", "x": "x"})
    reader = read(made, {"prompt": ["a"] * 6, "x": values})
    expected = [cell_id(body_key(MAX, {"prompt": "a", "x": value})) for value in values]
    assert [key_of(reader, row) for row in range(6)] == expected
    assert (expected[0] == expected[2], expected[0] == expected[1], expected[0] == expected[3]) == (True, False, False)


@pytest.mark.fault("I02")
@pytest.mark.parametrize("text", ["NA", "None", "null", " spaced ", "007", "="])
def test_text_stays_text(text: str) -> None:
    """A prompt `NA` or `null` is that text; outer spaces belong to it."""
    assert key_of(read(recipe(), {"prompt": [text]}), 0) == cell_id(body_key(MAX, {"prompt": text}))


@pytest.mark.fault("I02", "I04")
def test_what_is_wrong_names_row_and_column() -> None:
    """Empty prompts, missing ids and fields of a wrong type are told each, all of a row's at once."""
    made = recipe(columns={"prompt": "prompt", "id": "key", "seed": "s"})
    columns: dict[str, list[JsonValue]] = {
        "prompt": ["", " \n", "ok", "ok", "ok"],
        "key": ["a", "", None, "b", "c"],
        "s": ["1", "x", "2", "99", "7"],
    }
    problems = [str(problem) for problem in read(made, columns).problems]
    assert problems == [
        "t.csv:2: row 1: empty prompt; fill column 'prompt' or leave the row out",
        "t.csv:3: row 2: empty prompt; fill column 'prompt' or leave the row out",
        "t.csv:3: row 2: column 's': 'x' is no whole number",
        "t.csv:3: row 2: no id in column 'key'; every row needs one, or map no id column",
        "t.csv:4: row 3: no id in column 'key'; every row needs one, or map no id column",
        "t.csv:5: row 4: column 's': 99 is too much",
    ]


def test_a_table_that_is_wrong_in_every_row_is_told_briefly() -> None:
    """The first twenty faults one by one, the others as a number."""
    reader = read(recipe(), {"prompt": [""] * 1000})
    assert len(reader.problems) == MAX_PROBLEMS
    assert reader.more_problems() == f"and {1000 - MAX_PROBLEMS} more like these"
    assert read(recipe(), {"prompt": ["a"]}).more_problems() == ""


@pytest.mark.fault("I03")
def test_repeated_ids() -> None:
    """Rows of one id are paired in table order, across batches; a job without ids has none."""
    made = recipe(columns={"prompt": "prompt", "id": "key"})
    reader = read(made, {"prompt": ["p"] * 3, "key": ["a", "b", "a"]})
    reader.add({"prompt": ["p", "p"], "key": ["b", "c"]}, where, count=2)
    assert reader.repeated_ids() == [(0, 2), (1, 3)]
    assert read(recipe(), {"prompt": ["p", "p"]}).repeated_ids() == []


def test_rules_see_the_row_the_job_and_the_models_defaults() -> None:
    """`exclude` is asked of what a request would hold: the row's value, else the job's, else the model's default."""
    rules = (Rule(of_row={"aspect_ratio": "1:1"}, of_axes={}), Rule(of_row={"guidance_scale": 5}, of_axes={}))
    made = recipe(columns={"prompt": "prompt", "aspect_ratio": "r"}, params={"guidance_scale": 5.0}, rules=rules)
    arrays = read(made, {"prompt": ["a", "b", "c"], "r": ["", "16:9", "1:1"]}).arrays()
    met = [arrays.rule_sets[code] for code in arrays.signature.tolist()]
    assert met == [frozenset({0, 1}), frozenset({1}), frozenset({0, 1})]
    assert [same_value(5, 5.0), same_value(5, "5"), same_value(True, 1)] == [True, False, False]


def test_images_and_taking_rows() -> None:
    """A row may ask for its own number of images; a selection keeps each row's own."""
    made = recipe(columns={"prompt": "prompt", "num_images": "n"})
    arrays = read(made, {"prompt": ["a", "b", "c"], "n": ["1", "", "4"]}).arrays()
    assert arrays.images.tolist() == [1, 0, 4]
    taken = arrays.take(np.array([2, 0]))
    assert (taken.n_rows, taken.images.tolist()) == (2, [4, 1])
    assert (taken.keys[0] == arrays.keys[0, [2, 0]]).all()


def test_names_of_rows() -> None:
    """A row is called by its id, else by its content's hash, which knows nothing of where it stands."""
    made = recipe(columns={"prompt": "prompt", "id": "key"})
    part = RowReader(made, keep_prompt_keys=False).part({"prompt": ["An owl"], "key": ["007"]}, 0, where)
    assert part is not None
    assert name_of_row(made, part) == "007"
    bare = RowReader(recipe(), keep_prompt_keys=False).part({"prompt": ["An owl"]}, 0, where)
    assert bare is not None
    assert len(name_of_row(recipe(), bare)) == 12
    assert word_text(5.0) == "5"


texts = st.text(min_size=1, max_size=8).filter(lambda text: text.strip())


@given(st.lists(texts, min_size=1, max_size=30), st.integers(1, 8), st.randoms())
def test_a_sample_stays_when_rows_move(prompts: list[str], n: int, dice: Any) -> None:
    """A sample is of contents: shuffled rows give the same prompts, and a larger sample holds the smaller one."""
    moved = list(prompts)
    dice.shuffle(moved)

    def sampled(rows: list[str], size: int) -> list[str]:
        chosen = read(recipe(), {"prompt": rows}, sample_key=0).sample(size)
        assert chosen.tolist() == sorted(chosen.tolist())
        return sorted(rows[row] for row in chosen)

    assert sampled(prompts, n) == sampled(moved, n)
    smaller, larger = sampled(prompts, n), sampled(prompts, n + 3)
    for text in set(smaller):
        assert smaller.count(text) <= larger.count(text)
    assert len(smaller) == min(n, len(prompts))


@given(st.lists(texts, min_size=1, max_size=40), st.integers(1, 40))
def test_batches_are_nothing_to_a_key(prompts: list[str], size: int) -> None:
    """However the table's batches are cut, the rows' keys are the same."""
    whole = read(recipe(), {"prompt": prompts}).arrays().keys
    cut = RowReader(recipe(), keep_prompt_keys=False)
    for first in range(0, len(prompts), size):
        some = prompts[first : first + size]
        cut.add({"prompt": some}, where, count=len(some))
    assert (cut.arrays().keys == whole).all()


def test_prompt_keys_are_the_prompts_alone() -> None:
    """Row seeds are drawn from the prompt: the rest of the body is left out of that share."""
    reader = RowReader(recipe(params={"guidance_scale": 5}), keep_prompt_keys=True)
    reader.add({"prompt": ["An owl"]}, where, count=1)
    arrays = reader.arrays()
    assert arrays.prompt_keys is not None
    own = Key(*arrays.prompt_keys[0, 0].tolist())
    whole = Key(*arrays.keys[0, 0].tolist())
    assert own == parameter_key(MAX, "prompt", "An owl")
    assert add_keys(own, model_key(MAX), parameter_key(MAX, "guidance_scale", 5)) == whole
