"""Sends a built request and returns the answer, or why there is none. Decides nothing and retries no submission.

The only place in batchflux that POSTs. Submissions get a connection of their own each, so that no stale answer on a
kept one can be taken for theirs (a refusal carries no id, and a fresh id proves nothing where something between us and
the service has submitted twice); queries, whose answers name what was asked for, share kept connections. Redirects,
cookies, proxies of the environment and .netrc are not followed or read; bodies are read up to the request's bound. The
key leaves this module only as a header of requests to the API's own origin.
"""

import asyncio
import hashlib
import os
import ssl
import traceback
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from batchflux.core.errors import UsageError
from batchflux.core.http1 import AnswerReader, Origin, split_url
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.io.connection import Connection, Dialer, Gone, Patience, Sealed

__all__ = ["ApiKey", "Client"]

# The official client's own numbers: 10 s to connect, 60 s for a submission, 30 s for a query.
_POST_PATIENCE = Patience(total_s=60, connect_s=10, read_s=30)
_GET_PATIENCE = Patience(total_s=30, connect_s=10, read_s=20)

# A query's connection is taken again within this; services and what stands before them mostly keep one for longer.
_KEPT_S = 30.0

_HEADERS = ("Accept: application/json", "Accept-Encoding: identity", "User-Agent: batchflux")

# A shorter key is a play one (the sandbox takes any word): blotting it out could spoil an answer's plain words.
_LEAST_SECRET_CHARS = 16


class _Bearer(str):
    """A header's value that is sent whole and shows nothing where a library or a debugger prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'Bearer ***'"


class ApiKey:
    """The account's key. It shows itself as *** wherever it is printed; `header` is its only way out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def from_environment(cls, name: str) -> Self:
        """Read the key from an environment variable. Raises UsageError where it is missing or can't be a header."""
        # No variable here holds the plain value: tools that print tracebacks print variables too.
        key = cls(os.environ.get(name, "").strip())
        if not key._value:
            raise UsageError(
                f"no API key: the environment variable {name} is not set; export {name}=..., "
                "or try the job without a key: add --sandbox"
            )
        if not key._is_plausible():
            raise UsageError(f"the key in {name} holds characters that no key has (spaces, quotes, line ends?)")
        return key

    def _is_plausible(self) -> bool:
        return self._value.isascii() and self._value.isprintable() and not set(self._value) & set(" \"'")

    def header(self) -> dict[str, str]:
        """Return the Authorization header."""
        return {"Authorization": _Bearer(f"Bearer {self._value}")}

    def account_name(self, origin: str) -> str:
        """Return a name for the account that this key is of at a service, from which neither can be had back."""
        key = hashlib.blake2b(self._value.encode(), digest_size=32).digest()
        return hashlib.blake2b(origin.encode(), key=key, digest_size=16, person=b"batchflux").hexdigest()

    def blot_out(self, text: str) -> str:
        """Return text that came from outside without the key, should it have been echoed."""
        return text.replace(self._value, "***") if len(self._value) >= _LEAST_SECRET_CHARS else text

    def blot_out_bytes(self, data: bytes) -> bytes:
        """Return bytes that came from outside without the key."""
        return data.replace(self._value.encode(), b"***") if len(self._value) >= _LEAST_SECRET_CHARS else data

    def __repr__(self) -> str:
        return "ApiKey(***)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("an API key is never pickled or copied")


