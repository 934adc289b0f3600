"""A copy of the examples to run in, and ways to run what the documents say: as a shell would, and on a terminal.

Nothing is ever written to the checkout itself.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

__all__ = ["ROOT", "Checkout", "blocks"]

ROOT = Path(__file__).parents[2]
_EXAMPLES = ("configs", "jobs", "notebooks")
_WIDTH = 110


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of a Markdown text's code blocks in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Checkout:
    """A folder with the examples in it and a `batchflux` on the path that is this checkout's."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "batchflux"
        for name in _EXAMPLES:
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints"))
        command = folder / "bin" / "batchflux"
        command.parent.mkdir(parents=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error -m batchflux "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "WAVESPEED_API_KEY"},
            "PATH": f"{command.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
        }

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run one line of shell at the copy's root, with no terminal; returns what it said and its status."""
        return subprocess.run(
            ["sh", "-c", line],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def terminal(self, line: str) -> str:
        """Run one line of shell on a terminal and return what stands on its screen afterwards."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, _WIDTH, 0, 0))
        environment = {**self.environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        with subprocess.Popen(
            ["sh", "-c", line], cwd=self.root, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as child:
            os.close(theirs)
            written = _read_to_end(ours)
            assert child.wait(120) == 0
        os.close(ours)
        # A bar draws over itself after each carriage return: what was drawn last is what is seen.
        lines = written.decode().replace("\r\n", "\n").split("\n")
        seen = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
        return "\n".join(seen).replace(str(self.root.resolve()), "~/batchflux").strip() + "\n"


def _read_to_end(terminal: int) -> bytes:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when the last writer has gone; macOS returns nothing
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
