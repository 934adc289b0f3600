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
from batchflux.io.lock import RunLock, is_run_at_work

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
ASK_ON_AND_ON = """
import sys
from pathlib import Path
from batchflux.io.lock import is_run_at_work
print("asking", flush=True)
while True:
    is_run_at_work(Path(sys.argv[1]))
"""
SHARE = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
print("shared", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(run_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    with another(HOLD, run_dir, says="held") as process:
        yield process


@contextmanager
def another(program: str, path: Path, *, says: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process, once it has said so; killed at the end."""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{says}\n"
            yield process
        finally:
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


@pytest.mark.fault("C04")
def test_a_run_is_at_work_while_it_holds_the_lock(tmp_path: Path) -> None:
    """From its start to its death by kill -9, and no longer, though the id in the file is a living process's."""
    assert not is_run_at_work(tmp_path)
    with holder(tmp_path) as process:
        assert is_run_at_work(tmp_path)
        process.kill()
        process.wait()
        assert not is_run_at_work(tmp_path)
    left = (tmp_path / "lock").read_text()
    (tmp_path / "lock").write_text(left.replace(str(process.pid), str(os.getpid())))
    assert not is_run_at_work(tmp_path)
    with RunLock(tmp_path) as lock:
        assert lock.was_left
        assert is_run_at_work(tmp_path)
    assert not is_run_at_work(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1, "host": "another"}'])
def test_a_run_is_at_work_whatever_the_file_says(tmp_path: Path, content: str) -> None:
    """Not yet written, not ours, or another container's: the lock is what counts."""
    with holder(tmp_path):
        (tmp_path / "lock").write_text(content)
        assert is_run_at_work(tmp_path)


def test_who_asks_keeps_no_run_from_beginning(tmp_path: Path) -> None:
    """Two readers that ask without a pause are in nobody's way: three hundred starts, none refused."""
    with RunLock(tmp_path):
        pass
    with another(ASK_ON_AND_ON, tmp_path, says="asking"), another(ASK_ON_AND_ON, tmp_path, says="asking"):
        for _ in range(300):
            with RunLock(tmp_path) as lock:
                assert lock.is_held()
                assert is_run_at_work(tmp_path)


def test_a_reader_that_was_stopped_while_it_asked_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no run at work, yet the start is refused after a while: the lock can't be had."""
    monkeypatch.setattr("batchflux.io.lock._STOPPED_S", 0.05)
    with RunLock(tmp_path):
        pass
    with another(SHARE, tmp_path / "lock", says="shared"):
        assert not is_run_at_work(tmp_path)
        with pytest.raises(RunDirLocked), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass


@pytest.mark.fault("D13")
def test_what_is_no_plain_file_says_nothing_of_a_run(tmp_path: Path) -> None:
    """A folder, a link and a pipe in the lock's place: no run, and nobody waits for the pipe's other end."""
    (tmp_path / "a" / "lock").mkdir(parents=True)
    for name in "bc":
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "lock").symlink_to(tmp_path / "a" / "lock")
    os.mkfifo(tmp_path / "c" / "lock")
    assert not any(is_run_at_work(tmp_path / name) for name in "abc")