class Client:
    """One run's HTTP connections to the service; an async context manager.

    `proxy` and `ca_file` are the spec's: an HTTP proxy for all requests, and a file of certificates to trust besides
    the system's. `proxy` and `tls` are for the downloads too.
    """

    def __init__(self, key: ApiKey, *, proxy: str | None = None, ca_file: Path | None = None) -> None:
        self._key, self.proxy = key, proxy
        self.tls = ssl.create_default_context()
        if ca_file is not None:
            try:
                self.tls.load_verify_locations(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"api.ca_file: {ca_file} can't be read as certificates: {error}") from None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._dialer = Dialer(tls=self.tls, proxy=split_url(self.proxy)[0] if self.proxy is not None else None)
        self._kept: dict[Origin, deque[Connection]] = {}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._dialer.close()

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        """Send one request once. Never raises for what the network or the service does; cancellation passes."""
        is_submission = request.method == "POST"
        patience = _POST_PATIENCE if is_submission else _GET_PATIENCE
        ends_at_s = self._loop.time() + patience.total_s
        sent = not is_submission  # of a query it is never claimed that it didn't leave
        try:
            origin, target = split_url(request.url)
            if not is_submission and (kept := self._take_kept(origin)) is not None:
                answer = await self._ask_again(kept, origin, target, request, ends_at_s=ends_at_s)
                if answer is not None:
                    return answer
            connection = await self._dialer.connect(origin, patience=patience)
            sent = sent or connection.is_open  # then the next step writes, else it raises
            return await self._exchange(connection, origin, target, request, ends_at_s=ends_at_s)
        except (OSError, ValueError) as error:
            return TransportFault(sent=sent, message=self._key.blot_out(_words(error)))
        except BaseException as error:
            # What goes on upward (a cancellation, a bug) must not carry variables, the request's bytes among them, to
            # whoever prints tracebacks with variables.
            _clear_variables(error)
            raise

    async def _ask_again(
        self, connection: Connection, origin: Origin, target: str, request: HttpRequest, *, ends_at_s: float
    ) -> HttpAnswer | None:
        """Send a query on a kept connection; None where that had ended meanwhile, and the query may go by a new one."""
        try:
            return await self._exchange(connection, origin, target, request, ends_at_s=ends_at_s)
        except Gone:
            return None

    async def _exchange(
        self, connection: Connection, origin: Origin, target: str, request: HttpRequest, *, ends_at_s: float
    ) -> HttpAnswer:
        """Send a request and return its answer; the connection is kept where another query may use it."""
        patience = _GET_PATIENCE if request.body is None else _POST_PATIENCE
        reader = AnswerReader(request.max_answer_bytes)
        data = self._build(origin, target, request)
        await connection.round_trip(data, reader, ends_at_s=ends_at_s, read_s=patience.read_s)
        if request.method != "GET":
            connection.close()
        elif connection.is_open:
            self._kept.setdefault(origin, deque()).append(connection)
        return HttpAnswer(
            status=reader.status,
            body=self._key.blot_out_bytes(reader.body),
            retry_after=self._header_of(reader, b"retry-after"),
            date=self._header_of(reader, b"date"),
            location=self._header_of(reader, b"location"),
        )

    def _build(self, origin: Origin, target: str, request: HttpRequest) -> Sealed:
        """Return a request as it goes over the wire. A proxy that reads it is told the whole address."""
        if self.proxy is not None and not origin.is_tls:
            target = f"http://{origin.authority}{target}"
        lines = [f"{request.method} {target} HTTP/1.1", f"Host: {origin.authority}", *_HEADERS]
        lines += [f"{name}: {value}" for name, value in self._key.header().items()]
        if request.method == "POST":
            lines.append("Connection: close")
        if request.body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
        return Sealed("\r\n".join([*lines, "", ""]).encode() + (request.body or b""))

    def _take_kept(self, origin: Origin) -> Connection | None:
        """Return the connection that was used last, if one is young and stands."""
        kept = self._kept.get(origin)
        if not kept:
            return None
        oldest_s = self._loop.time() - _KEPT_S
        while kept and kept[0].idle_since_s < oldest_s:
            kept.popleft().close()
        while kept:
            connection = kept.pop()
            if connection.is_open:
                return connection
        return None

    def _header_of(self, reader: AnswerReader, name: bytes) -> str | None:
        value = reader.headers.get(name)
        return None if value is None else self._key.blot_out(value.decode("latin-1"))


def _clear_variables(error: BaseException | None) -> None:
    """Empty the frames that an exception, and those that led to it, came through; their lines stay."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _words(error: Exception) -> str:
    """Return an exception's name and words."""
    words = str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
