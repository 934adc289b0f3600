"""The client against bare sockets: what each broken answer becomes, what is never sent, and that the key stays in."""

import asyncio
import copy
import gzip
import json
import logging
import pickle
import socket
import traceback
from pathlib import Path

import pytest

from batchflux.core.errors import UsageError
from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    HttpRequest,
    NotSent,
    TransportFault,
    Unanswered,
    decipher_submit,
)
from batchflux.io.client import ApiKey, Client
from batchflux.io.connection import Patience
from tests.canary import CANARY
from tests.core.answers import ID, answer, prediction_data
from tests.faults.marking import fault_cases
from tests.io.raw import Act, RawServer, Turn, reset, respond, say

GOOD = answer(prediction_data()).body


def post(origin: str, body: bytes = b'{"prompt":"An owl"}', *, most: int = 1 << 20) -> HttpRequest:
    return HttpRequest(method="POST", url=f"{origin}/api/v3/a/b", body=body, max_answer_bytes=most)


def get(origin: str) -> HttpRequest:
    return HttpRequest(method="GET", url=f"{origin}/api/v3/predictions/{ID}/result")


async def send(
    act: Act, request: HttpRequest | None = None, *, key: str = CANARY
) -> tuple[HttpAnswer | TransportFault, RawServer]:
    """Send one submission to a server that does `act`; return what came of it."""
    async with RawServer(act=act) as server, Client(ApiKey(key)) as client:
        return await client.send(request or post(server.origin)), server


def sent(act: Act) -> HttpAnswer | TransportFault:
    found, server = asyncio.run(send(act))
    assert len(server.turns) == 1, "a submission was sent again"
    return found


# ---------------------------------------------------------------------------------------------------- what is sent


def test_a_submission_as_it_goes_out() -> None:
    """The body byte for byte, the key as a bearer, no encodings accepted, and nothing else of ours."""

    async def scene() -> None:
        body = '{"prompt":"Größe \\u202e","seed":7,"guidance_scale":3.50}'.encode()
        async with RawServer(act=say(respond(GOOD))) as server, Client(ApiKey(CANARY)) as client:
            found = await client.send(post(server.origin, body))
        assert isinstance(decipher_submit(found), Accepted)
        turn = server.turns[0]
        lines = dict(line.split(": ", 1) for line in turn.head.strip().split("\r\n")[1:])
        assert turn.head.startswith("POST /api/v3/a/b HTTP/1.1\r\n")
        assert turn.body == body
        assert lines["Authorization"] == f"Bearer {CANARY}"
        assert (lines["Content-Type"], lines["Accept-Encoding"]) == ("application/json", "identity")
        assert set(lines) == {
            "Host",
            "Authorization",
            "Content-Type",
            "Content-Length",
            "Accept",
            "Accept-Encoding",
            "User-Agent",
        } | ({"Connection"} & set(lines))

    asyncio.run(scene())


@pytest.mark.fault("H26")
def test_an_answer_as_it_comes_in() -> None:
    """Status, body and the three headers that mean something; other headers, cookies and reasons are nothing."""
    headers = ["Retry-After: 7", "Date: Sun, 22 Nov 2026 10:00:00 GMT", "Location: /x", "Set-Cookie: a=b", "X: y"]
    found = sent(say(respond(b'{"code":429}', *headers, status=f"429 {'Too Many ' * 300}")))
    assert found == HttpAnswer(
        status=429,
        body=b'{"code":429}',
        retry_after="7",
        date="Sun, 22 Nov 2026 10:00:00 GMT",
        location="/x",
    )


# ---------------------------------------------------------------------------------------------------- never sent


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _nothing(turn: Turn) -> None:
    """Read the request and say nothing."""


