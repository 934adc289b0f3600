"""The edits that people make to a job between two runs, each a function that changes a draft in place.

An edit that doesn't apply to a draft leaves it as it is. Which of them buy something is the oracle's to say.
"""

import random
from collections.abc import Callable
from typing import Any

from tests.app.drafts import MAX, PRO, Draft

Edit = Callable[[Draft, random.Random], None]
EDITS: dict[str, Edit] = {}

_LISTS: dict[str, list[Any]] = {
    "aspect_ratio": ["1:1", "16:9", "3:2"],
    "guidance_scale": [3.5, 2.5, 7.0],
    "seed": [1, 2, 3, 40, 500],
}


def _edit(function: Edit) -> Edit:
    EDITS[function.__name__] = function
    return function


def _lists(draft: Draft) -> list[str]:
    return [name for name, form in draft.axes.items() if isinstance(form, list)]


def _drop_rules(draft: Draft, axis: str) -> None:
    draft.exclude = [rule for rule in draft.exclude if axis not in rule]


# ------------------------------------------------------------------------------------------------------ order


@_edit
def reorder_rows(draft: Draft, dice: random.Random) -> None:
    dice.shuffle(draft.rows)


@_edit
def reorder_columns(draft: Draft, dice: random.Random) -> None:
    draft.columns_turned += dice.randint(1, 3)


@_edit
def reorder_keys(draft: Draft, dice: random.Random) -> None:
    draft.keys_turned += dice.randint(1, 4)


@_edit
def reorder_axes(draft: Draft, dice: random.Random) -> None:
    draft.axes = dict(reversed(draft.axes.items()))


@_edit
def reorder_values(draft: Draft, dice: random.Random) -> None:
    for name in _lists(draft):
        draft.axes[name] = draft.axes[name][::-1]


# ------------------------------------------------------------------------------------------------------ files


def _form(form: str) -> None:
    def edit(draft: Draft, dice: random.Random) -> None:
        draft.form = form

    EDITS[f"write_as_{form}"] = edit


for _name in ("csv", "tsv", "parquet", "jsonl", "csv.gz"):
    _form(_name)


@_edit
def split_the_table(draft: Draft, dice: random.Random) -> None:
    draft.is_split = not draft.is_split


@_edit
def rename_the_table(draft: Draft, dice: random.Random) -> None:
    draft.table_name = f"table{dice.randint(0, 99)}-"


@_edit
def rename_the_spec(draft: Draft, dice: random.Random) -> None:
    draft.spec_name = f"job{dice.randint(0, 99)}.yaml"


@_edit
def move_everything(draft: Draft, dice: random.Random) -> None:
    draft.home = f"moved{dice.randint(0, 99)}/here"


@_edit
def move_the_run_directory(draft: Draft, dice: random.Random) -> None:
    draft.run_dir = f"runs{dice.randint(0, 99)}/results"


@_edit
def lift_into_extends(draft: Draft, dice: random.Random) -> None:
    draft.is_extended = not draft.is_extended


@_edit
def spell_numbers_longer(draft: Draft, dice: random.Random) -> None:
    draft.is_long_spelling = not draft.is_long_spelling


# ------------------------------------------------------------------------------------------------------ names


@_edit
def add_ids(draft: Draft, dice: random.Random) -> None:
    draft.has_ids = True


@_edit
def rename_ids(draft: Draft, dice: random.Random) -> None:
    prefix = f"n{dice.randint(0, 99)}-"
    for number, row in enumerate(draft.rows):
        row["id"] = f"{prefix}{number}"


@_edit
def drop_ids(draft: Draft, dice: random.Random) -> None:
    draft.has_ids = False


@_edit
def rename_columns(draft: Draft, dice: random.Random) -> None:
    draft.names = {"prompt": "caption", "id": "key", "note": "remark"}
    if draft.template is not None:
        del draft.names["prompt"]


@_edit
def change_another_column(draft: Draft, dice: random.Random) -> None:
    for row in draft.rows:
        row["note"] = f"seen {dice.randint(0, 99)}"


