"""Runs beside each other: heard while they live, noticed when they die, never a reason to fail."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchflux.core.learned import Learned
from batchflux.io.client import ApiKey
from batchflux.io.limitsfile import LIMITS_FILE, read_limits, write_limits
from batchflux.io.neighbours import Neighbours, state_folder
from tests.canary import CANARY

ONE = Learned(at_ms=1, slots=25.0, found_by="refusals", images_per_s=4.0, in_flight=20, is_hungry=True)
TWO = Learned(at_ms=2, slots=10.0, found_by="a queue", images_per_s=None, in_flight=3, is_hungry=False)

CHILD = """
import sys
from pathlib import Path
from batchflux.core.learned import Learned
from batchflux.io.neighbours import Neighbours
with Neighbours(Path(sys.argv[1])) as runs:
    runs.exchange(Learned(at_ms=1, slots=25.0, found_by="refusals", images_per_s=4.0, in_flight=20, is_hungry=True))
    print("told", flush=True)
    sys.stdin.read()
"""


def test_live_runs_hear_each_other(tmp_path: Path) -> None:
    """Each hears what the others told last, and what one held when it has left."""
    with Neighbours(tmp_path / "a") as here, Neighbours(tmp_path / "a") as there:
        assert here.exchange(ONE) == ([], [])
        assert there.exchange(TWO) == ([ONE], [])
        assert here.exchange(ONE) == ([TWO], [])
        there.__exit__(None, None, None)
        assert here.exchange(ONE) == ([], [TWO])
        assert here.exchange(ONE) == ([], [])
    assert os.listdir(tmp_path / "a") == []


def test_a_killed_run_is_noticed(tmp_path: Path) -> None:
    """Its file stays, unlocked: what it held is told once, and the file is removed."""
    with (
        Neighbours(tmp_path) as here,
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"told\n"
        assert here.exchange(TWO) == ([ONE], [])
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        assert here.exchange(TWO) == ([], [ONE])
        assert len(os.listdir(tmp_path)) == 1


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    """A file where the folder should be, or no folder at all: the run is alone."""
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file" / "below", None):
        with Neighbours(folder) as here:
            assert here.exchange(ONE) == ([], [])
            here.remember(ONE)
            assert here.remembered() is None


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    """What somebody else put there is neither believed nor, unless it looks like a dead run's, removed."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / LIMITS_FILE).write_bytes(b"\xff\x00{")
    with Neighbours(tmp_path) as here:
        assert here.exchange(ONE) == ([], [])
        assert here.remembered() is None
        here.remember(TWO)
        assert here.remembered() == TWO
    assert sorted(os.listdir(tmp_path)) == [LIMITS_FILE, "notes.txt"]


def test_a_service_on_this_machine_leaves_nothing(tmp_path: Path) -> None:
    """A sandbox's port means nothing tomorrow: its folder goes with the last run."""
    with Neighbours(tmp_path / "a", is_lasting=False) as here:
        here.exchange(ONE)
        here.remember(ONE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 4000, b"null", b"\xff", b'{"version": 1}', b'{"version": 9}'])
def test_a_bad_file_is_no_file(tmp_path: Path, data: bytes) -> None:
    """Torn, foreign or of another version: nothing is remembered, and the next one is written over it."""
    (tmp_path / LIMITS_FILE).write_bytes(data)
    assert read_limits(tmp_path) is None
    write_limits(tmp_path, ONE)
    assert read_limits(tmp_path) == ONE


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Where there is no folder nothing is remembered."""
    write_limits(tmp_path / "gone", ONE)
    assert read_limits(tmp_path / "gone") is None


def test_the_accounts_name_tells_nothing() -> None:
    """Neither key nor address stands in it, and another key or address has another name."""
    name = ApiKey(CANARY).account_name("https://api.example/api/v3")
    others = [
        ApiKey(f"{CANARY}2").account_name("https://api.example/api/v3"),
        ApiKey(CANARY).account_name("https://api.example/api/v2"),
    ]
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert name not in others


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_STATE_HOME where it is absolute, else below the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/batchflux")
    for stated in ("", "relative"):
        found = state_folder({"XDG_STATE_HOME": stated})
        assert found is not None
        assert found.is_relative_to(tmp_path)
