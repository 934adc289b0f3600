"""Public prompt tables read byte for byte, against independent readings. Skipped where the tables are not at hand."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchflux.core.model import JsonValue
from batchflux.io.prompts import open_table
from tests.io.tables import read_rows

_FOLDER = Path(os.environ.get("BATCHFLUX_PROMPTS") or Path(__file__).parents[2].parent / "shared" / "prompts")

pytestmark = pytest.mark.skipif(not _FOLDER.is_dir(), reason="the public prompt tables are not beside the checkout")

# Rows and the column of prompts, as the folder's README gives them.
_TABLES = {
    "parti_prompts.tsv": (1632, "Prompt"),
    "parti_prompts.csv": (1632, "Prompt"),
    "parti_prompts.parquet": (1632, "Prompt"),
    "drawbench.csv": (200, "prompt"),
    "drawbench_upsampled.csv": (200, "prompt"),
    "dalle3_eval.csv": (170, "prompt"),
    "geneval.jsonl": (553, "prompt"),
    "geneval.csv": (553, "prompt"),
    "tifa_v1.csv": (4081, "caption"),
    "dsg_1k.csv": (956, "text"),
    "unigenbench_en.csv": (600, "prompt_en"),
    "unigenbench_zh.csv": (600, "prompt_zh"),
    "longtext_bench_en.csv": (160, "prompt"),
    "ocr_prompts.csv": (1018, "prompt"),
    "i2ebench_edits.csv": (3391, "div_exp"),
}


def _read_csv(path: Path) -> list[dict[str, JsonValue]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file, strict=True)]


def _read_tsv(path: Path) -> list[dict[str, JsonValue]]:
    header, *lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    names = header.removesuffix("\r").split("\t")
    return [dict(zip(names, line.removesuffix("\r").split("\t"), strict=True)) for line in lines]


def _read_jsonl(path: Path) -> list[dict[str, JsonValue]]:
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: _as_text(row.get(name)) for name in names} for row in rows]


def _as_text(value: JsonValue) -> JsonValue:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_parquet(path: Path) -> list[dict[str, JsonValue]]:
    rows: list[dict[str, JsonValue]] = pq.ParquetFile(path).read().to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[dict[str, JsonValue]]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def test_every_table_of_the_folder_is_tried() -> None:
    """A table that joins the folder joins the tests."""
    assert {path.name for path in _FOLDER.iterdir() if path.suffix in _READERS} == set(_TABLES)


@pytest.mark.parametrize("name", _TABLES)
@pytest.mark.parametrize("part_bytes", [1000, 1 << 20])
def test_a_real_table_is_read_byte_for_byte(name: str, part_bytes: int) -> None:
    """Every cell of every row is what another reader gives, and each row's line is where its text stands."""
    path = _FOLDER / name
    count, prompt = _TABLES[name]
    table = open_table([path], part_bytes=part_bytes)
    rows = read_rows(table)
    assert len(rows) == count
    assert rows == _READERS[path.suffix](path)
    assert all(isinstance(row[prompt], str) and row[prompt] for row in rows)
    if path.suffix == ".parquet":
        return
    physical = path.read_bytes().decode().split("\n")
    first_cell = table.column_names[0]
    for batch in table.batches():
        assert batch.lines is not None
        for line, row in zip(batch.lines, batch.columns.to_pylist(), strict=True):
            value = (
                json.dumps(row[first_cell], ensure_ascii=False)[1:-1] if path.suffix == ".jsonl" else row[first_cell]
            )
            assert value.split("\n")[0].replace('"', '""' if path.suffix == ".csv" else '"') in physical[line - 1]


def test_one_source_in_three_forms_has_the_same_prompts() -> None:
    """PartiPrompts as TSV, CSV and Parquet are the same table."""
    texts = [
        [row["Prompt"] for row in read_rows(open_table([_FOLDER / f"parti_prompts.{form}"]), columns=["Prompt"])]
        for form in ("tsv", "csv", "parquet")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert any(isinstance(text, str) and text.startswith('"G I G G L E"') for text in texts[0])