@pytest.mark.fault("N01", "N02")
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "http://nobody.invalid", "https://127.0.0.1:{port}", "http://127.0.0.1:99999"]
)
def test_no_connection_is_not_sent(url: str) -> None:
    """N01, N02, N06: refused, unknown and impossible addresses are certain not to have taken anything."""

    async def scene() -> None:
        async with Client(ApiKey(CANARY)) as client:
            found = await client.send(post(url.format(port=closed_port())))
        assert isinstance(found, TransportFault)
        assert found.sent is False
        assert isinstance(decipher_submit(found), NotSent)

    asyncio.run(scene())


@pytest.mark.security(10)
@pytest.mark.fault("N06")
def test_tls_to_a_plain_server_is_not_sent() -> None:
    """N06: a handshake that fails is no submission, and verification is never given up."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(5)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Client(ApiKey(CANARY)) as client:
            found = await client.send(post(f"https://127.0.0.1:{port}"))
        assert isinstance(found, TransportFault)
        assert found.sent is False

    asyncio.run(scene())


def test_a_query_never_claims_that_it_was_not_sent() -> None:
    """Only submissions are watched as they leave; of a query that certainty is not claimed."""

    async def scene() -> None:
        async with Client(ApiKey(CANARY)) as client:
            found = await client.send(get(f"http://127.0.0.1:{closed_port()}"))
        assert isinstance(found, TransportFault)
        assert found.sent is True

    asyncio.run(scene())


# ---------------------------------------------------------------------------------------------------- unanswered


async def _reset(turn: Turn) -> None:
    reset(turn.writer)


BROKEN: dict[str, Act] = {
    "N08 closed after the request": say(b""),
    "N09 reset after the request": _reset,
    "H25 garbage status line": say(b"PONG\r\n\r\n"),
    "H25 status 99999": say(b"HTTP/1.1 99999 OK\r\n\r\n"),
    "H25 duplicate Content-Length": say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "H25 length and chunks": say(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "H25 bad chunk size": say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    "H25 200 kB header": say(respond(GOOD, "X: " + "y" * 200_000)),
    "H25 5,000 headers": say(respond(GOOD, *[f"X-{n}: y" for n in range(5000)])),
    "H21 100 and nothing more": say(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "N11 half a status line": say(b"HTTP/1.1 2"),
    "N11 half a header": say(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "N11 half a body, with length": say(respond(GOOD[:40], length=len(GOOD))),
    "N11 half a body, reset": say(respond(GOOD[:40], length=len(GOOD)), then="reset"),
    "N11 half a chunk": say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + GOOD[:10]),
}


@fault_cases("act", BROKEN)
def test_broken_answers_are_unanswered(act: Act) -> None:
    """Once a byte may have left, no whole answer means that nothing is known; aiohttp's own 400 is no refusal."""
    found = sent(act)
    assert isinstance(found, TransportFault), found
    assert found.sent is True
    assert isinstance(decipher_submit(found), Unanswered)
    assert CANARY not in repr(found)


@pytest.mark.fault("N11")
def test_a_body_cut_without_a_length_is_unanswered() -> None:
    """N11: nothing raises here; only the JSON that doesn't end tells."""
    found = sent(say(respond(GOOD[:-20], "Connection: close", length=-1)))
    assert isinstance(found, HttpAnswer)
    assert isinstance(decipher_submit(found), Unanswered)


def test_a_whole_body_without_a_length_is_an_answer() -> None:
    """The end of the connection may be the end of a body."""
    assert isinstance(decipher_submit(sent(say(respond(GOOD, "Connection: close", length=-1)))), Accepted)


