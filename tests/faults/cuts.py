"""A server that lets go of the line after so many bytes of the request that it reads, or of the answer it gives."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CuttingServer", "Ending", "cutting"]

Ending = Literal["end", "reset"]


@dataclass(kw_only=True)
class CuttingServer:
    """Takes one connection after the other; what it does with the next one is set before that is made.

    `reads` is how many bytes of the request it takes, None for all of it; `says` are the bytes that follow.
    """

    port: int
    reads: int | None = None
    says: bytes = b""
    ending: Ending = "end"
    connections: int = 0
    received: list[bytes] = field(default_factory=list)

    async def serve(self, connection: socket.socket) -> None:
        """Do with a connection what was said."""
        self.connections += 1
        with connection:
            self.received.append(await self._read(connection))
            loop = asyncio.get_running_loop()
            if self.says:
                await loop.sock_sendall(connection, self.says)
            if self.ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            # Closing with unread bytes would be a reset: an orderly end goes out, then all that comes is let go by.
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, 65536):
                pass

    async def _read(self, connection: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        taken = b""
        while len(taken) != self.reads and not (self.reads is None and _is_whole(taken)):
            most = 65536 if self.reads is None else self.reads - len(taken)
            chunk = await loop.sock_recv(connection, most)
            if not chunk:
                break
            taken += chunk
        return taken


def _is_whole(request: bytes) -> bool:
    head, mark, body = request.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(mark) and len(body) >= int(line.partition(b":")[2])
    return bool(mark)


@asynccontextmanager
async def cutting() -> AsyncIterator[CuttingServer]:
    """Give a server on loopback; it is gone at the end of the block."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)
        server = CuttingServer(port=listener.getsockname()[1])

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listener)
                try:
                    await server.serve(connection)
                except ConnectionError:
                    continue  # the client has gone, which is its right

        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(accept())
            try:
                yield server
            finally:
                accepting.cancel()
