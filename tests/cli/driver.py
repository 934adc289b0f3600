"""The command as users start it: a real process, its two outputs, its status; and never a traceback."""

import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import batchflux
from tests.canary import CANARY, is_in

TIMEOUT_S = 60.0
_HOME = str(Path(batchflux.__file__).parents[1])
COMMAND = (sys.executable, "-W", "error", "-m", "batchflux")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended: negative where a signal killed it."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON object."""
        return json.loads(self.out)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command: this package first, a key, nothing of the caller's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATCHFLUX_", "WAVESPEED_"))}
    return {**kept, "PYTHONPATH": _HOME, "WAVESPEED_API_KEY": CANARY, **(extra or {})}


def batchflux_command(
    *args: str | Path, cwd: Path, env: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
) -> Ended:
    """Run a command to its end, without a terminal."""
    done = subprocess.run(
        [*command, *map(str, args)],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return ended(done.returncode, done.stdout, done.stderr)


def ended(status: int, out: bytes, err: bytes) -> Ended:
    """Return how a command ended; a traceback is never the right words, and the key stands in none."""
    assert not is_in(out + err), "the key was said"
    result = Ended(status=status, out=out.decode(), err=err.decode())
    assert "Traceback" not in result.err, result.err
    assert "this is a bug" not in result.err, result.err
    return result


class Started:
    """A command at work, its standard error read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._said = b""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, number: signal.Signals) -> None:
        """Send the command a signal."""
        self.process.send_signal(number)

    def wait_for(self, words: str) -> None:
        """Wait until standard error holds these words."""
        with self._news:
            found = self._news.wait_for(lambda: words in self._said.decode("utf-8", "replace"), TIMEOUT_S)
        assert found, self._said.decode("utf-8", "replace")

    def wait(self) -> Ended:
        """Wait for its end."""
        out = self.process.stdout.read() if self.process.stdout else b""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return ended(status, out, self._said)

    def _read(self) -> None:
        assert self.process.stderr is not None
        while chunk := os.read(self.process.stderr.fileno(), 65536):
            with self._news:
                self._said += chunk
                self._news.notify_all()


@contextmanager
def started(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Start a command; it is gone at the end of the block whatever happens."""
    with subprocess.Popen(
        [*COMMAND, *map(str, args)],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield Started(process)
        finally:
            process.kill()


class OnTerminal:
    """A command whose input, outputs and controlling terminal are a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master: int | None = master
        self._shown = b""
        self._news = threading.Condition()
        self._leave = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()

    @property
    def shown(self) -> str:
        """All that was shown so far."""
        return self._shown.decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for(self, words: str) -> None:
        """Wait until these words were shown."""
        with self._news:
            found = self._news.wait_for(lambda: words in self.shown, TIMEOUT_S)
        assert found, self.shown

    def type(self, text: str) -> None:
        """Type as a person does."""
        assert self._master is not None
        os.write(self._master, text.encode())

    def wait(self) -> Ended:
        """Wait for its end."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return ended(status, b"", self.shown.encode())

    def hang_up(self) -> None:
        """Close the terminal: the kernel sends SIGHUP, and every later write fails."""
        master, self._master = self._master, None
        if master is not None:
            self._leave.set()
            self._reader.join(TIMEOUT_S)
            os.close(master)

    def _read(self, master: int) -> None:
        while not self._leave.is_set():
            ready, _, _ = select.select([master], [], [], 0.02)
            if not ready:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:  # Linux's way to say that nobody holds the other end any more
                return
            if not chunk:
                return
            with self._news:
                self._shown += chunk
                self._news.notify_all()


@contextmanager
def on_terminal(
    *args: str | Path, cwd: Path, env: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
) -> Iterator[OnTerminal]:
    """Start a command on a terminal of its own; both are gone at the end of the block."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (50, 200))
    # The terminal becomes the controlling one by being opened by the leader of a session that has none yet.
    leader = f"import os, sys; os.close(os.open({os.ttyname(slave)!r}, os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", leader, *command, *map(str, args)],
        cwd=cwd,
        env=environment(env),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.close(slave)
        terminal = OnTerminal(process, master)
        try:
            yield terminal
        finally:
            process.kill()
            terminal.hang_up()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition of another process, looking often."""
    deadline = time.monotonic() + TIMEOUT_S
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        tick.wait(0.005)


def write_job(folder: Path, *, prompts: Sequence[str] | Mapping[str, Any] = ("a kite", "a crow"), **keys: Any) -> Path:
    """Write job.yaml with a table p.csv beside it: no downloads and two seeds where `keys` don't say otherwise.

    `prompts` are those of the table, or the spec's own section.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(prompts, Mapping):
        keys, prompts = {"prompts": dict(prompts), **keys}, ("a kite",)
    lines = ["prompt", *('"' + prompt.replace('"', '""') + '"' for prompt in prompts)]
    (folder / "p.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec: dict[str, Any] = {
        "prompts": {"path": "p.csv"},
        "grid": {"seed": [1, 2]},
        "output": {"dir": "out", "download": False},
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in spec.items()), encoding="utf-8")
    return path