# ------------------------------------------------------------------------------------------------------ defaults


@_edit
def state_a_default_as_an_axis(draft: Draft, dice: random.Random) -> None:
    if not {"num_images"} & {*draft.axes, *draft.params, *draft.row_params}:
        draft.axes["num_images"] = [1]


@_edit
def state_a_default_in_params(draft: Draft, dice: random.Random) -> None:
    if "safety_tolerance" not in {*draft.axes, *draft.params}:
        draft.params["safety_tolerance"] = "2"


@_edit
def state_a_default_in_a_column(draft: Draft, dice: random.Random) -> None:
    if "aspect_ratio" not in {*draft.axes, *draft.params, *draft.row_params}:
        draft.row_params.append("aspect_ratio")
        for row in draft.rows:
            row["aspect_ratio"] = dice.choice(["1:1", ""])


@_edit
def move_a_constant_into_a_column(draft: Draft, dice: random.Random) -> None:
    for name in [name for name in draft.params if name not in draft.row_params][:1]:
        value = draft.params.pop(name)
        draft.row_params.append(name)
        for row in draft.rows:
            row[name] = str(value)


@_edit
def move_a_column_into_params(draft: Draft, dice: random.Random) -> None:
    for name in [name for name in draft.row_params if name != "seed"][:1]:
        draft.row_params.remove(name)
        draft.params[name] = 2.25 if name == "guidance_scale" else {"num_images": 2}.get(name, "3:2")
        if name == "safety_tolerance":
            draft.params[name] = "2"
        for row in draft.rows:
            row.pop(name, None)


@_edit
def move_a_constant_into_an_axis(draft: Draft, dice: random.Random) -> None:
    for name in [name for name in draft.params if name not in draft.row_params][:1]:
        draft.axes[name] = [draft.params.pop(name)]


@_edit
def say_the_prompt_by_a_template(draft: Draft, dice: random.Random) -> None:
    if draft.template is None:
        draft.template = "{prompt}"
        draft.names.pop("prompt", None)


@_edit
def state_the_model_as_an_axis(draft: Draft, dice: random.Random) -> None:
    draft.axes.setdefault("model", [MAX])


# ------------------------------------------------------------------------------------------------------ more, less


@_edit
def grow_count(draft: Draft, dice: random.Random) -> None:
    form = draft.axes.get("seed")
    if isinstance(form, dict) and "count" in form:
        form["count"] += 1


@_edit
def grow_random(draft: Draft, dice: random.Random) -> None:
    form = draft.axes.get("seed")
    if isinstance(form, dict) and "random" in form:
        form["random"] += 1


@_edit
def count_seeds(draft: Draft, dice: random.Random) -> None:
    _seed_axis(draft, {"count": 2, "start": dice.randint(0, 2)})


@_edit
def draw_seeds(draft: Draft, dice: random.Random) -> None:
    _seed_axis(draft, {"random": 2, "key": dice.randint(0, 1)})


@_edit
def draw_seeds_per_row(draft: Draft, dice: random.Random) -> None:
    _seed_axis(draft, {"random": 2, "key": dice.randint(0, 1), "per_row": True})


@_edit
def give_no_seed(draft: Draft, dice: random.Random) -> None:
    draft.axes.pop("seed", None)
    _drop_rules(draft, "seed")


def _seed_axis(draft: Draft, form: dict[str, Any]) -> None:
    if "seed" not in {*draft.params, *draft.row_params}:
        _drop_rules(draft, "seed")
        draft.axes["seed"] = form


@_edit
def let_some_rows_give_a_seed(draft: Draft, dice: random.Random) -> None:
    if "seed" not in {*draft.axes, *draft.params, *draft.row_params}:
        draft.row_params.append("seed")
        for row in draft.rows:
            row["seed"] = dice.choice(["", "7", "8"])


@_edit
def limit_the_rows(draft: Draft, dice: random.Random) -> None:
    draft.limit = 2


