"""Which URLs a key may be sent to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.findings import BadValue
from batchflux.core.origin import is_loopback_host, origin_of, parse_base_url, parse_proxy


@pytest.mark.parametrize(
    ("url", "base", "origin"),
    [
        ("https://api.wavespeed.ai/api/v3/", "https://api.wavespeed.ai/api/v3", "https://api.wavespeed.ai"),
        ("https://api.wavespeed.ai:443/api/v3", "https://api.wavespeed.ai:443/api/v3", "https://api.wavespeed.ai"),
        ("HTTPS://API.WaveSpeed.ai", "https://API.WaveSpeed.ai", "https://api.wavespeed.ai"),
        ("http://127.0.0.1:8080/api/v3", "http://127.0.0.1:8080/api/v3", "http://127.0.0.1:8080"),
        ("http://127.9.9.9", "http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8080", "http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost:1", "http://localhost:1", "http://localhost:1"),
    ],
)
def test_https_anywhere_and_http_on_this_machine(url: str, base: str, origin: str) -> None:
    """The base loses its last slash; the origin its standard port."""
    assert parse_base_url(url) == base
    assert origin_of(base) == origin


@pytest.mark.fault("X04")
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://0177.0.0.1",
        "http://10.0.0.1",
        "https://user:secret-word@example.com",
        "https://secret-word@example.com",
        "https://example.com?key=secret-word",
        "https://example.com/?",
        "https://example.com/#secret-word",
        "https://exa\tmple.com",
        "https://example.com/\n",
        "https://example.com\\@evil.example",
        "https://",
        "https://:8080",
        "https://example.com:0",
        "https://example.com:99999",
        "https://[::1",
        "ftp://example.com",
        "example.com",
        "",
    ],
)
def test_an_unsafe_url_is_refused_and_no_secret_repeated(url: str) -> None:
    """Plain http elsewhere, credentials, queries and what can't be read have no place in a spec."""
    with pytest.raises(BadValue) as caught:
        parse_base_url(url)
    assert "secret-word" not in caught.value.what + caught.value.instead


def test_a_proxy_is_a_host_and_a_port() -> None:
    """A proxy's path or password is refused."""
    assert parse_proxy("http://proxy:3128/") == "http://proxy:3128"
    for url in ("http://proxy:3128/x", "http://me:word@proxy:3128", "socks5://proxy", 3128):
        with pytest.raises(BadValue):
            parse_proxy(url)


@given(st.text(max_size=30))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than by its own refusal."""
    for url in (text, f"https://{text}"):
        try:
            base = parse_base_url(url)
        except BadValue:
            continue
        assert origin_of(base).startswith("https://") or is_loopback_host(origin_of(base).split("/")[2].split(":")[0])
