"""The sandbox as a process: its one line, its address, its end, and the files it is told to read."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import batchflux
from batchflux.core.errors import UsageError
from batchflux.sandbox import FaultRule, SandboxProcess, parse_latency, parse_rate
from batchflux.sandbox.process import command, read_fault_script
from tests.sandbox.caller import TIMEOUT_S, Caller

_HOME = str(Path(batchflux.__file__).parents[1])
_COMMAND = [sys.executable, "-W", "error", "-m", "batchflux.sandbox"]

# Starts a sandbox as a runner does, passes its line on and then waits for ever.
_PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
sys.stdout.buffer.write(child.stdout.readline())
sys.stdout.flush()
time.sleep(600)
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _HOME}


def test_one_line_and_a_clean_end() -> None:
    """Standard output is one line of JSON, standard error says what this is, and SIGTERM ends it with status 0."""
    with subprocess.Popen(
        [*_COMMAND, "--latency", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        line = json.loads(child.stdout.readline())
        assert line["pid"] == child.pid
        assert line["base_url"].endswith("/api/v3")
        assert Caller(line["base_url"].removesuffix("/api/v3")).submit(prompt="a kite").status == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(TIMEOUT_S) == 0
        assert child.stdout.read() == ""
        assert "this is a sandbox and not the model" in child.stderr.read()


def test_it_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """When its parent gets SIGKILL the sandbox ends, and lets go of its memory to the next one, on the same port."""
    arguments = [*_COMMAND, "--with-parent", "--latency", "0", "--state", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    ) as parent:
        assert parent.stdout is not None
        line = json.loads(parent.stdout.readline())
        origin = line["base_url"].removesuffix("/api/v3")
        prediction_id = Caller(origin).submit(prompt="a kite").data["id"]
        with socket.create_connection(("127.0.0.1", int(origin.rpartition(":")[2])), timeout=TIMEOUT_S) as connection:
            parent.kill()
            assert connection.recv(1) == b""
    with SandboxProcess(["--latency", "0", "--state", str(tmp_path)]) as sandbox:
        assert sandbox.origin == origin
        assert Caller(sandbox.origin).result(prediction_id).data["status"] == "completed"


def test_a_killed_sandbox_forgets_nothing(tmp_path: Path) -> None:
    """A sandbox that gets SIGKILL itself knows every prediction it answered with when it is started again."""
    options = ["--latency", "0", "--state", str(tmp_path)]
    with SandboxProcess(options) as sandbox:
        caller = Caller(sandbox.origin)
        ids = [caller.submit(prompt=f"kite {n}").data["id"] for n in range(20)]
        os.kill(sandbox.pid, signal.SIGKILL)
    with SandboxProcess(options) as sandbox:
        assert [Caller(sandbox.origin).result(each).status for each in ids] == [200] * 20


def test_ctrl_c_is_the_parents(tmp_path: Path) -> None:
    """With a parent, the terminal's interrupt doesn't end the sandbox: the parent still has answers to hear."""
    with SandboxProcess(["--state", str(tmp_path)]) as sandbox:
        os.kill(sandbox.pid, signal.SIGINT)
        assert Caller(sandbox.origin).submit(prompt="a kite").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives every host a second loopback address")
def test_only_loopback_listens() -> None:
    """Nothing listens on all addresses: the same port of another address of this host is still free."""
    with SandboxProcess() as sandbox, socket.socket() as other:
        assert sandbox.origin.startswith("http://127.0.0.1:")
        other.bind(("127.0.0.2", int(sandbox.origin.rpartition(":")[2])))


def test_options_reach_the_sandbox(tmp_path: Path) -> None:
    """The options of the command are the knobs of the sandbox."""
    faults = tmp_path / "faults.yaml"
    faults.write_text("rules:\n  - {on: submit, prompt: boat, do: status, status: 503}\n", encoding="utf-8")
    options = shlex.split(
        "--latency 0 --concurrency 0 --rate 2/h --over-limit refuse --retry-after --schema today --image-size 64 "
        "--image-format jpeg --require-key k --no-inputs --balance 5 --failure 5000=0"
    )
    with SandboxProcess([*options, "--faults", str(faults)]) as sandbox:
        assert Caller(sandbox.origin, key="other").submit(prompt="a kite").status == 401
        caller = Caller(sandbox.origin, key="k")
        prediction_id = caller.submit(prompt="a kite").data["id"]
        assert caller.call("GET", "/api/v3/balance").data == {"balance": 4.92}
        output = caller.result(prediction_id).data["outputs"][0]
        assert output.endswith(".jpeg")
        assert caller.output(output).body.startswith(b"\xff\xd8")
        assert "inputs" not in caller.history(include_inputs=True).data["items"][0]
        assert caller.submit(prompt="a boat").status == 503
        caller.submit(prompt="a car")
        refused = caller.submit(prompt="a tram")
        assert (refused.status, "Retry-After" in refused.headers) == (429, True)


def test_a_wrong_option_exits_2(tmp_path: Path) -> None:
    """What can't be is told on standard error with exit status 2, and nothing on standard output."""
    faults = tmp_path / "faults.yaml"
    faults.write_text("rules: [{on: submit, do: rest}]", encoding="utf-8")
    for options, words in (
        (["--latency", "soon"], "'soon' is no latency"),
        (["--rate", "5"], "'5' is no rate"),
        (["--failure", "x"], "not CODE=SHARE"),
        (["--faults", str(faults)], "faults.yaml: fault rule 1: do: 'rest' is unknown; did you mean 'reset'?"),
    ):
        ended = subprocess.run(
            [*_COMMAND, *options], capture_output=True, text=True, env=_environment(), timeout=TIMEOUT_S, check=False
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert words in ended.stderr


def test_help_names_every_option() -> None:
    """The command's help starts nothing and lists its options."""
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert "It is not the model" in " ".join(shown.output.split())
    assert "--over-limit" in shown.output


def test_nothing_heavy_is_imported_for_the_options() -> None:
    """Naming the sandbox's command loads no web framework, no imaging and no YAML."""
    code = (
        "import sys, batchflux.sandbox.process;"
        "heavy = {'aiohttp', 'PIL', 'numpy', 'yaml', 'pandas', 'pyarrow'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=_environment(), timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0


def test_fault_scripts_from_files(tmp_path: Path) -> None:
    """YAML and JSON scripts read alike, though YAML 1.1 takes the key `on` for a boolean."""
    expected = (FaultRule(on="result", do="delay", seconds=0.5, at=frozenset({1, 2})),)
    for name, text in (
        ("faults.yaml", "seed: 4\nrules:\n- on: result\n  do: delay\n  seconds: 0.5\n  at: [1, 2]\n"),
        ("tabs.json", '{"seed": 4,\n\t"rules": [{"on": "result", "do": "delay", "seconds": 0.5, "at": [1, 2]}]}'),
        ("faults.json", '{"seed": 4, "rules": [{"on": "result", "do": "delay", "seconds": 0.5, "at": [1, 2]}]}'),
    ):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        script = read_fault_script(path)
        assert (script.rules, script.seed) == (expected, 4)
    (tmp_path / "broken.yaml").write_text("rules: [", encoding="utf-8")
    with pytest.raises(UsageError, match="can't be read as YAML or JSON"):
        read_fault_script(tmp_path / "broken.yaml")


def test_short_texts() -> None:
    """Latencies and rates are read from their short forms, and anything else is refused."""
    assert (parse_latency("0.8,0.35").median_s, parse_latency("0.8,0.35").sigma, parse_latency("2").sigma) == (
        0.8,
        0.35,
        0,
    )
    assert [parse_rate(text).window_s for text in ("1/s", "1/min", "1/h")] == [1, 60, 3600]
    for wrong in ("", "1,2,3", "-1", "nan", "inf"):
        with pytest.raises(UsageError):
            parse_latency(wrong)
    for wrong in ("", "5", "0/s", "1.5/s", "5/day"):
        with pytest.raises(UsageError):
            parse_rate(wrong)
