"""`run --sandbox`: a twin directory, a memory that outlives kills, never mixed with what is paid."""

import json
import signal
from pathlib import Path

import batchflux
from tests.cli.driver import batchflux_command, started, wait_until, write_job

_NO_KEY = {"WAVESPEED_API_KEY": ""}


def _ledger(twin: Path) -> list[str]:
    path = twin / "sandbox" / "ledger.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["id"] for line in lines]


def test_a_rehearsal_killed_half_way_goes_on(tmp_path: Path) -> None:
    """Without a key, into the twin; killed, it goes on with the sandbox's own memory and buys nothing twice."""
    job = write_job(
        tmp_path,
        prompts=[f"kite {n}" for n in range(10)],
        output={"dir": "out", "download": False},
        api={"settle": "300ms"},
    )
    twin = tmp_path / "out-sandbox"
    with started("run", job, "--sandbox", cwd=tmp_path, env=_NO_KEY) as run:
        wait_until(lambda: run.process.poll() is not None or len(_ledger(twin)) > 4, "predictions")
        run.send(signal.SIGKILL)
        run.process.wait()
    done = batchflux_command("run", job, "--sandbox", "--json", cwd=tmp_path, env=_NO_KEY)
    summary = done.document
    assert (done.status, summary["completed"], summary["unknown"]) == (0, 20, 0)
    frame = batchflux.read_manifest(twin)
    known = frame.loc[frame["status"] == "completed", "prediction_id"]
    assert known.is_unique
    assert set(known) <= set(_ledger(twin))
    assert len(_ledger(twin)) == 20
    assert not (tmp_path / "out").exists()
    # The twin is a run directory of its own, and what is paid knows nothing of it.
    again = batchflux_command("run", twin, "--json", cwd=tmp_path, env=_NO_KEY)
    assert (again.status, again.document["completed"]) == (done.status, summary["completed"])
    assert batchflux_command("plan", job, "--json", cwd=tmp_path).document["done"] == 0


def test_a_run_directory_is_rehearsed_beside_itself(tmp_path: Path) -> None:
    """`run RUN_DIR --sandbox` makes a whole twin, which can then be run and looked at by itself."""
    job = write_job(tmp_path, output={"dir": "out", "download": False})
    first = batchflux_command("run", job, "--sandbox", "--limit", "1", cwd=tmp_path, env=_NO_KEY)
    assert first.status == 3
    assert first.err.splitlines()[-1] == "  next: batchflux run out-sandbox"
    (tmp_path / "out-sandbox").rename(tmp_path / "out")
    text = (tmp_path / "out" / "run.json").read_text().replace("the sandbox", "https://api.wavespeed.ai")
    (tmp_path / "out" / "run.json").write_text(text)
    done = batchflux_command("run", "out", "--sandbox", cwd=tmp_path, env=_NO_KEY)
    assert done.status == 0
    status = batchflux_command("status", "out-sandbox", "--json", cwd=tmp_path)
    assert (status.status, status.document["completed"]) == (0, 4)
    paid = batchflux_command("run", "out-sandbox", "--out", "out", cwd=tmp_path)
    assert paid.status == 2  # a sandbox's spec and a paid run's directory


def test_a_twin_is_no_directory_for_what_is_paid(tmp_path: Path) -> None:
    """The real service and the sandbox never share a directory, whichever came first."""
    job = write_job(tmp_path, output={"dir": "out", "download": False})
    assert batchflux_command("run", job, "--sandbox", "--limit", "1", cwd=tmp_path, env=_NO_KEY).status == 3
    done = batchflux_command("run", job, "--out", "out-sandbox", "--yes", cwd=tmp_path)
    assert done.status == 2
    assert "begun with the sandbox" in done.err
    assert "https://api.wavespeed.ai" in done.err


def test_a_rehearsal_costs_play_money(tmp_path: Path) -> None:
    """Wherever it says what it cost, nobody could think that money is gone; beside it a paid run says `spent`."""
    job = write_job(tmp_path, output={"dir": "out", "download": False})
    done = batchflux_command("run", job, "--sandbox", cwd=tmp_path, env=_NO_KEY)
    assert "job: 4 cells to pay, 4 images, $0.32 of play money" in done.err
    assert "4 images; $0.32 of play money now, $0.32 in all" in done.err
    assert "spent" not in done.err
    assert "balance" not in done.err
    shown = batchflux_command("status", "out-sandbox", cwd=tmp_path).out
    assert "$0.32  (play money)" in shown
    again = batchflux_command("run", "out-sandbox", "--json", cwd=tmp_path, env=_NO_KEY)
    assert again.document["rehearsal"] is True
