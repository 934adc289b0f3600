"""The rows' side of the grid: what each row of the prompt table adds to a request, and its share of the cells' keys.

Decides which columns a job reads, what a row's empty or mistyped field means, and folds a million rows into arrays
of 16-byte keys; the texts stay in the table's own columns. It must not read a table and knows no axes' values but
the template's words and the models, of which a row's share depends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite

import numpy as np
import numpy.typing as npt

from batchflux.core.arrow import joined_once
from batchflux.core.catalog import known_model
from batchflux.core.errors import Problem
from batchflux.core.identity import (
    Key,
    add_keys,
    canonical_json,
    model_key,
    parameter_key,
    prompt_keys,
    row_name,
    selection_rank,
)
from batchflux.core.model import Axis, JsonValue, Params
from batchflux.core.parameters import as_sent
from batchflux.core.template import Template

__all__ = ["KeyArray", "RowArrays", "RowPart", "RowReader", "RowRecipe", "Rule", "name_of_row", "same_value"]

KeyArray = npt.NDArray[np.uint64]

# A table can be wrong in every row: this many faults are told one by one, the others are counted.
MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """What one row says: its id where the table has one, the words of its prompt and its own parameters, typed."""

    given_id: str | None
    words: Mapping[str, str]
    params: Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `exclude` rule, split: what it asks of a row and what it asks of a combination of axis values."""

    of_row: Params
    of_axes: Params


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecipe:
    """How a job turns a table's row into its part of a request.

    `columns` maps `prompt`, `id` and request parameters to the table's columns; `template` replaces
    `columns["prompt"]`. `parse_text(name, text)` types a field of a text table, raising ValueError with words that
    say what would be right; `check_value(name, value)` returns such words or None.
    """

    columns: Mapping[str, str]
    template: Template
    models: tuple[str, ...]
    word_axes: tuple[Axis, ...]
    axis_names: frozenset[str]
    params: Params
    rules: tuple[Rule, ...]
    parse_text: Callable[[str, str], JsonValue]
    check_value: Callable[[str, JsonValue], str | None]

    @property
    def row_words(self) -> tuple[str, ...]:
        """The template's words that are columns."""
        axes = {axis.name for axis in self.word_axes}
        return tuple(word for word in self.template.words if word not in axes)

    @property
    def row_params(self) -> Mapping[str, str]:
        """Request parameter -> column, for those that no axis overrides."""
        return {
            name: column
            for name, column in self.columns.items()
            if name not in ("prompt", "id") and name not in self.axis_names
        }

    @property
    def needed(self) -> tuple[str, ...]:
        """The table's columns that requests are made of, each once."""
        wanted = [*self.row_words, *self.row_params.values()]
        if "id" in self.columns:
            wanted.append(self.columns["id"])
        return tuple(dict.fromkeys(wanted))

    def variants(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (model, words of the axes) in the order of `RowArrays.keys`: models outside, words inside."""
        for model in self.models:
            for values in product(*(axis.values for axis in self.word_axes)):
                yield (
                    model,
                    {axis.name: word_text(value) for axis, value in zip(self.word_axes, values, strict=True)},
                )

    def row_text(self, words: Mapping[str, str]) -> str:
        """Return the row's part of the prompt: words of axes stand in it as `{name}`."""
        return self.template.render({**{axis.name: f"{{{axis.name}}}" for axis in self.word_axes}, **words})

    def effective(self, part: RowPart, name: str) -> JsonValue:
        """Return what a row's requests hold under a name that is no axis: word, parameter, constant or default."""
        if name in part.words:
            return part.words[name]
        if name in part.params:
            return part.params[name]
        if name in self.params:
            return self.params[name]
        model = known_model(self.models[0])
        parameter = model.parameters.get(name) if model else None
        return parameter.default if parameter else None


def word_text(value: JsonValue) -> str:
    """Return an axis value as it stands in a prompt: text as it is, numbers in their canonical form."""
    return value if isinstance(value, str) else canonical_json(value)


def same_value(left: JsonValue, right: JsonValue) -> bool:
    """Return whether two values mean the same: 5 and 5.0 do, 5 and "5" don't."""
    return canonical_json(left) == canonical_json(right)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowArrays:
    """A table's rows as arrays, n rows and v variants (model × template words of axes).

    `keys` (v, n, 2) uint64: model + prompt + parameters, without the axes' parameters. `prompt_keys` (v, n, 2): the
    prompt's alone, only where row seeds are drawn. `signature` (n,) int32: index into `rule_sets`, the sets of rules
    whose row side a row meets. `own_seed` (n,) int64: the seed that a row gives, -2 where it gives none. `images`
    (n,) int64: the images that a row asks for, 0 where it doesn't say. `shape` (n,) int32: index into `shapes`, the
    sets of parameters but the seed that rows bring, `UNTOLD_SHAPE` where there are too many to tell apart.
    """

    keys: KeyArray
    prompt_keys: KeyArray | None
    signature: npt.NDArray[np.int32]
    rule_sets: tuple[frozenset[int], ...]
    own_seed: npt.NDArray[np.int64]
    images: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int32]
    shapes: tuple[Params, ...]

    @property
    def n_rows(self) -> int:
        return len(self.signature)

    def take(self, rows: npt.NDArray[np.int64]) -> "RowArrays":
        """Return the arrays of some rows, in the order given."""
        return RowArrays(
            keys=self.keys[:, rows],
            prompt_keys=None if self.prompt_keys is None else self.prompt_keys[:, rows],
            signature=self.signature[rows],
            rule_sets=self.rule_sets,
            own_seed=self.own_seed[rows],
            images=self.images[rows],
            shape=self.shape[rows],
            shapes=self.shapes,
        )


