"""HTTP/1.1 as text: what is a whole answer, however it is sliced, and what is none."""

import pytest

from batchflux.core.http1 import AnswerReader, BadAnswer, Origin, split_url

_HEAD = b"HTTP/1.1 200 OK\r\nDate: now\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_ONE = b"Content-Length: 1\r\n\r\na"

WHOLE = {
    "with a length": (_HEAD + b"Content-Length: 5\r\n\r\nabcde", b"abcde", True),
    "in chunks": (_CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n", b"abcde", True),
    "with nothing": (_HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
    "after hints": (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + _HEAD + b"Content-Length: 1\r\n\r\na", b"a", True),
    "without content": (b"HTTP/1.1 204 None\r\n\r\n", b"", True),
    "to be closed": (_HEAD + b"Connection: x, Close\r\nContent-Length: 1\r\n\r\na", b"a", False),
    "to be closed, said twice": (_HEAD + b"Connection: x\r\nConnection: close\r\n" + _ONE, b"a", False),
    "of the older HTTP": (b"HTTP/1.0 200\r\nContent-Length: 1\r\n\r\na", b"a", False),
}  # fmt: skip

NONE = {
    "another protocol": b"SSH-2.0-x\r\n",
    "a page without a head": b"<html>",
    "an answer that begins with a line end": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "bare line ends": b"HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
    "a folded header": _HEAD + b" more\r\n\r\n",
    "a space before the colon": _HEAD + b"Content-Length : 1\r\n\r\na",
    "a nul in a header": _HEAD + b"X: a\0b\r\n\r\n",
    "two lengths": _HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": _HEAD + b"Content-Length: 1, 1\r\n\r\na",
    "a signed length": _HEAD + b"Content-Length: +1\r\n\r\na",
    "a length and chunks": _HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": _HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in the older HTTP": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a signed chunk": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n",
    "a chunk without its end": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    "another protocol from here on": b"HTTP/1.1 101 Switching\r\n\r\n",
    "hints without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 40,
    "more than was to be read": _HEAD + b"Content-Length: 101\r\n\r\n",
    "more in chunks": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n60\r\n" + b"a" * 96 + b"\r\n6\r\n",
    "more without a length": _HEAD + b"\r\n" + b"a" * 101,
    "a line without end": b"HTTP/1.1 200 " + b"a" * 200_000,
    "a trailer without end": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 50_000,
}


@pytest.mark.parametrize("slice_bytes", [1, 2, 7, 10_000])
@pytest.mark.parametrize(("data", "body", "keeps"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_answer(data: bytes, body: bytes, slice_bytes: int, *, keeps: bool) -> None:
    """It is whole with its last byte and not before, and says whether its connection may be used again."""
    reader = AnswerReader(100)
    assert not reader.has_begun
    slices = [data[at : at + slice_bytes] for at in range(0, len(data), slice_bytes)]
    assert [reader.feed(each) for each in slices] == [False] * (len(slices) - 1) + [True]
    assert (reader.body, reader.keeps, reader.has_begun) == (body, keeps, True)


@pytest.mark.parametrize("data", [whole[0] for whole in WHOLE.values()], ids=WHOLE.keys())
def test_what_follows_an_answer_makes_its_connection_suspect(data: bytes) -> None:
    """A byte more is no part of the answer, and nothing else goes by that connection."""
    reader = AnswerReader(100)
    assert reader.feed(data + b"H")
    assert not reader.keeps


@pytest.mark.parametrize("slice_bytes", [1, 10_000_000])
@pytest.mark.parametrize("data", NONE.values(), ids=NONE.keys())
def test_what_is_no_answer(data: bytes, slice_bytes: int) -> None:
    """It is told as soon as it shows, and never believed."""
    reader = AnswerReader(100)
    with pytest.raises(BadAnswer):
        any(reader.feed(data[at : at + slice_bytes]) for at in range(0, len(data), slice_bytes))


def test_an_end_is_the_end_of_a_body_without_a_length_alone() -> None:
    """The end of the connection ends such a body; anywhere else it cuts the answer."""
    reader = AnswerReader(100)
    assert not reader.feed(_HEAD + b"\r\nabc")
    reader.feed_end()
    assert (reader.body, reader.keeps) == (b"abc", False)
    for whole, _, _ in WHOLE.values():
        for cut in range(len(whole)):
            reader = AnswerReader(100)
            assert not reader.feed(whole[:cut])
            with pytest.raises(BadAnswer):
                reader.feed_end()


def test_where_a_url_points() -> None:
    """Scheme, host, port and Host header; what could end a line never stands in a request."""
    assert split_url("https://api.example/api/v3/a%20b?c=d") == (
        Origin(is_tls=True, host="api.example", port=443, authority="api.example"),
        "/api/v3/a%20b?c=d",
    )
    assert split_url("http://[::1]:81")[0] == Origin(is_tls=False, host="::1", port=81, authority="[::1]:81")
    assert split_url("http://bücher.example/ü x")[0].host == "xn--bcher-kva.example"
    assert split_url("http://a/b\r\nX: y\N{SNOWMAN}#d")[1] == "/b%0D%0AX:%20y%E2%98%83"


@pytest.mark.parametrize("url", ["ftp://a/b", "/a", "http://", "http://a:99999/", "http://u:p@a/", "http://a b/"])
def test_urls_that_point_nowhere(url: str) -> None:
    """Nothing is sent to them."""
    with pytest.raises(ValueError, match=r".+"):
        split_url(url)
