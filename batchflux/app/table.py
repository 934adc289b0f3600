"""A job's table read into its grid: how rows become requests, their columns checked, and each row read once.

Every problem of the table is raised at once, before anything is spent. Writes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from batchflux.core.arrow import Ints, from_ints, from_texts
from batchflux.core.catalog import DEFAULT_MODEL, known_model
from batchflux.core.errors import JobSpecError, Problem
from batchflux.core.grid import Grid
from batchflux.core.model import JsonValue
from batchflux.core.ordinals import clashing_rows
from batchflux.core.parameters import ValueFault, check_value, parse_text
from batchflux.core.rows import RowPart, RowReader, RowRecipe, Rule
from batchflux.core.spec import JobSpec
from batchflux.core.template import Template
from batchflux.io.prompts import PromptTable, TableBatch, missing_columns, text_column, untextual_columns
from batchflux.io.texts import Texts

__all__ = ["MAX_CELLS", "Rows", "build_recipe", "check_columns", "read_rows"]

# Eight million dollars at list price; beyond it an axis was surely meant otherwise.
MAX_CELLS = 100_000_000

_TEXTS_AT_ONCE = 8192


class Rows:
    """The selected rows' own words and parameters, put away and made Python values one row at a time."""

    def __init__(self, recipe: RowRecipe) -> None:
        self._recipe = recipe
        self._reader = RowReader(recipe, keep_prompt_keys=False)
        self._texts: dict[str, Texts] = {}
        self._batches: list[pa.RecordBatch] = []  # the columns of numbers, truth values and lists
        self._last: tuple[int, RowPart] | None = None

    def add(self, columns: pa.RecordBatch) -> None:
        """Put rows behind the others, before any is asked for."""
        names = [field.name for field in columns.schema if pa.types.is_string(field.type)]
        for name in names:
            self._texts.setdefault(name, Texts()).append(columns[name])
        if len(names) < columns.num_columns:
            self._batches.append(columns.drop_columns(names))

    def taking(self, places: Ints) -> "Rows":
        """Return some of the rows, in the order given."""
        taken = Rows(self._recipe)
        for name, texts in self._texts.items():
            taken._texts[name] = Texts()
            for first in range(0, len(places), _TEXTS_AT_ONCE):
                some = places[first : first + _TEXTS_AT_ONCE].tolist()
                taken._texts[name].append(from_texts([texts[place] for place in some]))
        if self._batches:
            taken._batches = self._others.take(from_ints(places)).to_batches()
        return taken

    @cached_property
    def _others(self) -> pa.Table:
        schema = self._batches[0].schema if self._batches else pa.schema([])
        return pa.Table.from_batches(self._batches, schema=schema)

    def part(self, row: int) -> RowPart:
        """Return a row's part, from 0 in the order of the job. Raises StorageError."""
        last = self._last  # once: the manifest is written in a thread beside the run
        if last is not None and last[0] == row:
            return last[1]
        columns: dict[str, Sequence[JsonValue]] = {name: (texts[row],) for name, texts in self._texts.items()}
        for name, column in zip(self._others.column_names, self._others.columns, strict=True):
            columns[name] = (column[row].as_py(),)
        part = self._reader.part(columns, 0, str)
        assert part is not None  # noqa: S101 - every row was checked when it was read
        self._last = (row, part)
        return part


def build_recipe(spec: JobSpec) -> RowRecipe:
    """Return how the job turns rows into requests."""
    template = spec.template or Template.of_column(spec.prompts.columns["prompt"])
    axis_names = frozenset(axis.name for axis in spec.grid)
    return RowRecipe(
        columns=spec.prompts.columns,
        template=template,
        models=spec.models,
        word_axes=tuple(axis for axis in spec.grid if axis.kind == "word"),
        axis_names=axis_names,
        params=spec.params,
        rules=tuple(
            Rule(
                of_row={name: value for name, value in rule.items() if name not in axis_names},
                of_axes={name: value for name, value in rule.items() if name in axis_names},
            )
            for rule in spec.exclude
        ),
        parse_text=_parser(spec),
        check_value=_checker(spec),
    )


def _parser(spec: JobSpec) -> Callable[[str, str], JsonValue]:
    known = next((model for model in spec.models if known_model(model) is not None), None)

    def parse(name: str, text: str) -> JsonValue:
        # Of a model that nothing ships for, a seed is a number all the same; what isn't one there is sent as written.
        value = parse_text(name, text, model_id=known or DEFAULT_MODEL)
        if not isinstance(value, ValueFault):
            return value
        if known is None:
            return text
        raise ValueError(_told(value))

    return parse


def _checker(spec: JobSpec) -> Callable[[str, JsonValue], str | None]:
    def check(name: str, value: JsonValue) -> str | None:
        for model in spec.models:
            fault = check_value(name, value, model_id=model, allow_unknown=spec.api.allow_unknown_params)
            if fault is not None and not fault.is_warning:
                return _told(fault)
        return None

    return check


def _told(fault: ValueFault) -> str:
    return f"{fault.what}; {fault.instead}" if fault.instead else fault.what


