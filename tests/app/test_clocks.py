"""A wall clock that is set while a run is at work decides nothing about what was lost."""

import time
from pathlib import Path

import pytest

from batchflux.app.work import run_clock
from batchflux.sandbox import FaultRule, SandboxThread
from tests.app.test_reconciliation import config, created, run
from tests.canary import CANARY


@pytest.mark.fault("P12")
@pytest.mark.parametrize("leap_s", [-3600, 365 * 86400])
def test_a_clock_that_is_set_while_a_submission_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leap_s: int
) -> None:
    """It left before the clock was set and is given up after it: found all the same, and made once."""
    plain = time.time_ns
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    with SandboxThread(config(FaultRule(on="submit", do="close", when="after", at=frozenset({10})))) as sandbox:
        monkeypatch.setattr(
            time, "time_ns", lambda: plain() + leap_s * 10**9 * (sandbox.stats["submissions_received"] >= 10)
        )
        result = run(tmp_path, sandbox, cells=20, run__patience="20s")
        assert created(sandbox) == {1: 20}
    assert result.standing.completed == 20


@pytest.mark.fault("P12")
def test_a_runs_clock_goes_on_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins as the wall clock is, and is carried on by one that nobody sets."""
    before = time.time_ns() // 1_000_000
    clock = run_clock()
    first = clock()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert before <= first <= clock() <= before + 60_000


@pytest.mark.fault("P12")
@pytest.mark.parametrize("leap_s", [-3600, 3600])
def test_a_clock_that_is_set_between_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leap_s: int) -> None:
    """What the first left unanswered is looked for where its own clock says that it was made, and found."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    plain = time.time_ns
    rules = (
        FaultRule(on="submit", do="close", when="after", at=frozenset({10})),
        FaultRule(on="history", do="status", status=404, times=1),
    )
    with SandboxThread(config(*rules)) as sandbox:
        assert run(tmp_path, sandbox, cells=20).standing.unknown == 1
        monkeypatch.setattr(time, "time_ns", lambda: plain() + leap_s * 10**9)
        second = run(tmp_path, sandbox, cells=24, run__patience="20s")
        assert created(sandbox) == {1: 24}
    assert second.standing.completed == 24


@pytest.mark.fault("P12")
@pytest.mark.parametrize("never", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_an_answer_dated_to_no_moment_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never: str) -> None:
    """It tells nothing of the service's clock: what is lost is looked for about now, found, and made once."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    lost = FaultRule(on="submit", do="close", when="after", at=frozenset({3}))
    with SandboxThread(config(lost, FaultRule(on="submit", do="patch", data={"created_at": never}))) as sandbox:
        result = run(tmp_path, sandbox, cells=6)
        assert created(sandbox) == {1: 6}
    assert result.standing.completed == 6
