"""A disk that is really full, and files that may grow no more: no wrapped call, the operating system refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import batchflux
from batchflux.core.errors import StorageError
from batchflux.sandbox import SandboxThread
from tests.canary import CANARY
from tests.disk.test_failing import check_refusal
from tests.disk.tight import FULL_AT
from tests.kills.lives import Life, Plan
from tests.kills.victim import ROOT, Victims

# A user's own namespace, a file system in memory there, and the test on it; all are gone with the process.
MOUNTED = 'mount -t tmpfs -o size=80m tmpfs "$1" && shift && exec "$@"'


def unshared(folder: Path, *command: str) -> list[str]:
    """Return a command that runs with a small file system of its own mounted on a folder."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNTED, "sh", str(folder), *command]


def may_mount(folder: Path) -> bool:
    """Whether a namespace of one's own is given here, as it is on most Linux machines."""
    return shutil.which("unshare") is not None and not subprocess.call(
        unshared(folder, "true"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.fault("D01", "D15")
def test_a_full_disk(tmp_path: Path) -> None:
    """D01: filled to the last byte at points of a run: status 4, every answer still heard, the next run finishes."""
    small, service = tmp_path / "small", tmp_path / "service"
    small.mkdir()
    if not may_mount(small):
        pytest.skip("no file system may be mounted here")
    command = unshared(small, sys.executable, "-m", "tests.disk.tight", str(small), str(service))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{len(FULL_AT)}\n"), done.stderr


@pytest.mark.fault("D02")
@pytest.mark.parametrize("limit_bytes", [2_000, 4_000, 6_000, 8_000, 10_000])
def test_files_that_may_not_grow(tmp_path: Path, victims: Victims, limit_bytes: int) -> None:
    """Whichever file meets the limit first, spending stops, and the next run without it finishes."""
    with Life.begun(tmp_path / "life", Plan(rows=8), victims) as life:
        end = life.run(limit_bytes=limit_bytes)
        check_refusal(end)
        assert "File too large" in end.err
        life.finish()


@pytest.mark.fault("D01")
def test_too_little_room_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is submitted where the next images wouldn't fit, and the status says that it needs the user."""
    monkeypatch.setattr("batchflux.app.prepare.free_bytes", lambda path: 5 << 20)
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    (tmp_path / "prompts.csv").write_text("prompt\na boat\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: prompts.csv}\noutput: {dir: run}\n")
    with SandboxThread() as sandbox:
        job = batchflux.load_job(tmp_path / "job.yaml", {"api.base_url": sandbox.base_url})
        with pytest.raises(StorageError, match="only 5 MB are free on this disk") as caught:
            batchflux.run(job)
        assert not sandbox.behaviour.everything()
    assert caught.value.exit_status == 4
