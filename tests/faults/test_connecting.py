"""Names, addresses and sockets that fail before a submission leaves: it was not sent, and may be sent again freely."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    HttpRequest,
    NotSent,
    TransportFault,
    build_submit,
    decipher_submit,
)
from batchflux.io.client import ApiKey, Client
from batchflux.io.connection import Patience
from tests.canary import CANARY
from tests.core.answers import answer, prediction_data
from tests.io.raw import RawServer, respond, say

_GOOD = respond(answer(prediction_data()).body, "Connection: close")
_NAME = "service.example"

Address = tuple[Any, ...]
Resolve = Callable[..., Awaitable[list[Address]]]


def _submission(host: str, port: int) -> HttpRequest:
    return build_submit(f"http://{host}:{port}/api/v3", "a/b", b'{"prompt":"An owl"}')


def _resolved(*addresses: str, port: int) -> list[Address]:
    """What the system's resolver would say."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        for address in addresses
    ]


async def _send_by(resolve: Resolve, request: HttpRequest) -> HttpAnswer | TransportFault:
    """Send a submission where `resolve` stands for the system's resolver."""
    loop = asyncio.get_running_loop()
    loop.getaddrinfo = resolve  # type: ignore[method-assign,assignment]
    async with Client(ApiKey(CANARY)) as client:
        return await client.send(request)


def _failing(code: int) -> Resolve:
    async def resolve(*args: object, **options: object) -> list[Address]:
        raise socket.gaierror(code, "as a resolver says it")

    return resolve


async def _never(*args: object, **options: object) -> list[Address]:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


@pytest.mark.fault("N02")
@pytest.mark.parametrize(
    "resolve",
    [*map(_failing, (socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_NODATA)), _never],
    ids=["no such name", "try again", "server failed", "no address", "no answer"],
)
def test_a_name_without_an_address_is_not_sent(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a resolver fails, the slowest included, no byte of the submission left."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=0.3, connect_s=0.2, read_s=30))
    found = asyncio.run(_send_by(resolve, _submission(_NAME, 9)))
    assert isinstance(decipher_submit(found), NotSent), found


@pytest.mark.fault("N03")
def test_a_dead_address_beside_a_live_one() -> None:
    """A name with a dead IPv6 address and a live IPv4 one reaches the live one, once."""

    async def scene() -> None:
        async with RawServer(act=say(_GOOD)) as server:

            async def resolve(*args: object, **options: object) -> list[Address]:
                return _resolved("::1", "127.0.0.1", port=server.port)

            found = await _send_by(resolve, _submission(_NAME, server.port))
            assert isinstance(decipher_submit(found), Accepted), found
            assert len(server.turns) == 1

    asyncio.run(scene())


@pytest.mark.fault("N04")
def test_a_name_that_moves_is_followed() -> None:
    """Fifteen seconds after the service's address changed, submissions go to the new one."""
    later_s = 0.0

    async def scene() -> None:
        nonlocal later_s
        places = ["127.0.0.1"]

        async def resolve(*args: object, **options: object) -> list[Address]:
            return _resolved(*places, port=server.port)

        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolve  # type: ignore[method-assign]
        loop.time = lambda: time.monotonic() + later_s  # type: ignore[method-assign]
        async with RawServer(act=say(_GOOD)) as server:
            arrived: list[bytes] = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                arrived.append(await reader.readuntil(b"}"))
                writer.write(_GOOD)
                await writer.drain()
                writer.close()

            try:
                elsewhere = await loop.create_server(
                    lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve), sock=_bound(server.port)
                )
            except OSError:
                pytest.skip("this system has one loopback address alone")
            async with elsewhere, Client(ApiKey(CANARY)) as client:
                for _ in range(2):
                    assert isinstance(decipher_submit(await client.send(_submission(_NAME, server.port))), Accepted)
                places[:] = ["127.0.0.2"]
                later_s = 15.0
                assert isinstance(decipher_submit(await client.send(_submission(_NAME, server.port))), Accepted)
            assert (len(server.turns), len(arrived)) == (2, 1)

    asyncio.run(scene())


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.2", port))
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _full() -> Iterator[int]:
    """Give the port of a listener whose queue is full: whoever connects next waits for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting: list[socket.socket] = []
        try:
            for _ in range(16):
                waiting.append(socket.socket())
                waiting[-1].settimeout(0.05)
                try:
                    waiting[-1].connect(("127.0.0.1", port))
                except OSError:
                    break
            else:
                pytest.skip("this system lets any number wait")
            yield port
        finally:
            for each in waiting:
                each.close()


@pytest.mark.fault("N05")
def test_a_connection_that_hangs_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes the connection: it is given up in the time for connecting."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=30, connect_s=0.2, read_s=30))

    async def scene(port: int) -> HttpAnswer | TransportFault:
        async with Client(ApiKey(CANARY)) as client:
            return await client.send(_submission("127.0.0.1", port))

    with _full() as port:
        found = asyncio.run(scene(port))
    assert isinstance(decipher_submit(found), NotSent), found


@pytest.mark.fault("N21")
def test_no_file_descriptor_left_is_not_sent() -> None:
    """At the limit of open files nothing leaves; with room again the same client goes on."""

    async def scene() -> None:
        async with RawServer(act=say(_GOOD)) as server, Client(ApiKey(CANARY)) as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as free:
                lowest = free.fileno()
            try:
                # What is open stays open; one more would have this number, and is refused.
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
                found = await client.send(_submission("127.0.0.1", server.port))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert isinstance(found, TransportFault)
            assert "Too many open files" in found.message
            assert isinstance(decipher_submit(found), NotSent), found
            assert server.connections == 0
            assert isinstance(decipher_submit(await client.send(_submission("127.0.0.1", server.port))), Accepted)

    asyncio.run(scene())


@pytest.mark.fault("N21")
@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH])
def test_no_way_out_is_not_sent(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No free port, no network, no route: the system refuses the connection itself."""

    async def refuse(self: object, sock: socket.socket, address: Address) -> None:
        raise OSError(code, "as the system says it")

    async def scene() -> HttpAnswer | TransportFault:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(type(loop), "sock_connect", refuse)
        async with Client(ApiKey(CANARY)) as client:
            return await client.send(_submission("127.0.0.1", 9))

    found = asyncio.run(scene())
    assert isinstance(decipher_submit(found), NotSent), found
