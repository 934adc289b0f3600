"""The command line in this process: what most of its tests need, at a tenth of a process's cost."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from batchflux.cli import main
from tests.canary import CANARY
from tests.cli.driver import Ended, ended


class Command(Protocol):
    """Runs a command to its end."""

    def __call__(self, *args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Ended: ...


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return what runs `batchflux ...` here, as `driver.batchflux_command` does in a process of its own."""

    def run(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
        for name in [name for name in os.environ if name.startswith(("BATCHFLUX_", "WAVESPEED_"))]:
            monkeypatch.delenv(name)
        for name, value in {"WAVESPEED_API_KEY": CANARY, **(env or {})}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["batchflux", *map(str, args)])
        # The first look at a prediction comes after half a second: here it would be all of the time.
        monkeypatch.setattr("batchflux.core.polling._FIRST_GUESS_S", 0.02)
        monkeypatch.setattr("batchflux.core.polling._SHORTEST_STEP_S", 0.02)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return ended(end.value.code, out.encode(), err.encode())

    return run
