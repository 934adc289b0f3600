"""Connections: which requests share one, what ends one, and the way through a proxy."""

import asyncio
import ssl
from pathlib import Path

import pytest

from batchflux.core.protocol import Accepted, HttpAnswer, NotSent, Rejected, TransportFault, Unanswered, decipher_submit
from batchflux.io.client import ApiKey, Client
from batchflux.io.connection import Patience
from tests.canary import CANARY
from tests.core.answers import answer, prediction_data
from tests.io.raw import RawServer, Turn, reset, respond, say
from tests.io.test_client import get, post

_GOOD = respond(answer(prediction_data()).body)
_REFUSED = respond(b'{"code":429,"message":"slow down"}', status="429 Too Many")
_TLS = Path(__file__).parents[1] / "security" / "tls"


async def _shown(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


@pytest.mark.fault("N13", "N14", "H05")
@pytest.mark.parametrize("second", [_REFUSED, respond(answer(prediction_data(id="made-again")).body)])
@pytest.mark.parametrize("cut", [0, 1, 16, 40, -1])
def test_a_second_answer_reaches_no_other_submission(second: bytes, cut: int) -> None:
    """A proxy answers twice, the rest of it while the next submission is open: each has its own answer all the same.

    A second acceptance has an id that nobody knows, where the proxy has submitted twice: nothing in it would tell.
    """
    late: list[asyncio.StreamWriter] = []

    async def act(turn: Turn) -> None:
        for writer in late:
            if not writer.is_closing():
                writer.write(second[cut:] if cut >= 0 else second)
        late.append(turn.writer)
        own = respond(answer(prediction_data(id=f"own-{turn.number}")).body)
        await _shown(turn.writer, own + (second[:cut] if cut >= 0 else b""))

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            for number in range(1, 6):
                found = decipher_submit(await client.send(post(server.origin)))
                assert isinstance(found, Accepted)
                assert found.prediction.id == f"own-{number}"
            assert server.connections == 5

    asyncio.run(scene())


def test_a_submission_says_that_its_connection_ends() -> None:
    """The service needn't keep what nobody will use, and a query's is kept."""

    async def scene() -> None:
        async with RawServer(act=say(_GOOD, then="keep")) as server, Client(ApiKey(CANARY)) as client:
            await client.send(post(server.origin))
            await client.send(get(server.origin))
            heads = [turn.head.lower() for turn in server.turns]
            assert ["connection: close" in head for head in heads] == [True, False]

    asyncio.run(scene())


@pytest.mark.fault("N13")
@pytest.mark.parametrize("ending", ["end", "reset"])
def test_a_query_on_a_connection_that_has_ended_goes_by_another(ending: str) -> None:
    """A kept connection ends just as the next query is written: it is asked once more, and no fault is told."""

    async def act(turn: Turn) -> None:
        if turn.number == 2 and ending == "end":
            turn.writer.close()
        elif turn.number == 2:
            reset(turn.writer)
        else:
            await _shown(turn.writer, _GOOD)

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            for _ in range(2):
                assert isinstance(await client.send(get(server.origin)), HttpAnswer)
            assert (server.connections, len(server.turns)) == (2, 3)

    asyncio.run(scene())


def test_a_query_is_asked_twice_at_most() -> None:
    """Where a new connection ends without an answer too, that is a fault."""

    async def act(turn: Turn) -> None:
        if turn.number == 1:
            await _shown(turn.writer, _GOOD)
        else:
            turn.writer.close()

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            await client.send(get(server.origin))
            assert isinstance(await client.send(get(server.origin)), TransportFault)
            assert len(server.turns) == 3

    asyncio.run(scene())


@pytest.mark.fault("N14")
@pytest.mark.parametrize("unasked", [b"H", respond(b"", status="408 Request Timeout"), _GOOD])
def test_a_connection_that_speaks_unasked_is_left(unasked: bytes) -> None:
    """What comes with an answer or after it is nobody's, and the next query goes by a clean connection."""

    async def act(turn: Turn) -> None:
        await _shown(turn.writer, respond(b"%d" % turn.number) + unasked)

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            for number in range(1, 4):
                found = await client.send(get(server.origin))
                assert isinstance(found, HttpAnswer)
                assert found.body == b"%d" % number
            assert server.connections == 3

    asyncio.run(scene())


@pytest.mark.fault("N12")
def test_a_silence_in_the_midst_of_an_answer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time between two bytes is bounded too, and counts anew with each."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=30, connect_s=10, read_s=0.2))
    found = asyncio.run(_send_to_half())
    assert isinstance(found, TransportFault)
    assert "no word for 0.2 s" in found.message
    assert isinstance(decipher_submit(found), Unanswered)


async def _send_to_half() -> HttpAnswer | TransportFault:
    async with RawServer(act=say(_GOOD[:-5], then="keep")) as server, Client(ApiKey(CANARY)) as client:
        return await client.send(post(server.origin))


# ---------------------------------------------------------------------------------------------------- proxies


class _Proxy:
    """A proxy that opens ways, or refuses to; keeps all that it could read."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.read, self.left = answer, b"", asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.read += head
        await _shown(writer, self.answer)
        if b" 200 and silence" in self.answer:
            await reader.read(1 << 20)
            await reader.read()
        elif b" 200" in self.answer:
            port = int(head.split()[1].rpartition(b":")[2])
            there, back = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, back))
                group.create_task(self._pass(there, writer))
        writer.close()
        self.left.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.read += data
                await _shown(writer, data)
        except ConnectionError:
            pass  # the client has gone, which is its right
        writer.close()


async def _through(proxy: _Proxy, *, ca_file: Path | None = _TLS / "authority.pem") -> HttpAnswer | TransportFault:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(_TLS / "server.pem")
    between = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    place = f"http://127.0.0.1:{between.sockets[0].getsockname()[1]}"
    client = Client(ApiKey(CANARY), proxy=place, ca_file=ca_file)
    async with RawServer(act=say(_REFUSED), tls=tls) as server, between:
        async with client:
            found = await client.send(post(server.origin))
        await proxy.left.wait()
        return found


@pytest.mark.security(10)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_proxy_of_https_reads_nothing(version: bytes) -> None:
    """It opens a way to the service, which TLS goes through; its own answer is not the service's."""
    proxy = _Proxy(b"HTTP/%s 200 Connection established\r\n\r\n" % version)
    assert isinstance(decipher_submit(asyncio.run(_through(proxy))), Rejected)
    assert proxy.read.startswith(b"CONNECT 127.0.0.1:")
    assert CANARY.encode() not in proxy.read
    assert b"An owl" not in proxy.read


@pytest.mark.security(10)
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 201 Made\r\n\r\nHTTP/1.1 400 Bad\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n",
        b"no proxy at all\r\n\r\n",
    ],
)
def test_a_proxy_that_opens_no_way_is_not_sent(said: bytes) -> None:
    """Whatever it says instead, nothing of the submission has left."""
    proxy = _Proxy(said)
    found = asyncio.run(_through(proxy))
    assert isinstance(decipher_submit(found), NotSent), found
    assert b"POST" not in proxy.read


@pytest.mark.security(10)
def test_a_handshake_that_hangs_behind_a_proxy_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to connect bounds the way through the proxy too, and leaving doesn't wait for it."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=30, connect_s=0.3, read_s=30))
    found = asyncio.run(_through(_Proxy(b"HTTP/1.1 200 and silence\r\n\r\n")))
    assert isinstance(decipher_submit(found), NotSent), found


@pytest.mark.security(10)
def test_a_proxy_vouches_for_nobody() -> None:
    """Behind a proxy too the service's certificate must be one that is trusted."""
    proxy = _Proxy(b"HTTP/1.1 200 OK\r\n\r\n")
    found = asyncio.run(_through(proxy, ca_file=None))
    assert isinstance(found, TransportFault)
    assert "certificate" in found.message
    assert isinstance(decipher_submit(found), NotSent)
