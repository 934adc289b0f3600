"""One connection to the service, and how it is made: addresses, proxy, TLS.

A connection carries one request at a time, and anything out of order ends it: a byte that nobody asked for, an answer
that isn't plainly one, a silence, a cancellation. Nothing here is tried again, and what leaves is written in one go,
after the connection stands. Who may use a connection twice is the client's to say.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Any, cast

import aiohappyeyeballs

from batchflux.core.http1 import AnswerReader, BadAnswer, Origin

__all__ = ["Connection", "Dialer", "Gone", "Patience", "Sealed"]

# How long a second address is waited for, as browsers do [RFC 8305, 8]; and how long an address is believed.
_NEXT_ADDRESS_S = 0.25
_ADDRESS_AGE_S = 10.0
# An aborted connection is gone at the loop's next turn; where asyncio forgets to say so, nobody waits for ever.
_CLOSE_S = 1.0

_Address = tuple[Any, ...]  # as getaddrinfo gives it


class Sealed(bytes):
    """A request's bytes, which hold the key: they show nothing where a library or a debugger prints them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a request>"

    __str__ = __repr__


class Gone(ConnectionError):
    """The connection ended before a byte of the answer came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take: as a whole, to connect (names and handshakes included), and between two bytes."""

    total_s: float
    connect_s: float
    read_s: float


