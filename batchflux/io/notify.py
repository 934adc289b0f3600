"""Tells somebody that a run has ended: one POST to a URL, or one command. Its failure is told and harms nothing.

Both come from the command line alone: a spec from a stranger must not run a command or send a summary anywhere.
"""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from batchflux.core.errors import BatchfluxError, JobSpecError, UsageError

__all__ = ["Notifier"]

_URL_S: Final = 10.0
_COMMAND_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    """Whom to tell. `command` is a shell's; it finds the summary (one JSON object) on its standard input, and in its
    environment BATCHFLUX_NAME, BATCHFLUX_RUN_DIR and BATCHFLUX_EXIT_STATUS, but not the variable `key_env`."""

    url: str | None
    command: str | None
    key_env: str

    def __post_init__(self) -> None:
        if self.url is not None and (
            urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc
        ):
            raise UsageError(f"--notify {self.url}: no http or https URL")

    def tell(self, summary: str, *, name: str, run_dir: Path, exit_status: int, say: Callable[[str], None]) -> None:
        """Tell each once; `say` hears of each that could not be told."""
        problems: list[str] = []
        if self.url is not None:
            problems += _post(self.url, summary)
        if self.command is not None:
            told = {
                "BATCHFLUX_NAME": name,
                "BATCHFLUX_RUN_DIR": str(run_dir),
                "BATCHFLUX_EXIT_STATUS": str(exit_status),
            }
            inherited = {key: value for key, value in os.environ.items() if key != self.key_env}
            problems += _run(self.command, summary, {**inherited, **told})
        for problem in problems:
            say(f"warning: {problem}")

    @contextmanager
    def on_error(self, name: str, run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
        """Tell of a run that an error ends; not of what is refused before anything began, with whoever began it
        still there."""
        try:
            yield
        except BatchfluxError as error:
            if not isinstance(error, JobSpecError | UsageError):
                summary = {"name": name, "run_dir": str(run_dir), "stopped": str(error)}
                text = json.dumps({**summary, "exit_status": error.exit_status}, ensure_ascii=False)
                self.tell(text, name=name, run_dir=run_dir, exit_status=error.exit_status, say=say)
            raise


def _post(url: str, summary: str) -> Iterator[str]:
    request = urllib.request.Request(  # noqa: S310 - http or https, checked
        url,
        data=summary.encode(),
        headers={"Content-Type": "application/json", "User-Agent": "batchflux"},
        method="POST",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(request, timeout=_URL_S):
            pass
    except (OSError, ValueError) as error:  # a URLError is an OSError; a port that is none a ValueError
        yield f"--notify {url}: {error}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A summary goes where the user said, and nowhere else."""

    def redirect_request(self, *args: object) -> None:
        """Take no redirect: it is then told as the HTTP error that it is."""


def _run(command: str, summary: str, environment: Mapping[str, str]) -> Iterator[str]:
    try:
        done = subprocess.run(  # noqa: S602 - the user's own command line
            command, shell=True, input=summary.encode(), env=environment, timeout=_COMMAND_S, stdout=2, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield f"--notify-command: {error}"
        return
    if done.returncode:
        yield f"--notify-command: ended with status {done.returncode}"
