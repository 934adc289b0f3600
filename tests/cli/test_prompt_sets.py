"""Every public prompt table through a real spec: it plans, and its prompts are in the requests byte for byte."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command
from tests.io.test_prompts_real import _FOLDER, _TABLES

pytestmark = pytest.mark.skipif(not _FOLDER.is_dir(), reason="the public prompt tables are not beside the checkout")


def _prompts(path: Path, column: str, count: int) -> list[str]:
    """Read the first prompts without the package."""
    if path.suffix == ".parquet":
        return [str(text) for text in pq.read_table(path, columns=[column])[column].to_pylist()[:count]]
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        return [str(json.loads(line)[column]) for line in lines]
    with path.open(encoding="utf-8", newline="") as file:
        tabs = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = tabs if path.suffix == ".tsv" else csv.DictReader(file)
        return [row[column] for row, _ in zip(rows, range(count), strict=False)]


@pytest.mark.parametrize("name", _TABLES)
def test_each_table_plans(command: Command, tmp_path: Path, name: str) -> None:
    """Rows as the folder's README counts them, times two seeds; the first requests hold the table's own words."""
    rows, column = _TABLES[name]
    job = tmp_path / "job.yaml"
    spec = {
        "prompts": {"path": str(_FOLDER / name), "columns": {"prompt": column}},
        "grid": {"guidance_scale": [3.5], "aspect_ratio": ["1:1"]},
        "params": {"seed": 1},
    }
    job.write_text(json.dumps(spec))
    done = command("plan", job, "--json", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    plan = done.document
    assert (plan["rows"], plan["cells"], plan["to_pay"]) == (rows, rows, rows)
    sent = [request["body"]["prompt"] for request in plan["first_requests"]]
    assert sent == _prompts(_FOLDER / name, column, 3)
