"""HTTP/1.1 as text: what of a URL goes into a request, and an answer read from bytes as they come.

Stricter than the standard asks of a client: what isn't plainly one whole answer raises BadAnswer, so that nothing odd
is taken for the service's word. Bounded in all that it keeps. Knows no connection and no clock.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, urlsplit

__all__ = ["AnswerReader", "BadAnswer", "Origin", "split_url"]

# As aiohttp bounds them, which reads the images' answers.
_MOST_LINE_BYTES = 8190
_MOST_HEADERS = 128
_MOST_HEAD_BYTES = 1 << 17
_MOST_INTERIM = 32

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TARGET = re.compile(r"/[!-\"$-~]*")
_ONCE = (b"content-length", b"transfer-encoding")


class BadAnswer(ValueError):
    """What came is not one whole answer, or more than was to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a connection goes to; `authority` is how a Host header names it."""

    is_tls: bool
    host: str
    port: int
    authority: str


def split_url(url: str) -> tuple[Origin, str]:
    """Return where a URL points, and the target that a request names there. Raises ValueError."""
    at = url.find("/", len("https://"))
    return parse_origin(url[:at] if at >= 0 else url), as_target(url[at:] if at >= 0 else "/")


@lru_cache(maxsize=16)
def parse_origin(text: str) -> Origin:
    """Return a scheme, a host and a port. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("the URL names no http or https host, or a user")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    is_tls = parts.scheme == "https"
    usual = 443 if is_tls else 80
    port = usual if parts.port is None else parts.port
    shown = f"[{host}]" if ":" in host else host
    if not re.fullmatch(r"[!-~]+", host):
        raise ValueError("the URL names no host")
    return Origin(is_tls=is_tls, host=host, port=port, authority=shown if port == usual else f"{shown}:{port}")


def as_target(text: str) -> str:
    """Return a path and query as it goes over the wire: nothing in it ends a line or a word."""
    return text if _TARGET.fullmatch(text) else quote(text.partition("#")[0], safe="/%:?=&;,+@!$'()*~[]")


