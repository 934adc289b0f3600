"""What a cell is: published vectors that must never change, and what is equal to what."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.identity import (
    IDENTITY_VERSION,
    MAX_SEED,
    Key,
    add_keys,
    axis_seeds,
    body_key,
    canonical_json,
    cell_id,
    drawn_seed,
    model_key,
    ordinal_key,
    parameter_key,
    redo_seed,
    row_name,
    row_seed,
    selection_rank,
)
from tests.core.test_fields import json_values

MAX = "wavespeed-ai/flux-kontext-max/text-to-image"
VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("identity-v1.json").read_text(encoding="utf-8"))


def identify(model: str, body: dict[str, Any], ordinal: int = 0) -> str:
    return cell_id(add_keys(body_key(model, body), ordinal_key(ordinal)))


@pytest.mark.parametrize("vector", VECTORS["cells"], ids=[vector["about"] for vector in VECTORS["cells"]])
def test_published_cells(vector: dict[str, Any]) -> None:
    """The ids of version 1, as published: a change here would buy every image of every user again."""
    assert IDENTITY_VERSION == VECTORS["version"] == 1
    assert identify(vector["model"], vector["body"], vector["ordinal"]) == vector["id"]


def test_published_seeds_and_names() -> None:
    """Drawn seeds, samples and names of rows are part of bodies and files: they never change either."""
    drawn = VECTORS["drawn"]
    assert list(axis_seeds(4, 7)) == drawn["axis_seeds_4_7"]
    prompt = parameter_key(MAX, "prompt", "An owl")
    assert [row_seed(prompt, key=7, position=p, ordinal=o) for p in (0, 1) for o in (0, 1)] == drawn["row_seeds"]
    seedless = body_key(MAX, {"prompt": "An owl"})
    assert [drawn_seed(seedless, ordinal) for ordinal in range(3)] == drawn["cell_seeds"]
    assert row_name("An owl", {"aspect_ratio": "16:9"}) == drawn["row_name"]
    assert selection_rank("An owl", key=0, ordinal=1).hex() == drawn["selection_rank"]


def test_vectors_tell_apart_what_they_name() -> None:
    """Vectors with the same id are those that say so."""
    same: dict[str, set[str]] = {}
    for vector in VECTORS["cells"]:
        same.setdefault(vector["id"], set()).add(vector.get("same_as", vector["about"]))
    assert all(len(names) == 1 for names in same.values())
    assert len(same) == len({vector.get("same_as", vector["about"]) for vector in VECTORS["cells"]})


@pytest.mark.fault("I05")
@pytest.mark.parametrize(
    ("one", "other"),
    [(5, 5.0), (0, -0.0), (1e2, 100), (10**22, 1e22), ([1.0, 2], [1, 2.0]), ({"a": 1, "b": 2.0}, {"b": 2, "a": 1})],
)
def test_forms_of_one_value(one: Any, other: Any) -> None:
    """5 is 5.0 is 5.00, deep down too, and the order of keys is nothing."""
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (0, False), (5, "5"), (None, "null"), (None, ""), (3.5, 3.25), ("a", "a "), ([], {})]
)
def test_different_values(one: Any, other: Any) -> None:
    """A number is no flag, a text no number, and one space is another prompt."""
    assert canonical_json(one) != canonical_json(other)
    assert parameter_key(MAX, "x", one) != parameter_key(MAX, "x", other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [float("nan")]])
def test_what_json_has_no_word_for(value: Any) -> None:
    """A body that can't be sent has no id."""
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_defaults_add_nothing_for_their_model_alone() -> None:
    """Stating a default buys nothing; for another model, or as another type, it is a value like any other."""
    bare = identify(MAX, {"prompt": "An owl", "seed": 7})
    stated = {"aspect_ratio": "1:1", "num_images": 1.0, "guidance_scale": 3.50, "safety_tolerance": "2"}
    assert identify(MAX, {"seed": 7, **stated, "prompt": "An owl"}) == bare
    assert identify(MAX, {"prompt": "An owl", "seed": 7, "safety_tolerance": 2}) != bare
    other = "wavespeed-ai/flux-kontext-pro/text-to-image"
    assert identify(other, {"prompt": "An owl", "guidance_scale": 3.5}) != identify(other, {"prompt": "An owl"})


bodies = st.dictionaries(st.sampled_from(["prompt", "seed", "guidance_scale", "aspect_ratio", "x"]), json_values)


def is_sendable(body: dict[str, Any]) -> bool:
    try:
        canonical_json(body)
    except ValueError:
        return False
    return True


@given(bodies.filter(is_sendable), st.randoms())
def test_order_is_nothing(body: dict[str, Any], dice: Any) -> None:
    """Whatever order a body was put together in, it is the same cell."""
    names = list(body)
    dice.shuffle(names)
    assert identify(MAX, {name: body[name] for name in names}) == identify(MAX, body)


@given(bodies.filter(is_sendable), bodies.filter(is_sendable))
def test_equal_ids_mean_equal_bodies(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two bodies have one id just where they are the same but for defaults."""
    frozen = {"aspect_ratio": '"1:1"', "guidance_scale": "3.5"}

    def without_defaults(body: dict[str, Any]) -> dict[str, str]:
        texts = {name: canonical_json(value) for name, value in body.items()}
        return {name: text for name, text in texts.items() if frozen.get(name) != text}

    assert (identify(MAX, one) == identify(MAX, other)) == (without_defaults(one) == without_defaults(other))


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=6))
def test_keys_add_up_in_any_grouping(pairs: list[tuple[int, int]]) -> None:
    """A row's share and a combination's share give the cell's key, however they were summed before."""
    keys = [Key(*pair) for pair in pairs]
    middle = len(keys) // 2
    assert add_keys(add_keys(*keys[:middle]), add_keys(*keys[middle:])) == add_keys(*keys) == add_keys(*keys[::-1])
    assert len(cell_id(add_keys(*keys))) == 32


def test_ordinals_tell_equal_bodies_apart() -> None:
    """The first of equal bodies is the body itself, the others have places of their own."""
    assert len({identify(MAX, {"prompt": "An owl"}, ordinal) for ordinal in range(100)}) == 100
    assert identify(MAX, {"prompt": "An owl"}, 0) == cell_id(body_key(MAX, {"prompt": "An owl"}))
    assert model_key(MAX) != model_key(MAX + " ")


@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(1, 200))
def test_growing_a_count_of_seeds_keeps_the_first(key: int, few: int, more: int) -> None:
    """Seeds are distinct, in range, and a larger count begins with the smaller one's."""
    seeds = axis_seeds(few + more, key)
    assert seeds[:few] == axis_seeds(few, key)
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


@given(st.text(max_size=20), st.integers(0, 100))
def test_row_seeds_never_meet(prompt: str, key: int) -> None:
    """A row's positions and its repetitions all draw different seeds."""
    own = parameter_key(MAX, "prompt", prompt)
    seeds = [row_seed(own, key=key, position=p, ordinal=o) for p in range(8) for o in range(8)]
    assert len(set(seeds)) == 64


def test_a_cell_drawn_anew_has_a_seed_of_its_own() -> None:
    """The vectors of what is sent where a cell is drawn anew: by its id and round, and never the seed that it had."""
    first = redo_seed("0" * 32, round_number=1, but=None)
    assert (first, redo_seed("0" * 32, round_number=2, but=first)) == (211744488, 1684490391)
    assert redo_seed("0" * 32, round_number=1, but=first) == 211744489
    assert redo_seed("1" * 32, round_number=1, but=None) != first
