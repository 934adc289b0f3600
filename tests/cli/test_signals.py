"""What signals, kills and lost terminals do to a run: the right status, nothing lost, nothing bought twice."""

import random
import signal
from pathlib import Path

import pytest

import batchflux
from batchflux.sandbox import FaultRule, FaultScript, Latency, SandboxConfig, SandboxThread
from tests.cli.driver import COMMAND, TIMEOUT_S, batchflux_command, on_terminal, started, wait_until, write_job

_QUICK = SandboxConfig(latency=Latency(median_s=0))
_SLOW = SandboxConfig(latency=Latency(median_s=600, sigma=0))
_PROMPTS = [f"kite {number}" for number in range(20)]
_STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.fault("P04")
@pytest.mark.parametrize("number", _STATUSES)
def test_a_signal_stops_a_run_and_the_next_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """No new submissions, exit at once with the signal's status, predictions in flight kept and taken up again."""
    with SandboxThread(_SLOW) as service:
        job = write_job(tmp_path, prompts=_PROMPTS, api={"base_url": service.base_url})
        with started("run", job, cwd=tmp_path) as run:
            wait_until(lambda: service.stats["submissions_received"] >= 4, "submissions")
            run.send(number)
            done = run.wait()
        made = service.stats["submissions_received"]
        assert done.status == _STATUSES[number]
        assert f"stopped: stopped by {number.name}" in done.err
        assert done.err.splitlines()[-1] == "  next: batchflux run out"
        status = batchflux_command("status", job, "--json", cwd=tmp_path).document
        assert (status["submitted"], status["pending"], status["unknown"]) == (made, 40 - made, 0)
        assert not status["at_work"]
        frame = batchflux.read_manifest(tmp_path / "out")
        assert frame["status"].value_counts().to_dict() == {"submitted": made, "pending": 40 - made}
        assert set(frame.loc[frame["status"] == "submitted", "prediction_id"]) == {
            record.id for record in service.behaviour.everything()
        }


@pytest.mark.fault("P05")
def test_a_second_interrupt_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """With an answer outstanding the first SIGINT waits for it; the second doesn't, and what had its answer is kept."""
    held = FaultRule(on="submit", do="delay", at=frozenset({5}), seconds=600, when="after")
    config = SandboxConfig(latency=Latency(median_s=600, sigma=0), faults=FaultScript(rules=(held,)))
    with SandboxThread(config) as service:
        job = write_job(tmp_path, prompts=_PROMPTS, api={"base_url": service.base_url})
        with started("run", job, cwd=tmp_path) as run:
            wait_until(lambda: service.stats["submissions_received"] >= 6, "submissions")
            run.send(signal.SIGINT)
            run.wait_for("once more stops at once")
            run.send(signal.SIGINT)
            done = run.wait()
        assert done.status == 130
        assert "stopped at once by SIGINT" in done.err
        status = batchflux_command("status", job, "--json", cwd=tmp_path).document
        created = len(service.behaviour.everything())
        # Unknown are the one held and those that were on their way in this very moment.
        assert 1 <= status["unknown"] <= 16
        assert status["submitted"] <= created <= status["submitted"] + status["unknown"]


@pytest.mark.fault("P06")
def test_a_closed_terminal_stops_a_run_in_good_order(tmp_path: Path) -> None:
    """SIGHUP of a terminal that is gone: nothing can be shown any more, and still the results are published."""
    with SandboxThread(_SLOW) as service:
        job = write_job(tmp_path, prompts=_PROMPTS, api={"base_url": service.base_url})
        with on_terminal("run", job, cwd=tmp_path) as run:
            wait_until(lambda: service.stats["submissions_received"] >= 4, "submissions")
            run.hang_up()
            assert run.process.wait(TIMEOUT_S) == 129
        made = service.stats["submissions_received"]
        frame = batchflux.read_manifest(tmp_path / "out")
        assert (frame["status"] == "submitted").sum() == made


