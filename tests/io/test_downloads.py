"""Downloads: whole verified images under our names, or a fault and nothing left behind; never from private places."""

import asyncio
import errno
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import ResolveResult

from batchflux.core.errors import StorageError
from batchflux.core.model import Fault, SavedFile
from batchflux.core.protocol import Accepted, build_result, build_submit, decipher_result, decipher_submit, encode_body
from batchflux.io import downloads
from batchflux.io.client import ApiKey, Client
from batchflux.io.downloads import Downloader
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig
from tests.canary import CANARY
from tests.io.raw import Act, RawServer, Turn, respond, say
from tests.io.test_images import picture

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
PNG, JPEG = picture("PNG"), picture("JPEG")


def name(extension: str) -> str:
    return f"images/3f/p1.{extension}"


async def fetch(
    run_dir: Path,
    url: str,
    *,
    allow_loopback: bool = True,
    proxy: str | None = None,
) -> SavedFile | Fault:
    async with Downloader(run_dir, allow_loopback=allow_loopback, proxy=proxy) as downloader:
        return await downloader.save(url, name)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def saved(run_dir: Path, act: Act, path: str = "/1.png") -> tuple[SavedFile | Fault, RawServer]:
    async def scene() -> tuple[SavedFile | Fault, RawServer]:
        async with RawServer(act=act) as server:
            return await fetch(run_dir, f"{server.origin}{path}"), server

    return asyncio.run(scene())


def expect_fault(found: SavedFile | Fault, run_dir: Path, words: str = "", *, kind: str = "download") -> Fault:
    assert isinstance(found, Fault), found
    assert found.kind == kind
    assert words in found.message
    assert files_in(run_dir) == []
    return found


# ---------------------------------------------------------------------------------------------------- whole ones


def test_a_sandboxs_image_is_saved_whole(tmp_path: Path) -> None:
    """From submission to file: the bytes served, hashed, sized and measured, under the name that was asked for."""

    async def scene() -> tuple[SavedFile | Fault, bytes]:
        config = SandboxConfig(latency=Latency(median_s=0))
        async with RunningSandbox(config) as sandbox, Client(ApiKey(CANARY)) as client:
            body = encode_body({"prompt": "An owl", "seed": 7})
            taken = decipher_submit(await client.send(build_submit(sandbox.base_url, MODEL, body)))
            assert isinstance(taken, Accepted)
            wanted = taken.prediction.id
            done = decipher_result(await client.send(build_result(sandbox.base_url, wanted)), wanted)
            assert not isinstance(done, Fault)
            found = await fetch(tmp_path, done.outputs[0])
            return found, (tmp_path / "images/3f/p1.png").read_bytes()

    found, data = asyncio.run(scene())
    assert isinstance(found, SavedFile)
    assert found == SavedFile(
        path="images/3f/p1.png",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        width=384,
        height=384,
    )
    assert files_in(tmp_path) == ["images/3f/p1.png"]


@pytest.mark.parametrize(("data", "extension"), [(PNG, "png"), (JPEG, "jpg"), (picture("WEBP"), "webp")])
def test_the_extension_is_the_bytes(data: bytes, extension: str, tmp_path: Path) -> None:
    """A URL that ends in .gif and a header that says text are nothing: the file's kind is that of its bytes."""
    found, _ = saved(tmp_path, say(respond(data, "Content-Type: text/plain")), "/1.gif?sig=a%2Fb%20c")
    assert isinstance(found, SavedFile)
    assert (found.path, found.size_bytes) == (f"images/3f/p1.{extension}", len(data))
    assert (tmp_path / found.path).read_bytes() == data


def test_a_signed_url_goes_out_as_it_was_given(tmp_path: Path) -> None:
    """Query strings carry signatures: not a character of them is re-quoted. No key, no cookie goes with it."""
    found, server = saved(tmp_path, say(respond(PNG)), "/a%20b/1.png?sig=x%2By%3D&e=1:2,3&n=a+b")
    assert isinstance(found, SavedFile)
    head = server.turns[0].head
    assert head.startswith("GET /a%20b/1.png?sig=x%2By%3D&e=1:2,3&n=a+b HTTP/1.1\r\n")
    assert "authorization" not in head.lower()
    assert "cookie" not in head.lower()


