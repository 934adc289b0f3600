"""Whose word it takes for a host to get the key: a spec from a stranger alone sends it nowhere."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from batchflux.core.errors import UsageError
from batchflux.core.origin import check_trusted
from tests.cli.conftest import Command
from tests.cli.driver import write_job

pytestmark = pytest.mark.security(8)

SERVICE = "https://api.wavespeed.ai/api/v3"


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names that anything here asks to be resolved; nothing is, and nothing is connected to."""
    asked: list[str] = []

    def ask(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    async def connect(self: Any, sock: socket.socket, address: Any) -> None:
        asked.append(str(address))
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    return asked


STRANGERS: dict[str, dict[str, str]] = {
    "another host": {"base_url": "https://gateway.example/api/v3"},
    "a longer name": {"base_url": "https://api.wavespeed.ai.example/api/v3"},
    "a shorter name": {"base_url": "https://wavespeed.ai/api/v3"},
    "another port": {"base_url": "https://api.wavespeed.ai:8443/api/v3"},
    "a user that looks like the host": {"base_url": "https://api.wavespeed.ai@gateway.example/api/v3"},
    "a path that looks like the host": {"base_url": "https://gateway.example/https://api.wavespeed.ai/api/v3"},
    "plain http": {"base_url": "http://api.wavespeed.ai/api/v3"},
    "nearly loopback": {"base_url": "http://127.0.0.1.gateway.example/api/v3"},
    "a tab in the name": {"base_url": "https://api.wavespeed.ai\t.gateway.example/api/v3"},
    "a proxy before plain http": {"base_url": "http://127.0.0.1:9/api/v3", "proxy": "http://gateway.example:3128"},
    "a proxy that brings its own authority": {"proxy": "http://gateway.example:3128", "ca_file": "ca.pem"},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_spec_sends_the_key_nowhere(
    name: str, command: Command, tmp_path: Path, looked_up: list[str]
) -> None:
    """Refused with status 2 before a name is looked up; no directory is made, and the words name the host."""
    (tmp_path / "ca.pem").write_bytes(Path(__file__).with_name("tls").joinpath("authority.pem").read_bytes())
    job = write_job(tmp_path, api=STRANGERS[name])
    done = command("run", job, "--yes", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "--allow-host" in done.err or "api.base_url" in done.err
    assert looked_up == []
    assert not (tmp_path / "out").exists()


def test_the_users_word_is_taken(command: Command, tmp_path: Path, looked_up: list[str]) -> None:
    """`--allow-host` for one host is for that host alone."""
    job = write_job(tmp_path, api=STRANGERS["another host"], run={"patience": "1s"})
    assert command("run", job, "--yes", "--allow-host", "other.example", cwd=tmp_path).status == 2
    assert looked_up == []
    check_trusted("https://gateway.example/api/v3", proxy=None, ca_file=None, allow_hosts={"gateway.example"})
    with pytest.raises(UsageError, match=r"allow-host proxy\.example"):
        check_trusted(SERVICE, proxy="http://proxy.example:1", ca_file="ca.pem", allow_hosts={"gateway.example"})
    check_trusted(SERVICE, proxy="http://proxy.example:1", ca_file="ca.pem", allow_hosts={"proxy.example"})


@pytest.mark.parametrize(
    ("base_url", "proxy", "ca_file"),
    [
        (SERVICE, None, None),
        (SERVICE, None, "ca.pem"),
        (SERVICE, "http://proxy.example:3128", None),
        (SERVICE, "http://127.0.0.1:3128", "ca.pem"),
        ("http://127.0.0.1:8080/api/v3", "http://localhost:3128", None),
        ("http://[::1]:8080/api/v3", None, "ca.pem"),
    ],
)
def test_what_needs_no_word(base_url: str, proxy: str | None, ca_file: str | None) -> None:
    """The service and this machine; a proxy that sees only what is encrypted for the service."""
    check_trusted(base_url, proxy=proxy, ca_file=ca_file, allow_hosts=())
