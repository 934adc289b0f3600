"""The result table: one row a cell of the job, in grid order, written in batches and published whole.

Joins three things column by column: the grid (ids, parameters), the table's own columns, and the folded facts. Makes no
outcome up: what isn't known is null, and a cell nobody has tried is `pending`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchflux.core.arrow import equals, from_ints, from_texts, one
from batchflux.core.catalog import known_model
from batchflux.core.columntypes import PARAMETER_TYPES, common_type, fits, type_of, typed
from batchflux.core.grid import Grid, GridSlice
from batchflux.core.ledger import cell_ids
from batchflux.core.model import JsonValue
from batchflux.core.rows import NO_SEED, RowPart, name_of_row
from batchflux.io.storage import publish_with, remove

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MANIFEST",
    "RETIRED",
    "STATE_FACTS",
    "ManifestSource",
    "is_as_written",
    "iter_tables",
    "manifest_tables",
    "read_manifest",
    "write_manifest",
    "write_retired",
]

MANIFEST = "manifest.parquet"
RETIRED = "retired.parquet"

_WRITTEN = "batchflux.written_ns"

_ROWS_AT_ONCE = 1 << 14  # when it is read

_MOMENT = pa.timestamp("ms", tz="UTC")
_STRINGS = pa.list_(pa.string())
# The service deletes results after seven days (documentation: predictions).
RETENTION_MS = 7 * 24 * 3600 * 1000

# The columns that the facts fill, in the manifest's order.
STATE_FIELDS = pa.schema(
    [
        ("status", pa.string()),
        ("prediction_id", pa.string()),
        ("result_url", pa.string()),
        ("outputs", _STRINGS),
        ("outputs_expire_at", _MOMENT),
        ("has_nsfw_contents", pa.list_(pa.bool_())),
        ("files", _STRINGS),
        ("sha256", _STRINGS),
        ("inference_ms", pa.int64()),
        ("created_at", _MOMENT),
        ("submitted_at", _MOMENT),
        ("completed_at", _MOMENT),
        ("latency_ms", pa.int64()),
        ("attempts", pa.int64()),
        ("cost_usd", pa.float64()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("warnings", _STRINGS),
        ("reused_from", pa.string()),
    ]
)
# The facts' columns that these are made of.
STATE_FACTS = (
    "status",
    "prediction_id",
    "outputs",
    "has_nsfw_contents",
    "files",
    "sha256",
    "inference_ms",
    "created_at",
    "submitted_at",
    "completed_at",
    "latency_ms",
    "attempts",
    "cost_micro_usd",
    "error_kind",
    "error",
    "warnings",
    "reused_from",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSource:
    """What a manifest is made of.

    `part(row)` is a row's part; `carried(first, last)` gives the table's columns of rows first <= row < last;
    `blocks` yields the grid's cells in order: some cells, the folded facts of those that were tried, in grid order,
    and the index of each fact's cell, (facts,); `stamp` is kept in the file's metadata, to know a manifest that is
    up to date.
    """

    grid: Grid
    part: Callable[[int], RowPart]
    carried: Callable[[int, int], pa.Table]
    carried_schema: pa.Schema
    blocks: Iterator[tuple[GridSlice, pa.Table, npt.NDArray[np.int64]]]
    base_url: str
    stamp: str


def write_manifest(path: Path, source: ManifestSource) -> None:
    """Write the manifest and publish it whole. Raises StorageError.

    It says in itself when it was written, and the file's own time is set to just that: see `is_as_written`.
    """
    written_ns = time.time_ns()
    schema = _schema(source).with_metadata({"batchflux.stamp": source.stamp, _WRITTEN: str(written_ns)})
    with publish_with(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in _tables(source, schema):
                writer.write_table(table)
        os.utime(temporary, ns=(written_ns, written_ns))


def manifest_tables(source: ManifestSource) -> Iterator[pa.Table]:
    """Yield what a manifest would hold, in grid order, some ten thousand rows at a time."""
    return _tables(source, _schema(source))


def _tables(source: ManifestSource, schema: pa.Schema) -> Iterator[pa.Table]:
    for piece, facts, indexes in source.blocks:
        if len(piece.indexes):
            yield _batch(source, piece, facts, indexes, schema)


def is_as_written(path: Path, *, stamp: str) -> bool:
    """Return whether a manifest has this stamp and wasn't touched since it was written, without reading its rows.

    Copies that keep a file's time to the second at least (mv, cp -p, rsync, tar) are as good as the file.
    """
    try:
        said = pq.read_schema(path).metadata or {}
        found_ns = path.stat().st_mtime_ns
    except (pa.ArrowException, OSError):
        return False
    written_ns = int(said.get(_WRITTEN.encode(), b"0"))
    is_untouched = found_ns in (written_ns, written_ns // 10**9 * 10**9)
    return is_untouched and said.get(b"batchflux.stamp") == stamp.encode()


def write_retired(path: Path, facts: pa.Table, *, base_url: str) -> None:
    """Write the cells that were run and have left the job, of their folded facts; without any, an older file goes.

    Raises StorageError.
    """
    gone = facts.filter(pc.invert(equals(facts["status"], "pending")))
    if gone.num_rows == 0:
        if path.exists():
            remove(path)
        return
    bodies = [json.loads(body) if body else {} for body in gone["body"].to_pylist()]
    names = _ordered_parameters({name for body in bodies for name in body} - {"prompt"})
    columns: dict[str, pa.Array] = {
        "cell_id": gone["cell_id"],
        "prompt_id": gone["prompt_id"],
        "prompt": from_texts([body.get("prompt") for body in bodies]),
        "model": gone["model"],
    }
    for name in names:
        columns[name] = typed(name, [body.get(name) for body in bodies])
    state = _state_columns(gone, base_url)
    table = pa.Table.from_arrays([*columns.values(), *state.columns], names=[*columns, *STATE_FIELDS.names])
    with publish_with(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


# ---------------------------------------------------------------------------------------------------- columns


def parameter_names(grid: Grid) -> tuple[str, ...]:
    """Return the request parameters that the job's cells send, in the manifest's order."""
    names = {axis.name for axis in grid.axes if axis.kind in ("parameter", "row_seed")}
    names |= set(grid.recipe.row_params) | set(grid.recipe.params)
    return _ordered_parameters(names | {"seed"})


def _ordered_parameters(names: set[str]) -> tuple[str, ...]:
    known = [name for name in PARAMETER_TYPES if name in names]
    return (*known, *sorted(names - set(known)))


def _schema(source: ManifestSource) -> pa.Schema:
    grid = source.grid
    fields = [pa.field(name, pa.string()) for name in ("cell_id", "prompt_id", "prompt", "model")]
    fields += [pa.field(name, _parameter_type(source, name)) for name in parameter_names(grid)]
    fields += [pa.field(axis.name, pa.string()) for axis in grid.axes if axis.kind == "word"]
    fields += list(STATE_FIELDS)
    taken = {field.name for field in fields}
    # A column whose parameter an axis gives is in no request, so it is carried like any other.
    said = {name: column for name, column in grid.recipe.columns.items() if name in ("prompt", "id")}
    used = {*said.values(), *grid.recipe.row_params.values()}
    for field in source.carried_schema:
        if field.name in used:
            continue
        name = field.name
        while name in taken:
            name = f"row_{name}"
        taken.add(name)
        fields.append(pa.field(name, field.type, metadata={b"column": field.name.encode()}))
    return pa.schema(fields)


def _parameter_type(source: ManifestSource, name: str) -> pa.DataType:
    """Return a parameter's column type: its own, where the job's values are such, else what holds them all."""
    grid = source.grid
    axis = next((axis for axis in grid.axes if axis.name == name), None)
    values: list[JsonValue] = list(axis.values) if axis is not None and axis.kind == "parameter" else []
    if axis is None and name in grid.recipe.params:
        values.append(grid.recipe.params[name])
    column = grid.recipe.row_params.get(name)
    if column is None:
        return type_of(name, values)
    if name in PARAMETER_TYPES and all(known_model(model) is not None for model in grid.recipe.models):
        return PARAMETER_TYPES[name]  # every row was checked when it was read
    own = source.carried_schema.field(column).type
    if not pa.types.is_string(own) and name not in PARAMETER_TYPES:
        return own if not values or common_type(values) == own else pa.string()
    # Nothing ships for the model, so what rows say may be of any type: they are asked.
    said = (source.part(row).params.get(name) for row in range(grid.rows.n_rows))
    found = {(type(value), fits(value, pa.int64())): value for value in said}
    return type_of(name, [*values, *found.values()])


def _batch(
    source: ManifestSource, piece: GridSlice, facts: pa.Table, fact_indexes: npt.NDArray[np.int64], schema: pa.Schema
) -> pa.Table:
    """Return the manifest's rows of one slice of the grid."""
    grid = source.grid
    rows, combinations = np.divmod(piece.indexes, grid.n_combinations)
    first, last = int(rows[0]), int(rows[-1]) + 1
    parts = [source.part(row) for row in range(first, last)]
    by_row = from_ints(rows - first)
    variants = list(grid.recipe.variants())
    prompts = from_texts(
        [grid.recipe.template.render({**part.words, **words}) for part in parts for _, words in variants]
    )
    model_places = from_ints(grid.models_of(piece.indexes))
    columns: dict[str, Any] = {
        "cell_id": cell_ids(piece.keys),
        "prompt_id": from_texts([name_of_row(grid.recipe, part) for part in parts]).take(by_row),
        "prompt": prompts.take(from_ints((rows - first) * len(variants) + grid.variants_of(piece.indexes))),
        "model": from_texts(grid.recipe.models).take(model_places),
    }
    for name in parameter_names(grid):
        columns[name] = _parameter_column(source, piece, name, schema.field(name).type, parts=parts, by_row=by_row)
    for axis in grid.axes:
        if axis.kind == "word":
            texts = typed(axis.name, [v if isinstance(v, str) else json.dumps(v) for v in axis.values], pa.string())
            columns[axis.name] = texts.take(from_ints(grid.value_places(axis.name)[combinations]))
    places = np.searchsorted(fact_indexes, piece.indexes)
    places = np.minimum(places, max(0, len(fact_indexes) - 1))
    known = fact_indexes[places] == piece.indexes if len(fact_indexes) else np.zeros(len(piece.indexes), dtype=np.bool_)
    state = _state_columns(facts.take(from_ints(places, is_null=~known)), source.base_url)
    columns.update(zip(STATE_FIELDS.names, state.columns, strict=True))
    carried = source.carried(first, last)
    for field in schema:
        if field.metadata and b"column" in field.metadata:
            columns[field.name] = carried[field.metadata[b"column"].decode()].take(by_row)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _parameter_column(
    source: ManifestSource,
    piece: GridSlice,
    name: str,
    kind: pa.DataType,
    *,
    parts: Sequence[RowPart],
    by_row: pa.Array,
) -> pa.Array:
    grid = source.grid
    combinations = piece.indexes % grid.n_combinations
    axis = next((axis for axis in grid.axes if axis.name == name), None)
    if axis is not None and axis.kind == "parameter":
        return typed(name, axis.values, kind).take(from_ints(grid.value_places(name)[combinations]))
    constant = grid.recipe.params.get(name)
    if axis is None and name in grid.recipe.row_params:
        column = typed(name, [part.params.get(name, constant) for part in parts], kind).take(by_row)
    else:
        column = typed(name, [constant], kind).take(from_ints(np.zeros(len(combinations), dtype=np.int64)))
    if name == "seed" and piece.seeds is not None:
        drawn = from_ints(piece.seeds, is_null=piece.seeds == NO_SEED)
        column = pc.coalesce(drawn, column)
    return column