class Connection(asyncio.Protocol):
    """One connection; `Dialer.connect` makes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.idle_since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ends_at_s = self._heard_at_s = self._read_s = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether it stands, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    async def round_trip(self, request: Sealed, reader: AnswerReader, *, ends_at_s: float, read_s: float) -> None:
        """Send a request in this very turn of the loop, and return when its answer is whole.

        Raises OSError (TimeoutError and Gone among them) or BadAnswer, and is closed then.
        """
        transport = self._standing()
        self._reader, self._answered = reader, self._loop.create_future()
        self._heard_at_s, self._ends_at_s, self._read_s = self._loop.time(), ends_at_s, read_s
        self._timer = self._loop.call_at(min(ends_at_s, self._heard_at_s + read_s), self._look_at_clock)
        transport.write(request)
        try:
            await self._answered
        except BaseException:
            self.abort()
            raise
        finally:
            self._timer.cancel()
            self._reader = self._answered = self._timer = None
        if transport.get_write_buffer_size():
            self.abort()  # answered before it was read: what is left of the request is not to follow
        elif not reader.keeps:
            self.close()
        self.idle_since_s = self._loop.time()

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on, through what a proxy has opened."""
        self._transport = await self._loop.start_tls(self._standing(), self, tls, server_hostname=host)
        if self._transport is None:
            raise ConnectionError("the connection ended in the TLS handshake")

    def _standing(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise Gone("the connection ended before anything was sent")
        return self._transport

    def close(self) -> None:
        """End it in an orderly way."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it at once: what is still on its way is nobody's."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------------------------------------ asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read on, or end a connection on which somebody speaks unasked."""
        if self._reader is None or self._answered is None or self._answered.done():
            self._end_suspect()
            return
        self._heard_at_s = self._loop.time()
        try:
            is_whole = self._reader.feed(data)
        except BadAnswer as error:
            self._fail(error)
            return
        if is_whole:
            self._answered.set_result(None)

    def eof_received(self) -> None:
        """Take in that the other side says no more, which may be the end of a body."""
        if self._reader is None or self._answered is None or self._answered.done():
            return
        try:
            begun = self._reader.has_begun
            self._reader.feed_end()
        except BadAnswer as error:
            self._fail(error if begun else Gone("the connection ended without an answer"))
        else:
            self._answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if not self.closed.done():
            self.closed.set_result(None)
        if self._reader is not None:
            words = str(exc) if exc is not None else "the connection ended without an answer"
            self._fail(ConnectionError(words) if self._reader.has_begun else Gone(words))

    def _end_suspect(self) -> None:
        if self._reader is not None:  # the answer is whole and not yet taken: what follows it makes it suspect
            self._reader.keeps = False
        self.abort()

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    def _look_at_clock(self) -> None:
        now_s = self._loop.time()
        at_s = min(self._ends_at_s, self._heard_at_s + self._read_s)
        if now_s < at_s:
            self._timer = self._loop.call_at(at_s, self._look_at_clock)
        elif at_s == self._ends_at_s:
            self._fail(TimeoutError("no whole answer in time"))
        else:
            self._fail(TimeoutError(f"no word for {self._read_s:g} s"))


class Dialer:
    """Makes connections, straight or by an HTTP proxy; keeps the addresses of names for some seconds."""

    def __init__(self, *, tls: ssl.SSLContext, proxy: Origin | None) -> None:
        self._tls, self._proxy = tls, proxy
        self._addresses: dict[tuple[str, int], tuple[float, list[_Address]]] = {}
        self._looking_up = asyncio.Lock()
        self._open: set[Connection] = set()

    async def connect(self, origin: Origin, *, patience: Patience) -> Connection:
        """Return a new connection on which nothing was said yet. Raises OSError or ValueError."""
        try:
            async with asyncio.timeout(min(patience.connect_s, patience.total_s)):
                if self._proxy is None or not origin.is_tls:
                    return await self._dial(self._proxy or origin)
                return await self._tunnel(self._proxy, origin, patience)
        except TimeoutError:
            raise TimeoutError(f"no connection to {origin.authority} in time") from None

    async def close(self) -> None:
        """End all connections, and return when they are."""
        for connection in list(self._open):
            connection.abort()
        if self._open:
            await asyncio.wait([connection.closed for connection in self._open], timeout=_CLOSE_S)

    async def _dial(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        addresses, connection = await self._look_up(origin), Connection()
        sock = await aiohappyeyeballs.start_connection(
            cast(Any, addresses), happy_eyeballs_delay=_NEXT_ADDRESS_S if len(addresses) > 1 else None
        )
        tls, name = (self._tls, origin.host) if origin.is_tls else (None, None)
        await loop.create_connection(lambda: connection, sock=sock, ssl=tls, server_hostname=name)
        self._open.add(connection)
        connection.closed.add_done_callback(lambda _: self._open.discard(connection))
        return connection

    async def _look_up(self, origin: Origin) -> list[_Address]:
        loop, place = asyncio.get_running_loop(), (origin.host, origin.port)
        async with self._looking_up:
            until_s, known = self._addresses.get(place, (0.0, []))
            if loop.time() >= until_s:
                known = list(await loop.getaddrinfo(*place, type=socket.SOCK_STREAM))
                if not known:
                    raise OSError(f"{origin.host} has no address")
                self._addresses[place] = (loop.time() + _ADDRESS_AGE_S, known)
            return known

    async def _tunnel(self, proxy: Origin, origin: Origin, patience: Patience) -> Connection:
        """Let a proxy open a way to a host, and speak TLS with that host through it: the proxy reads nothing."""
        connection = await self._dial(proxy)
        place = f"[{origin.host}]" if ":" in origin.host else origin.host
        ask = f"CONNECT {place}:{origin.port} HTTP/1.1\r\nHost: {place}:{origin.port}\r\n\r\n"
        answer = AnswerReader(0, has_body=False)
        ends_at_s = asyncio.get_running_loop().time() + patience.connect_s
        try:
            await connection.round_trip(Sealed(ask.encode()), answer, ends_at_s=ends_at_s, read_s=patience.read_s)
            if not 200 <= answer.status < 300 or not connection.is_open:
                raise ConnectionError(f"the proxy answers HTTP {answer.status}")
            await connection.start_tls(self._tls, origin.host)
        except BaseException:
            connection.abort()
            self._open.discard(connection)  # asyncio doesn't tell of the end of a handshake begun in mid-connection
            raise
        return connection