@pytest.mark.fault("H21")
def test_hints_before_the_answer_are_passed_over() -> None:
    """H21: 100 and 103 are no answer; what follows is."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    found = sent(say(hints + respond(GOOD)))
    assert isinstance(decipher_submit(found), Accepted)


@pytest.mark.security(12)
@pytest.mark.fault("H23")
@pytest.mark.parametrize("claims", [True, False])
def test_a_body_without_end_is_bounded(*, claims: bool) -> None:
    """H23: reading stops at the bound, whatever a length claims, and the rest is never taken in."""
    written = 0

    async def flood(turn: Turn) -> None:
        nonlocal written
        turn.writer.write(respond(b"", "Connection: close", length=10**12 if claims else -1))
        block = b"[" * 65536
        while written < 64 << 20 and not turn.writer.is_closing():
            turn.writer.write(block)
            await turn.writer.drain()
            written += len(block)
        turn.writer.close()

    found = sent(flood)
    assert isinstance(found, TransportFault)
    assert found.sent is True
    assert written < 32 << 20


@pytest.mark.fault("H23")
def test_an_answer_of_just_the_bound_is_whole() -> None:
    """The bound itself is still an answer, one byte more isn't."""

    async def scene(extra: int) -> HttpAnswer | TransportFault:
        async with RawServer(act=say(respond(b" " * (1000 + extra)))) as server, Client(ApiKey(CANARY)) as client:
            return await client.send(post(server.origin, most=1000))

    assert isinstance(asyncio.run(scene(0)), HttpAnswer)
    assert isinstance(asyncio.run(scene(1)), TransportFault)


@pytest.mark.security(12)
@pytest.mark.fault("H24")
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_an_encoding_that_nobody_asked_for_stays_packed(encoding: str) -> None:
    """H24: identity is asked for, so a packed answer isn't unpacked, be it a bomb or not: unanswered."""
    bomb = gzip.compress(b"0" * 10_000_000)
    found = sent(say(respond(bomb, f"Content-Encoding: {encoding}")))
    assert isinstance(decipher_submit(found), Unanswered)
    assert not isinstance(found, HttpAnswer) or found.body == bomb


@pytest.mark.fault("N10", "N18")
def test_an_impatient_total_timeout_ends_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """N10, N18: a server that reads and says nothing is left after the total time, and the answer is unknown."""
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", Patience(total_s=0.2, connect_s=10, read_s=30))
    found = sent(_nothing)
    assert isinstance(found, TransportFault)
    assert found.sent is True


@pytest.mark.fault("P09")
def test_cancelling_passes_through() -> None:
    """A run that stops isn't held up: cancellation is no fault of the network's."""

    async def scene() -> None:
        arrived = asyncio.Event()

        async def hang(turn: Turn) -> None:
            arrived.set()

        async with RawServer(act=hang) as server, Client(ApiKey(CANARY)) as client:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(client.send(post(server.origin)))
                await arrived.wait()
                sending.cancel()
            assert sending.cancelled()

    asyncio.run(scene())


# ---------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.security(9)
@pytest.mark.fault("H20", "X04")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_redirects_are_not_followed(status: str, method: str) -> None:
    """H20: the other port sees no request; the answer says where it was sent."""

    async def scene() -> None:
        async with RawServer(act=say(respond(GOOD))) as other:
            where = f"{other.origin}/api/v3/a/b"
            redirect = respond(b"", f"Location: {where}", status=status)
            async with RawServer(act=say(redirect)) as server, Client(ApiKey(CANARY)) as client:
                request = post(server.origin) if method == "POST" else get(server.origin)
                found = await client.send(request)
            assert isinstance(found, HttpAnswer)
            assert (found.status, found.location) == (int(status[:3]), where)
            assert (other.connections, len(server.turns)) == (0, 1)
            if method == "POST":
                told = decipher_submit(found)
                assert isinstance(told, Unanswered)
                assert told.redirected_to == where

    asyncio.run(scene())


@pytest.mark.security(13)
@pytest.mark.fault("H26")
def test_cookies_are_not_kept() -> None:
    """H26: whatever is set, the next request carries none."""
    cookies = [f"Set-Cookie: c{n}=v; Path=/" for n in range(50)]

    async def scene() -> None:
        async with RawServer(act=say(respond(GOOD, *cookies), then="keep")) as server, Client(ApiKey(CANARY)) as client:
            for request in (post(server.origin), get(server.origin), post(server.origin), get(server.origin)):
                await client.send(request)
        assert len(server.turns) == 4
        assert not any("cookie" in turn.head.lower() for turn in server.turns)

    asyncio.run(scene())


