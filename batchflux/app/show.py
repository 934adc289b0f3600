"""`batchflux.show`: which cells of a run stand where in a grid, drawn inline in a notebook.

Decides rows, columns and what is held fixed; `report.inline` draws. Reads what `report` reads, so that it works
beside a live run and after a crash too. Writes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchflux.app.job import Job, load_job, locate_run_dir, shown_path
from batchflux.app.reporting import page_source
from batchflux.app.summary import Result
from batchflux.core.errors import UsageError
from batchflux.core.findings import did_you_mean, nearest
from batchflux.core.grid import Grid
from batchflux.report.cells import axis_words, indexes_of, shown
from batchflux.report.inline import Drawing, Tile, draw

__all__ = ["Shown", "show"]

_PROMPTS: Final = ("prompt", "prompt_id")
_NEEDED: Final = ("prompt_id", "prompt", "status", "files", "error_kind", "error")
_LEAST_PX, _MOST_PX = 16, 1024
_MOST_NAMED: Final = 20

_Codes = npt.NDArray[np.int64]


class Shown:
    """A grid as it was when `show` was called; a notebook draws it, elsewhere it says what it would draw."""

    def __init__(self, drawing: Drawing, *, size: int) -> None:
        self._drawing, self._size = drawing, size

    @cached_property
    def html(self) -> str:
        """The grid as HTML that stands alone."""
        return draw(self._drawing, size=self._size)

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        drawing = self._drawing
        rows, columns = len(drawing.rows), len(drawing.columns)
        said = f"{rows} × {columns} grid of {len(drawing.tiles)} cells, to be seen in a notebook"
        return "\n".join(_printable(line) for line in (said, *drawing.notes))


def show(
    run: "Result | Job | str | Path",
    *,
    rows: str = "prompt",
    cols: str | None = None,
    where: Mapping[str, Any] | None = None,
    size: int = 160,
    most: int = 200,
) -> Shown:
    """Draw a run as a grid of its images: prompts down and an axis across, for a notebook.

    `run` is what `batchflux.run` returned, a run directory, its job file, or a `Job`. `rows` and `cols` name an axis,
    `prompt`, `prompt_id`, or any column of the manifest; `cols` is the first axis of several values where it isn't
    said. `where` holds other axes, or columns, at a value; an axis that nothing is said of is held at its first one,
    which the notes below the grid tell. `size` is an image's longer side in pixels, `most` how many cells are drawn
    at most: later rows are left out, and counted. Raises UsageError for a name or a value that isn't there.
    """
    if not _LEAST_PX <= size <= _MOST_PX or most < 1:
        raise UsageError(f"size must be {_LEAST_PX} to {_MOST_PX} pixels and most at least 1; they are {size}, {most}")
    job, run_dir = _located(run)
    source = page_source(job, run_dir)
    tables = iter(source.tables)
    first = next(tables, None)
    names = [] if first is None else first.column_names
    plan = _plan(job.grid, names, rows=rows, cols=cols, where=dict(where or {}))
    layout = _Layout(
        plan, run_dir=run_dir, most=most, row_text=lambda row: job.recipe.row_text(job.rows.part(row).words)
    )
    indexes, at = indexes_of(job.grid), 0
    while first is not None:
        layout.add(indexes[at : at + first.num_rows], first)
        at, first = at + first.num_rows, next(tables, None)
    layout.check_prompt()
    return Shown(layout.drawing(), size=size)


def _located(run: "Result | Job | str | Path") -> tuple[Job, Path]:
    if isinstance(run, Job):
        if not run.run_dir.is_dir():
            raise UsageError(f"{shown_path(run.run_dir)}: there is no run of the job {run.name} yet; begin it first")
        return load_job(run.run_dir), run.run_dir
    path = run.run_dir if isinstance(run, Result) else Path(run)
    if not path.exists():
        raise UsageError(f"{path}: there is no such run directory or job file")
    place = locate_run_dir(path)
    return load_job(place), place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    grid: Grid
    rows: str
    cols: str | None
    fixed: Mapping[str, int]  # places on axes
    wanted: Mapping[str, Any]  # values of columns
    notes: tuple[str, ...]


def _plan(grid: Grid, names: list[str], *, rows: str, cols: str | None, where: dict[str, Any]) -> _Plan:
    """Decide what goes down, what across, and at which values the other axes are held."""
    axes = {axis.name: axis for axis in grid.axes}
    known = list(dict.fromkeys([*_PROMPTS, *axes, *names]))
    several = [name for name, axis in axes.items() if len(axis.values) > 1 and name != rows and name not in where]
    if cols is None:
        cols = several[0] if several else None
    for said, name in (("rows", rows), ("cols", cols), *(("where", name) for name in where)):
        if name is not None and name not in known:
            raise UsageError(f"{said}: this run has no {name!r}; {did_you_mean(name, known)}")
    if rows == cols:
        raise UsageError(f"rows and cols are both {rows!r}; take another for one of them")
    fixed, notes = {}, []
    for name, axis in axes.items():
        if name in (rows, cols) and name not in where:
            continue
        place = _place(grid, name, where[name]) if name in where else 0
        fixed[name] = place
        if len(axis.values) > 1:
            other = "" if name in where else f" (of {len(axis.values)}; others by where={{{name!r}: ...}})"
            notes.append(f"{name} {axis_words(grid, name)[place]}{other}")
    wanted = {name: value for name, value in where.items() if name not in axes}
    notes += [f"{name} {shown(value)}" for name, value in wanted.items()]
    return _Plan(grid=grid, rows=rows, cols=cols, fixed=fixed, wanted=wanted, notes=tuple(notes))


def _place(grid: Grid, name: str, value: Any) -> int:
    """Return which value of an axis is meant: itself, or as it is shown."""
    axis = next(axis for axis in grid.axes if axis.name == name)
    words = axis_words(grid, name)
    for place, (own, word) in enumerate(zip(axis.values, words, strict=True)):
        if axis.kind != "row_seed" and own == value and isinstance(own, bool) == isinstance(value, bool):
            return place
        if word == shown(value):
            return place
    others = f" and {len(words) - _MOST_NAMED:,} more" if len(words) > _MOST_NAMED else ""
    raise UsageError(
        f"where: the axis {name} has no value {shown(value)}; it has {', '.join(words[:_MOST_NAMED])}{others}"
    )


class _Layout:
    """Takes the manifest's rows in and lays those that are wanted out, each in its place."""

    def __init__(self, plan: _Plan, *, run_dir: Path, most: int, row_text: Callable[[int], str]) -> None:
        self._plan, self._run_dir, self._most, self._row_text = plan, run_dir, most, row_text
        self._prompt_ids: set[str] = set()  # all that there are, where one is asked for
        self._columns: dict[Any, int] = {}
        self._rows: dict[Any, int] = {}
        self._labels: list[tuple[str, str]] = []
        self._heads: dict[Any, str] = {}  # where prompts are across
        self._tiles: dict[tuple[int, int], Tile] = {}
        if plan.cols is not None and plan.cols in {axis.name for axis in plan.grid.axes}:
            self._columns = {place: place for place in range(len(axis_words(plan.grid, plan.cols)))}
        elif plan.cols is None:
            self._columns = {None: 0}

    def add(self, indexes: _Codes, table: pa.Table) -> None:
        """Take in some rows; `indexes` are their cells."""
        plan = self._plan
        if "prompt_id" in plan.wanted:
            self._prompt_ids.update(table["prompt_id"].unique().to_pylist())
        mask = np.ones(len(indexes), dtype=np.bool_)
        combinations = indexes % plan.grid.n_combinations
        for name, place in plan.fixed.items():
            mask &= plan.grid.value_places(name)[combinations] == place
        for name, value in plan.wanted.items():
            mask &= np.array([each == value for each in table[name].to_pylist()], dtype=np.bool_)
        some = np.flatnonzero(mask)
        if not len(some):
            return
        rows, columns = self._keys(plan.rows, indexes, table, some), self._keys(plan.cols, indexes, table, some)
        records = table.select(_NEEDED).take(pa.array(some)).to_pylist()
        for row, column, record in zip(rows, columns, records, strict=True):
            self._put(row, column, record)

    def _keys(self, name: str | None, indexes: _Codes, table: pa.Table, some: _Codes) -> list[Any]:
        grid = self._plan.grid
        if name is None:
            return [None] * len(some)
        if name in _PROMPTS:
            return list((indexes[some] // grid.n_combinations).tolist())
        if name in {axis.name for axis in grid.axes}:
            return list(grid.value_places(name)[indexes[some] % grid.n_combinations].tolist())
        return [_hashable(value) for value in table[name].take(pa.array(some)).to_pylist()]

    def _put(self, row: Any, column: Any, record: dict[str, Any]) -> None:
        if row not in self._rows:
            self._rows[row] = len(self._rows)
            if self._rows[row] < self._most:
                self._labels.append(self._label(row, record))
        self._heads.setdefault(column, str(record["prompt_id"]))
        place = (self._rows[row], self._columns.setdefault(column, len(self._columns)))
        if place[0] >= self._most or place[1] >= self._most:
            return
        there = self._tiles.get(place)
        if there is None:
            self._tiles[place] = self._tile(record)
        else:
            self._tiles[place] = Tile(
                status=there.status, file=there.file, reason=there.reason, title=there.title, more=there.more + 1
            )

    def _label(self, row: Any, record: dict[str, Any]) -> tuple[str, str]:
        if self._plan.rows in _PROMPTS:
            return str(record["prompt_id"]), self._prompt(row, record)
        return f"{self._plan.rows} {self._word(self._plan.rows, row)}", ""

    def _prompt(self, row: int, record: dict[str, Any]) -> str:
        """Return a row's prompt; words that are other ones in each column stand in it as `{name}`."""
        is_open = any(axis.name == self._plan.cols for axis in self._plan.grid.recipe.word_axes)
        return self._row_text(row) if is_open else str(record["prompt"])

    def _word(self, name: str, key: Any) -> str:
        if name in {axis.name for axis in self._plan.grid.axes}:
            word: str = axis_words(self._plan.grid, name)[key]
            return word
        return "–" if key is None else str(shown(key))

    def _tile(self, record: dict[str, Any]) -> Tile:
        reason = ": ".join(part for part in (record["error_kind"], record["error"]) if part)
        return Tile(
            status=record["status"],
            file=self._run_dir / record["files"][0] if record["files"] else None,
            reason=reason,
            title=f"{record['prompt_id']}; {record['status']}; {record['prompt']}",
        )

    def check_prompt(self) -> None:
        """Raise UsageError where a prompt was asked for that isn't there."""
        wanted = self._plan.wanted.get("prompt_id")
        if "prompt_id" in self._plan.wanted and wanted not in self._prompt_ids:
            near = nearest(str(wanted), sorted(self._prompt_ids))
            hint = f"did you mean {near}?" if near else f"it has {len(self._prompt_ids):,} prompts"
            raise UsageError(f"where: this run has no prompt_id {shown(wanted)}; {hint}")

    def drawing(self) -> Drawing:
        """Return what was laid out, within the bound on cells."""
        plan = self._plan
        columns = dict(list(self._columns.items())[: self._most])
        n_rows = max(1, self._most // max(1, len(columns)))
        notes = [f"held: {', '.join(plan.notes)}"] if plan.notes else []
        if len(self._rows) > n_rows:
            notes.append(f"the first {n_rows:,} of {len(self._rows):,} rows; more with most={self._most * 4}")
        if len(self._columns) > len(columns):
            notes.append(f"the first {len(columns):,} of {len(self._columns):,} columns")
        if not self._rows:
            notes.append("no cell is like that")
        heads = [""] if plan.cols is None else [self._head(plan.cols, key) for key in columns]
        return Drawing(
            corner=plan.rows,
            rows=self._labels[:n_rows],
            columns=heads,
            tiles={place: tile for place, tile in self._tiles.items() if place[0] < n_rows},
            notes=notes,
        )

    def _head(self, name: str, key: Any) -> str:
        return self._heads[key] if name in _PROMPTS else f"{name} {self._word(name, key)}"


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _printable(text: str) -> str:
    """Return text in which nothing that came from data can steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
