"""Runs that are stopped for a while, or whose directory is pulled from under them: no cell is bought by two."""

import shutil
import signal
from pathlib import Path

import pytest

from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.cli.conftest import Command
from tests.cli.driver import started, wait_until, write_job

_PROMPTS = [f"kite {number}" for number in range(8)]
# Every submission takes a while, so that a run is in the midst of its sixteen when something befalls it.
_STEADY = SandboxConfig(
    latency=Latency(median_s=0),
    faults=FaultScript(rules=(FaultRule(on="submit", do="delay", every=1, seconds=0.1, when="after"),)),
)


def _job(folder: Path, service: RunningSandbox) -> Path:
    return write_job(folder, prompts=_PROMPTS, api={"base_url": service.base_url, "settle": "300ms"})


@pytest.mark.fault("P07", "C02", "N22")
def test_a_run_that_is_put_to_sleep_keeps_its_lock_and_goes_on(command: Command, tmp_path: Path) -> None:
    """Another one is refused meanwhile; woken, it goes on where it was, and each cell is made once."""
    with SandboxThread(_STEADY) as service:
        job = _job(tmp_path, service)
        with started("run", job, "-j", "4", cwd=tmp_path) as run:
            wait_until(lambda: service.stats["submissions_received"] > 4, "submissions")
            run.send(signal.SIGSTOP)
            other = command("run", job, cwd=tmp_path)
            assert other.status == 2
            assert f"pid {run.process.pid} on " in other.err
            run.send(signal.SIGCONT)
            assert run.wait().status == 0
        assert set(service.behaviour.creations().values()) == {1}
        assert service.behaviour.creations().total() == 16


@pytest.mark.fault("C02", "C03")
def test_a_lock_that_was_deleted_lets_no_two_runs_buy(command: Command, tmp_path: Path) -> None:
    """The first stops before its next submission; the second goes on where it was."""
    with SandboxThread(_STEADY) as service:
        job = _job(tmp_path, service)
        with started("run", job, "-j", "3", cwd=tmp_path) as first:
            wait_until(lambda: service.stats["submissions_received"] > 4, "submissions")
            (tmp_path / "out" / "lock").unlink()
            made = service.stats["submissions_received"]
            assert first.wait().status == 4
        assert service.stats["submissions_received"] <= made + 3
        second = command("run", job, "-j", "3", "--json", cwd=tmp_path)
        assert (second.status, second.document["completed"]) == (0, 16)
        assert set(service.behaviour.creations().values()) == {1}
        assert command("verify", job, cwd=tmp_path).status == 0


@pytest.mark.fault("C03")
@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_run_directory_that_goes_away_stops_the_run(command: Command, tmp_path: Path, how: str) -> None:
    """Nothing leaves whose intent nobody could find again."""
    with SandboxThread(_STEADY) as service:
        job = _job(tmp_path, service)
        with started("run", job, "-j", "3", cwd=tmp_path) as run:
            wait_until(lambda: service.stats["submissions_received"] >= 4, "submissions")
            if how == "renamed":
                (tmp_path / "out").rename(tmp_path / "elsewhere")
            else:
                shutil.rmtree(tmp_path / "out", ignore_errors=True)
            gone = service.stats["submissions_received"]
            assert run.wait().status == 4
        assert service.stats["submissions_received"] <= gone + 3
        if how == "renamed":
            assert command("run", "elsewhere", cwd=tmp_path).status == 0
            assert set(service.behaviour.creations().values()) == {1}
