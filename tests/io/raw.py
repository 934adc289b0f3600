"""A server of bare bytes on loopback: it reads one request and does with the connection what a test says."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

__all__ = ["RawServer", "Turn", "reset", "respond", "say"]


@dataclass(kw_only=True)
class Turn:
    """One request as it came in, and its connection. `number` counts requests of the whole server from 1."""

    number: int
    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Act = Callable[[Turn], Awaitable[None]]


@dataclass(kw_only=True)
class RawServer:
    """Runs `act` for each request; the connection stays open after it until the client or `act` closes it."""

    act: Act
    tls: ssl.SSLContext | None = None
    turns: list[Turn] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def __aenter__(self) -> Self:
        self._open: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
                turn = Turn(number=len(self.turns) + 1, head=head, body=body, reader=reader, writer=writer)
                self.turns.append(turn)
                await self.act(turn)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has gone, which is its right
        finally:
            self._open.discard(writer)
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Let the connection end in a reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def respond(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer's bytes; `length` is what it claims to hold, -1 claims nothing."""
    claimed = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {claimed}"] if claimed >= 0 else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def say(data: bytes, *, then: str = "close") -> Act:
    """Answer every request with these bytes, then "close", "keep" or "reset" the connection."""

    async def act(turn: Turn) -> None:
        turn.writer.write(data)
        await turn.writer.drain()
        if then == "close":
            turn.writer.close()
        elif then == "reset":
            reset(turn.writer)

    return act
