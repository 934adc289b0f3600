"""Whom a connection is made with: certificates are checked, and the user's own authority counts for images too.

The certificates in tls/ were made for these tests, run out in 2120, and their authority's key was thrown away.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux.core.model import Fault, SavedFile
from batchflux.core.protocol import HttpAnswer, TransportFault
from batchflux.io import downloads
from batchflux.io.client import ApiKey, Client
from batchflux.io.downloads import Downloader
from tests.app.service import quick_service, write_spec
from tests.canary import CANARY
from tests.io.raw import RawServer, respond, say
from tests.io.test_client import get, post
from tests.io.test_images import picture

pytestmark = pytest.mark.security(10)

AUTHORITY = Path(__file__).with_name("tls") / "authority.pem"


def served(*, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Return what a server on loopback shows: a certificate for 127.0.0.1 by an authority of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(AUTHORITY.with_name("server.pem"))
    return context


def both(run_dir: Path, ca_file: Path | None, *, host: str = "127.0.0.1") -> tuple[list[Any], Any, list[str]]:
    """Send two requests and fetch an image from a server over TLS; return what came of each, and the heads it saw."""

    async def scene() -> tuple[list[Any], Any, list[str]]:
        data = picture("PNG")
        async with (
            RawServer(act=say(respond(data)), tls=served()) as server,
            Client(ApiKey(CANARY), ca_file=ca_file) as c,
        ):
            origin = f"https://{host}:{server.port}"
            answers = [await c.send(post(origin)), await c.send(get(origin))]
            async with Downloader(run_dir, allow_loopback=True, tls=c.tls) as downloader:
                image = await downloader.save(f"{origin}/1.png", lambda extension: f"images/1.{extension}")
            return answers, image, [turn.head for turn in server.turns]

    return asyncio.run(scene())


def test_an_authority_of_the_users_counts_for_requests_and_images(tmp_path: Path) -> None:
    """With its `ca_file` both the API and the images behind it are reached, and the images without the key."""
    answers, image, heads = both(tmp_path, AUTHORITY)
    assert all(isinstance(each, HttpAnswer) for each in answers)
    assert isinstance(image, SavedFile)
    assert [f"Bearer {CANARY}" in head for head in heads] == [True, True, False]


@pytest.mark.parametrize(("ca_file", "host"), [(None, "127.0.0.1"), (AUTHORITY, "localhost")])
def test_another_certificate_is_refused(ca_file: Path | None, host: str, tmp_path: Path) -> None:
    """N06: an unknown authority, and a known one's certificate for another host: nothing is sent."""
    answers, image, heads = both(tmp_path, ca_file, host=host)
    posted, asked = answers
    assert isinstance(posted, TransportFault)
    assert not posted.sent
    assert isinstance(asked, TransportFault)
    assert isinstance(image, Fault)
    assert "certificate" in image.message
    assert heads == []


def test_what_a_connection_is_made_with() -> None:
    """Hosts and certificates are verified and nothing older than TLS 1.2 is spoken, with and without a `ca_file`."""
    for ca_file in (None, AUTHORITY):
        context = Client(ApiKey(CANARY), ca_file=ca_file).tls
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_runs_images_come_the_way_its_requests_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`api.ca_file` and `api.proxy` are for downloads too."""
    made: list[dict[str, Any]] = []

    class Noting(Downloader):
        def __init__(self, run_dir: Path, **options: Any) -> None:
            made.append(options)
            super().__init__(run_dir, **{**options, "proxy": None})

    monkeypatch.setattr(downloads, "Downloader", Noting)
    with quick_service() as service:
        proxy = service.origin  # answers whole addresses as it does plain ones
        api = {"base_url": service.base_url, "ca_file": str(AUTHORITY), "proxy": proxy}
        spec = write_spec(tmp_path, service, "prompt\na kite\n", api=api, output={"dir": "out"})
        result = batchflux.run(batchflux.load_job(spec))
    assert result.exit_status == 0
    [options] = made
    assert options["proxy"] == proxy
    subjects = [dict(pair[0] for pair in each["subject"]) for each in options["tls"].get_ca_certs()]
    assert {"commonName": "batchflux test authority"} in subjects


def test_a_rehearsal_goes_by_no_proxy(tmp_path: Path) -> None:
    """A sandbox is on this machine: a proxy that can't be reached is in nobody's way, and images are fetched."""
    spec = write_spec(tmp_path, None, "prompt\na kite\n", api={"proxy": "http://127.0.0.1:9"}, output={"dir": "out"})
    options = batchflux.RunOptions(sandbox=True, sandbox_options=("--latency", "0"))
    result = batchflux.run(batchflux.load_job(spec), options)
    assert (result.exit_status, result.standing.images_missing) == (0, 0)
