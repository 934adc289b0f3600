"""URL to a whole, verified, hashed file under the run directory. Tries once; when to try again is decided elsewhere.

The key is never sent here: outputs live on other hosts. Addresses of private networks are refused wherever a name may
point (each hop of a redirect too), but loopback where the API itself is on loopback. Names are ours.
"""

import asyncio
import hashlib
import ipaddress
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from batchflux.core.errors import StorageError
from batchflux.core.fields import clip
from batchflux.core.model import Fault, JsonValue, SavedFile
from batchflux.io.images import ImageFault, inspect_image
from batchflux.io.imagetext import embed_words
from batchflux.io.storage import make_dir, publish_file, write_all

__all__ = ["Downloader"]

_Found = TypeVar("_Found")

_MAX_IMAGE_BYTES = 100 << 20  # a 1-megapixel PNG has 2 MB; this bounds what a wrong URL can cost
_MAX_HOPS = 4
# Slow is not silent: a thin line may take its time, but ten seconds without a byte are a host that hangs.
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=10)


# What arrives is written in pieces of this size, each by a thread: a disk that makes its writers wait holds nobody up.
_PIECE_BYTES = 1 << 20

# As many images as are fetched at a time may wait for the disk; looking at one takes a core, and more of that at once
# than there are cores would only make the event loop wait for its turn.
_MOST_THREADS = 12
_MOST_LOOKING = 4


class _Refused(OSError):
    """An address that outputs are not fetched from."""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 host as a network without IPv4 sees it
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that is given out to anybody
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")  # RFC 6890; `is_global` knows it in newer Pythons only


def _check_address(address: str, *, allow_loopback: bool) -> None:
    parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    plain = _carried(parsed)
    is_public = plain.is_global and not plain.is_multicast
    is_public &= plain in _PUBLIC_IPV6 if isinstance(plain, ipaddress.IPv6Address) else plain not in _PROTOCOLS
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    if not is_public and not (allow_loopback and (mapped or parsed).is_loopback):
        raise _Refused(f"{address} is an address of a private network; outputs are not fetched from there")