def test_an_image_without_a_length_is_whole_if_it_is(tmp_path: Path) -> None:
    """The end of the connection may be the end of the image; its last pixel tells."""
    found, _ = saved(tmp_path, say(respond(PNG, "Connection: close", length=-1)))
    assert isinstance(found, SavedFile)


def test_a_second_download_replaces_the_first(tmp_path: Path) -> None:
    """A file that is fetched again is the new one, whole."""
    saved(tmp_path, say(respond(PNG)))
    larger = picture("PNG", size=(64, 64))
    found, _ = saved(tmp_path, say(respond(larger)))
    assert isinstance(found, SavedFile)
    assert (tmp_path / found.path).read_bytes() == larger


# ---------------------------------------------------------------------------------------------------- broken ones


@pytest.mark.security(16)
@pytest.mark.parametrize(
    "act",
    [
        say(respond(PNG[:60], length=len(PNG))),
        say(respond(PNG[:60], length=len(PNG)), then="reset"),
        say(respond(PNG[:-20], "Connection: close", length=-1)),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + PNG[:10]),
        say(respond(b"<!doctype html><title>Be right back</title>", "Content-Type: image/png")),
        say(respond(b"")),
        say(b"garbage\r\n\r\n"),
    ],
    ids=["cut", "cut by a reset", "cut without a length", "cut chunk", "a page", "nothing", "garbage"],
)
def test_broken_downloads_leave_nothing(act: Act, tmp_path: Path) -> None:
    """What isn't a whole image is a fault, and no file, whole or temporary, stays behind."""
    found, _ = saved(tmp_path, act)
    expect_fault(found, tmp_path)


def test_a_host_that_does_not_answer_is_told_from_what_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed without a word, silent after the head or before it, nobody at the port: of the network, nothing left."""
    monkeypatch.setattr(downloads, "_TIMEOUT", aiohttp.ClientTimeout(total=5, sock_connect=5, sock_read=0.05))

    async def silent(turn: Turn) -> None:
        await turn.reader.read()

    async def silent_after_the_head(turn: Turn) -> None:
        turn.writer.write(respond(PNG[:60], length=len(PNG)))
        await turn.reader.read()

    for act in (say(b""), silent, silent_after_the_head):
        found, _ = saved(tmp_path, act)
        expect_fault(found, tmp_path, kind="network")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        refused = asyncio.run(fetch(tmp_path, f"http://127.0.0.1:{unheard.getsockname()[1]}/a.png"))
    expect_fault(refused, tmp_path, kind="network")


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "410 Gone", "500 Oops", "206 Partial", "204 No"])
def test_a_status_is_told(status: str, tmp_path: Path) -> None:
    """Anything but 200 is no image; the status travels as the fault's code, so that a dead URL shows."""
    found, _ = saved(tmp_path, say(respond(b"" if status[:3] == "204" else PNG, status=status)))
    assert expect_fault(found, tmp_path, f"HTTP {status[:3]}").code == int(status[:3])


