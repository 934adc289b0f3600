"""Which service a job speaks to: the base URL and the proxy as a spec may say them.

Decides what is a safe place to send a key to: https, or plain http on this machine alone; no credentials in a URL,
since a spec is shared. URLs that are refused for what may be a secret are never repeated. Opens no connection.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from batchflux.core.errors import UsageError
from batchflux.core.findings import BadValue, describe

__all__ = [
    "DEFAULT_BASE_URL",
    "DEFAULT_HOST",
    "check_trusted",
    "host_of",
    "is_loopback_host",
    "origin_of",
    "parse_base_url",
    "parse_proxy",
]

DEFAULT_HOST = "api.wavespeed.ai"
DEFAULT_BASE_URL = f"https://{DEFAULT_HOST}/api/v3"

_PLAIN = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")


def parse_base_url(value: object) -> str:
    """Return the API's base URL without a slash at its end; raises BadValue.

    https, or http where the host is this machine; no user, query or fragment.
    """
    url = _split(value, example=DEFAULT_BASE_URL)
    if url.query or url.fragment or "?" in str(value) or "#" in str(value):
        raise BadValue("has a query or a fragment", f"write the plain base, for example {DEFAULT_BASE_URL}")
    if url.scheme == "http" and not is_loopback_host(url.hostname or ""):
        raise BadValue(f"plain http to {url.hostname} would show the key to everybody on the way", "write https://")
    return url.geturl().rstrip("/")


def parse_proxy(value: object) -> str:
    """Return the URL of an HTTP proxy; raises BadValue."""
    url = _split(value, example="http://proxy:3128")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise BadValue("has more than a host and a port", "write it like http://proxy:3128")
    return url.geturl().rstrip("/")


def check_trusted(base_url: str, *, proxy: str | None, ca_file: str | None, allow_hosts: Collection[str]) -> None:
    """Raise UsageError unless whoever could read the key is the service, this machine, or a host that the user named.

    A spec may come from a stranger. A proxy of its choice reads what isn't encrypted, and everything where the spec
    says too whose certificates are believed.
    """
    host = host_of(base_url)
    is_service = origin_of(base_url) == origin_of(DEFAULT_BASE_URL)
    if not (is_service or is_loopback_host(host) or host in allow_hosts):
        raise UsageError(
            f"api.base_url names the host {host}, which would be sent your key; "
            f"if you trust it, add --allow-host {host}"
        )
    between = host_of(proxy) if proxy is not None else "localhost"
    is_readable = ca_file is not None or urlsplit(base_url).scheme == "http"
    if is_readable and not (is_loopback_host(between) or between in allow_hosts):
        how = "since api.ca_file says whom to believe" if ca_file is not None else "since api.base_url is plain http"
        raise UsageError(
            f"api.proxy names the host {between}, which could read your key, {how}; "
            f"if you trust it, add --allow-host {between}"
        )


def is_loopback_host(host: str) -> bool:
    """Return whether a host name is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def host_of(base_url: str) -> str:
    """Return the host of a parsed base URL, an IPv6 address without its brackets."""
    return urlsplit(base_url).hostname or ""


def origin_of(base_url: str) -> str:
    """Return scheme, host and port (where it is not the scheme's own) of a parsed base URL."""
    url = urlsplit(base_url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    standard = {"https": 443, "http": 80}[url.scheme]
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port not in (None, standard) else "")


def _split(value: object, *, example: str) -> SplitResult:
    hint = f"write it like {example}"
    if not isinstance(value, str):
        raise BadValue(f"must be a URL, is {describe(value)}", hint)
    # urlsplit drops tabs and newlines in silence, so that what is checked would not be what is used.
    if not _PLAIN.fullmatch(value) or "\\" in value:
        raise BadValue("is no URL: it holds spaces, backslashes or other than plain characters", hint)
    try:
        url = urlsplit(value)
        port, host = url.port, url.hostname
    except ValueError as error:
        raise BadValue("is no URL: its host or port can't be read", hint) from error
    if "@" in url.netloc:
        raise BadValue("holds a user or a password", "a spec is shared: write the URL without them")
    if url.scheme not in ("http", "https"):
        raise BadValue("is no http or https URL", hint)
    if not host or port == 0 or not (_HOST.fullmatch(host) and (_address(host) is not None or ":" not in host)):
        raise BadValue("is no URL: its host can't be read", hint)
    return url


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