class AnswerReader:
    """Reads one answer; `keeps` says of a whole one whether its connection may carry another request.

    `most_bytes` bounds the body. Without `has_body` the answer ends with its head, as a proxy's to CONNECT does.
    """

    __slots__ = (
        *("_body", "_buffer", "_has_body", "_head_bytes", "_interim", "_left", "_most", "_searched", "_state"),
        *("body", "headers", "keeps", "status"),
    )

    def __init__(self, most_bytes: int, *, has_body: bool = True) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keeps = False
        self._most, self._has_body = most_bytes, has_body
        self._buffer, self._body = bytearray(), bytearray()
        self._state: Literal["head", "length", "size", "chunk", "trailer", "end", "whole"] = "head"
        self._searched = self._head_bytes = self._interim = self._left = 0

    @property
    def has_begun(self) -> bool:
        """Return whether any byte of the answer has come."""
        return self.status != 0 or self._head_bytes != 0 or bool(self._buffer)

    def feed(self, data: bytes) -> bool:
        """Take in what came; return whether the answer is whole now. Raises BadAnswer."""
        self._buffer += data
        while self._step():
            pass
        if self._state != "whole":
            return False
        self.keeps = self.keeps and not self._buffer  # what comes with an answer and isn't of it makes it suspect
        return True

    def feed_end(self) -> None:
        """Take in that the other side has ended. Raises BadAnswer where that isn't the end of the answer."""
        if self._state != "end":
            raise BadAnswer("the connection ended before the answer did")
        self._finish(bytes(self._buffer))
        self._buffer.clear()

    def _step(self) -> bool:
        """Take one part of the answer from the buffer; return whether there may be another one in it."""
        match self._state:
            case "head":
                return self._take_head()
            case "length":
                if len(self._buffer) >= self._left:
                    self._finish(self._take(self._left))
            case "size":
                return self._take_chunk_size()
            case "chunk":
                return self._take_chunk()
            case "trailer":
                return self._take_trailer()
            case "end":
                self._bound(len(self._buffer))
            case "whole":
                pass
        return False

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > _MOST_LINE_BYTES or (end < 0 and len(self._buffer) > _MOST_LINE_BYTES):
            raise BadAnswer("an answer with an endless line")
        return self._take(end + 2)[:-2] if end >= 0 else None

    def _bound(self, size: int) -> None:
        if size > self._most:
            raise BadAnswer(f"an answer of over {self._most} bytes")

    def _finish(self, body: bytes) -> None:
        self.body, self._state = body, "whole"

    # ------------------------------------------------------------------------------------------------ head

    def _take_head(self) -> bool:
        buffer = self._buffer
        if not buffer.startswith(b"HTTP/1."[: len(buffer)]):
            raise BadAnswer("what came is no HTTP answer")
        end = buffer.find(b"\r\n\r\n", self._searched)
        self._searched = max(0, len(buffer) - 3)
        if self._head_bytes + (end if end >= 0 else len(buffer)) > _MOST_HEAD_BYTES:
            raise BadAnswer("an answer with an endless head")
        if end < 0:
            return False
        first, *lines = self._take(end + 4)[:-4].split(b"\r\n")
        self._head_bytes, self._searched = self._head_bytes + end, 0
        found = _STATUS_LINE.fullmatch(first)
        if found is None or len(first) > _MOST_LINE_BYTES:
            raise BadAnswer("an answer with an odd status line")
        headers, status = _parse_headers(lines), int(found[2])
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > _MOST_INTERIM:
                raise BadAnswer(f"HTTP {status} for an answer")
            return True
        self.status, self.headers = status, headers
        self._frame(is_newest=found[1] == b"1")
        return True

    def _frame(self, *, is_newest: bool) -> None:
        """Say from the head where the body ends."""
        length, coding = (self.headers.get(name) for name in _ONCE)
        says = self.headers.get(b"connection", b"").lower().split(b",")
        self.keeps = not self._has_body or (is_newest and b"close" not in [word.strip() for word in says])
        if length is not None and (coding is not None or not _LENGTH.fullmatch(length)):
            raise BadAnswer("an answer with an odd length")
        if coding is not None and (coding.lower() != b"chunked" or not is_newest):
            raise BadAnswer("an answer in an odd coding")
        if not self._has_body or self.status in (204, 304):
            self._finish(b"")
        elif coding is not None:
            self._state = "size"
        elif length is not None:
            self._left, self._state = int(length), "length"
            self._bound(self._left)
        else:
            self.keeps, self._state = False, "end"

    # ------------------------------------------------------------------------------------------------ chunks

    def _take_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise BadAnswer("an answer with an odd chunk")
        self._left = int(found[1], 16)
        self._bound(len(self._body) + self._left)
        self._state = "chunk" if self._left else "trailer"
        return True

    def _take_chunk(self) -> bool:
        if len(self._buffer) < self._left + 2:
            return False
        self._body += self._take(self._left)
        if self._take(2) != b"\r\n":
            raise BadAnswer("an answer with an odd chunk")
        self._state = "size"
        return True

    def _take_trailer(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if line:
            self._head_bytes += len(line)
            if self._head_bytes > _MOST_HEAD_BYTES:
                raise BadAnswer("an answer with an endless trailer")
            return True
        self._finish(bytes(self._body))
        return False


def _parse_headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return headers by their lower-case names; of a name that came twice the first, but for Connection."""
    if len(lines) > _MOST_HEADERS:
        raise BadAnswer(f"an answer with over {_MOST_HEADERS} headers")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or len(line) > _MOST_LINE_BYTES or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadAnswer("an answer with an odd header")
        name, value = name.lower(), value.strip(b" \t")
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            raise BadAnswer("an answer with two lengths")
        elif name == b"connection":
            headers[name] += b"," + value
    return headers