@pytest.mark.security(12)
@pytest.mark.security(15)
def test_an_image_beyond_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without end stops at the cap and leaves nothing."""
    monkeypatch.setattr(downloads, "_MAX_IMAGE_BYTES", 1 << 20)
    written = 0

    async def flood(turn: Turn) -> None:
        nonlocal written
        turn.writer.write(respond(b"", "Connection: close", length=-1))
        while written < 32 << 20 and not turn.writer.is_closing():
            turn.writer.write(PNG * 100)
            await turn.writer.drain()
            written += len(PNG) * 100
        turn.writer.close()

    found, _ = saved(tmp_path, flood)
    expect_fault(found, tmp_path, "larger than 1 MiB")
    assert written < 16 << 20


@pytest.mark.security(15)
@pytest.mark.fault("S08")
@pytest.mark.parametrize(
    "url",
    [
        "http://host.invalid:99999/a.png",
        "http://host.invalid:x/a.png",
        "http://[::1/a.png",
        "http://",
        "ftp://127.0.0.1/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://exämple.invalid/ü\ud800",
        "/relative.png",
        "",
    ],
)
def test_urls_that_are_none(url: str, tmp_path: Path) -> None:
    """S08: whatever stands where a URL should, it is a fault of this image and never the end of the run."""
    expect_fault(asyncio.run(fetch(tmp_path, url)), tmp_path)


def test_the_sandboxs_own_faults(tmp_path: Path) -> None:
    """A page, a flipped image, a cut one and resets from a real server, then a whole one.

    Two resets, since aiohttp itself asks once more for a GET whose kept connection died.
    """
    rules = (
        FaultRule(on="output", do="html", at=frozenset({1})),
        FaultRule(on="output", do="corrupt", at=frozenset({2})),
        FaultRule(on="output", do="truncate", at=frozenset({3})),
        FaultRule(on="output", do="reset", at=frozenset({4, 5})),
    )

    async def scene() -> list[SavedFile | Fault]:
        config = SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))
        async with RunningSandbox(config) as sandbox, Client(ApiKey(CANARY)) as client:
            body = encode_body({"prompt": "An owl", "seed": 7})
            taken = decipher_submit(await client.send(build_submit(sandbox.base_url, MODEL, body)))
            assert isinstance(taken, Accepted)
            found = decipher_result(
                await client.send(build_result(sandbox.base_url, taken.prediction.id)), taken.prediction.id
            )
            assert not isinstance(found, Fault)
            return [await fetch(tmp_path, found.outputs[0]) for _ in range(5)]

    *broken, whole = asyncio.run(scene())
    assert all(isinstance(each, Fault) for each in broken)
    assert isinstance(whole, SavedFile)
    assert files_in(tmp_path) == [whole.path]


# ---------------------------------------------------------------------------------------------------- redirects


def hop(to: str, status: str = "302 Found") -> bytes:
    return respond(b"", f"Location: {to}", status=status)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_of_outputs_are_followed(status: str, tmp_path: Path) -> None:
    """Image hosts redirect: a few hops, relative ones too, lead to the image."""

    async def act(turn: Turn) -> None:
        turn.writer.write(respond(PNG) if turn.number == 3 else hop(f"../{turn.number}.png", status))
        turn.writer.close()

    found, server = saved(tmp_path, act, "/a/b/1.png")
    assert isinstance(found, SavedFile)
    assert [turn.head.split()[1] for turn in server.turns] == ["/a/b/1.png", "/a/1.png", "/2.png"]


@pytest.mark.parametrize(
    "location", ["/1.png", "", "http://[::1", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://h:x/"]
)
def test_redirects_that_lead_nowhere(location: str, tmp_path: Path) -> None:
    """Circles, other schemes and impossible places end after a few hops."""
    found, server = saved(tmp_path, say(hop(location)))
    expect_fault(found, tmp_path)
    assert len(server.turns) <= 4


# ---------------------------------------------------------------------------------------------------- private places

PRIVATE = [
    "127.0.0.1",
    "127.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - an address that is not fetched from
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00::1]",
    "[ff02::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]",
]


@pytest.mark.security(15)
@pytest.mark.fault("X08")
@pytest.mark.parametrize("host", [*PRIVATE, "2130706433", "0x7f000001", "127.1", "localhost"])
def test_private_addresses_are_not_fetched_from(host: str, tmp_path: Path) -> None:
    """X08: literal, mapped, decimal, shortened and named addresses of private networks see no connection."""

    async def scene() -> SavedFile | Fault:
        async with RawServer(act=say(respond(PNG))) as server:
            found = await fetch(tmp_path, f"http://{host}:{server.port}/1.png", allow_loopback=False)
            assert server.connections == 0
            return found

    expect_fault(asyncio.run(scene()), tmp_path)


@pytest.mark.security(15)
@pytest.mark.parametrize("host", [host for host in PRIVATE if not host.startswith(("127.", "[::1]", "[::ffff:127"))])
def test_loopback_is_all_that_a_rehearsal_adds(host: str, tmp_path: Path) -> None:
    """Where the API is on loopback its images may be, and still nothing else that is private."""
    found = asyncio.run(fetch(tmp_path, f"http://{host}:9/1.png"))
    expect_fault(found, tmp_path, "private network")


class FakeResolver:
    """Answers every name with the addresses given, in turns."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


