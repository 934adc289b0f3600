"""Sends a built request and returns the answer, or why there is none. Decides nothing and retries nothing.

The only place in batchflux that POSTs. Submissions get a connection of their own each, so that no stale answer on a
kept one can be taken for theirs; queries share kept connections. Redirects, cookies, proxies of the environment and
.netrc are not followed or read; bodies are read up to the request's bound. The key leaves this module only as a header
of requests to the API's own origin.
"""

import hashlib
import os
import ssl
import traceback
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp

from batchflux.core.errors import UsageError
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault

__all__ = ["ApiKey", "Client"]

# The official client's own numbers: 10 s to connect, 60 s for a submission, 30 s for a query.
_POST_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10, sock_read=30)
_GET_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10, sock_read=20)

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
        # Only of a submission must it be known whether it left; tracing costs a query a tenth of its time.
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_note_sent)
        own = aiohttp.TCPConnector(limit=0, force_close=True, ssl=self.tls)
        self._posting = self._session(own, _POST_TIMEOUT, tracing)
        self._asking = self._session(
            aiohttp.TCPConnector(limit=0, limit_per_host=0, ssl=self.tls, keepalive_timeout=30), _GET_TIMEOUT
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._posting.close()
        await self._asking.close()

    def _session(
        self, connector: aiohttp.TCPConnector, timeout: aiohttp.ClientTimeout, *tracing: aiohttp.TraceConfig
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=list(tracing),
            headers={"Accept-Encoding": "identity", "Accept": "application/json", "User-Agent": "batchflux"},
        )

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        """Send one request once. Never raises for what the network or the service does; cancellation passes."""
        is_submission = request.method == "POST"
        session = self._posting if is_submission else self._asking
        sent: list[bool] = [] if is_submission else [True]  # a query isn't traced: nothing proves that it didn't leave
        headers = self._key.header()
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with session.request(
                request.method,
                request.url,
                data=request.body,
                headers=headers,
                allow_redirects=False,
                proxy=self.proxy,
                trace_request_ctx=sent,
            ) as response:
                body = await _read(response, request.max_answer_bytes)
                if body is None:
                    return TransportFault(sent=True, message=f"an answer of over {request.max_answer_bytes} bytes")
                return HttpAnswer(
                    status=response.status,
                    body=self._key.blot_out_bytes(body),
                    retry_after=self._header_of(response, "Retry-After"),
                    date=self._header_of(response, "Date"),
                    location=self._header_of(response, "Location"),
                )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # The hook fires before the first byte leaves: only its absence proves that nothing was sent. What aiohttp
            # calls status 400 here is its own parse error, never the service's word.
            return TransportFault(sent=bool(sent), message=self._key.blot_out(_words(error)))
        except BaseException as error:
            # What goes on upward (a cancellation, a bug) must not carry aiohttp's own variables, the request's bytes
            # among them, to whoever prints tracebacks with variables.
            _clear_variables(error)
            raise

    def _header_of(self, response: aiohttp.ClientResponse, name: str) -> str | None:
        value = response.headers.get(name)
        return None if value is None else self._key.blot_out(value)


async def _note_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.append(True)


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """Return the whole body, or None where it is larger than it may be."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most_bytes:
            response.close()
            return None
        parts.append(part)
    return b"".join(parts)


def _clear_variables(error: BaseException | None) -> None:
    """Empty the frames that an exception, and those that led to it, came through; their lines stay."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _words(error: Exception) -> str:
    """Return an exception's name and words, without the request that some of them carry."""
    words = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