@pytest.mark.fault("N13", "N14")
def test_a_stale_answer_cannot_reach_the_next_submission() -> None:
    """N14: an answer that nobody asked for lies on a kept connection; the next POST has a connection of its own."""

    async def act(turn: Turn) -> None:
        own = answer(prediction_data(id=f"own-{turn.number}")).body
        stale = answer(prediction_data(id=f"stale-{turn.number}")).body
        turn.writer.write(respond(own) + respond(stale))
        await turn.writer.drain()

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            for number in range(1, 6):
                found = decipher_submit(await client.send(post(server.origin)))
                assert isinstance(found, Accepted)
                assert found.prediction.id == f"own-{number}"
            assert server.connections == 5

    asyncio.run(scene())


def test_queries_share_connections() -> None:
    """Asking again costs no new connection: polls of thousands of predictions stay cheap."""

    async def scene() -> None:
        async with RawServer(act=say(respond(GOOD), then="keep")) as server, Client(ApiKey(CANARY)) as client:
            for _ in range(5):
                await client.send(get(server.origin))
            assert (server.connections, len(server.turns)) == (1, 5)

    asyncio.run(scene())


@pytest.mark.security(11)
@pytest.mark.fault("N20", "X04")
def test_environment_proxies_and_netrc_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """N20: neither a proxy of the environment nor a .netrc changes where a request goes or what it carries."""

    async def scene() -> None:
        async with RawServer(act=say(respond(b"proxied"))) as proxy, RawServer(act=say(respond(GOOD))) as server:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.origin)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            netrc = tmp_path / ".netrc"
            netrc.write_text("machine 127.0.0.1 login thief password other\n")
            netrc.chmod(0o600)
            monkeypatch.setenv("NETRC", str(netrc))
            monkeypatch.setenv("HOME", str(tmp_path))
            async with Client(ApiKey(CANARY)) as client:
                found = [await client.send(post(server.origin)), await client.send(get(server.origin))]
            assert all(isinstance(each, HttpAnswer) and each.body == GOOD for each in found)
            assert proxy.connections == 0
            assert all(f"Authorization: Bearer {CANARY}" in turn.head for turn in server.turns)

    asyncio.run(scene())


@pytest.mark.security(11)
@pytest.mark.fault("N20")
def test_a_stated_proxy_is_used() -> None:
    """The spec's proxy gets the request, whole address and all; one that refuses means that nothing was sent."""

    async def scene() -> None:
        async with RawServer(act=say(respond(GOOD))) as proxy:
            async with Client(ApiKey(CANARY), proxy=proxy.origin) as client:
                found = await client.send(post("http://service.invalid"))
            assert isinstance(decipher_submit(found), Accepted)
            assert proxy.turns[0].head.startswith("POST http://service.invalid/api/v3/a/b HTTP/1.1\r\n")
        async with Client(ApiKey(CANARY), proxy=f"http://127.0.0.1:{closed_port()}") as client:
            found = await client.send(post("http://service.invalid"))
        assert isinstance(decipher_submit(found), NotSent)

    asyncio.run(scene())


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    """A `ca_file` that is none is told before anything is sent."""
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    for path in (wrong, tmp_path / "absent.pem"):
        with pytest.raises(UsageError, match="ca_file"):
            Client(ApiKey(CANARY), ca_file=path)


# ---------------------------------------------------------------------------------------------------- the key


