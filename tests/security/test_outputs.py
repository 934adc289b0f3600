"""What the service's answers may make a run do: never send the key elsewhere, never reach into private networks."""

import asyncio
import errno
import json
from pathlib import Path

import aiohappyeyeballs
import pytest

import batchflux
from batchflux.core.model import Fault, SavedFile
from batchflux.core.origin import is_loopback_host
from batchflux.io import downloads
from batchflux.io.downloads import Downloader
from tests.app.service import quick_service, write_spec
from tests.canary import CANARY
from tests.core.answers import ID, completed_data, prediction_data
from tests.io.raw import RawServer, Turn, respond, say
from tests.io.test_downloads import FakeResolver, expect_fault, fetch, hop, name
from tests.io.test_images import picture

PNG = picture("PNG")


@pytest.mark.security(9)
@pytest.mark.security(14)
def test_an_evil_urls_get_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address to poll is ours, whatever a prediction says of its own; the other host sees no connection."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)

    async def scene() -> tuple[batchflux.Result, RawServer, RawServer]:
        async with RawServer(act=say(respond(b"{}"))) as evil:
            urls = {"get": f"{evil.origin}/api/v3/predictions/{ID}/result", "cancel": f"{evil.origin}/c"}

            async def act(turn: Turn) -> None:
                verb, path, _ = turn.head.split(" ", 2)
                data: object = None
                if verb == "POST" and path.endswith("/text-to-image"):
                    data = prediction_data(urls=urls)
                elif path == f"/api/v3/predictions/{ID}/result":
                    data = completed_data(urls=urls, outputs=[f"{server.origin}/1.png"])
                elif path == "/1.png":
                    turn.writer.write(respond(PNG))
                    return
                status = "200 OK" if data is not None else "404 Not Found"
                envelope = {"code": 200 if data else 404, "message": "", "data": data}
                turn.writer.write(respond(json.dumps(envelope).encode(), status=status))

            async with RawServer(act=act) as server:
                spec = write_spec(tmp_path, None, "prompt\na\n", output={"dir": "out"})
                job = batchflux.load_job(spec, overrides={"api.base_url": f"{server.origin}/api/v3"})
                return await batchflux.run_async(job), server, evil

    result, server, evil = asyncio.run(scene())
    assert (result.exit_status, evil.connections) == (0, 0)
    heads = {turn.head.split()[1]: turn.head for turn in server.turns}
    assert f"Bearer {CANARY}" in heads[f"/api/v3/predictions/{ID}/result"]
    assert "authorization" not in heads["/1.png"].lower()


