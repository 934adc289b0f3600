"""The manifest as CSV and JSON Lines: every value comes back, no spreadsheet runs one."""

import csv
import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.export.table import export_table
from batchflux.sandbox import RunningSandbox
from tests.app.service import quick_service, write_spec

_TEXTS = [
    "plain",
    'with "quotes", a comma',
    "two\nlines",
    "a lone\rreturn",
    "=1+1",
    "+49",
    "-3",
    "@name",
    "\ttab",
    "\r=1",
    "NA",
    " outer ",
    "絵　文字 🎨",
]


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency."""
    with quick_service() as running:
        yield running


@pytest.fixture(scope="module")
def run_dir(service: RunningSandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose table holds texts and types of all sorts."""
    folder = tmp_path_factory.mktemp("export")
    n = len(_TEXTS)
    table = pa.table(
        {
            "prompt": _TEXTS,
            "=cmd()": ["x"] * n,
            "day": [dt.date(2024, 1, 2)] * n,
            "hour": [dt.time(1, 2, 3)] * n,
            "at": pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)] * n, pa.timestamp("ms", tz="UTC")),
            "price": [Decimal("1.50")] * n,
            "share": [float("nan"), float("inf"), *[0.5] * (n - 2)],
            "deep": [{"a": [1.5, float("nan")], "when": dt.date(2024, 1, 2)}] * n,
            "raw": [b"\x00\xff"] * n,
            "flag": [True, None, *[False] * (n - 2)],
        }
    )
    path = write_spec(folder, service, table, params={"seed": 1, "num_images": 2})
    assert batchflux.run(batchflux.load_job(path)).exit_status == 0
    return folder / "out"


@pytest.mark.security(20)
@pytest.mark.fault("X07")
def test_csv_brings_every_text_back(run_dir: Path, tmp_path: Path) -> None:
    """Each record is read back whole; a text that a spreadsheet would run stands behind an apostrophe."""
    dest = tmp_path / "x.csv"
    assert export_table(run_dir, dest, form="csv") == len(_TEXTS)
    with dest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    guarded = {text for text in _TEXTS if text.lstrip("'")[0] in "=+-@\t\r\n"}
    assert [row["prompt"] for row in rows] == [f"'{text}" if text in guarded else text for text in _TEXTS]
    assert b"\r\n" not in dest.read_bytes()
    first = rows[0]
    assert "'=cmd()" in first
    assert (first["day"], first["hour"], first["price"], first["raw"]) == ("2024-01-02", "01:02:03", "1.50", "00ff")
    assert first["at"] == "2024-01-02T03:04:05+00:00"
    assert json.loads(first["deep"]) == {"a": [1.5, None], "when": "2024-01-02"}
    assert (first["flag"], rows[1]["flag"], rows[2]["flag"]) == ("true", "", "false")
    assert len(json.loads(first["outputs"])) == 2
    assert (first["files"], first["error"]) == ("", "")


def test_pandas_reads_the_csv(run_dir: Path, tmp_path: Path) -> None:
    """What most people will open it with finds as many rows and the same numbers."""
    dest = tmp_path / "x.csv"
    export_table(run_dir, dest, form="csv")
    frame = pd.read_csv(dest)
    assert len(frame) == len(_TEXTS)
    assert set(frame["cost_usd"]) == {0.16}


def test_jsonl_is_verbatim_and_strict(run_dir: Path, tmp_path: Path) -> None:
    """A line a cell, texts as they are, lists as lists, and nothing that strict JSON doesn't know."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    dest = tmp_path / "x.jsonl"
    assert export_table(run_dir, dest, form="jsonl") == len(_TEXTS)
    lines = dest.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["prompt"] for row in rows] == _TEXTS
    assert list(rows[0]) == list(pq.read_schema(run_dir / "manifest.parquet").names)
    assert (rows[0]["share"], rows[1]["share"], rows[2]["share"]) == (None, None, 0.5)
    assert (rows[0]["day"], rows[0]["price"], rows[0]["raw"]) == ("2024-01-02", "1.50", "00ff")
    assert len(rows[0]["outputs"]) == 2


def test_what_can_not_be_exported(run_dir: Path, tmp_path: Path) -> None:
    """Without a manifest, or into a folder that isn't there, one sentence says so."""
    (tmp_path / "job.yaml").touch()
    with pytest.raises(batchflux.UsageError, match=r"there is no manifest\.parquet yet"):
        export_table(tmp_path, tmp_path / "x.csv", form="csv")
    with pytest.raises(batchflux.UsageError, match="there is no folder"):
        export_table(run_dir, tmp_path / "nowhere" / "x.csv", form="csv")
