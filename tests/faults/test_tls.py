"""TLS that goes wrong: nothing was sent, verification is never given up, and only what is trusted hears of the key."""

import asyncio
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from batchflux.core.protocol import Accepted, HttpAnswer, NotSent, TransportFault, build_submit, decipher_submit
from batchflux.io.client import ApiKey, Client
from batchflux.io.connection import Patience
from tests.canary import CANARY
from tests.core.answers import answer, prediction_data
from tests.engine.fakes import Scene
from tests.faults.authority import Authority
from tests.io.raw import respond

_GOOD = respond(answer(prediction_data()).body, "Connection: close")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority for all tests of this file; without the openssl command they are skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command here")
    return Authority(tmp_path_factory.mktemp("authority"))


class TlsServer:
    """Answers with an acceptance over TLS and keeps what it heard, which is nothing where the handshake fails."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.heard: list[bytes] = []

    async def start(self) -> asyncio.Server:
        """Listen on loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard.append(await reader.readuntil(b"}"))
            writer.write(_GOOD)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


def _submit(server: TlsServer, *, ca_file: Path | None) -> HttpAnswer | TransportFault:
    async def scene() -> HttpAnswer | TransportFault:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # the server's half of a failure
        async with await server.start(), Client(ApiKey(CANARY), ca_file=ca_file) as client:
            return await client.send(build_submit(f"{server.origin}/api/v3", "a/b", b'{"prompt":"An owl"}'))

    return asyncio.run(scene())


def _old(authority: Authority) -> ssl.SSLContext:
    context = authority.signed("old").context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


UNTRUSTED: dict[str, Callable[[Authority], ssl.SSLContext]] = {
    "signed by itself": lambda authority: authority.signed_by_itself("itself").context(),
    "expired": lambda authority: authority.signed("expired", days=-1).context(),
    "of another address": lambda authority: authority.signed("elsewhere", alternative="IP:127.0.0.2").context(),
    "of a name": lambda authority: authority.signed("named", alternative="DNS:api.example").context(),
    "of an old protocol": _old,
}


@pytest.mark.fault("N06")
@pytest.mark.parametrize("context_of", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_what_is_not_to_be_trusted_hears_nothing(
    authority: Authority, context_of: Callable[[Authority], ssl.SSLContext]
) -> None:
    """Neither key nor prompt goes out, and the submission may be sent again freely."""
    server = TlsServer(context_of(authority))
    found = _submit(server, ca_file=authority.certificate)
    assert isinstance(decipher_submit(found), NotSent), found
    assert server.heard == []


@pytest.mark.fault("N06")
def test_an_authority_is_trusted_where_it_is_named_and_only_there(authority: Authority) -> None:
    """The spec's `ca_file` makes the difference between a submission and nothing; it is not a switch to verify less."""
    trusted, stranger = (TlsServer(authority.signed(name).context()) for name in ("sound", "sound-too"))
    found = _submit(trusted, ca_file=authority.certificate)
    assert isinstance(decipher_submit(found), Accepted), found
    assert f"Bearer {CANARY}".encode() in trusted.heard[0]
    assert isinstance(decipher_submit(_submit(stranger, ca_file=None)), NotSent)
    assert stranger.heard == []


@pytest.mark.fault("N06")
def test_a_handshake_that_hangs_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is taken and never greeted is given up in the time for connecting."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=30, connect_s=0.2, read_s=30))

    async def scene() -> HttpAnswer | TransportFault:
        left = asyncio.Event()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                pass
            writer.close()
            left.set()

        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        async with server, Client(ApiKey(CANARY)) as client:
            origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            found = await client.send(build_submit(f"{origin}/api/v3", "a/b", b'{"prompt":"An owl"}'))
            await left.wait()
            return found

    found = asyncio.run(scene())
    assert isinstance(decipher_submit(found), NotSent), found


@pytest.mark.fault("N06")
def test_a_run_whose_service_cannot_be_trusted_stops(authority: Authority) -> None:
    """Nothing submitted, nothing unknown, and the words say that it is the certificate."""
    server = TlsServer(authority.signed("gone", days=-1).context())

    async def scene() -> Scene:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with await server.start(), Client(ApiKey(CANARY), ca_file=authority.certificate) as client:
            scene = Scene(cells=3, transport=client, base_url=f"{server.origin}/api/v3", patience_s=0.0)
            return await scene.play()

    played = asyncio.run(scene())
    assert played.stop is not None
    assert "certificate has expired" in played.stop.message
    assert played.statuses == {"pending": 3}
    assert played.budget.life_micro_usd == 0
    assert server.heard == []