@_edit
def grow_the_limit(draft: Draft, dice: random.Random) -> None:
    if draft.limit is not None:
        draft.limit += 1


@_edit
def lift_the_limit(draft: Draft, dice: random.Random) -> None:
    draft.limit = None


@_edit
def insert_a_row(draft: Draft, dice: random.Random) -> None:
    number = max(int(row["number"]) for row in draft.rows) + 1
    row = {**dict.fromkeys(draft.row_params, ""), "prompt": f"a new kite, {number}", "note": "", "number": str(number)}
    draft.rows.insert(dice.randint(0, len(draft.rows)), {**row, "id": f"new-{number}"})


@_edit
def duplicate_a_row(draft: Draft, dice: random.Random) -> None:
    number = max(int(row["number"]) for row in draft.rows) + 1
    row = {**dice.choice(draft.rows), "number": str(number), "id": f"twin-{number}"}
    draft.rows.insert(dice.randint(0, len(draft.rows)), row)


@_edit
def drop_a_row(draft: Draft, dice: random.Random) -> None:
    if len(draft.rows) > 1:
        draft.rows.pop(dice.randrange(len(draft.rows)))


@_edit
def add_a_value(draft: Draft, dice: random.Random) -> None:
    for name in _lists(draft):
        new = [value for value in _LISTS.get(name, ()) if value not in draft.axes[name]]
        draft.axes[name] = [*draft.axes[name], *new[:1]]


@_edit
def drop_a_value(draft: Draft, dice: random.Random) -> None:
    for name in _lists(draft):
        if len(draft.axes[name]) > 1:
            draft.axes[name] = draft.axes[name][1:]
            _drop_rules(draft, name)


@_edit
def add_an_axis(draft: Draft, dice: random.Random) -> None:
    for name in ("guidance_scale", "aspect_ratio"):
        if name not in {*draft.axes, *draft.params, *draft.row_params}:
            draft.axes[name] = _LISTS[name][:2]
            return


@_edit
def space_an_axis(draft: Draft, dice: random.Random) -> None:
    if "guidance_scale" not in {*draft.params, *draft.row_params}:
        _drop_rules(draft, "guidance_scale")
        draft.axes["guidance_scale"] = {"start": 2.5, "stop": dice.choice([4.5, 7.5]), "num": 3}


@_edit
def drop_an_axis(draft: Draft, dice: random.Random) -> None:
    names = [name for name in draft.axes if name not in ("seed", "style")]
    for name in names[:1]:
        del draft.axes[name]
        _drop_rules(draft, name)


@_edit
def add_a_word(draft: Draft, dice: random.Random) -> None:
    if "style" not in draft.axes:
        draft.template = "{prompt}, as {style}"
        draft.names.pop("prompt", None)
        draft.axes["style"] = ["ukiyo-e", "film noir"]


@_edit
def ask_for_two_images(draft: Draft, dice: random.Random) -> None:
    if "num_images" not in {*draft.axes, *draft.row_params}:
        draft.params["num_images"] = 2


@_edit
def let_rows_ask_for_images(draft: Draft, dice: random.Random) -> None:
    if "num_images" not in {*draft.axes, *draft.row_params}:
        draft.row_params.append("num_images")
        for row in draft.rows:
            row["num_images"] = dice.choice(["", "1", "3"])


@_edit
def add_a_model(draft: Draft, dice: random.Random) -> None:
    draft.axes["model"] = [PRO, MAX]
    draft.run["price"] = 0.08


@_edit
def exclude_some(draft: Draft, dice: random.Random) -> None:
    for name in _lists(draft):
        if len(draft.axes[name]) > 1:
            draft.exclude = [{name: draft.axes[name][-1]}]
            return


@_edit
def exclude_nothing(draft: Draft, dice: random.Random) -> None:
    draft.exclude = []


@_edit
def change_run_options(draft: Draft, dice: random.Random) -> None:
    draft.run |= {"order": dice.choice(["rows", "balanced"]), "concurrency": dice.randint(2, 9), "max_attempts": 2}
