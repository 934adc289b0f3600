"""Answers that come strangely: too large, packed, byte by byte, with hints before them, or to another submission."""

import asyncio
import gzip
import json
import tracemalloc
from functools import cache

import pytest

from batchflux.core.limits import Window
from batchflux.core.model import FactKind
from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    HttpRequest,
    TransportFault,
    Unanswered,
    build_result,
    build_submit,
    decipher_submit,
)
from batchflux.engine.ports import Transport
from batchflux.io.client import ApiKey, Client
from batchflux.io.connection import Connection, Patience
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig
from tests.canary import CANARY
from tests.core.answers import ID, answer, completed_data, prediction_data
from tests.engine.fakes import Scene
from tests.io.raw import Act, RawServer, Turn, respond, say

_GOOD = answer(prediction_data()).body
# What may be taken in beyond the bound: one full buffer of the HTTP library, and the part that comes with it.
_SLACK = 1 << 19


def _submission(origin: str) -> HttpRequest:
    return build_submit(f"{origin}/api/v3", "a/b", b'{"prompt":"An owl"}')


def _send(act: Act, *, is_query: bool = False) -> HttpAnswer | TransportFault:
    async def scene() -> HttpAnswer | TransportFault:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            request = build_result(f"{server.origin}/api/v3", ID) if is_query else _submission(server.origin)
            found = await client.send(request)
            assert len(server.turns) == 1
            return found

    return asyncio.run(scene())


@pytest.fixture
def taken_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes that the client takes from its sockets."""
    sizes: list[int] = []
    receive = Connection.data_received

    def count(self: Connection, data: bytes) -> None:
        sizes.append(len(data))
        receive(self, data)

    monkeypatch.setattr(Connection, "data_received", count)
    return sizes


_HEADS = {
    "a length of 1 TB": respond(b"", "Connection: close", length=10**12),
    "chunks": respond(b"", "Transfer-Encoding: chunked", length=-1),
    "neither": respond(b"", "Connection: close", length=-1),
}


@pytest.mark.fault("H23")
@pytest.mark.parametrize("is_query", [False, True], ids=["submission", "query"])
@pytest.mark.parametrize("head", _HEADS.values(), ids=_HEADS.keys())
def test_an_answer_without_end_is_left(head: bytes, taken_in: list[int], *, is_query: bool) -> None:
    """A mebibyte of it and a buffer's worth is taken in, whatever the answer claims; memory stays as small."""
    block = b"[" * 65536
    if b"chunked" in head:
        block = b"%x\r\n%s\r\n" % (len(block), block)

    async def flood(turn: Turn) -> None:
        turn.writer.write(head)
        while not turn.writer.is_closing():
            turn.writer.write(block)
            await turn.writer.drain()

    tracemalloc.start()
    try:
        found = _send(flood, is_query=is_query)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, TransportFault)
    assert found.sent
    assert sum(taken_in) <= (1 << 20) + _SLACK  # none of it where the length says it before
    assert (sum(taken_in) > 1 << 20) == (b"Content-Length" not in head)
    assert peak < 8 << 20


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(100 << 20), 1)


@pytest.mark.fault("H24")
@pytest.mark.parametrize("framing", ["with a length", "in chunks"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_not_unpacked(encoding: str, framing: str, taken_in: list[int]) -> None:
    """An answer of 100 kB that would unpack to 100 MB stays what it is."""
    bomb = _bomb()
    headers = [f"Content-Encoding: {encoding}"]
    if framing == "in chunks":
        headers.append("Transfer-Encoding: chunked")
        said = respond(b"%x\r\n%s\r\n0\r\n\r\n" % (len(bomb), bomb), *headers, length=-1)
    else:
        said = respond(bomb, *headers)
    tracemalloc.start()
    try:
        found = _send(say(said))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(decipher_submit(found), Unanswered)
    assert sum(taken_in) == len(said)
    assert peak < 8 << 20


@pytest.mark.fault("H24")
def test_a_packed_answer_is_unanswered() -> None:
    """A service that packs what nobody asked it to pack is not guessed at: it is looked up in the history."""
    found = _send(say(respond(gzip.compress(_GOOD), "Content-Encoding: gzip")))
    assert isinstance(decipher_submit(found), Unanswered)


@pytest.mark.fault("H21")
@pytest.mark.parametrize(
    "hints",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
    ],
)
def test_hints_are_no_answer(hints: bytes) -> None:
    """What follows them is; where nothing follows, nothing is known."""
    accepted = decipher_submit(_send(say(hints + respond(_GOOD))))
    assert isinstance(accepted, Accepted)
    assert accepted.prediction.id == ID
    assert isinstance(decipher_submit(_send(say(hints))), Unanswered)


@pytest.mark.fault("H06")
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream", "image/png", "nonsense"])
def test_an_answer_is_what_it_holds(kind: str) -> None:
    """JSON under another name is an answer, a page that calls itself JSON is none."""
    assert isinstance(decipher_submit(_send(say(respond(_GOOD, f"Content-Type: {kind}")))), Accepted)
    page = respond(b"<html>Down for maintenance</html>", "Content-Type: application/json")
    assert isinstance(decipher_submit(_send(say(page))), Unanswered)


@pytest.mark.fault("H22")
@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "206 Partial Content"])
@pytest.mark.parametrize("body", [b"", _GOOD], ids=["empty", "with a body"])
def test_a_success_without_a_whole_answer(status: str, body: bytes) -> None:
    """Statuses that say that there is no answer, or part of one, say nothing of the submission."""
    assert isinstance(decipher_submit(_send(say(respond(body, status=status)))), Unanswered)


