"""`batchflux run` as users meet it: exit statuses, options, closing words, what is refused before anything is sent."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.canary import CANARY
from tests.cli.conftest import Command
from tests.cli.driver import batchflux_command, started, wait_until, write_job

_AT_ONCE = Latency(median_s=0)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency or history that loses the answer to every prompt that says so."""
    rules = (
        FaultRule(on="submit", do="close", when="after", prompt="lose this", times=1),
        FaultRule(on="history", do="status", status=404),
    )
    with SandboxThread(SandboxConfig(latency=_AT_ONCE, faults=FaultScript(rules=rules))) as running:
        yield running


def _job(folder: Path, service: RunningSandbox, **keys: Any) -> Path:
    return write_job(folder, **{"api": {"base_url": service.base_url, "settle": "200ms"}, **keys})


def test_a_run_its_words_and_its_silent_repetition(service: RunningSandbox, tmp_path: Path) -> None:
    """Status 0, images on disk, closing words with the next command; once more sends nothing and says the same."""
    job = _job(tmp_path, service, output={"dir": "out"})
    done = batchflux_command("run", job, cwd=tmp_path)
    assert done.status == 0
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[0] == "job: 4 cells to pay, 4 images, $0.32 of a balance of $1,000,000.00"
    closing = lines[lines.index("job: 4 of 4 cells completed") :]
    assert "4 images; $0.32 spent now, $0.32 in all" in closing[1]
    assert closing[-3:] == [
        "  results: out/manifest.parquet and images/ beside it",
        "  report: out/report.html",
        "  next: batchflux export out job-results.csv --format csv",
    ]
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 4
    made = service.stats["submissions_received"]
    again = batchflux_command("run", job, "--json", cwd=tmp_path)
    assert again.status == 0
    assert service.stats["submissions_received"] == made
    summary = again.document
    wanted = {"cells", "pending", "submitted", "completed", "failed", "unknown", "images", "cost_usd", "errors"}
    assert wanted <= set(summary)
    assert (summary["completed"], summary["images"], summary["cost_usd"], summary["errors"]) == (4, 4, 0.32, {})
    assert summary["spent_now_usd"] == 0