def _state_columns(facts: pa.Table, base_url: str) -> pa.Table:
    """Return the manifest's state columns of folded facts; a row of nulls is a cell that nobody has tried."""
    ids = facts["prediction_id"]
    before, after, nothing = (one(text, pa.string()) for text in (f"{base_url}/predictions/", "/result", ""))
    urls = pc.binary_join_element_wise(before, ids, after, nothing)
    begun = pc.coalesce(facts["created_at"], facts["submitted_at"])
    zero = one(0, pa.int64())
    keeps = pc.and_(
        pc.is_valid(ids), pc.greater(pc.fill_null(pc.list_value_length(facts["outputs"]).cast(pa.int64()), zero), zero)
    )
    expires = pc.add(begun, one(RETENTION_MS, pa.duration("ms")))
    none = one([], _STRINGS)
    columns = {
        "status": pc.fill_null(facts["status"], one("pending", pa.string())),
        "prediction_id": ids,
        "result_url": urls,
        "outputs": pc.coalesce(facts["outputs"], none),
        "outputs_expire_at": pc.if_else(keeps, expires, one(None, _MOMENT)),
        "has_nsfw_contents": pc.coalesce(facts["has_nsfw_contents"], one([], pa.list_(pa.bool_()))),
        "files": pc.coalesce(facts["files"], none),
        "sha256": pc.coalesce(facts["sha256"], none),
        "attempts": pc.fill_null(facts["attempts"], zero),
        "cost_usd": pc.divide(
            pc.cast(pc.fill_null(facts["cost_micro_usd"], zero), pa.float64()), one(1e6, pa.float64())
        ),
        "warnings": pc.coalesce(facts["warnings"], none),
    }
    arrays = [
        pc.cast(columns[name] if name in columns else facts[name], kind)
        for name, kind in zip(STATE_FIELDS.names, STATE_FIELDS.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=STATE_FIELDS)


# ---------------------------------------------------------------------------------------------------- reading


def read_manifest(run_dir: str | Path, per: Literal["cell", "image"] = "cell") -> "pd.DataFrame":
    """Return a run's manifest as a pandas DataFrame, one row a cell, or with `per="image"` one row an image.

    Per image, `outputs`, `files`, `sha256` and `has_nsfw_contents` become `output`, `file`, `sha256` and
    `has_nsfw_content` of that image, and `image` counts a cell's images from 1; cells without images have no row.
    Integers that can be missing are pandas' nullable Int64. Raises FileNotFoundError where no manifest lies.
    """
    import pandas as pd

    table = pq.ParquetFile(Path(run_dir) / MANIFEST).read()
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
    if per == "cell":
        return frame
    if per != "image":
        raise ValueError(f"per is 'cell' or 'image', not {per!r}")
    return _per_image(frame)


def _per_image(frame: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    records = []
    for place, (outputs, files, hashes, flags) in enumerate(
        zip(frame["outputs"], frame["files"], frame["sha256"], frame["has_nsfw_contents"], strict=True)
    ):
        for number in range(max(len(outputs), len(files))):
            row = [column[number] if number < len(column) else None for column in (outputs, files, hashes, flags)]
            records.append((place, number + 1, *row))
    names = ["place", "image", "output", "file", "sha256", "has_nsfw_content"]
    images = pd.DataFrame.from_records(records, columns=names)
    rest = frame.drop(columns=["outputs", "files", "sha256", "has_nsfw_contents"])
    taken = rest.iloc[images.pop("place").to_numpy(dtype=np.int64)].reset_index(drop=True)
    return pd.concat([taken, images], axis=1)


def iter_tables(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield some of a manifest's columns, or all, some thousand rows at a time."""
    names = None if columns is None else list(columns)
    file = pq.ParquetFile(path, pre_buffer=False)  # else these columns of all rows are fetched at once
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names, use_threads=False):
        yield pa.Table.from_batches([batch])
