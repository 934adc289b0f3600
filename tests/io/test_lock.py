"""The run's lock: one holder, which dies with its process and is told by name."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchflux.core.errors import RunDirLocked, StorageError
from batchflux.io.lock import RunLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from batchflux.io.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_AND_FORK = """
import os, sys
from pathlib import Path
from batchflux.io.lock import RunLock
with RunLock(Path(sys.argv[1])):
    if (child := os.fork()) == 0:
        sys.exit()
    os.waitpid(child, 0)
    ready, tell = os.pipe()
    if os.fork() == 0:
        os.write(tell, b"x")
        sys.stdin.read()
        os._exit(0)
    os.read(ready, 1)
    print("one child came and went, another is up", flush=True)
    os.waitpid(-1, 0)
"""


@contextmanager
def holder(run_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(run_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.fault("C01", "C04")
def test_a_second_process_is_refused_by_name_and_death_frees(tmp_path: Path) -> None:
    """The refusal names the holder's pid, host and start; kill -9 leaves no lock behind."""
    with holder(tmp_path) as process:
        expected = rf"pid {process.pid} on {os.uname().nodename} since \d{{4}}-\d\d-\d\dT[\d:]+\+00:00"
        with pytest.raises(RunDirLocked, match=expected), RunLock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path) as lock:
            assert lock.is_held()


@pytest.mark.fault("C01")
def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    """A second lock in one process is a second run; after the first one's end it may begin."""
    with RunLock(tmp_path), pytest.raises(RunDirLocked, match=f"pid {os.getpid()}"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass
    assert (tmp_path / "lock").exists()


@pytest.mark.fault("P11")
def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    """A started child that outlives the holder keeps no lock, even one that is given every descriptor."""
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    with RunLock(tmp_path):
        child = subprocess.Popen(command, close_fds=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        with RunLock(tmp_path):
            pass
        child.kill()


@pytest.mark.fault("P11")
def test_a_forked_child_does_not_hold_it_on(tmp_path: Path) -> None:
    """A forked child that outlives the killed holder keeps nobody out, and its own end frees nothing before that."""
    command = [sys.executable, "-c", HOLD_AND_FORK, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one child came and went, another is up\n"
        with pytest.raises(RunDirLocked), RunLock(tmp_path):
            pass
        process.kill()
        process.wait()
        with RunLock(tmp_path):
            pass
        assert process.stdin is not None
        process.stdin.close()  # ends the child that was left


@pytest.mark.fault("C03")
def test_a_lock_file_that_was_deleted_or_replaced_is_noticed(tmp_path: Path) -> None:
    """Whoever deletes the file lets a second run in; the first one can see it."""
    with RunLock(tmp_path) as lock:
        assert lock.is_held()
        (tmp_path / "lock").unlink()
        assert not lock.is_held()
        (tmp_path / "lock").write_text("")
        assert not lock.is_held()
    assert not lock.is_held()


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[]", b'{"pid": null}'])
def test_a_holder_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    """Whatever the file says, the lock holds, and the refusal says that the name isn't known."""
    with RunLock(tmp_path):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(RunDirLocked, match="not yet said its name"), RunLock(tmp_path):
            pass


@pytest.mark.fault("D13")
def test_a_lock_that_is_a_folder_or_a_link(tmp_path: Path) -> None:
    """What is no plain file is refused and not followed."""
    (tmp_path / "a" / "lock").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lock").symlink_to(tmp_path / "elsewhere")
    for name in "ab":
        with pytest.raises(StorageError, match="could not open the lock"), RunLock(tmp_path / name):
            pass
    assert not (tmp_path / "elsewhere").exists()
