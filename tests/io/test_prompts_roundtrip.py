"""Hostile text written by other writers and read back, and the CSV reader against a slow reading of its rules."""

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflux.core.errors import JobSpecError
from batchflux.core.model import JsonValue
from batchflux.io.prompts import open_table
from tests.io.tables import read_rows, write_parquet

# The same examples in every run, however slow the disk is.
_STEADY = settings(derandomize=True)
_NASTY = st.sampled_from(["", '"', '""', ",", "\n", "\r\n", "\r", "NA", "null", " ", "\ufeff", "\u2028", "\x1a", "007"])
_CELL = _NASTY | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_TSV_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\r\n"), max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_ROW = st.fixed_dictionaries({"a": _JSON}, optional={"b": _JSON, "ö": _JSON})
_PART_BYTES = st.sampled_from([1, 3, 16, 1 << 20])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a folder that all examples write over."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _texts(path: Path, part_bytes: int) -> list[list[JsonValue]]:
    return [list(row.values()) for row in read_rows(open_table([path], part_bytes=part_bytes), batch_rows=3)]


def _tables(cell: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    sizes = st.integers(1, 4)
    return sizes.flatmap(lambda n: st.lists(st.lists(cell, min_size=n, max_size=n), min_size=1, max_size=6))


@_STEADY
@given(rows=_tables(_CELL), ends=st.sampled_from(["\n", "\r\n"]), part_bytes=_PART_BYTES, packed=st.booleans())
def test_csv_round_trip(folder: Path, rows: list[list[str]], ends: str, part_bytes: int, packed: bool) -> None:
    """What Python's csv module writes is read back cell for cell, whichever line ends and parts."""
    names = [f"c{n}" for n in range(len(rows[0]))]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=ends).writerows([names, *rows])
    path = folder / ("t.csv.zst" if packed else "t.csv")
    with pa.output_stream(path, compression="zstd" if packed else None) as stream:
        stream.write(text.getvalue().encode())
    assert _texts(path, part_bytes) == rows


@_STEADY
@given(rows=_tables(_TSV_CELL), ends=st.sampled_from(["\n", "\r\n"]), part_bytes=_PART_BYTES)
def test_tsv_round_trip(folder: Path, rows: list[list[str]], ends: str, part_bytes: int) -> None:
    """Cells joined by tabs are read back as they are, quotes and all."""
    rows = [*rows, ["end"] * len(rows[0])]  # blank lines at the very end are no rows
    lines = ["\t".join(f"c{n}" for n in range(len(rows[0]))), *("\t".join(row) for row in rows)]
    path = folder / "t.tsv"
    path.write_bytes(ends.join(lines).encode())
    assert _texts(path, part_bytes) == rows


@_STEADY
@given(rows=st.lists(_ROW, min_size=1, max_size=5), part_bytes=_PART_BYTES, is_ascii=st.booleans())
def test_jsonl_round_trip(folder: Path, rows: list[dict[str, JsonValue]], part_bytes: int, is_ascii: bool) -> None:
    """Every JSON value comes back: as itself, as its JSON text, or as the double of an equal integer."""
    path = folder / "t.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows), encoding="utf-8")
    table = open_table([path], part_bytes=part_bytes)
    for row, read in zip(rows, read_rows(table, batch_rows=2), strict=True):
        for name, value in read.items():
            written = row.get(name)
            is_json = isinstance(value, str) and not isinstance(written, str)
            same = json.loads(str(value)) if is_json else value
            assert same == written
            assert isinstance(same, bool) == isinstance(written, bool)


@_STEADY
@given(
    values=st.lists(st.none() | st.text(), min_size=1, max_size=9),
    kind=st.sampled_from(["string", "large_string", "dictionary", "string_view"]),
    group=st.integers(1, 4),
)
def test_parquet_round_trip(folder: Path, values: list[str | None], kind: str, group: int) -> None:
    """Text and nulls come back from any encoding and any size of row groups."""
    array = pa.array(values, pa.string())
    array = array.dictionary_encode() if kind == "dictionary" else array.cast(getattr(pa, kind)())
    path = write_parquet(folder / "t.parquet", {"p": array, "n": pa.array(range(len(values)))}, row_group_size=group)
    rows = read_rows(open_table([path]), batch_rows=3)
    assert rows == [{"p": value, "n": n} for n, value in enumerate(values)]


class _Ambiguous(Exception):
    """The grammar has no reading of the text, or more than one."""


def _slow_rows(text: str) -> list[list[str]]:
    """Read a CSV without its header one character at a time, by RFC 4180's grammar."""
    rows: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        cell = ""
        if text[at] == '"':
            at += 1
            while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                if at >= len(text):
                    raise _Ambiguous
                cell += text[at]
                at += 2 if text[at] == '"' else 1
            at += 1
        else:
            while at < len(text) and text[at] not in ',\n\r"':
                cell += text[at]
                at += 1
        rows[-1].append(cell)
        end = next((end for end in (",", "\n", "\r\n") if text.startswith(end, at)), None)
        if end is None:
            raise _Ambiguous
        at += len(end)
        if end != ",":
            rows.append([])
    return rows[:-1]


def _expected_rows(body: str, width: int) -> list[list[str]] | None:
    """Return the rows that a body under a header of `width` names must give, None where it must be refused."""
    end_of_text = len(body.rstrip("\r\n"))
    if not end_of_text:
        return None
    body += "\n"
    body = body[: body.index("\n", end_of_text) + 1]  # blank lines at the end are no rows
    try:
        rows = _slow_rows(body)
    except _Ambiguous:
        return None
    return rows if all(len(row) == width for row in rows) else None


@settings(_STEADY, max_examples=600)
@given(body=st.text(st.sampled_from('aé",\n\r'), max_size=24), width=st.integers(1, 3), part_bytes=_PART_BYTES)
@example(body='"a"\r\n"a""\r', width=1, part_bytes=1)
@example(body='""""\n"""', width=1, part_bytes=3)
@example(body="\n\n,\n\n", width=2, part_bytes=1)
@example(body='a,"\n\n', width=2, part_bytes=3)
def test_csv_is_read_or_refused_as_its_grammar_says(folder: Path, body: str, width: int, part_bytes: int) -> None:
    """Any text is read as RFC 4180's grammar reads it, and refused exactly where that has no single reading."""
    path = folder / "t.csv"
    path.write_bytes((",".join(f"c{n}" for n in range(width)) + "\n" + body).encode())
    found: list[list[JsonValue]] | None = None
    with contextlib.suppress(JobSpecError):
        found = _texts(path, part_bytes)
    assert found == _expected_rows(body, width)
    if found is not None:
        rows = csv.reader(io.StringIO(body, newline=""), strict=True)
        assert [row for row in rows if row not in ([], [""])] == [row for row in found if row != [""]]