@pytest.mark.fault("H26")
@pytest.mark.parametrize("size", [1_000, 7_000, 200_000])
def test_a_huge_reason_phrase(size: int) -> None:
    """What a parser bears is passed over; what it doesn't bear is unanswered, and no refusal."""
    found = decipher_submit(_send(say(respond(_GOOD, status="200 " + "O" * size))))
    assert isinstance(found, Accepted if size < 8_000 else Unanswered)


@pytest.mark.fault("N16")
def test_an_answer_of_single_bytes() -> None:
    """However finely it is sliced, an answer is one when it is whole."""

    async def slice_it(turn: Turn) -> None:
        for byte in respond(_GOOD):
            turn.writer.write(bytes([byte]))
            await turn.writer.drain()
            await asyncio.sleep(0)

    assert isinstance(decipher_submit(_send(slice_it)), Accepted)


@pytest.mark.fault("N12")
def test_a_trickle_ends_with_the_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every silence short: only the time for the whole ends it, and nothing is known."""
    patience = Patience(total_s=0.4, connect_s=0.3, read_s=0.3)
    monkeypatch.setattr("batchflux.io.client._POST_PATIENCE", patience)

    async def trickle(turn: Turn) -> None:
        turn.writer.write(respond(b"", length=1000))
        while not turn.writer.is_closing():
            turn.writer.write(b" ")
            await turn.writer.drain()
            await asyncio.sleep(0.02)

    found = _send(trickle)
    assert isinstance(found, TransportFault)
    assert isinstance(decipher_submit(found), Unanswered)


@pytest.mark.fault("N13", "N14")
@pytest.mark.parametrize("unasked", [b"", respond(b"", status="408 Request Timeout"), respond(_GOOD)])
def test_a_kept_connection_carries_no_second_submission(unasked: bytes) -> None:
    """Closed or written to while idle, a connection that had its submission is never taken for the next one."""

    async def act(turn: Turn) -> None:
        own = answer(prediction_data(id=f"own-{turn.number}")).body
        turn.writer.write(respond(own, "Connection: keep-alive") + unasked)
        await turn.writer.drain()
        if not unasked:
            turn.writer.close()

    async def scene() -> None:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            for number in range(1, 6):
                found = decipher_submit(await client.send(_submission(server.origin)))
                assert isinstance(found, Accepted)
                assert found.prediction.id == f"own-{number}"
            assert (server.connections, len(server.turns)) == (5, 5)

    asyncio.run(scene())


# ------------------------------------------------------------------------------------------ whole runs


async def _play(transport: Transport, base_url: str, *, cells: int, workers: int) -> Scene:
    scene = Scene(
        cells=cells,
        transport=transport,
        base_url=base_url,
        window=Window.capped(workers),
        most_workers=workers,
        settle_s=0.1,
    )
    return await scene.play()


@pytest.mark.fault("N16")
def test_a_run_over_a_thin_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submissions answered late and by the byte: completed all the same, each cell made once."""
    monkeypatch.setattr("batchflux.core.polling._FIRST_GUESS_S", 0.01)
    rules = (
        FaultRule(on="submit", do="trickle", every=2, seconds=0.0002),
        FaultRule(on="submit", do="delay", every=1, seconds=0.2),
        FaultRule(on="result", do="trickle", every=3, seconds=0.0002),
    )
    config = SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))

    async def scene() -> None:
        async with RunningSandbox(config) as sandbox, Client(ApiKey(CANARY)) as client:
            played = await _play(client, sandbox.base_url, cells=8, workers=8)
            assert played.statuses == {"completed": 8}
            assert sandbox.stats["submissions_received"] == 8

    asyncio.run(scene())


def _swapping(answers: str) -> Act:
    """Return a service behind a broken proxy: of each two submissions that are open at once, the answers meet.

    "both": each gets the other's. "one": both get the first one's.
    """
    waiting: list[tuple[Turn, bytes]] = []

    async def act(turn: Turn) -> None:
        path = turn.head.split(" ")[1]
        if path.endswith("/result"):
            done = completed_data(id=path.split("/")[-2], outputs=["http://127.0.0.1:9/1.png"])
            turn.writer.write(respond(answer(done).body))
            await turn.writer.drain()
        elif path.endswith("/predictions"):
            turn.writer.write(respond(answer(None, status=404).body, status="404 Not Found"))
            await turn.writer.drain()
        else:
            made = json.loads(turn.body)["prompt"].split()[-1]
            waiting.append((turn, respond(answer(prediction_data(id=f"made-for-{made}")).body)))
            if len(waiting) == 2:
                (first, to_first), (second, to_second) = waiting
                waiting.clear()
                first.writer.write(to_second if answers == "both" else to_first)
                second.writer.write(to_first)
                await asyncio.gather(first.writer.drain(), second.writer.drain())

    return act


@pytest.mark.fault("N15")
@pytest.mark.parametrize("answers", ["one", "both"])
def test_swapped_answers(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer given to two is believed once; no prediction is two cells', and no submission is sent again.

    Where each gets the other's nothing in the answers tells, since the service repeats no inputs: then both have one.
    """
    monkeypatch.setattr("batchflux.core.polling._FIRST_GUESS_S", 0.01)

    async def scene() -> None:
        async with RawServer(act=_swapping(answers)) as server, Client(ApiKey(CANARY)) as client:
            played = await _play(client, f"{server.origin}/api/v3", cells=4, workers=2)
            sent = [turn.body for turn in server.turns if b"An owl" in turn.body]
            assert len(sent) == len(set(sent)) == 4
            ids = [fact.prediction_id for fact in played.sink.of(FactKind.ACCEPTED)]
            assert len(ids) == len(set(ids))
            expected = {"completed": 4} if answers == "both" else {"completed": 2, "unknown": 2}
            assert played.statuses == expected
            assert played.spent() == 4 * played.price

    asyncio.run(scene())
