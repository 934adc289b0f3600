"""The table of faults and the tests agree: each fault is shown by tests with its id, or left out with a reason."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.collecting import CARRIED, MARK_LINE, Carried

_TABLE = Path(__file__).with_name("table.csv")
_ROOT = Path(__file__).parents[2]
# How many faults of each kind there are: HTTP answers, the network, the service's semantics, the disk, processes and
# signals, inputs, runs at once, and security.
_FAMILIES = {"H": 26, "N": 22, "S": 22, "D": 18, "P": 13, "I": 13, "C": 8, "X": 8}
_LEAST_WORDS = 8


def _rows() -> list[dict[str, str]]:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return [
            dict(zip(("id", "fault", "outcome", "files", "left_out"), row, strict=True)) for row in csv.reader(file)
        ][1:]


@pytest.fixture
def carried(request: pytest.FixtureRequest) -> Carried:
    """Return the files of the tests that carry each id, slow ones among them, as pytest itself collects them."""
    config = request.config
    if config.args == config.getini("testpaths") and not config.getoption("ignore"):
        return config.stash[CARRIED]  # this is a run of all tests
    options = ["--collect-only", "-m", "", "-p", "tests.faults.collecting", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK_LINE)]
    assert len(lines) == 1, done.stdout[-2000:] + done.stderr[-2000:]
    found: Carried = json.loads(lines[0].removeprefix(MARK_LINE))
    return found


def test_every_fault_has_one_row() -> None:
    """Each of the 130 ids stands in the table once, in order."""
    expected = [f"{family}{number:02}" for family, many in _FAMILIES.items() for number in range(1, many + 1)]
    assert [row["id"] for row in _rows()] == expected


def test_every_row_is_shown_or_left_out() -> None:
    """Either what a run makes of it and where that is shown, or why it is left out; never both, never neither."""
    for row in _rows():
        assert row["fault"], row
        assert bool(row["outcome"]) == bool(row["files"]) == (not row["left_out"]), row
        assert not row["left_out"] or len(row["left_out"].split()) >= _LEAST_WORDS, row


def test_the_tests_carry_what_the_table_says(carried: Carried) -> None:
    """Each file named for a fault holds a test with its id, and each test with an id stands in a file named for it."""
    told = {row["id"]: row["files"].split() for row in _rows() if row["files"]}
    assert carried == told, "mark tests with pytest.mark.fault, and name their files in tests/faults/table.csv"
