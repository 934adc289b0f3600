"""The key in an answer: services quote what they refuse, and what they quote ends in logs."""

import asyncio

import pytest

from batchflux.core.protocol import HttpAnswer
from batchflux.core.quotes import build_balance
from batchflux.io.client import ApiKey, Client
from tests.canary import CANARY


async def _ask(answer: bytes, key: str) -> HttpAnswer:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with Client(ApiKey(key)) as client:
            found = await client.send(build_balance(f"http://127.0.0.1:{port}/api/v3"))
    assert isinstance(found, HttpAnswer)
    return found


def _answer(body: bytes, *, location: str = "/elsewhere") -> bytes:
    head = (
        f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\nLocation: {location}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.security(6)
@pytest.mark.fault("X02")
def test_a_key_that_the_service_quotes_goes_no_further() -> None:
    """Where an answer quotes the key, in its body or a header, what is handed on has *** in its place."""
    body = f'{{"code":401,"message":"invalid API key {CANARY}"}}'.encode()
    found = asyncio.run(_ask(_answer(body, location=f"https://login.example/?key={CANARY}"), CANARY))
    assert CANARY not in repr(found)
    assert found.body == b'{"code":401,"message":"invalid API key ***"}'
    assert found.location == "https://login.example/?key=***"


@pytest.mark.parametrize("key", ["sandbox", "k" * 15])
def test_a_key_too_short_to_be_one_changes_no_answer(key: str) -> None:
    """A stand-in such as the sandbox's is a plain word, which prompts and addresses may hold too."""
    body = f'{{"code":200,"message":"a {key} of /{key}"}}'.encode()
    assert asyncio.run(_ask(_answer(body), key)).body == body
