"""What `plan` says of seeds: nothing that the table's own seeds make untrue."""

from pathlib import Path

import pytest

from batchflux.app.job import load_job
from batchflux.app.plan import make_plan

_ALL = "no seed is given, so each cell sends one drawn from its content"


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (("", ""), [_ALL]),
        (("1", ""), ["rows without a seed: 1; their cells send one drawn from their content"]),
        (("1", "2"), []),
    ],
)
def test_rows_that_bring_a_seed_are_told_apart(tmp_path: Path, seeds: tuple[str, str], words: list[str]) -> None:
    """A column of seeds is not passed over, and what it leaves empty is counted."""
    (tmp_path / "p.csv").write_text(f"prompt,seed\nAn owl,{seeds[0]}\nA crow,{seeds[1]}\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv, columns: {seed: seed}}\n")
    assert list(make_plan(load_job(tmp_path / "job.yaml")).warnings) == words
