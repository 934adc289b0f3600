"""The line is cut after every single byte of a submission and of its answer: no cut is ever taken for a refusal."""

import asyncio
from typing import get_args

import pytest

from batchflux.core.protocol import (
    Accepted,
    HttpRequest,
    NotSent,
    Unanswered,
    build_submit,
    decipher_submit,
)
from batchflux.io.client import ApiKey, Client
from tests.canary import CANARY
from tests.faults.cuts import CuttingServer, Ending, cutting

_BODY = b'{"prompt":"An owl","seed":7}'
_ANSWER = b'{"code":200,"message":"success","data":{"id":"0123456789abcdef","status":"created"}}'
_CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (_ANSWER[:30], _ANSWER[30:])) + b"0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_ANSWERS = {
    "with a length": _HEAD + b"Content-Length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER,
    "in chunks": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNKS,
    "with neither": _HEAD + b"Connection: close\r\n\r\n" + _ANSWER,
}
_ENDINGS = get_args(Ending)


def _submission(server: CuttingServer) -> HttpRequest:
    return build_submit(f"http://127.0.0.1:{server.port}/api/v3", "a/b", _BODY)


@pytest.mark.fault("N17", "N07", "N08", "N09")
@pytest.mark.parametrize("ending", _ENDINGS)
def test_cut_after_every_byte_of_the_request(ending: Ending) -> None:
    """Whatever the service has read of it, it may have understood: unanswered, and not one request more."""

    async def scene() -> None:
        async with cutting() as server, Client(ApiKey(CANARY)) as client:
            await client.send(_submission(server))
            whole = len(server.received.pop())
            assert whole > len(_BODY) + 100
            for taken in range(whole + 1):
                server.reads, server.ending = taken, ending
                found = decipher_submit(await client.send(_submission(server)))
                assert isinstance(found, Unanswered) or (taken == 0 and isinstance(found, NotSent)), (taken, found)
                assert server.connections == taken + 2, "a submission was sent again"
                assert [len(each) for each in server.received] == list(range(taken + 1))

    asyncio.run(scene())


@pytest.mark.fault("N17", "N11")
@pytest.mark.parametrize("ending", _ENDINGS)
@pytest.mark.parametrize("answer", _ANSWERS.values(), ids=_ANSWERS.keys())
def test_cut_after_every_byte_of_the_answer(answer: bytes, ending: Ending) -> None:
    """Only a whole answer is one: unanswered up to the last byte but one, accepted with it."""

    async def scene() -> None:
        async with cutting() as server, Client(ApiKey(CANARY)) as client:
            for said in range(len(answer) + 1):
                server.says, server.ending = answer[:said], ending
                found = decipher_submit(await client.send(_submission(server)))
                if said == len(answer) and ending == "end":
                    assert isinstance(found, Accepted), found
                    assert found.prediction.id == "0123456789abcdef"
                elif said < len(answer):
                    assert isinstance(found, Unanswered), (answer[:said], found)
                else:  # a reset may overtake the last bytes
                    assert isinstance(found, Accepted | Unanswered), found
                assert server.connections == said + 1, "a submission was sent again"

    asyncio.run(scene())