@pytest.mark.security(2)
@pytest.mark.fault("X01")
def test_the_key_shows_in_nothing() -> None:
    """Printing, formatting, copying, pickling and dumping the key give nothing of it."""
    key = ApiKey(CANARY)
    shown = [repr(key), str(key), f"{key}", f"{key!r}", "%s %r" % (key, key), repr([key]), f"{key!s:>40}"]  # noqa: UP031
    assert not any(CANARY in text for text in shown)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars):
        with pytest.raises(TypeError) as caught:
            leak(key)
        assert CANARY not in str(caught.value)
    assert key.header() == {"Authorization": f"Bearer {CANARY}"}


@pytest.mark.security(3)
@pytest.mark.security(4)
@pytest.mark.fault("X01")
def test_the_key_stands_in_no_fault_log_or_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """X01: each broken answer, with asyncio's and aiohttp's debug logs on, leaves no trace of the key."""
    caplog.set_level(logging.DEBUG)

    async def scene() -> list[str]:
        asyncio.get_running_loop().set_debug(True)
        shown = []
        for act in BROKEN.values():
            async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
                shown += [repr(client), repr(await client.send(post(server.origin)))]
        try:
            async with Client(ApiKey(CANARY)) as client:
                await client.send(post("http://127.0.0.1:1", body="text"))  # type: ignore[arg-type]
                await client.send(HttpRequest(method="POST", url=None))  # type: ignore[arg-type]
        except (TypeError, AttributeError, ValueError):
            shown.append(traceback.format_exc())
        return shown

    shown = asyncio.run(scene())
    assert CANARY not in "\n".join([*shown, caplog.text])


@pytest.mark.security(6)
@pytest.mark.fault("X02")
@pytest.mark.parametrize("where", ["body", "location"])
def test_an_echoed_key_is_blotted_out(where: str) -> None:
    """X02: a service that repeats our header in its words doesn't carry the key into logs and manifests."""
    body = b'{"code":400,"message":"bad header Authorization: Bearer %s"}' % CANARY.encode()
    location = f"https://elsewhere.example/?key={CANARY}"
    found = sent(say(respond(body, f"Location: {location}", status="400 Bad")))
    assert isinstance(found, HttpAnswer)
    assert CANARY not in repr(found)
    assert "***" in (found.body.decode() if where == "body" else str(found.location))


@pytest.mark.fault("X02")
def test_a_key_echoed_in_a_broken_answer_is_blotted_out() -> None:
    """X02: a parser's complaint quotes the line that it can't read, and so may a fault."""
    found = sent(say(f"Authorization: Bearer {CANARY}\r\n\r\n".encode()))
    assert isinstance(found, TransportFault)
    assert CANARY not in repr(found)


def test_a_short_play_key_changes_no_answer() -> None:
    """The sandbox's key is a plain word: blotting it out would spoil the addresses of images."""

    async def scene() -> HttpAnswer | TransportFault:
        async with (
            RawServer(act=say(respond(b'{"url":"/sandbox/1.png"}'))) as server,
            Client(ApiKey("sandbox")) as client,
        ):
            return await client.send(post(server.origin))

    found = asyncio.run(scene())
    assert isinstance(found, HttpAnswer)
    assert found.body == b'{"url":"/sandbox/1.png"}'


@pytest.mark.security(1)
@pytest.mark.fault("X03")
@pytest.mark.parametrize(
    "value", ["", "  ", "two words", "line\nbreak", "tab\there", "ключ", "nul\x00", '"quoted"', "'quoted'", "a\u00a0b"]
)
def test_keys_that_are_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """X03: what can't be a key is refused before anything is sent, in words that don't repeat it."""
    if "\x00" not in value:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(UsageError) as caught:
        ApiKey.from_environment("SOME_KEY")
    assert "SOME_KEY" in str(caught.value)
    assert not value.strip() or value not in str(caught.value)


@pytest.mark.fault("X03")
def test_a_keys_line_end_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key read from a file often ends with a line end."""
    monkeypatch.setenv("SOME_KEY", f" {CANARY}\n")
    assert ApiKey.from_environment("SOME_KEY").header() == {"Authorization": f"Bearer {CANARY}"}
