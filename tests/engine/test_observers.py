"""Who watches: one bar, plain lines now and then, several at once; none of them disturbs the run."""

import asyncio
import io
import re

import numpy as np
import pytest

from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.core.progress import Progress
from batchflux.engine.observers import Bar, Lines, Several, duration
from tests.engine import virtual
from tests.engine.fakes import Notes


def half_done(cells: int = 100) -> Progress:
    progress = Progress.of(np.zeros(cells, dtype=np.uint8))
    for number in range(cells // 2):
        fact = Fact(
            cell_id="0" * 32, kind=FactKind.OUTCOME, at_ms=0, attempt=1, status=CellStatus.COMPLETED, error_kind=None
        )
        progress.apply(number, fact, now_s=950.0 + number)
    progress.apply(
        99, Fact(cell_id="1", kind=FactKind.OUTCOME, at_ms=0, attempt=1, status=CellStatus.FAILED), now_s=1e3
    )
    progress.in_flight, progress.spent_micro_usd, progress.downloads_waiting = 7, 4_080_000, 3
    return progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (300, "5 min"),
        (5399, "1 h 30 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (10**7, "115 d 18 h"),
    ],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    """Two units at most, the smaller one only where it matters."""
    assert duration(seconds) == text


def test_lines_come_now_and_then() -> None:
    """Every fifteen seconds one line with everything that the bar shows, however often the pulse beats."""
    stream = io.StringIO()

    async def scene() -> None:
        lines = Lines(stream=stream)
        progress = half_done()
        for _ in range(60):
            lines.tick(progress)
            await asyncio.sleep(1)
        lines.close()

    virtual.run(scene())
    written = stream.getvalue().splitlines()
    assert len(written) == 4
    assert re.fullmatch(
        r"51 of 100 cells, \d+ cells/min, \d+ s left, in flight 7, failed 1, images waiting 3, spent \$4\.08",
        written[0],
    )


def test_a_bar_shows_what_was_done_before(capsys: pytest.CaptureFixture[str]) -> None:
    """Done and total count an earlier run's cells; in flight, failed and spent stand beside."""
    progress = half_done()
    bar = Bar(progress, name="city")
    bar.tick(progress)
    bar.close()
    shown = capsys.readouterr().err
    for words in ("city", "51/100", "in flight 7", "failed 1", "spent $4.08"):
        assert words in shown


def test_several_hear_the_same() -> None:
    """Each observer hears each moment, in order."""
    first, second = Notes(), Notes()
    both = Several([first, second])
    fact = Fact(cell_id="0", kind=FactKind.OUTCOME, at_ms=0, attempt=1, status=CellStatus.FAILED)
    both.fact(fact)
    both.note("start", cells=3)
    both.tick(half_done())
    for heard in (first, second):
        assert (heard.facts, heard.notes, heard.ticks) == ([fact], [("start", {"cells": 3})], 1)