def _carried(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 one leads to, where it carries one, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo is not None else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


class _PublicResolver(AbstractResolver):
    """Resolves names as usual and refuses those that point into private networks, but the proxy's, if there is one.

    With a proxy no other name is resolved here: where it lets an output's name lead is the proxy's to decide.
    """

    def __init__(self, *, allow_loopback: bool, proxy: str | None) -> None:
        self._inner, self._allow_loopback = ThreadedResolver(), allow_loopback
        self._proxy_host = URL(proxy).host if proxy is not None else None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for entry in found if host != self._proxy_host else ():
            _check_address(entry["host"], allow_loopback=self._allow_loopback)
        return found

    async def close(self) -> None:
        await self._inner.close()


class Downloader:
    """One run's connections to the hosts of outputs; an async context manager.

    `proxy` and `tls` are those of the API's client; without `tls` the system's certificates are trusted.
    """

    def __init__(
        self, run_dir: Path, *, allow_loopback: bool, proxy: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._run_dir, self._allow_loopback, self._proxy = run_dir, allow_loopback, proxy
        self._tls = tls or ssl.create_default_context()
        # Threads of its own: in asyncio's, names are resolved and journals sealed, which must not wait for images.
        self._threads = ThreadPoolExecutor(max_workers=_MOST_THREADS, thread_name_prefix="batchflux-images")
        self._looking = threading.Semaphore(min(_MOST_LOOKING, os.cpu_count() or 1))

    async def __aenter__(self) -> Self:
        resolver = _PublicResolver(allow_loopback=self._allow_loopback, proxy=self._proxy)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver, ssl=self._tls),
            timeout=_TIMEOUT,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "batchflux"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        # What a thread has begun ends here: nothing may get its name after the run has let go of its directory.
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def save(
        self, url: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None = None
    ) -> SavedFile | Fault:
        """Fetch one image and publish it under `name(extension)`, relative to the run directory.

        `words` are written into the image's own metadata; its hash and size are then those of the file as it lies.
        Returns why it could not be had as a Fault: of kind `network` where nobody answered or not in time, else of kind
        `download`; its `code` is the HTTP status where that was the reason. Raises StorageError where the disk refuses.
        """
        temporary = self._run_dir / _temporary_name(name("part"))
        arriving = _Arriving(temporary)
        try:
            fault = await self._fetch(url, arriving)
            if fault is not None:
                return fault
            return await self._in_thread(self._publish, arriving, name, words)
        except OSError as error:
            raise StorageError(temporary.parent, doing="save an image", cause=error) from error
        finally:
            arriving.give_up()

    async def _in_thread(self, work: Callable[..., _Found], *given: object) -> _Found:
        """Return what work on an image gives, done where it holds up nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    async def _fetch(self, url: str, arriving: "_Arriving") -> Fault | None:
        """Take in what a URL gives; returns why not. Only the disk's errors pass as OSError."""
        target: URL | None = None
        for _ in range(_MAX_HOPS):
            try:
                target = URL(url, encoded=True) if target is None else target
                if (host := target.host) and _is_literal(host):
                    _check_address(host, allow_loopback=self._allow_loopback)
                async with self._session.get(target, allow_redirects=False, proxy=self._proxy) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        target = target.join(URL(response.headers.get("Location", ""), encoded=True))
                        if target.scheme not in ("http", "https"):
                            return _fault(f"redirected to {target}")
                        continue
                    if response.status != 200:
                        return _fault(f"HTTP {response.status}", code=response.status)
                    return await self._stream(response, arriving)
            except _DiskError as error:
                raise error.cause from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return _fault(_words(error), kind="network" if _is_silence(error) else "download")
        return _fault("too many redirects")

    async def _stream(self, response: aiohttp.ClientResponse, arriving: "_Arriving") -> Fault | None:
        async for part in response.content.iter_any():
            arriving.take(part)
            if arriving.size_bytes > _MAX_IMAGE_BYTES:
                return _fault(f"larger than {_MAX_IMAGE_BYTES >> 20} MiB")
            if arriving.is_piece_full:
                try:
                    await self._in_thread(arriving.write)
                except OSError as error:
                    raise _DiskError(error) from error
        return None

    def _publish(
        self, arriving: "_Arriving", name: Callable[[str], str], words: Mapping[str, JsonValue] | None
    ) -> SavedFile | Fault:
        """Write the rest of an image, look whether it is whole, and give it its name; in a thread."""
        arriving.write()
        temporary, fetched_sha256 = arriving.path, arriving.sha256
        sha256 = fetched_sha256
        try:
            with self._looking:
                facts = inspect_image(temporary)
                if words is not None:
                    sha256 = _embed(temporary, words)
        except ImageFault as error:
            return _fault(str(error))
        size_bytes = temporary.stat().st_size
        path = name(facts.extension)
        publish_file(temporary, self._run_dir / path)
        arriving.is_published = True
        return SavedFile(
            path=path,
            sha256=sha256,
            size_bytes=size_bytes,
            width=facts.width,
            height=facts.height,
            is_one_colour=facts.is_one_colour,
            fetched_sha256=fetched_sha256 if sha256 != fetched_sha256 else None,
        )


class _Arriving:
    """A file that is being fetched: bytes are taken by the event loop, and written and hashed by threads.

    Each piece opens the file anew, so that a thread whose download was cancelled holds no descriptor that somebody
    else may close; what it still writes has lost its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.is_published = False
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._is_begun = self._is_given_up = False
        self._digest = hashlib.sha256()

    @property
    def is_piece_full(self) -> bool:
        """Whether so much is in memory that it should be written."""
        return self._held_bytes >= _PIECE_BYTES

    @property
    def sha256(self) -> str:
        """The hash of what was written."""
        return self._digest.hexdigest()

    def take(self, part: bytes) -> None:
        """Take in what arrived."""
        self._parts.append(part)
        self._held_bytes += len(part)
        self.size_bytes += len(part)

    def write(self) -> None:
        """Write what is in memory, the first time into a new file. Raises OSError."""
        parts, self._parts, self._held_bytes = self._parts, [], 0
        flags = os.O_APPEND
        if not self._is_begun:
            if not self.path.parent.is_dir():
                make_dir(self.path.parent)
            flags = os.O_CREAT | os.O_EXCL
            self._is_begun = True
        file = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o666)
        try:
            for part in parts:
                self._digest.update(part)
                write_all(file, part)
        finally:
            os.close(file)
            if self._is_given_up:  # while this thread was writing
                self.path.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Take away what was written, where nothing came of it."""
        self._is_given_up = True
        if self._is_begun and not self.is_published:
            self.path.unlink(missing_ok=True)


def _embed(temporary: Path, words: Mapping[str, JsonValue]) -> str:
    """Write words into an image's metadata and return the hash of the file as it then lies."""
    before = temporary.read_bytes()
    after = embed_words(before, words)
    temporary.write_bytes(after)
    try:
        inspect_image(temporary)
    except ImageFault:  # it was paid for: better without words than lost
        temporary.write_bytes(before)
        after = before
    return hashlib.sha256(after).hexdigest()


class _DiskError(Exception):
    """Carries a disk's OSError past the handler of the network's."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def _words(error: Exception) -> str:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return str(inner) if isinstance(inner, _Refused) else f"{type(error).__name__}: {error}"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    return True


def _temporary_name(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.tmp-{secrets.token_hex(4)}-{name}"  # the prefix that a start sweeps


def _is_silence(error: Exception) -> bool:
    """Return whether there was no answer, or not in time; what was refused or broken off is something else."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _Refused):
        return False
    return isinstance(error, TimeoutError | aiohttp.ClientConnectionError)


def _fault(message: str, *, code: int | None = None, kind: Literal["download", "network"] = "download") -> Fault:
    return Fault(kind=kind, message=clip(message), code=code)
