"""Faults of specs, tables and options as the command line says them: every problem, its place, its cure, status 2."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command
from tests.cli.driver import write_job

_SPECS = Path(__file__).parents[1] / "specs"


def test_every_problem_at_once_in_the_order_of_the_file(command: Command, tmp_path: Path) -> None:
    """FILE:LINE:COLUMN, the key, what is wrong and what would be right, for all of them; nothing is made."""
    path = tmp_path / "job.yaml"
    path.write_text(
        "prompts: {path: p.csv}\n"
        "grid:\n"
        "  sed: [1, 2]\n"
        "  guidance_scale: [0.5]\n"
        "  aspect_ratio: [16:9]\n"
        "params: {seed: 1, seed: 2}\n"
        "run: {concurency: 4}\n"
    )
    (tmp_path / "p.csv").write_text("prompt\na\n")
    for verb in ("plan", "run"):
        done = command(verb, path, cwd=tmp_path)
        assert (done.status, done.out) == (2, "")
        lines = done.err.splitlines()
        for place, words in (
            ("5:18: grid.aspect_ratio[0]", "quote it: '16:9'"),
            ("6:19: params.seed", "the key is there twice"),
        ):
            assert any(line.startswith(f"job.yaml:{place}: ") and words in line for line in lines), lines
    path.write_text(path.read_text().replace("[16:9]", '["16:9"]').replace(", seed: 2", ""))
    lines = command("plan", path, cwd=tmp_path).err.splitlines()
    for place, words in (
        ("3:3: grid.sed", "did you mean seed?"),
        ("4:20: grid.guidance_scale[0]", "1 to 10"),
        ("7:7: run.concurency", "did you mean concurrency?"),
    ):
        assert any(line.startswith(f"job.yaml:{place}: ") and words in line for line in lines), lines
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in _SPECS.glob("*.yaml")))
def test_every_fault_of_a_spec_is_status_2(command: Command, tmp_path: Path, name: str) -> None:
    """Each of the parser's tiny files, by way of the command line, says what it expects."""
    source = _SPECS / name
    wanted = [
        line.removeprefix("# expect: ").split(" ...")[0]
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("# expect: ")
    ]
    if not wanted:
        pytest.skip("a file of warnings")
    done = command("plan", source, cwd=_SPECS)
    assert (done.status, done.out) == (2, "")
    found = done.err.replace(f"{_SPECS}/", "").removeprefix("batchflux: ")
    for line in wanted:
        assert line in found


@pytest.mark.parametrize(
    ("table", "columns", "words"),
    [
        (b"text\na\n", {}, ["p.csv", "'prompt'", "text"]),
        (b"prompt\na\n \nb\n", {}, ["p.csv:3: row 2: ", "empty prompt"]),
        (b"prompt,id\na,x\nb,y\nc,x\n", {"id": "id"}, ["p.csv:4: row 3: ", "'x'", "row 1"]),
        (b"prompt\na\n\xff\xfe\n", {}, ["p.csv:3: row 2: ", "UTF-8"]),
        (b"prompt,b\na,1\nb\n", {}, ["p.csv:3: row 2: "]),
        (b"prompt\n", {}, ["p.csv", "row"]),
        (b'prompt,seed\n"a\nb",1\nc,1.5\n', {"seed": "seed"}, ["p.csv:4: row 2: ", "whole number"]),
        (b"prompt,seed\na,007\n", {"seed": "seed"}, ["p.csv:2: row 1: "]),
        (b"prompt,seed\na,99999999999\n", {"seed": "seed"}, ["p.csv:2: row 1: ", "out of range"]),
    ],
)
def test_faults_of_a_table(
    command: Command, tmp_path: Path, table: bytes, columns: dict[str, str], words: list[str]
) -> None:
    """FILE:LINE: row N, where the record starts, and what is wrong with it."""
    job = write_job(tmp_path, prompts={"path": "p.csv", "columns": columns}, grid={"guidance_scale": [2]})
    (tmp_path / "p.csv").write_bytes(table)
    for verb in ("plan", "run"):
        done = command(verb, job, cwd=tmp_path)
        assert (done.status, done.out) == (2, "")
        for word in words:
            assert word in done.err
    assert not (tmp_path / "out").exists()


def test_faults_of_a_parquet_table(command: Command, tmp_path: Path) -> None:
    """No line, but the row; and a file that only says it is one."""
    job = write_job(tmp_path, prompts={"path": "p.parquet"})
    pq.write_table(pa.table({"prompt": ["a", None, "c"]}), tmp_path / "p.parquet")
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 2
    assert "p.parquet: row 2: empty prompt" in done.err
    (tmp_path / "p.parquet").write_bytes(b"prompt\na\n")
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 2
    assert "p.parquet" in done.err
    missing = command("plan", write_job(tmp_path, prompts={"path": "q.csv"}), cwd=tmp_path)
    assert missing.status == 2
    assert "q.csv" in missing.err


def test_faults_of_a_template(command: Command, tmp_path: Path) -> None:
    """Axes that give two rows the same prompt are refused with both rows."""
    job = write_job(tmp_path, prompts={"path": "p.csv", "template": "{a}{b}"}, grid={"b": ["x", "yx"]})
    (tmp_path / "p.csv").write_text("a\nky\nk\n")
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 2
    assert "p.csv: row 1: the template makes the same prompt of it and of row 2" in done.err


@pytest.mark.fault("D13")
def test_a_directory_that_can_not_be_believed(command: Command, tmp_path: Path) -> None:
    """A checkpoint whose identity is gone, and one that is not readable: what to do, and no traceback."""
    folder = tmp_path / "out"
    (folder / "checkpoint").mkdir(parents=True)
    job = write_job(tmp_path)
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 2
    assert "run.json is missing beside a checkpoint" in done.err
    (folder / "run.json").write_text("[]")
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 2
    assert "can't be read" in done.err
