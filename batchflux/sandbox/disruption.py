"""Carries one fault rule out on one request: the only place that answers wrongly, late, in part or not at all.

It touches the connection's transport directly, since a web framework will not send what is broken on purpose. Which
request meets which rule is decided in `faults`; what the right answer is, in `endpoints`.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from aiohttp import web

from batchflux.sandbox.behaviour import FATED_BY_DICE, Fate
from batchflux.sandbox.faults import FaultRule
from batchflux.sandbox.wire import Answer

__all__ = ["Disruption", "response_of"]

_HTML = "<!doctype html><html><head><title>Be right back</title></head><body>Down for maintenance.</body></html>"
_BROKEN_JSON = '{"code":200,"message":"success","data":{"id":"'

# What `seconds` is where a rule doesn't say; a hang without it lasts until the client goes or the sandbox ends.
_DELAY_S, _TRICKLE_S, _STALE_S, _LATE_S = 1.0, 0.05, 0.02, 1.0

Make = Callable[[Fate], Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """One fault at work: the request that it befalls and how the right answer is made.

    `make` does what was asked for (a submission's prediction is created by it) and returns the right answer;
    `previous_id` names the prediction created before the newest; `create_later` does what was
    asked for after so many seconds, for nobody to hear.
    """

    rule: FaultRule
    request: web.BaseRequest
    make: Make
    previous_id: Callable[[], str]
    create_later: Callable[[float], None]

    async def answer(self) -> web.StreamResponse:
        """Do what the rule says and return what is left to be sent."""
        rule = self.rule
        match rule.do:
            case "status" | "html" | "bad_json" | "redirect":
                return response_of(await self._canned())
            case "reset" | "close" | "hang" | "raw" | "late":
                return await self._cut_off()
            case "delay":
                return response_of(await self._delayed())
            case "truncate" | "trickle" | "stale":
                return await self._mishandle(await self.make(FATED_BY_DICE))
            case "corrupt":
                return response_of(_corrupted(await self.make(FATED_BY_DICE)))
            case "patch":
                return response_of(_patched(await self.make(FATED_BY_DICE), rule=rule))
            case "reuse_id":
                made = await self.make(FATED_BY_DICE)
                return response_of(_patched(made, rule=replace(rule, data={"id": self.previous_id()})))
            case "duplicate":
                await self.make(FATED_BY_DICE)
                return response_of(await self.make(FATED_BY_DICE))
            case "fail":
                return response_of(await self.make(Fate(code=rule.code, error=rule.error)))
            case "stuck":
                return response_of(await self.make(Fate(is_stuck=True)))

    async def _make_if_after(self) -> None:
        if self.rule.when == "after":
            await self.make(FATED_BY_DICE)

    async def _canned(self) -> Answer:
        rule = self.rule
        await self._make_if_after()
        headers = dict(rule.headers)
        content_type = headers.pop("Content-Type", "application/json")
        match rule.do:
            case "html":
                status, body, content_type = rule.status or 200, rule.body or _HTML, "text/html"
            case "bad_json":
                status, body = rule.status or 200, rule.body or _BROKEN_JSON
            case "redirect":
                status, body = rule.status or 307, ""
                headers["Location"] = rule.location
            case _:
                status = rule.status or 500
                refusal = json.dumps({"code": status, "message": f"the sandbox's script says {status}"})
                body = refusal if rule.body is None else rule.body
        return Answer(
            body=body.encode("utf-8", "surrogateescape"), status=status, content_type=content_type, headers=headers
        )

    async def _delayed(self) -> Answer:
        seconds = _DELAY_S if self.rule.seconds is None else self.rule.seconds
        if self.rule.when == "after":
            made = await self.make(FATED_BY_DICE)
            await asyncio.sleep(seconds)
            return made
        await asyncio.sleep(seconds)
        return await self.make(FATED_BY_DICE)

    async def _cut_off(self) -> web.StreamResponse:
        rule = self.rule
        await self._make_if_after()
        match rule.do:
            case "late":
                self.create_later(_LATE_S if rule.seconds is None else rule.seconds)
                _reset(self.request)
            case "reset":
                _reset(self.request)
            case "hang":
                await _hang(rule.seconds)
                _close(self.request)
            case "raw":
                self._transport().write((rule.body or "").encode("utf-8", "surrogateescape"))
                _close(self.request)
            case _:
                _close(self.request)
        return web.Response()

    async def _mishandle(self, made: Answer) -> web.StreamResponse:
        rule = self.rule
        if rule.do == "stale":
            transport = self._transport()
            late_s = _STALE_S if rule.seconds is None else rule.seconds
            asyncio.get_running_loop().call_later(late_s, _write_if_open, transport, _raw(made, with_length=True))
            return response_of(made)
        if rule.do == "truncate":
            keep_bytes = len(made.body) // 2 if rule.keep_bytes is None else rule.keep_bytes
            whole = _raw(made, with_length=rule.with_length)
            self._transport().write(whole[: len(whole) - len(made.body) + min(keep_bytes, len(made.body))])
        else:
            for byte in _raw(made, with_length=True):
                _write_if_open(self._transport(), bytes((byte,)))
                await asyncio.sleep(_TRICKLE_S if rule.seconds is None else rule.seconds)
        _close(self.request)
        return web.Response()

    def _transport(self) -> asyncio.WriteTransport:
        transport = self.request.transport
        if transport is None:
            _gone()
        return transport


def response_of(answer: Answer) -> web.Response:
    """Return the answer as aiohttp sends it."""
    return web.Response(
        body=answer.body, status=answer.status, headers=answer.headers, content_type=answer.content_type
    )


def _raw(answer: Answer, *, with_length: bool) -> bytes:
    """Return the answer as bytes; without a length the end of the connection is the end of the body."""
    length = f"Content-Length: {len(answer.body)}\r\n" if with_length else "Connection: close\r\n"
    head = f"HTTP/1.1 {answer.status} OK\r\nContent-Type: {answer.content_type}\r\n{length}\r\n"
    return head.encode("ascii") + answer.body


def _patched(answer: Answer, *, rule: FaultRule) -> Answer:
    document = json.loads(answer.body)
    data = document.get("data")
    if isinstance(data, dict):
        document["data"] = {key: value for key, value in (data | dict(rule.data)).items() if key not in rule.drop}
    document |= dict(rule.envelope)
    return replace(answer, body=json.dumps(document).encode("ascii"))


def _corrupted(answer: Answer) -> Answer:
    middle = len(answer.body) // 2
    flipped = bytes(byte ^ 0x5A for byte in answer.body[middle : middle + 64])
    return replace(answer, body=answer.body[:middle] + flipped + answer.body[middle + 64 :])


async def _hang(seconds: float | None) -> None:
    if seconds is None:
        await asyncio.get_running_loop().create_future()  # cancelled when the client goes or the sandbox ends
    else:
        await asyncio.sleep(seconds)


def _reset(request: web.BaseRequest) -> None:
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    # Lingering for no time makes the close a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _close(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()


def _write_if_open(transport: asyncio.WriteTransport, data: bytes) -> None:
    if not transport.is_closing():
        transport.write(data)


def _gone() -> NoReturn:
    raise ConnectionResetError("the client has gone")
