"""The sandbox on a machine with others on it: heard on loopback alone, says what it is, and keeps no key."""

import socket
from pathlib import Path

import pytest

from batchflux.core.errors import UsageError
from batchflux.sandbox import SandboxConfig, SandboxProcess
from tests.canary import CANARY, find_in
from tests.sandbox.caller import Caller

pytestmark = pytest.mark.security(26)


def listening(pid: int) -> set[tuple[str, int]]:
    """Return the (address, port) pairs that a process listens on, as the kernel has them."""
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if "socket:" in str(link.readlink())}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def test_it_listens_on_loopback_alone(tmp_path: Path) -> None:
    """The kernel's own list of its sockets holds one, on 127.0.0.1."""
    if not Path("/proc/self/net/tcp").exists():
        pytest.skip("this system doesn't list sockets as files")
    with SandboxProcess(["--state", str(tmp_path / "state"), "--latency", "0"]) as sandbox:
        assert listening(sandbox.pid) == {("127.0.0.1", int(sandbox.origin.rpartition(":")[2]))}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "localhost", "192.168.0.1"])  # noqa: S104 - refused
def test_no_other_address_is_taken(host: str) -> None:
    """Whoever asks for more is told why not."""
    with pytest.raises(UsageError, match=r"127\.0\.0\.1 only"):
        SandboxConfig(host=host)


def test_a_real_key_is_taken_and_not_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A job is rehearsed with the key that the environment has: nothing of it reaches a file, an output or an answer.

    It is not refused: the address is the user's own, on this machine, and rehearsals would need another environment.
    """
    with SandboxProcess(["--state", str(tmp_path / "state"), "--latency", "0"]) as sandbox:
        caller = Caller(sandbox.origin, key=CANARY)
        answers = [caller.submit(prompt="a kite"), caller.submit(prompt="")]
        assert [answer.status for answer in answers] == [200, 400]
        assert not any(CANARY.encode() in answer.body for answer in answers)
    said = capfd.readouterr()
    assert "this is a sandbox and not the model" in said.err
    assert CANARY not in said.out + said.err
    assert any((tmp_path / "state").iterdir())
    assert list(find_in(tmp_path)) == []