def check_columns(spec: JobSpec, recipe: RowRecipe, table: PromptTable) -> None:
    problems = missing_columns(table, recipe.needed)
    texts = [*recipe.row_words, *([spec.prompts.columns["id"]] if "id" in spec.prompts.columns else [])]
    problems += untextual_columns(table, texts)
    both = [axis.name for axis in recipe.word_axes if axis.name in table.column_names]
    problems += [
        Problem(
            where=f"grid.{name}",
            what=f"the template's '{name}' is both an axis and a column of the table",
            instead="rename one of them",
        )
        for name in both
    ]
    if problems:
        raise JobSpecError(problems)


def read_rows(spec: JobSpec, recipe: RowRecipe, table: PromptTable) -> tuple[Grid, Rows, Any]:
    """Read the columns that requests are made of, once; returns the grid, the rows and which rows were selected."""
    sample = spec.prompts.sample
    seeds_by_row = any(axis.kind == "row_seed" for axis in spec.grid)
    reader = RowReader(recipe, keep_prompt_keys=seeds_by_row, sample_key=sample.key if sample else None)
    rows = Rows(recipe)
    for batch in _needed_batches(spec, recipe, table):
        columns = _texts(recipe, batch.columns)
        lists = {name: columns[name].to_pylist() for name in columns.schema.names}
        reader.add(lists, batch.where, count=batch.columns.num_rows)
        rows.add(columns)
    problems = list(reader.problems)
    if more := reader.more_problems():
        problems.append(Problem(where=str(table.paths[0]), what=more))
    if not problems and "id" in spec.prompts.columns:
        problems += _repeated_ids(spec, table, reader)
    if problems:
        raise JobSpecError(problems)
    arrays = reader.arrays()
    selected = None
    if sample is not None:
        selected = reader.sample(sample.n)
        arrays, rows = arrays.take(selected), rows.taking(selected)
    elif spec.prompts.limit is not None:
        selected = np.arange(reader.n_rows, dtype=np.int64)
    _refuse_clashes(arrays, recipe, table)
    grid = Grid(recipe, spec.grid, arrays)
    _refuse_size(grid)
    del reader
    pa.default_memory_pool().release_unused()  # a fifth of what a million rows took on the way
    return grid, rows, selected


def _needed_batches(spec: JobSpec, recipe: RowRecipe, table: PromptTable) -> Iterator[TableBatch]:
    """Yield the columns needed, of the first rows only where the spec says so."""
    names = recipe.needed or table.column_names[:1]
    left = spec.prompts.limit
    for batch in table.batches(columns=names):
        if left is None:
            yield batch
            continue
        yield replace(batch, columns=batch.columns.slice(0, left))
        left -= batch.columns.num_rows
        if left <= 0:
            return


def _texts(recipe: RowRecipe, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with words and ids as text, whatever their type in the table."""
    wanted = {*recipe.row_words, recipe.columns.get("id")}
    arrays = [
        text_column(column) if name in wanted else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _repeated_ids(spec: JobSpec, table: PromptTable, reader: RowReader) -> list[Problem]:
    pairs = reader.repeated_ids()
    if not pairs:
        return []
    column = spec.prompts.columns["id"]
    wanted = {row for pair in pairs[:20] for row in pair}
    found: dict[int, tuple[str, str]] = {}
    first = 0
    for batch in table.batches(columns=[column]):
        for row in wanted & set(range(first, first + batch.columns.num_rows)):
            text = text_column(batch.columns.column(0))[row - first].as_py()
            found[row] = (batch.where(row - first), text)
        first += batch.columns.num_rows
    return [
        Problem(
            where=found[again][0],
            what=f"the id {found[again][1]!r} is also that of {found[once][0]}",
            instead="ids name rows, so each must be unique",
        )
        for once, again in pairs[:20]
        if found[once][1] == found[again][1]
    ]


def _refuse_clashes(arrays: Any, recipe: RowRecipe, table: PromptTable) -> None:
    clashes = clashing_rows(arrays, recipe)
    if clashes:
        raise JobSpecError(
            [
                Problem(
                    where=f"{table.paths[0].name}: row {one + 1}",
                    what=f"the template makes the same prompt of it and of row {two + 1}, by way of its axes"
                    if one != two
                    else "the template makes the same prompt of it twice, by way of its axes",
                    instead="leave one of the rows out, or separate the words in the template",
                )
                for one, two in clashes[:20]
            ]
        )


def _refuse_size(grid: Grid) -> None:
    if grid.n_indexes > MAX_CELLS:
        sizes = " × ".join(f"{len(axis.values):,} {axis.name}" for axis in grid.axes)
        raise JobSpecError(
            [
                Problem(
                    where="grid",
                    what=f"{grid.rows.n_rows:,} rows × {sizes} are {grid.n_indexes:,} cells",
                    instead=f"one run holds up to {MAX_CELLS:,}; split the job",
                )
            ]
        )
    if grid.n_cells == 0:
        raise JobSpecError([Problem(where="exclude", what="leaves no cell", instead="loosen a rule")])
