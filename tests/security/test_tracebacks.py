"""Tracebacks with the variables of their frames, as error trackers and notebooks print them: the key is in none."""

import asyncio
import gc
import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import client_reqrep, http_writer

from batchflux.core.errors import UsageError
from batchflux.core.protocol import HttpRequest, TransportFault
from batchflux.io import client as client_module
from batchflux.io.client import ApiKey, Client
from tests.canary import CANARY, is_in
from tests.io.raw import RawServer, Turn, respond, say
from tests.io.test_client import BROKEN, get, post

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.security(2), pytest.mark.security(3)]


class Refusal(Exception):
    """Stands for any bug: nobody expects it, so that it passes everything."""


def told(error: BaseException) -> str:
    """Return all that a tool could print of an exception: the variables of every frame that isn't a test's own."""
    lines = []
    seen: BaseException | None = error
    while seen is not None:
        lines += [repr(seen), repr(seen.args), repr(vars(seen))]
        frames = traceback.TracebackException.from_exception(seen, capture_locals=True).stack
        lines += [repr((frame.name, frame.line, frame.locals)) for frame in frames if not is_ours(frame.filename)]
        seen = seen.__cause__ or seen.__context__
    return "\n".join(lines)


def is_ours(filename: str) -> bool:
    """Return whether a frame is of the tests, whose servers and expectations know the key."""
    return Path(filename).is_relative_to(TESTS)


def test_this_would_find_it() -> None:
    """Where a frame holds the plain key, what is told holds it: the other tests here can fail."""
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads(f"Bearer {CANARY}")
    assert is_in(told(caught.value))


@pytest.mark.parametrize(
    ("build", "owner", "name"),
    [
        (post, aiohttp.TCPConnector, "connect"),
        (post, client_reqrep.ClientRequest, "__init__"),
        (post, client_reqrep.ClientRequest, "send"),
        (post, http_writer.StreamWriter, "write_headers"),
        (post, http_writer.StreamWriter, "_writelines"),
        (post, client_reqrep.ClientResponse, "start"),
        (post, client_module, "_read"),
        (get, http_writer.StreamWriter, "_write"),
        (post, client_module, "_note_sent"),
    ],
)
def test_a_bug_anywhere_below_shows_no_key(
    build: Callable[[str], HttpRequest], owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever under a request something unexpected is raised, no frame that it passed shows the key.

    What is raised beside the request, in aiohttp's own task that writes, is a fault like any other.
    """
    raised = False

    def fail(*args: object, **options: object) -> None:
        nonlocal raised
        raised = True
        raise Refusal

    async def scene() -> object:
        monkeypatch.setattr(owner, name, fail)
        async with RawServer(act=say(respond(b"{}"))) as server, Client(ApiKey(CANARY)) as client:
            try:
                return await client.send(build(server.origin))
            except Refusal as error:
                return told(error)
            finally:
                monkeypatch.undo()

    found = asyncio.run(scene())
    assert raised
    assert isinstance(found, TransportFault | str)
    assert not is_in(repr(found))


def test_aiohttps_own_objects_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests, answers and what aiohttp raises about them keep the header, and print *** for it."""
    shown: list[str] = []
    real = client_module._read

    async def look(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
        error = aiohttp.ClientResponseError(response.request_info, response.history, status=500)
        shown.extend(map(repr, (response, response.request_info, error, error.args, vars(error))))
        shown.append(repr(response.request_info.headers))
        return await real(response, most_bytes)

    async def scene() -> None:
        monkeypatch.setattr(client_module, "_read", look)
        async with RawServer(act=say(respond(b"{}"))) as server, Client(ApiKey(CANARY)) as client:
            await client.send(post(server.origin))
            shown.extend(repr(vars(session)) for session in (client._posting, client._asking))
            assert f"Authorization: Bearer {CANARY}" in server.turns[0].head

    asyncio.run(scene())
    assert "Bearer ***" in "\n".join(shown)
    assert not is_in("\n".join(shown))


def test_a_cancelled_request_shows_no_key() -> None:
    """Stopping a run cancels what waits deep in aiohttp: the cancellation carries nothing out."""

    async def scene() -> str:
        arrived = asyncio.Event()

        async def act(turn: Turn) -> None:
            arrived.set()

        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(client.send(post(server.origin)))
                await arrived.wait()
                sending.cancel()
            try:
                sending.result()
            except asyncio.CancelledError as error:
                return told(error)
        raise AssertionError("not cancelled")

    assert not is_in(asyncio.run(scene()))


@pytest.mark.parametrize("act", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("build", [post, get])
def test_no_failure_leaves_a_trace(act: Any, build: Callable[[str], HttpRequest]) -> None:
    """Every broken answer becomes a value without a traceback; what caused it is gone, or shows nothing."""
    caught: list[BaseException] = []

    async def scene() -> HttpRequest | object:
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            found = await client.send(build(server.origin))
            caught.extend(each for each in gc.get_objects() if isinstance(each, aiohttp.ClientError))
            return found

    found = asyncio.run(scene())
    assert isinstance(found, TransportFault)
    assert not is_in(repr(found))
    assert not any(is_in(told(error)) for error in caught if error.__traceback__ is not None)


@pytest.mark.parametrize("value", [f'"{CANARY}"', f"{CANARY} {CANARY}", f"{CANARY}ключ"])
def test_a_key_that_is_refused_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with quotes or spaces around it is nearly the key: not a variable on the way holds it."""
    monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(UsageError) as caught:
        ApiKey.from_environment("SOME_KEY")
    assert not is_in(told(caught.value))
    assert not is_in(str(caught.value))


@pytest.mark.security(4)
def test_logs_warnings_and_hooks_hear_no_key(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp's and asyncio's debug logs, the loop's handler, warnings and the hooks of threads tell nothing of it."""
    caplog.set_level(logging.DEBUG)
    heard: list[str] = []

    def on_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        heard.append(repr(context))
        if (error := context.get("exception")) is not None:
            heard.append(told(error))

    async def scene(send: Callable[[Client, str], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0.0  # every step is a slow one, and logged
        loop.set_exception_handler(on_loop)
        arrived = asyncio.Event()

        async def hang(turn: Turn) -> None:
            arrived.set()

        async with RawServer(act=hang) as server:
            client = await Client(ApiKey(CANARY)).__aenter__()
            sending = loop.create_task(send(client, server.origin))
            sending.add_done_callback(lambda task: arrived.set())
            await arrived.wait()
            del client  # nobody closes it: connections, sessions and tasks complain
        gc.collect()

    async def asks(client: Client, origin: str) -> object:
        return await client.send(post(origin))

    async def fails(client: Client, origin: str) -> object:
        return await client.send(HttpRequest(method="POST", url=origin, body="no bytes"))  # type: ignore[arg-type]

    def in_thread() -> None:
        asyncio.run(scene(asks))
        asyncio.run(scene(fails))
        raise Refusal

    def on_thread(args: threading.ExceptHookArgs) -> None:
        heard.append(told(args.exc_value) if args.exc_value else "")

    hook, threading.excepthook = threading.excepthook, on_thread
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda args: heard.append(repr(args))
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()
            gc.collect()
    finally:
        threading.excepthook, sys.unraisablehook = hook, unraisable
    assert any("Refusal" in each for each in heard)
    assert "asyncio" in caplog.text
    everything = [*heard, *(str(each) for each in warned), *(repr(vars(record)) for record in caplog.records)]
    assert not is_in("\n".join([*everything, caplog.text]))
