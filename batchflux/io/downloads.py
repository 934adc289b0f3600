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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from batchflux.core.errors import StorageError
from batchflux.core.fields import clip
from batchflux.core.model import Fault, JsonValue, SavedFile
from batchflux.io.images import ImageFault, inspect_image
from batchflux.io.imagetext import embed_words
from batchflux.io.storage import make_dir, publish_file

__all__ = ["Downloader"]

_MAX_IMAGE_BYTES = 100 << 20  # a 1-megapixel PNG has 2 MB; this bounds what a wrong URL can cost
_MAX_HOPS = 4
# Slow is not silent: a thin line may take its time, but ten seconds without a byte are a host that hangs.
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=10)


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

    async def save(
        self, url: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None = None
    ) -> SavedFile | Fault:
        """Fetch one image and publish it under `name(extension)`, relative to the run directory.

        `words` are written into the image's own metadata; its hash and size are then those of the file as it lies.
        Returns why it could not be had as a Fault of kind `download`, whose `code` is the HTTP status where that was
        the reason. Raises StorageError where the disk refuses.
        """
        temporary = self._run_dir / _temporary_name(name("part"))
        try:
            if not temporary.parent.is_dir():
                await asyncio.to_thread(make_dir, temporary.parent)
            try:
                fetched = await self._fetch(url, temporary)
                if isinstance(fetched, Fault):
                    return fetched
                return await asyncio.to_thread(self._publish, temporary, fetched, name, words)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(temporary.parent, doing="save an image", cause=error) from error

    async def _fetch(self, url: str, temporary: Path) -> str | Fault:
        """Stream a URL into a file; returns its SHA-256 or why not. Only the disk's errors pass as OSError."""
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
                    return await _stream(response, temporary)
            except _DiskError as error:
                raise error.cause from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return _fault(_words(error))
        return _fault("too many redirects")

    def _publish(
        self, temporary: Path, sha256: str, name: Callable[[str], str], words: Mapping[str, JsonValue] | None
    ) -> SavedFile | Fault:
        try:
            facts = inspect_image(temporary)
            if words is not None:
                sha256 = _embed(temporary, words)
        except ImageFault as error:
            return _fault(str(error))
        size_bytes = temporary.stat().st_size
        path = name(facts.extension)
        publish_file(temporary, self._run_dir / path)
        return SavedFile(path=path, sha256=sha256, size_bytes=size_bytes, width=facts.width, height=facts.height)


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


async def _stream(response: aiohttp.ClientResponse, temporary: Path) -> str | Fault:
    digest = hashlib.sha256()
    size = 0
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise _DiskError(error) from error
    try:
        async for part in response.content.iter_any():
            size += len(part)
            if size > _MAX_IMAGE_BYTES:
                return _fault(f"larger than {_MAX_IMAGE_BYTES >> 20} MiB")
            digest.update(part)
            _write_all(file, part)
    finally:
        os.close(file)
    return digest.hexdigest()


def _write_all(file: int, part: bytes) -> None:
    view = memoryview(part)
    try:
        while view:
            view = view[os.write(file, view) :]
    except OSError as error:
        raise _DiskError(error) from error


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


def _fault(message: str, *, code: int | None = None) -> Fault:
    return Fault(kind="download", message=clip(message), code=code)