NO_SEED = -2
UNTOLD_SHAPE = -1
# Many more than prices could be asked of; a column of arbitrary numbers must not fill memory.
_MOST_SHAPES = 1024


def _whole(value: JsonValue, otherwise: int) -> int:
    return int(value) if isinstance(value, int | float) and float(value).is_integer() else otherwise


class RowReader:
    """Reads batches of rows into `RowArrays`, collecting what is wrong with them."""

    def __init__(self, recipe: RowRecipe, *, keep_prompt_keys: bool, sample_key: int | None = None) -> None:
        self.problems: list[Problem] = []
        self.n_rows = 0
        self._recipe = recipe
        self._variants = tuple(recipe.variants())
        self._keep_prompt_keys = keep_prompt_keys
        self._sample_key = sample_key
        self._key_parts: list[KeyArray] = []
        self._prompt_key_parts: list[KeyArray] = []
        self._signatures: list[npt.NDArray[np.int32]] = []
        self._seeds: list[npt.NDArray[np.int64]] = []
        self._images: list[npt.NDArray[np.int64]] = []
        self._shapes: list[npt.NDArray[np.int32]] = []
        self._shape_numbers: dict[str, int] = {}
        self._shapes_found: list[Params] = []
        self._rule_sets: dict[frozenset[int], int] = {}
        self._id_hashes: list[npt.NDArray[np.int64]] = []
        self._rank_texts: list[bytes] = []
        self._parameter_keys: dict[tuple[str, str, type, JsonValue], Key] = {}
        self._typed: dict[tuple[str, str], JsonValue] = {}
        self._fixed = {name: value for name, value in recipe.params.items() if name not in recipe.axis_names}
        self._model_keys = {model: model_key(model) for model in recipe.models}
        self._bare_keys = self._keys_with({})
        self._row_params = dict(recipe.row_params)
        self._row_words = recipe.row_words
        self._id_column = recipe.columns.get("id")
        self._uncounted_problems = 0

    def add(self, columns: Mapping[str, Sequence[JsonValue]], where: Callable[[int], str], *, count: int) -> None:
        """Take in a batch: `columns` holds `recipe.needed`, words and ids as text, None for a null field."""
        keys = np.empty((len(self._variants), count, 2), dtype=np.uint64)
        keys[:] = self._bare_keys[:, None]
        prompts: list[list[str]] = [[] for _ in self._variants]
        signature = np.zeros(count, dtype=np.int32)
        seeds = np.full(count, NO_SEED, dtype=np.int64)
        images = np.zeros(count, dtype=np.int64)
        shapes = np.zeros(count, dtype=np.int32)
        ids = np.zeros(count, dtype=np.int64)
        for offset in range(count):
            part = self.part(columns, offset, where)
            if part is None:
                for texts in prompts:
                    texts.append("")
                continue
            self._put_prompts(part, prompts)
            if part.params:
                keys[:, offset] = self._keys_with(part.params)
            signature[offset] = self._signature(part)
            seeds[offset] = _whole(part.params.get("seed"), NO_SEED)
            images[offset] = _whole(part.params.get("num_images"), 0)
            shapes[offset] = self._shape_number(part.params)
            if part.given_id is not None:
                ids[offset] = hash(part.given_id)
            if self._sample_key is not None:
                self._rank_texts.append(self._recipe.row_text(part.words).encode())
        own = np.stack([prompt_keys(texts) for texts in prompts])
        self._key_parts.append(keys + own)  # modulo 2**64, as `add_keys`
        if self._keep_prompt_keys:
            self._prompt_key_parts.append(own)
        self._signatures.append(signature)
        self._seeds.append(seeds)
        self._images.append(images)
        self._shapes.append(shapes)
        self._id_hashes.append(ids)
        self.n_rows += count

    def part(
        self, columns: Mapping[str, Sequence[JsonValue]], offset: int, where: Callable[[int], str]
    ) -> RowPart | None:
        """Return one row's part, or None where something is wrong with it (then it is among the problems)."""
        words: dict[str, str] = {}
        for word in self._row_words:
            value = columns[word][offset]
            words[word] = value if isinstance(value, str) else ""
        faults = []
        if words and not any(text.strip() for text in words.values()):
            names = " and ".join(f"'{word}'" for word in self._row_words)
            faults.append(("empty prompt", f"fill column {names} or leave the row out"))
        params: dict[str, JsonValue] = {}
        for name, column in self._row_params.items():
            value = columns[column][offset]
            if value is None or value == "":
                continue
            try:
                params[name] = self._typed_value(name, value)
            except ValueError as error:
                faults.append((f"column '{column}': {error}", ""))
        given_id = None
        if self._id_column is not None:
            value = columns[self._id_column][offset]
            given_id = value if isinstance(value, str) and value != "" else None
            if given_id is None:
                faults.append((f"no id in column '{self._id_column}'", "every row needs one, or map no id column"))
        if faults:
            for what, instead in faults:
                self._report(where(offset), what, instead)
            return None
        return RowPart(given_id=given_id, words=words, params=params)

    def _report(self, where: str, what: str, instead: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(where=where, what=what, instead=instead))
        else:
            self._uncounted_problems += 1

    def _typed_value(self, name: str, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            known = self._typed.get((name, value))
            if known is not None:
                return known
            typed = self._recipe.parse_text(name, value)
        else:
            typed = value
            if isinstance(typed, float) and not isfinite(typed):
                raise ValueError(f"must be a number, is {typed}; leave the field empty where the row has none")
            for model in self._recipe.models:
                typed = as_sent(name, typed, model_id=model)
        fault = self._recipe.check_value(name, typed)
        if fault is not None:
            raise ValueError(fault)
        if isinstance(value, str) and len(self._typed) < 65536:
            self._typed[name, value] = typed
        return typed

    def _params_key(self, model: str, params: Params) -> Key:
        total = Key(0, 0)
        for name, value in params.items():
            if isinstance(value, list | dict):
                total = add_keys(total, parameter_key(model, name, value))
                continue
            # The type is part of the cache's key: True, 1 and 1.0 are one key to a dict and two values to a service.
            place = (model, name, type(value), value)
            key = self._parameter_keys.get(place)
            if key is None:
                key = parameter_key(model, name, value)
                if len(self._parameter_keys) < 65536:
                    self._parameter_keys[place] = key
            total = add_keys(total, key)
        return total

    def _put_prompts(self, part: RowPart, prompts: Sequence[list[str]]) -> None:
        for texts, (_, axis_words) in zip(prompts, self._variants, strict=True):
            texts.append(self._recipe.template.render({**part.words, **axis_words} if axis_words else part.words))

    def _keys_with(self, params: Params) -> KeyArray:
        """Return, for each variant, the key of a request without its prompt: model and parameters, (v, 2)."""
        said = {**self._fixed, **params}
        by_model = {model: add_keys(key, self._params_key(model, said)) for model, key in self._model_keys.items()}
        return np.array([by_model[model] for model, _ in self._variants], dtype=np.uint64)

    def _signature(self, part: RowPart) -> int:
        if not self._recipe.rules:
            return self._rule_sets.setdefault(frozenset(), 0)
        met = frozenset(
            number
            for number, rule in enumerate(self._recipe.rules)
            if all(same_value(self._recipe.effective(part, name), wanted) for name, wanted in rule.of_row.items())
        )
        return self._rule_sets.setdefault(met, len(self._rule_sets))

    def _shape_number(self, params: Params) -> int:
        """Return the place of what a row brings, its seed left out, among all that rows bring."""
        said = {name: value for name, value in params.items() if name != "seed"}
        text = canonical_json(said) if said else ""
        number = self._shape_numbers.get(text)
        if number is None:
            if len(self._shapes_found) >= _MOST_SHAPES:
                return UNTOLD_SHAPE
            number = self._shape_numbers[text] = len(self._shapes_found)
            self._shapes_found.append(said)
        return number

    def arrays(self) -> RowArrays:
        """Return what was read. Valid only where `problems` is empty."""
        return RowArrays(
            keys=np.concatenate(self._key_parts, axis=1),
            prompt_keys=np.concatenate(self._prompt_key_parts, axis=1) if self._keep_prompt_keys else None,
            signature=joined_once(self._signatures),
            rule_sets=tuple(self._rule_sets),
            own_seed=joined_once(self._seeds),
            images=joined_once(self._images),
            shape=joined_once(self._shapes),
            shapes=tuple(self._shapes_found),
        )

    def repeated_ids(self) -> list[tuple[int, int]]:
        """Return (first, again) row numbers from 0 of rows whose ids have equal hashes, in table order."""
        if self._id_column is None or not self._id_hashes:
            return []
        hashes = np.concatenate(self._id_hashes)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        return sorted((int(order[place - 1]), int(order[place])) for place in again)

    def more_problems(self) -> str:
        """Return "and N more rows ..." where more was wrong than `problems` holds, else ""."""
        return f"and {self._uncounted_problems} more like these" if self._uncounted_problems else ""

    def sample(self, n: int) -> npt.NDArray[np.int64]:
        """Return the rows of a sample of n, in table order: the same ones wherever they stand in the table."""
        assert self._sample_key is not None  # noqa: S101
        seen: dict[bytes, int] = {}
        ranks = []
        for row, text in enumerate(self._rank_texts):
            ordinal = seen[text] = seen.get(text, -1) + 1
            shown = text.decode()
            ranks.append((selection_rank(shown, key=self._sample_key, ordinal=ordinal), row))
        ranks.sort()
        return np.array(sorted(row for _, row in ranks[:n]), dtype=np.int64)


def name_of_row(recipe: RowRecipe, part: RowPart) -> str:
    """Return a row's `prompt_id`: the table's, else its content's hash."""
    return part.given_id if part.given_id is not None else row_name(recipe.row_text(part.words), part.params)