def test_a_new_seed_buys_the_new_cells_alone(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Adding a value says what is kept and new, and submits only that."""
    assert command("run", _job(tmp_path, service), cwd=tmp_path).status == 0
    made = service.stats["submissions_received"]
    job = _job(tmp_path, service, grid={"seed": [3, 1, 2]})
    done = command("run", job, cwd=tmp_path)
    assert done.status == 0
    assert "4 cells kept, 2 new, 0 retired; 4 done already" in done.err
    assert service.stats["submissions_received"] == made + 2


def test_limit_budget_and_going_on(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """3 where a run stops as asked: at its limit, at this time's budget, at the whole life's; then on to the end."""
    job = _job(tmp_path, service, grid={"seed": [1, 2, 3, 4]})
    limited = command("run", job, "--limit", "3", "--json", cwd=tmp_path)
    assert (limited.status, limited.document["completed"]) == (3, 3)
    assert limited.document["stopped"] == "--limit 3 cells reached"
    bounded = command("run", job, "--budget", "0.17", cwd=tmp_path)
    assert bounded.status == 3
    assert "5 of 8 cells completed, 3 pending" in bounded.err
    assert "stopped: --budget of $0.17 is used: $0.16 spent or held this time, one more costs $0.08" in bounded.err
    assert bounded.err.splitlines()[-1] == "  next: batchflux run out"
    life = command("run", job, "--set", "run.budget=0.50", "--json", cwd=tmp_path)
    assert (life.status, life.document["completed"]) == (3, 6)
    used = "run.budget of $0.50 is used: $0.48 spent or held in all, one more costs $0.08"
    assert life.document["stopped"] == f"{used}; to go on, raise it, as with --set run.budget=USD"
    assert command("run", "out", cwd=tmp_path, env={}).status == 3  # the frozen spec has the budget still
    raised = command("run", "out", "--set", "run.budget=0.57", "--json", cwd=tmp_path)
    assert (raised.status, raised.document["completed"]) == (3, 7)
    assert command("run", job, cwd=tmp_path).status == 0
    none = command("run", job, "--limit", "0", cwd=tmp_path)
    assert none.status == 0  # nothing is left that a limit could hold back


def test_until_submits_nothing_that_would_be_late(
    service: RunningSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no prediction would be done by then, nothing is submitted: 3."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    job = batchflux.load_job(_job(tmp_path, service))
    made = service.stats["submissions_received"]
    result = batchflux.run(job, batchflux.RunOptions(until_at_s=time.time() + 5))
    assert (result.exit_status, service.stats["submissions_received"]) == (3, made)
    assert "--until" in str(result)


def test_failed_cells_and_how_they_are_taken_up(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """1 and the next command; 0 where so many may fail; `status --failed` lists them; `--retry-failed` buys again."""
    job = _job(tmp_path, service, prompts={"path": "p.csv"})
    (tmp_path / "p.csv").write_text("prompt\na kite\nsandbox:refuse\n")
    done = command("run", job, cwd=tmp_path)
    assert done.status == 1
    assert "job: 2 of 4 cells completed, 2 failed" in done.err
    assert "2 × content_policy: the service's moderation refused these prompts" in done.err
    assert done.err.splitlines()[-1] == "  next: batchflux run out --retry-failed"
    listed = command("status", "out", "--failed", cwd=tmp_path)
    assert listed.status == 0
    rows = listed.out.splitlines()
    assert rows[0].startswith("row 2 (")
    assert ", seed 1: content_policy: " in rows[0]
    assert rows[2] == f"next: batchflux run {tmp_path}/out --retry-failed".replace(f"{tmp_path}/", "")
    as_json = command("status", "out", "--failed", "--json", cwd=tmp_path).document
    assert [(cell["row"], cell["params"], cell["error_kind"]) for cell in as_json] == [
        (2, {"seed": 1}, "content_policy"),
        (2, {"seed": 2}, "content_policy"),
    ]
    made = service.stats["submissions_received"]
    assert command("run", job, "--set", "run.max_failed=50%", cwd=tmp_path).status == 0
    assert command("run", job, "--set", "run.max_failed=1", cwd=tmp_path).status == 1
    assert service.stats["submissions_received"] == made
    assert command("run", job, "--retry-failed", cwd=tmp_path).status == 1
    assert service.stats["submissions_received"] == made + 2


def test_unknown_cells_are_held_until_the_user_says_so(
    command: Command, service: RunningSandbox, tmp_path: Path
) -> None:
    """A lost answer is never sent again by itself; `--resubmit-unknown` does, and its price stays counted."""
    job = _job(tmp_path, service, prompts={"path": "p.csv"}, grid={"seed": [1]})
    (tmp_path / "p.csv").write_text("prompt\nlose this\na kite\n")
    done = command("run", job, cwd=tmp_path)
    assert done.status == 1
    assert "1 of 2 cells completed, 1 unknown" in done.err
    assert done.err.splitlines()[-1] == "  next: batchflux run out --resubmit-unknown"
    made = service.stats["submissions_received"]
    held = command("run", job, "--json", cwd=tmp_path)
    assert (held.status, held.document["unknown"], held.document["cost_usd"]) == (1, 1, 0.16)
    assert service.stats["submissions_received"] == made
    assert command("plan", job, "--json", cwd=tmp_path).document["to_pay"] == 0
    resubmit = ("--set", "run.on_unknown=resubmit")
    assert command("plan", job, *resubmit, "--json", cwd=tmp_path).document["cost_usd"] == 0.08
    again = command("run", job, "--resubmit-unknown", "--json", cwd=tmp_path)
    assert (again.status, again.document["completed"]) == (0, 2)
    assert service.stats["submissions_received"] == made + 1


def test_images_later(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """A run without downloads has no images; `--download-only` fetches them and submits nothing."""
    job = _job(tmp_path, service)
    done = command("run", job, cwd=tmp_path)
    assert done.status == 0
    assert "  results: out/manifest.parquet\n" in done.err
    made = service.stats["submissions_received"]
    fetched = command("run", job, "--download-only", cwd=tmp_path)
    assert fetched.status == 0
    assert service.stats["submissions_received"] == made
    files = [name for files in batchflux.read_manifest(tmp_path / "out")["files"] for name in files]
    assert len(files) == 4
    (tmp_path / "out" / files[0]).unlink()
    assert command("run", "out", "--download-only", cwd=tmp_path).status == 0
    assert (tmp_path / "out" / files[0]).is_file()
    more = command("run", job, "--download-only", "--set", "grid.seed=[1, 2, 3]", cwd=tmp_path)
    assert more.status == 1  # cells are pending
    assert "to pay" not in more.err


def test_an_image_that_went_bad_is_fetched_again(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """One flipped byte, a cut file, one that is gone: `verify` names them, `--download-only` mends them for nothing."""
    job = _job(tmp_path, service, grid={"seed": [1, 2]})
    assert command("run", job, "--set", "output.download=true", cwd=tmp_path).status == 0
    files = [tmp_path / "out" / name for names in batchflux.read_manifest(tmp_path / "out")["files"] for name in names]
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(bytes([whole[0][0] ^ 1]) + whole[0][1:])
    files[1].write_bytes(whole[1][:-1])
    files[2].unlink()
    found = command("verify", "out", cwd=tmp_path)
    assert found.status == 1
    assert all(path.name in found.out for path in files[:3])
    made = service.stats["submissions_received"]
    assert command("run", "out", "--download-only", cwd=tmp_path).status == 0
    assert service.stats["submissions_received"] == made
    assert [path.read_bytes() for path in files] == whole
    assert command("verify", "out", cwd=tmp_path).status == 0


def test_somebody_is_told_of_the_end(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Once, with the closing summary; that it fails changes nothing."""
    job = _job(tmp_path, service, grid={"seed": [1]})
    tell = ("--notify-command", "cat >> told; exit 5", "--notify", "http://127.0.0.1:9/")
    done = command("run", job, "--json", *tell, cwd=tmp_path)
    assert done.status == 0
    assert json.loads((tmp_path / "told").read_text()) == json.loads(done.out)
    assert "warning: --notify-command: ended with status 5" in done.err
    assert "warning: --notify http://127.0.0.1:9/: " in done.err
    assert command("run", job, "--notify", "nowhere", cwd=tmp_path).status == 2


def test_images_that_can_not_be_had(command: Command, tmp_path: Path) -> None:
    """`--download-only` is asked for images: without them it is 1, whatever the spec says of downloads."""
    rules = (FaultRule(on="output", do="status", status=404),)
    with SandboxThread(SandboxConfig(latency=_AT_ONCE, faults=FaultScript(rules=rules))) as service:
        job = _job(tmp_path, service, grid={"seed": [1]})
        assert command("run", job, cwd=tmp_path).status == 0
        done = command("run", job, "--download-only", cwd=tmp_path)
    assert done.status == 1
    assert "2 images are not on the disk yet" in done.err
    assert done.err.splitlines()[-1] == "  next: batchflux run out --download-only"


@pytest.mark.fault("H10", "H11")
@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"require_key": "another"}, "keys made before the account's first top-up don't work"),
        ({"balance_usd": 0.2}, "top it up, then run the same command again"),
    ],
)
def test_what_needs_the_user_is_4(command: Command, tmp_path: Path, knobs: dict[str, Any], words: str) -> None:
    """A refused key and a used-up credit stop the run with what to do; the same command goes on."""
    with SandboxThread(SandboxConfig(latency=_AT_ONCE, **knobs)) as service:
        job = _job(tmp_path, service)
        done = command("run", job, cwd=tmp_path)
    assert done.status == 4
    assert words in done.err
    assert done.err.splitlines()[-1] == "  next: batchflux run out"


