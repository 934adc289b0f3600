"""Durable facts, in the order they were written, to the state of every cell. Decides; reads and writes nothing.

Works on whole Arrow columns: row numbers are chosen in numpy, then every column is gathered once, so that millions of
facts take seconds. pandas must not be loaded on the way (0.4 s of every resume), which is why constants are made from
buffers: `pa.scalar`, `pa.array` and `to_numpy` import it.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.core.model import CellStatus, FactKind

__all__ = ["FOLD_COLUMNS", "cell_ids", "cell_keys", "compact", "fold"]

_Rows = npt.NDArray[np.int64]  # row numbers; -1 where there is none

_CELL_ID_DIGITS: Final = 32
# What a fold can't do without; every other column is carried where it is there.
FOLD_COLUMNS: Final = ("cell_id", "kind", "attempt", "status", "error_kind", "error")

_FROM_INTENT: Final = ("prompt_id", "model", "body", "price_micro_usd")
_FROM_FILES: Final = ("files", "sha256", "file_bytes", "fetched_sha256")
_NO_ANSWER_KNOWN: Final = "the run ended before the answer to this submission was known"
_NO_STATE_KNOWN: Final = "only the cell's files are on record, not how it came to them"


def fold(facts: pa.Table) -> pa.Table:
    """Return one row a cell: its state after all of its facts, in the order of the cells' first facts.

    `facts` is in writing order, with the columns of the fact schema or, of them, FOLD_COLUMNS and any others; the
    result has the same columns. A row is the
    cell's last fact that isn't FILES, but: `prompt_id`, `model`, `body` and price are its last intent's; `files`,
    their hashes and `file_bytes` those of the last FILES fact of the same attempt, and so is the error where the state
    has none; that fact's warnings follow the state's own. An intent that nothing followed is `unknown`; so is a cell
    of which only FILES is on record, since it was surely paid. Lists are empty, never null. Folding facts twice, or
    segments of them again in the same order, changes nothing. About 1 s for a million facts. Raise ValueError for a
    null cell id or kind.
    """
    if facts.num_rows == 0:
        return facts
    codes, cells = _codes(facts.column("cell_id"))
    is_intent, is_files = _kinds(facts)
    attempts = _int64(facts.column("attempt"))
    state = _last_rows(codes, rows=np.flatnonzero(~is_files), cells=cells)
    is_stateless = state < 0
    state = np.where(is_stateless, _last_rows(codes, rows=np.flatnonzero(is_files), cells=cells), state)
    files_rows = np.flatnonzero(is_files)
    files_rows = files_rows[attempts[files_rows] == attempts[state[codes[files_rows]]]]
    files = _last_rows(codes, rows=files_rows, cells=cells)
    intent = _last_rows(codes, rows=np.flatnonzero(is_intent), cells=cells)

    sources = dict.fromkeys(_FROM_INTENT, intent) | dict.fromkeys(_FROM_FILES, files)
    columns = {name: _gather(facts.column(name), sources.get(name, state)) for name in facts.column_names}
    columns |= _errors(facts, columns=columns, files=files)
    if "warnings" in columns:
        of_files = _gather(facts.column("warnings"), np.where(files == state, -1, files))
        columns["warnings"] = _joined(columns["warnings"], of_files)
    is_unknown = is_intent[state]
    columns |= _unknown(columns, where=is_unknown, error=_NO_ANSWER_KNOWN)
    columns |= _unknown(columns, where=is_stateless, error=_NO_STATE_KNOWN)
    return pa.Table.from_arrays([columns[name] for name in facts.column_names], schema=facts.schema)


def compact(facts: pa.Table) -> pa.Table:
    """Return the facts that `fold` of these and of any later ones can still need, in their order.

    `fold(concat(compact(a), b))` has the rows of `fold(concat(a, b))`: what merges parts, and what folds a history
    in the memory of its cells instead of its facts. Kept are a cell's last state, for each attempt its last FILES
    fact, and its last intent where the table has a column that comes from there.
    """
    if facts.num_rows == 0:
        return facts
    codes, cells = _codes(facts.column("cell_id"))
    is_intent, is_files = _kinds(facts)
    files_rows = np.flatnonzero(is_files)
    attempts, ranks = np.unique(_int64(facts.column("attempt")), return_inverse=True)
    pairs = codes * len(attempts) + ranks  # a cell and an attempt as one number
    _, from_the_end = np.unique(pairs[files_rows][::-1], return_index=True)
    chosen = [files_rows[::-1][from_the_end], _last_rows(codes, rows=np.flatnonzero(~is_files), cells=cells)]
    if not set(_FROM_INTENT).isdisjoint(facts.column_names):
        chosen.append(_last_rows(codes, rows=np.flatnonzero(is_intent), cells=cells))
    rows = np.unique(np.concatenate(chosen))
    rows = rows[rows >= 0]
    return pa.Table.from_arrays([_gather(column, rows) for column in facts.columns], schema=facts.schema)


def cell_keys(ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return cell ids as numbers, shape (n, 2): the first 16 hex digits, then the last 16, each big-endian.

    16 bytes a cell instead of a Python string's 80, and sortable. Raise ValueError where one isn't 32 lowercase hex
    digits.
    """
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    keys = [_chunk_keys(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(keys) if keys else np.empty((0, 2), dtype=np.uint64)


def cell_ids(keys: npt.NDArray[np.uint64]) -> pa.Array:
    """Return the cell ids of `cell_keys`, as a string array: its inverse."""
    numbers = np.ascontiguousarray(keys.astype(">u8")).view(np.uint8).reshape(-1, _CELL_ID_DIGITS // 2)
    digits = np.empty((len(numbers), _CELL_ID_DIGITS), dtype=np.uint8)
    digits[:, 0::2] = _HEX_DIGITS[numbers >> 4]
    digits[:, 1::2] = _HEX_DIGITS[numbers & 15]
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * _CELL_ID_DIGITS
    wide = pa.Array.from_buffers(
        pa.large_string(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(digits.reshape(-1))]
    )
    return wide.cast(pa.string())


_HEX_DIGITS: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_NO_DIGIT: Final = 255
_DIGIT_VALUES: Final = np.full(256, _NO_DIGIT, dtype=np.uint8)
_DIGIT_VALUES[_HEX_DIGITS] = np.arange(16, dtype=np.uint8)


def _chunk_keys(ids: pa.Array) -> npt.NDArray[np.uint64]:
    if ids.null_count or not pc.all(_equals_length(ids)).as_py():
        raise ValueError("a cell id that is not 32 hex digits")
    wide = ids.cast(pa.large_string())
    first = int(np.frombuffer(wide.buffers()[1], dtype=np.int64)[wide.offset])
    text = np.frombuffer(wide.buffers()[2], dtype=np.uint8)[first : first + len(ids) * _CELL_ID_DIGITS]
    values = _DIGIT_VALUES[text].reshape(-1, _CELL_ID_DIGITS)
    if (values == _NO_DIGIT).any():
        raise ValueError("a cell id that is not 32 hex digits")
    numbers = np.ascontiguousarray((values[:, 0::2] << 4) | values[:, 1::2])
    return numbers.view(">u8").astype(np.uint64)


def _equals_length(ids: pa.Array) -> pa.Array:
    lengths = np.full(len(ids), _CELL_ID_DIGITS, dtype=np.int64)
    expected = pa.Array.from_buffers(pa.int64(), len(ids), [None, pa.py_buffer(lengths)])
    return pc.equal(pc.binary_length(ids), expected)


def _codes(column: pa.ChunkedArray) -> tuple[_Rows, int]:
    """Number the values of a column in the order of their first appearance: a number a row, and how many there are."""
    if column.null_count:
        raise ValueError("a fact without a cell id or kind")
    # As one array: of many chunks each would bring a dictionary of its own, of all values so far, to be unified.
    encoded = pc.dictionary_encode(pa.concat_arrays(column.chunks))
    return _buffer_values(encoded.indices, dtype=np.int32).astype(np.int64), len(encoded.dictionary)


def _kinds(facts: pa.Table) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which rows are intents and which are FILES."""
    column = facts.column("kind")
    if column.null_count:
        raise ValueError("a fact without a cell id or kind")
    encoded = pc.dictionary_encode(column).unify_dictionaries()
    numbers = np.concatenate([_buffer_values(chunk.indices, dtype=np.int32) for chunk in encoded.chunks])
    names = encoded.chunk(0).dictionary.to_pylist()
    is_intent = np.array([name == FactKind.INTENT for name in names])
    is_files = np.array([name == FactKind.FILES for name in names])
    return is_intent[numbers], is_files[numbers]


def _last_rows(codes: _Rows, *, rows: _Rows, cells: int) -> _Rows:
    """Return for each cell the last of the given ascending rows that is its own, -1 where none is."""
    last = np.full(cells, -1, dtype=np.int64)
    last[codes[rows]] = rows  # numpy keeps the last of repeated assignments (numpy's indexing guide)
    return last


def _int64(column: pa.ChunkedArray) -> _Rows:
    return np.concatenate([_buffer_values(chunk, dtype=np.int64) for chunk in column.chunks])


def _buffer_values(array: pa.Array, *, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.frombuffer(array.buffers()[1], dtype=dtype)[array.offset : array.offset + len(array)]


def _gather(column: pa.ChunkedArray, rows: _Rows) -> pa.ChunkedArray:
    """Take rows of a column, null (for a list: empty) where the row is -1."""
    has_row = np.packbits(rows >= 0, bitorder="little")
    indices = pa.Array.from_buffers(pa.int64(), len(rows), [pa.py_buffer(has_row), pa.py_buffer(np.maximum(rows, 0))])
    taken = pc.take(column, indices)
    if pa.types.is_list(column.type):
        filled = [pa.ListArray.from_arrays(chunk.offsets, chunk.values) for chunk in taken.chunks]
        return pa.chunked_array(filled, type=column.type)
    return taken


def _joined(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return lists joined row by row, the first column's items before the second's."""
    first, second = pa.concat_arrays(one.chunks), pa.concat_arrays(other.chunks)
    if len(second.flatten()) == 0:
        return one
    lengths = [np.diff(_buffer_values(each.offsets, dtype=np.int32)) for each in (first, second)]
    rows = np.concatenate([np.repeat(np.arange(len(first)), each) for each in lengths])
    order = np.argsort(rows, kind="stable").astype(np.int64)
    items = pa.concat_arrays([first.flatten(), second.flatten()])
    items = items.take(pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)]))
    ends = np.concatenate([[0], np.cumsum(lengths[0] + lengths[1])]).astype(np.int32)
    offsets = pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends)])
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, items)], type=one.type)


def _mask(values: npt.NDArray[np.bool_]) -> pa.Array:
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def _repeat(text: str, count: int) -> pa.Array:
    data = text.encode()
    offsets = np.array([0, len(data)], dtype=np.int32)
    once = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    zeros = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(np.zeros(count, dtype=np.int64))])
    return pc.take(once, zeros)


def _errors(facts: pa.Table, *, columns: dict[str, Any], files: _Rows) -> dict[str, Any]:
    """A failed download is told where the state itself has no error."""
    kind = _gather(facts.column("error_kind"), files)
    is_files = pc.and_(pc.is_null(columns["error_kind"]), pc.is_valid(kind))
    return {
        "error_kind": pc.if_else(is_files, kind, columns["error_kind"]),
        "error": pc.if_else(is_files, _gather(facts.column("error"), files), columns["error"]),
    }


def _unknown(columns: dict[str, Any], *, where: npt.NDArray[np.bool_], error: str) -> dict[str, Any]:
    if not where.any():
        return {}
    mask = _mask(where)
    texts = {"status": CellStatus.UNKNOWN.value, "error_kind": "unknown_outcome", "error": error}
    return {name: pc.if_else(mask, _repeat(text, len(where)), columns[name]) for name, text in texts.items()}
