"""Whoever is to be told that a run has ended is told once, with the summary; that it fails harms nothing."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batchflux.core.errors import StorageError, UsageError
from batchflux.io.notify import Notifier

SUMMARY = json.dumps({"name": "owls", "completed": 3})


def told(*, url: str | None = None, command: str | None = None) -> list[str]:
    """Tell, and return what went wrong."""
    notifier = Notifier(url=url, command=command, key_env="THE_KEY")
    said: list[str] = []
    notifier.tell(SUMMARY, name="owls", run_dir=Path("runs/owls"), exit_status=3, say=said.append)
    return said


@contextmanager
def listener(status: int, **headers: str) -> Iterator[tuple[str, list[Any]]]:
    """Serve on loopback, and keep what is posted."""
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/done?x=1", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_url_is_posted_to_once() -> None:
    """The summary is the body, as JSON."""
    with listener(204) as (url, heard):
        assert told(url=url) == []
    assert heard == [("/done?x=1", "application/json", json.loads(SUMMARY))]


@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_a_url_that_answers_otherwise_is_told_and_not_followed(status: int) -> None:
    """A redirect is no exception: the summary goes nowhere else."""
    with listener(200) as (elsewhere, heard_there), listener(status, Location=elsewhere) as (url, heard):
        (line,) = told(url=url)
    assert url in line
    assert str(status) in line
    assert (len(heard), heard_there) == (1, [])


def test_a_url_where_nobody_listens() -> None:
    """It is a line, and no error."""
    (line,) = told(url="http://127.0.0.1:9/")
    assert "refused" in line


@pytest.mark.parametrize("url", ["ftp://host/", "file:///etc/passwd", "host", "https://"])
def test_what_is_no_web_address_is_refused_at_once(url: str) -> None:
    """Before a night's run, and not at its end."""
    with pytest.raises(UsageError, match="--notify"):
        told(url=url)


def test_a_command_gets_the_summary_and_not_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its standard input and in its environment."""
    monkeypatch.setenv("THE_KEY", "a secret")
    out = tmp_path / "told"
    command = f'(cat; echo; echo "$BATCHFLUX_NAME $BATCHFLUX_RUN_DIR $BATCHFLUX_EXIT_STATUS [$THE_KEY]") > {out}'
    assert told(command=command) == []
    assert out.read_text().splitlines() == [SUMMARY, "owls runs/owls 3 []"]
    assert os.environ["THE_KEY"] == "a secret"


def test_a_command_that_fails() -> None:
    """It is a line, and no error; one that reads nothing is no failure."""
    assert told(command="exit 7") == ["warning: --notify-command: ended with status 7"]
    assert told(command="true") == []


def test_an_error_that_ends_a_run_is_told_and_a_wrong_option_is_not(tmp_path: Path) -> None:
    """A full disk at three in the morning is; whoever gave a wrong option is still there."""
    out = tmp_path / "told"
    notifier = Notifier(url=None, command=f"cat > {out}", key_env="THE_KEY")
    with pytest.raises(UsageError), notifier.on_error("owls", tmp_path, lambda line: None):
        raise UsageError("no key")
    assert not out.exists()
    full = StorageError(tmp_path, doing="write", cause=OSError(28, "No space left on device"))
    with pytest.raises(StorageError), notifier.on_error("owls", tmp_path, lambda line: None):
        raise full
    assert json.loads(out.read_text()) == {
        "name": "owls",
        "run_dir": str(tmp_path),
        "stopped": str(full),
        "exit_status": 4,
    }
