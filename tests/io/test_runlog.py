"""run.log: one JSON object a line, as much as is asked for, and never in the run's way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchflux.core.errors import UsageError
from batchflux.core.model import CellStatus, FactKind
from batchflux.core.progress import Progress
from batchflux.io.runlog import LogLevel, RunLog, log_level
from tests.io.durable import make_fact

ACCEPTED = make_fact(1, kind=FactKind.ACCEPTED, status=CellStatus.SUBMITTED)
DONE = make_fact(2)
FAILED = make_fact(3, status=CellStatus.FAILED, error_kind="content_policy", error="flagged\nas {sensitive} \ud800\x1b")
PROGRESS = Progress.of(np.zeros(1, dtype=np.uint8))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, level: LogLevel) -> list[dict[str, Any]]:
    log = RunLog(path, level=level)
    for fact in (ACCEPTED, DONE, FAILED):
        log.fact(fact)
    log.note("stop", completed=1)
    log.close()
    return lines(path)


@pytest.mark.parametrize(
    ("level", "cells"),
    [("debug", [1, 2, 3]), ("info", [2, 3]), ("warning", [3])],
)
def test_levels(level: LogLevel, cells: list[int], tmp_path: Path) -> None:
    """`debug` writes every fact, `info` outcomes and faults, `warning` faults alone; notes stand in all of them."""
    written = write(tmp_path / "run.log", level)
    assert [int(line["cell_id"], 16) for line in written if line["event"] == "cell"] == cells
    assert written[-1]["event"] == "stop"
    assert all(line["at"].endswith("+00:00") for line in written)


@pytest.mark.security(30)
@pytest.mark.fault("I13")
def test_what_a_line_says(tmp_path: Path) -> None:
    """Which cell, what, and why; a line break or an escape of the service's stays inside its line."""
    failed = write(tmp_path / "run.log", "warning")[0]
    assert failed["status"] == "failed"
    assert (failed["error_kind"], failed["error"]) == ("content_policy", "flagged\nas {sensitive} \ud800\x1b")
    assert len((tmp_path / "run.log").read_bytes().splitlines()) == 2


def test_a_second_run_appends(tmp_path: Path) -> None:
    """An earlier run's lines stay."""
    assert len(write(tmp_path / "run.log", "info")) == 3
    assert len(write(tmp_path / "run.log", "info")) == 6


def test_a_tick_lets_it_be_seen(tmp_path: Path) -> None:
    """What was written shows at the next pulse, while the run goes on."""
    log = RunLog(tmp_path / "run.log", level="info")
    log.note("start")
    log.tick(PROGRESS)
    assert [line["event"] for line in lines(tmp_path / "run.log")] == ["start"]
    log.close()


def test_a_log_that_cannot_be_opened_disturbs_nothing(tmp_path: Path) -> None:
    """A folder where the log should be is no reason to stop."""
    (tmp_path / "run.log").mkdir()
    log = RunLog(tmp_path / "run.log", level="debug")
    log.fact(DONE)
    log.note("start")
    log.tick(PROGRESS)
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_disturbs_nothing() -> None:
    """A log that can't be written is given up, whenever that shows, and nothing is raised, then or later."""
    for size in (10, 200_000):
        log = RunLog(Path("/dev/full"), level="debug")
        log.note("start", text="x" * size)
        log.tick(PROGRESS)
        log.note("more")
        log.close()
    log = RunLog(Path("/dev/full"), level="debug")
    log.note("start")
    log.close()


def test_after_its_end_it_hears_nothing(tmp_path: Path) -> None:
    """What is told after the end is passed over; closing twice is no fault."""
    log = RunLog(tmp_path / "run.log", level="info")
    log.close()
    log.note("late")
    log.tick(PROGRESS)
    log.close()
    assert lines(tmp_path / "run.log") == []


@pytest.mark.parametrize(
    ("value", "level"), [(None, "info"), ("", "info"), ("DEBUG", "debug"), ("info", "info"), ("warning", "warning")]
)
def test_the_level_is_the_environments(value: str | None, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BATCHFLUX_LOG says how much; nothing said is `info`."""
    monkeypatch.delenv("BATCHFLUX_LOG", raising=False)
    if value is not None:
        monkeypatch.setenv("BATCHFLUX_LOG", value)
    assert log_level() == level


def test_another_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is no level is an error that names the three."""
    monkeypatch.setenv("BATCHFLUX_LOG", "verbose")
    with pytest.raises(UsageError, match="debug, info or warning"):
        log_level()
