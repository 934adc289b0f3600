"""Where the key comes from and where it never goes: no option, command line, environment word, file, log or core."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflux.cli import _cli
from batchflux.sandbox import FaultRule, FaultScript, Latency, SandboxConfig, SandboxThread
from tests.canary import CANARY, find_in, is_in
from tests.cli.conftest import Command
from tests.cli.driver import started, wait_until, write_job

ROOT = Path(__file__).parents[2]


@pytest.mark.security(1)
@pytest.mark.security(7)
def test_a_run_at_work_shows_no_key_to_the_machine(tmp_path: Path) -> None:
    """What any user of the machine can list of it and its sandbox holds no key; a crash would write no memory."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("this system doesn't list processes as files")
    job = write_job(tmp_path, prompts=["a kite"] * 100)  # more than it will come to
    with started("run", job, "--sandbox", "-j", "1", cwd=tmp_path) as run:
        wait_until((tmp_path / "out-sandbox" / "sandbox" / "port").exists, "the sandbox")
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        assert children
        for pid in [run.process.pid, *map(int, children)]:
            shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "comm")]
            assert shown[0]
            assert not is_in(b"".join(shown))
            limits = Path(f"/proc/{pid}/limits").read_text()
            [core] = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
            assert core[4] == "0"
        run.send(signal.SIGKILL)
        assert run.wait().status == -signal.SIGKILL


@pytest.mark.security(1)
def test_no_option_takes_the_key() -> None:
    """The key is never typed: nothing of a command line could be it, but what the sandbox plays with."""

    def options(command: click.Command) -> set[str]:
        found = {name for parameter in command.params for name in parameter.opts}
        return found.union(*map(options, command.commands.values())) if isinstance(command, click.Group) else found

    assert not [name for name in options(_cli) if "key" in name or "token" in name or "secret" in name]


@pytest.mark.security(5)
@pytest.mark.security(6)
def test_a_service_that_repeats_the_key_in_every_answer(command: Command, tmp_path: Path) -> None:
    """X02: refusals, failures and outputs that quote it leave it in no file, and on no screen, at the loudest level."""
    refusal = json.dumps({"code": 400, "message": f"bad header Authorization: Bearer {CANARY}", "data": None})
    rules = (
        FaultRule(on="submit", do="status", status=400, body=refusal, prompt="refused"),
        FaultRule(on="submit", do="fail", code=5000, error=f"the worker of {CANARY} died", prompt="failed"),
        FaultRule(on="submit", do="fail", code=1200, error=f"flagged {CANARY}", prompt="flagged"),
        FaultRule(on="result", do="patch", data={"outputs": [f"http://127.0.0.1:9/{CANARY}.png"]}, prompt="elsewhere"),
        FaultRule(on="result", do="html", body=f"<p>{CANARY}", prompt="page", times=2),
        FaultRule(on="submit", do="redirect", location=f"/?key={CANARY}", prompt="moved"),
    )
    prompts = ["refused", "failed", "flagged", "elsewhere", "page", "whole", "moved"]
    config = SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))
    loud = {"BATCHFLUX_LOG": "debug"}
    with SandboxThread(config) as service:
        api = {"base_url": service.base_url, "settle": "200ms"}
        job = write_job(tmp_path, prompts=prompts, grid={"seed": [1]}, api=api, run={"max_attempts": 2})
        said = [
            command("run", job, cwd=tmp_path, env=loud),
            command("status", "out", "--failed", "--json", cwd=tmp_path, env=loud),
            command("verify", "out", "--account", "--json", cwd=tmp_path, env=loud),
            command("export", "out", "all.csv", "--format", "csv", cwd=tmp_path, env=loud),
        ]
    assert said[0].status in (1, 4)
    assert "***" in said[1].out
    assert "***" in (tmp_path / "out" / "run.log").read_text()
    assert (tmp_path / "all.csv").stat().st_size
    assert list(find_in(tmp_path)) == []


@pytest.mark.security(6)
def test_stored_words_of_the_service_are_short(command: Command, tmp_path: Path) -> None:
    """A service that answers with a book leaves a line of it."""
    rule = FaultRule(on="submit", do="fail", code=1200, error="x" * 200_000)
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=(rule,)))) as service:
        job = write_job(tmp_path, prompts=["a"], grid={"seed": [1]}, api={"base_url": service.base_url})
        assert command("run", job, cwd=tmp_path).status == 1
        [failed] = command("status", "out", "--failed", "--json", cwd=tmp_path).document
    assert len(failed["error"].encode()) <= 1024


# ------------------------------------------------------------------------------------------------ the search itself

FORMS = {
    "plain": CANARY.encode(),
    "in a URL": f"https://x.example/?k={CANARY.replace('_', '%5F')}".encode(),
    "utf-16": CANARY.encode("utf-16"),
    **{f"base64 after {n}": base64.b64encode(b"x" * n + f"Bearer {CANARY}".encode()) for n in range(3)},
    "base64 for URLs": base64.urlsafe_b64encode(CANARY.encode()),
    "JSON in base64": base64.b64encode(json.dumps({"key": CANARY, "n": 1}).encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_it(form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever form a key is written in, in a file of any size, packed or not, it is found."""
    folder = tmp_path_factory.mktemp("leak")
    deep = folder / "a" / "b.bin"
    deep.parent.mkdir()
    deep.write_bytes(b"\0" * 100_000 + FORMS[form] + b"\0" * 100_000)
    assert list(find_in(folder)) == [deep]
    deep.unlink()
    if form == "plain":
        table = pa.table({"n": [1, 2] * 5000, "error": ["fine" * 50, f"refused {CANARY}"] * 5000})
        pq.write_table(table, folder / "t.parquet", compression="zstd")
        assert list(find_in(folder)) == [folder / "t.parquet"]
        (folder / "t.parquet").unlink()
    assert list(find_in(folder)) == []


@pytest.mark.security(5)
@pytest.mark.parametrize("where", ["a file", "standard output", "a log", "a fixture of the module"])
def test_a_test_that_writes_the_key_fails(where: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The search that follows every test of the suite works: a session with a leak fails and says where it is."""
    lines: dict[str, str] = {
        "a file": "(tmp_path / 'leak.txt').write_text(CANARY)",
        "standard output": "print(CANARY)",
        "a log": "logging.getLogger('x').warning(CANARY)",
        "a fixture of the module": "(made / 'leak.txt').write_text(CANARY)",
    }
    folder = tmp_path_factory.mktemp("session")
    (folder / "test_leak.py").write_text(
        "import logging, pytest\n"
        "from tests.canary import CANARY\n"
        "@pytest.fixture(scope='module')\n"
        "def made(tmp_path_factory): return tmp_path_factory.mktemp('made')\n"
        f"def test_leak(tmp_path, made): {lines[where]}\n"
        "def test_none(tmp_path, made): (tmp_path / 'fine.txt').write_text('fine')\n"
    )
    base = folder / "base"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(folder), f"--basetemp={base}",
         "-p", "no:cacheprovider", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for path in list(find_in(folder)):
        path.unlink()
    assert done.returncode == 1, done.stdout
    assert "the key was" in done.stdout
    assert "2 passed" in done.stdout
    if where in ("a file", "a fixture of the module"):
        assert "leak.txt" in done.stdout
