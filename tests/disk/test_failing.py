"""A disk that fails at any one call of a whole run: spending stops with the words that say so, and nothing is lost.

The run is the real program in a process of its own (`tests.kills`), whose n-th file call is refused or done by half;
the same wrapper ends a run that would send a submission before its intent was flushed.
"""

import errno
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

import pytest

from tests.kills.lives import Life, Plan
from tests.kills.points import Strike
from tests.kills.victim import End, Victims

SMALL = Plan(rows=2, seeds=1, download=True, latency_s=0.0)

# A full disk stays full, a bad sector may be the only one, and a write may be cut short before it is refused.
MODES = (
    Strike(act="fail", errno=errno.ENOSPC, lasting=True),
    Strike(act="fail", errno=errno.EIO),
    Strike(act="fail short", errno=errno.ENOSPC, lasting=True),
)


def check_refusal(end: End) -> None:
    """The run ended for the disk, naming the file and what to do, with the status that says that it needs the user."""
    assert end.status == 4, end
    assert "could not " in end.err
    assert "free space or mend the disk, then run again" in end.err
    assert "Traceback" not in end.err


def fail_at(folder: Path, victims: Victims, strike: Strike) -> bool:
    """Fail one call of a run, go on with a healthy disk, and return whether there was such a call."""
    with Life.begun(folder, SMALL, victims) as life:
        end = life.run(strike)
        if end.status == 0:
            assert end.passages["file call"] < strike.nth, "a refused call went unnoticed"
            return False
        check_refusal(end)
        life.finish()
        return True


@pytest.mark.fault("D01", "D02", "D03")
def test_a_disk_that_fails_at_a_call(tmp_path: Path, victims: Victims) -> None:
    """Calls all along a run, each failing in its way: every cell is made once by the run on a healthy disk."""
    modes = cycle(MODES)
    for nth in count(1, 7):
        if not fail_at(tmp_path / str(nth), victims, replace(next(modes), nth=nth)):
            break
    assert nth > 60


@pytest.mark.fault("D03")
@pytest.mark.parametrize("point", ["write journal", "fdatasync journal", "unlink journal", "replace part"])
def test_a_disk_that_fails_once_where_it_matters_most(tmp_path: Path, victims: Victims, point: str) -> None:
    """One refusal alone stops the run, though the next try would have gone well: a second flush proves nothing."""
    with Life.begun(tmp_path / "life", SMALL, victims) as life:
        check_refusal(life.run(Strike(act="fail", point=point, errno=errno.EIO)))
        life.finish()


@pytest.mark.fault("D01", "D03")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES, ids=["full", "bad sector", "short"])
def test_a_disk_that_fails_at_any_call_in_every_way(tmp_path: Path, victims: Victims, mode: Strike) -> None:
    """Every call of a run in each way."""
    nth = 1
    while fail_at(tmp_path / str(nth), victims, replace(mode, nth=nth)):
        nth += 1
    assert nth > 60