@pytest.mark.fault("P06")
def test_a_reader_that_leaves_ends_no_run(tmp_path: Path) -> None:
    """`run 2>&1 | head -1` buys what it said it would."""
    with SandboxThread(_QUICK) as service:
        job = write_job(tmp_path, prompts=_PROMPTS, api={"base_url": service.base_url})
        shell = ["bash", "-c", '"$@" 2>&1 | head -n 1; exit ${PIPESTATUS[0]}', "bash", *COMMAND]
        done = batchflux_command("run", job, cwd=tmp_path, command=shell)
        assert (done.status, done.err) == (0, "")
        assert done.out == "job: 40 cells to pay, 40 images, $3.20 of a balance of $1,000,000.00\n"
        assert service.stats["submissions_received"] == 40


@pytest.mark.fault("P06")
@pytest.mark.parametrize("args", [("plan",), ("plan", "--json"), ("schema",)])
def test_a_reader_of_results_that_leaves(tmp_path: Path, args: tuple[str, ...]) -> None:
    """`plan | true` ends as other tools do, without a word."""
    job = write_job(tmp_path)
    shell = ["bash", "-c", '"$@" | exec true; exit ${PIPESTATUS[0]}', "bash", *COMMAND]
    named = [job] if args[0] == "plan" else []
    done = batchflux_command(args[0], *named, *args[1:], cwd=tmp_path, command=shell)
    assert done.status in (0, 141)  # 0 where all was written before the reader left
    assert (done.out, done.err) == ("", "")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_closed_streams_end_no_run(tmp_path: Path, closed: str) -> None:
    """A run that nobody hears is a run; and no file of it gets the number of a stream, to be written over by words."""
    with SandboxThread(_QUICK) as service:
        job = write_job(tmp_path, prompts=_PROMPTS, api={"base_url": service.base_url})
        done = batchflux_command("run", job, cwd=tmp_path, command=["bash", "-c", f'"$@" {closed}', "bash", *COMMAND])
        assert done.status == 0
        assert service.stats["submissions_received"] == 40
    assert batchflux_command("verify", "out", cwd=tmp_path).status == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("args", [("plan",), ("plan", "--json")])
def test_results_that_the_disk_refuses(tmp_path: Path, args: tuple[str, ...]) -> None:
    """`plan > FILE` on a full disk says so, and calls it no bug."""
    job = write_job(tmp_path)
    shell = ["bash", "-c", '"$@" > /dev/full', "bash", *COMMAND]
    done = batchflux_command(args[0], job, *args[1:], cwd=tmp_path, command=shell)
    words = "could not write the result: No space left on device; free space or mend the disk, then run again"
    assert (done.status, done.err) == (4, f"batchflux: standard output: {words}\n")


@pytest.mark.fault("P01")
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_kill_at_random_moments_and_go_on(tmp_path: Path, seed: int) -> None:
    """However often a run is killed, in the end each cell is completed, and was created once: the history tells."""
    dice = random.Random(seed)
    config = SandboxConfig(latency=Latency(median_s=0.1, sigma=0.5))
    with SandboxThread(config) as service:
        job = write_job(
            tmp_path, prompts=[*_PROMPTS, *_PROMPTS[:10]], api={"base_url": service.base_url, "settle": "300ms"}
        )
        for _ in range(3):
            before = service.stats["submissions_received"]
            enough = before + dice.randint(1, 18)
            with started("run", job, "-j", "12", cwd=tmp_path) as run:
                wait_until(
                    lambda run=run, enough=enough: (  # type: ignore[misc]
                        run.process.poll() is not None or service.stats["submissions_received"] >= enough
                    ),
                    "submissions",
                )
                run.send(signal.SIGKILL)
                run.process.wait(TIMEOUT_S)
            status = batchflux_command("status", job, "--json", cwd=tmp_path).document
            assert status["cells"] == 60
            assert not status["at_work"]
        done = batchflux_command("run", job, "-j", "12", "--json", cwd=tmp_path)
        last = done.document
        assert (done.status, last["completed"], last["unknown"]) == (0, 60, 0)
        assert service.behaviour.creations().total() == 60
        frame = batchflux.read_manifest(tmp_path / "out")
        known = frame[frame["status"] == "completed"]
        assert known["prediction_id"].is_unique
        assert {record.id for record in service.behaviour.everything()} >= set(known["prediction_id"])