@pytest.mark.security(15)
@pytest.mark.parametrize("api_is_here", [True, False])
def test_loopback_for_loopback_alone(api_is_here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs on this machine are fetched where the API is on it; of any other API they are a private network's."""
    monkeypatch.setattr("batchflux.app.prepare.is_loopback_host", lambda host: api_is_here and is_loopback_host(host))
    with quick_service() as service:
        spec = write_spec(tmp_path, service, "prompt\na kite\n", output={"dir": "out"})
        monkeypatch.setattr("batchflux.engine.downloading.TRIES", 1)
        result = batchflux.run(batchflux.load_job(spec))
    cells = batchflux.read_manifest(result.run_dir)
    if api_is_here:
        assert (result.exit_status, len(cells["files"][0])) == (0, 1)
    else:
        assert (result.exit_status, len(cells["files"][0]), cells["error_kind"][0]) == (1, 0, "download")
        assert "private network" in cells["error"][0]
        assert list(result.run_dir.rglob("*.png")) == []


@pytest.mark.security(15)
@pytest.mark.parametrize("allow_loopback", [True, False])
def test_a_public_host_that_redirects_to_this_machine(allow_loopback: bool, tmp_path: Path) -> None:
    """Each hop is judged like the first: to loopback for a rehearsal alone, and then still without the key."""

    async def scene() -> tuple[SavedFile | Fault, int]:
        async with RawServer(act=say(respond(PNG))) as inside:

            async def act(turn: Turn) -> None:
                is_first = "images.example" in turn.head.split()[1]
                turn.writer.write(hop(f"{inside.origin}/1.png") if is_first else respond(PNG))
                turn.writer.close()

            # A proxy lets a public name be reached from here; it would also fetch what lies on this machine.
            async with (
                RawServer(act=act) as proxy,
                Downloader(tmp_path, allow_loopback=allow_loopback, proxy=proxy.origin) as downloader,
            ):
                return await downloader.save("http://images.example/1.png", name), len(proxy.turns)

    found, hops = asyncio.run(scene())
    if allow_loopback:
        assert isinstance(found, SavedFile)
    else:
        expect_fault(found, tmp_path, "private network")
        assert hops == 1


@pytest.mark.security(15)
def test_a_name_that_is_bound_anew_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X08: what was checked is what is connected to: one look a connection, and the next look is checked again."""
    resolver = FakeResolver(["127.0.0.1"], ["10.0.0.7"])
    monkeypatch.setattr(downloads, "ThreadedResolver", lambda: resolver)

    async def scene() -> tuple[SavedFile | Fault, int]:
        async with RawServer(act=say(respond(PNG))) as server:
            async with Downloader(tmp_path, allow_loopback=True) as downloader:
                found = await downloader.save(f"http://images.example:{server.port}/1.png", name)
                looks = len(resolver.asked)
            async with Downloader(tmp_path, allow_loopback=True) as downloader:
                again = await downloader.save(f"http://images.example:{server.port}/1.png", name)
            assert isinstance(again, Fault)
            assert "private network" in again.message
            assert server.connections == 1
            return found, looks

    found, looks = asyncio.run(scene())
    assert isinstance(found, SavedFile)
    assert looks == 1


@pytest.mark.security(15)
def test_a_redirect_to_a_name_that_points_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public answer for the first host and a private one for the second: the second is never connected to."""
    resolver = FakeResolver(["127.0.0.1"], ["169.254.169.254"])
    monkeypatch.setattr(downloads, "ThreadedResolver", lambda: resolver)

    async def scene() -> tuple[SavedFile | Fault, RawServer]:
        async with RawServer(act=say(hop("http://metadata.example/latest/"))) as server:
            return await fetch(tmp_path, f"http://images.example:{server.port}/1.png"), server

    found, server = asyncio.run(scene())
    expect_fault(found, tmp_path, "private network")
    assert resolver.asked == ["images.example", "metadata.example"]
    assert len(server.turns) == 1


async def connect_nowhere(*args: object, **options: object) -> None:
    """Stand for every connection: whatever the code under test believes, no packet leaves."""
    raise OSError(errno.ECONNREFUSED, "connected")


@pytest.mark.security(15)
@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800::1", "64:ff9b::5db8:d70e", "2002:5db8:d70e::1"])
def test_public_addresses_are_connected_to(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of IPv4 and IPv6, and those of IPv4 as a network without it sees them, are no private ones."""
    monkeypatch.setattr(downloads, "ThreadedResolver", lambda: FakeResolver([address]))
    monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect_nowhere)
    found = asyncio.run(fetch(tmp_path, "http://images.example:9/1.png"))
    expect_fault(found, tmp_path, "connected", kind="network")


@pytest.mark.security(15)
@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::a00:1",  # 10.0.0.1 behind a NAT64 gateway
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:a00:1::1",  # 10.0.0.1 by 6to4
        "::10.0.0.1",
        "198.18.0.1",
        "192.0.0.8",  # is_global in some Pythons
        "fec0::1",
    ],
)
def test_private_addresses_in_disguise(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address that carries an IPv4 one is judged by what it carries; none is connected to."""
    monkeypatch.setattr(downloads, "ThreadedResolver", lambda: FakeResolver([address]))
    monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect_nowhere)

    host = f"[{address}]" if ":" in address else address
    for url in (f"http://{host}:9/1.png", "http://images.example:9/1.png"):
        expect_fault(asyncio.run(fetch(tmp_path, url)), tmp_path, "private network")