@pytest.mark.security(15)
@pytest.mark.fault("X08")
@pytest.mark.parametrize("addresses", [["10.0.0.7"], ["93.184.215.14", "192.168.0.1"], ["::ffff:169.254.169.254"]])
def test_names_that_point_into_private_networks(
    addresses: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X08: what a name resolves to is checked, every address of it, at the moment of connecting."""
    monkeypatch.setattr(downloads, "ThreadedResolver", lambda: FakeResolver(addresses))
    expect_fault(asyncio.run(fetch(tmp_path, "http://images.example/1.png")), tmp_path, "private network")


@pytest.mark.security(15)
@pytest.mark.fault("X08")
def test_a_redirect_into_a_private_network(tmp_path: Path) -> None:
    """Each hop is checked like the first: a public host can't send us to the metadata service."""
    for place in ("http://169.254.169.254/latest", "http://[fd00::1]/", "//10.0.0.1/x"):
        found, _ = saved(tmp_path, say(hop(place)))
        expect_fault(found, tmp_path, "private network")


def test_a_proxy_of_the_spec_may_be_in_a_private_network(tmp_path: Path) -> None:
    """The user named the proxy: it is not an output's host, and where it resolves to is no reason to refuse."""

    async def scene() -> SavedFile | Fault:
        async with RawServer(act=say(respond(PNG))) as proxy:
            found = await fetch(
                tmp_path,
                "http://images.example/1.png",
                allow_loopback=False,
                proxy=f"http://localhost:{proxy.port}",
            )
            assert proxy.turns[0].head.startswith("GET http://images.example/1.png HTTP/1.1\r\n")
            return found

    assert isinstance(asyncio.run(scene()), SavedFile)


# ---------------------------------------------------------------------------------------------------- the disk


def refusing(monkeypatch: pytest.MonkeyPatch, call: str, error: int) -> None:
    """Let one system call fail for files of images; the others, and this one elsewhere, go on."""
    real: Callable[..., Any] = getattr(os, call)
    opened: set[int] = set()
    real_open = os.open

    def open_(path: Any, *args: Any, **options: Any) -> int:
        if call == "open" and ".tmp-" in str(path):
            raise OSError(error, os.strerror(error))
        found = real_open(path, *args, **options)
        if ".tmp-" in str(path):
            opened.add(found)
        else:
            opened.discard(found)
        return found

    def refuse(first: Any, *args: Any, **options: Any) -> Any:
        if first in opened or ".tmp-" in str(first):
            raise OSError(error, os.strerror(error))
        return real(first, *args, **options)

    monkeypatch.setattr(os, "open", open_)
    if call != "open":
        monkeypatch.setattr(os, call, refuse)


@pytest.mark.fault("D01")
@pytest.mark.parametrize(
    ("call", "error"),
    [("open", errno.EACCES), ("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EROFS)],
)
def test_a_disk_that_refuses_ends_the_run(
    call: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or broken disk is no fault of one image: it is raised, and nothing half-written has a name."""

    async def scene() -> None:
        async with RawServer(act=say(respond(PNG))) as server:
            url = f"{server.origin}/1.png"
            with monkeypatch.context() as patch:
                refusing(patch, call, error)
                with pytest.raises(StorageError) as caught:
                    await fetch(tmp_path, url)
            assert caught.value.cause.errno == error
            assert files_in(tmp_path) == []
            assert isinstance(await fetch(tmp_path, url), SavedFile)

    asyncio.run(scene())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where the folder should be is the disk's refusal too."""
    (tmp_path / "images").write_text("in the way")

    async def scene() -> None:
        async with RawServer(act=say(respond(PNG))) as server:
            with pytest.raises(StorageError):
                await fetch(tmp_path, f"{server.origin}/1.png")

    asyncio.run(scene())


def test_new_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name and hash are durable lies in a folder that is: each new folder's name is flushed."""
    flushed: list[Path] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        flushed.append(Path(os.readlink(f"/proc/self/fd/{fd}")))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system doesn't say which file a descriptor is")
    monkeypatch.setattr(os, "fsync", fsync)
    found, _ = saved(tmp_path, say(respond(PNG)))
    assert isinstance(found, SavedFile)
    assert {tmp_path, tmp_path / "images", tmp_path / "images/3f"} <= set(flushed)


def test_cancelled_downloads_leave_nothing(tmp_path: Path) -> None:
    """A run that stops lets go of downloads at once, and their beginnings go with them."""

    async def scene() -> None:
        arrived = asyncio.Event()

        async def half(turn: Turn) -> None:
            turn.writer.write(respond(PNG[:60], length=len(PNG)))
            await turn.writer.drain()
            arrived.set()

        async with RawServer(act=half) as server, asyncio.TaskGroup() as group:
            fetching = group.create_task(fetch(tmp_path, f"{server.origin}/1.png"))
            await arrived.wait()
            fetching.cancel()
        assert files_in(tmp_path) == []

    asyncio.run(scene())