def test_a_service_that_is_not_there_is_4(command: Command, tmp_path: Path) -> None:
    """Patience is as the spec says; nothing was submitted, nothing is unknown."""
    with SandboxThread(SandboxConfig()) as gone:
        url = gone.base_url
    job = write_job(tmp_path, api={"base_url": url}, run={"patience": "1s", "budget": 5})
    done = command("run", job, "--json", cwd=tmp_path)
    assert done.status == 4
    assert (done.document["pending"], done.document["unknown"]) == (4, 0)
    assert "the service is gone" in done.document["stopped"]


@pytest.mark.security(8)
@pytest.mark.fault("X04")
def test_what_is_refused_leaves_no_trace(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """No key, a host that isn't trusted: 2, and no run directory that would be bound to anything."""
    job = _job(tmp_path, service)
    done = command("run", job, cwd=tmp_path, env={"WAVESPEED_API_KEY": ""})
    assert done.status == 2
    assert "WAVESPEED_API_KEY is not set" in done.err
    assert "--sandbox" in done.err
    foreign = write_job(tmp_path, api={"base_url": "https://gateway.example/api/v3"})
    done = command("run", foreign, "--yes", cwd=tmp_path)
    assert done.status == 2
    assert "--allow-host gateway.example" in done.err
    other = write_job(tmp_path, api={"base_url": service.base_url, "key_env": "MY_KEY"})
    assert "MY_KEY is not set" in command("run", other, cwd=tmp_path).err
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("I11", "X04")
def test_a_directory_belongs_to_its_origin(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Another service is refused with both names, and hears nothing."""
    assert command("run", _job(tmp_path, service), cwd=tmp_path).status == 0
    with SandboxThread(SandboxConfig(latency=_AT_ONCE)) as other:
        done = command("run", _job(tmp_path, other, grid={"seed": [9]}), cwd=tmp_path)
        assert other.stats["submissions_received"] == 0
    assert done.status == 2
    assert service.origin in done.err
    assert other.origin in done.err
    assert "--out DIR" in done.err


@pytest.mark.fault("C01")
def test_two_runs_at_once(tmp_path: Path) -> None:
    """The second is refused at once with the first one's process id and host, and `status` reads beside it."""
    with SandboxThread(SandboxConfig(latency=Latency(median_s=600, sigma=0))) as service:
        job = _job(tmp_path, service)
        with started("run", job, cwd=tmp_path) as first:
            wait_until(lambda: service.stats["submissions_received"] == 4, "submissions")
            second = batchflux_command("run", job, cwd=tmp_path)
            status = batchflux_command("status", "out", "--json", cwd=tmp_path).document
            assert second.status == 2
            assert f"pid {first.process.pid} on " in second.err
            assert status["at_work"]
            assert status["submitted"] + status["unknown"] == 4
            assert service.stats["submissions_received"] == 4


def test_a_moved_run_directory_goes_on(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """`run RUN_DIR` needs neither the job file nor the table, wherever the directory was moved."""
    job = _job(tmp_path / "here", service, output={"dir": "out"})
    assert command("run", job, "--limit", "2", cwd=tmp_path).status == 3
    shutil.move(tmp_path / "here" / "out", tmp_path / "moved")
    shutil.rmtree(tmp_path / "here")
    made = service.stats["submissions_received"]
    done = command("run", "moved", cwd=tmp_path)
    assert (done.status, service.stats["submissions_received"]) == (0, made + 2)
    frame = batchflux.read_manifest(tmp_path / "moved")
    assert all((tmp_path / "moved" / name).is_file() for files in frame["files"] for name in files)


def test_out_names_another_directory(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """`--out` is relative to where the command is run, the spec's own paths to the spec."""
    job = _job(tmp_path / "jobs", service)
    assert command("run", job, "--out", "there", cwd=tmp_path).status == 0
    assert (tmp_path / "there" / "manifest.parquet").is_file()
    assert not (tmp_path / "jobs" / "out").exists()
    assert command("plan", job, "--out", "there", "--json", cwd=tmp_path).document["to_pay"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "lots"], "'lots' is no amount in USD"),
        (["--budget", "1e999999"], "is no amount in USD"),
        (["--budget", "-1"], "can't be negative"),
        (["--until", "25:00"], "'25:00' is no time of day; write one like 07:00"),
        (["--until", "07:00+02:00"], "is no time of day"),
        (["--limit", "-1"], "--limit"),
        (["-j", "0"], "-j"),
        (["--sett", "x"], "--set"),
        (["--set", "run.concurency=4"], "did you mean concurrency?"),
        (["--set", "prompts.path"], "KEY=VALUE"),
    ],
)
def test_wrong_options_are_2(
    command: Command, service: RunningSandbox, tmp_path: Path, options: list[str], words: str
) -> None:
    """Each with words that say what would be right; nothing is made."""
    done = command("run", _job(tmp_path, service), *options, cwd=tmp_path)
    assert done.status == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("D01")
def test_a_full_disk_stops_before_the_first_submission(
    command: Command, service: RunningSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4, since it needs the user."""
    monkeypatch.setattr("batchflux.app.prepare.free_bytes", lambda path: 1 << 20)
    made = service.stats["submissions_received"]
    done = command("run", _job(tmp_path, service), cwd=tmp_path)
    assert done.status == 4
    assert "only 1 MB are free on this disk, where 64 MB are the least; free space" in done.err
    assert service.stats["submissions_received"] == made
