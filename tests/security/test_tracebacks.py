"""Tracebacks with the variables of their frames, as error trackers and notebooks print them: the key is in none."""

import asyncio
import errno
import gc
import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest

import batchflux
from batchflux.app import run as run_module
from batchflux.core.errors import BatchfluxError, UsageError
from batchflux.core.http1 import AnswerReader
from batchflux.core.protocol import HttpRequest, TransportFault
from batchflux.engine import local
from batchflux.io import client as client_module
from batchflux.io import connection, downloads, storage
from batchflux.io.client import ApiKey, Client
from batchflux.io.runlog import RunLog
from tests.app.service import quick_service, write_spec
from tests.canary import CANARY, is_in
from tests.io.raw import Act, RawServer, Turn, respond, say
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
        lines += [told(inner) for inner in seen.exceptions] if isinstance(seen, BaseExceptionGroup) else []
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
        (post, client_module, "split_url"),
        (post, connection.Dialer, "connect"),
        (post, connection.Dialer, "_look_up"),
        (post, aiohappyeyeballs, "start_connection"),
        (post, connection, "Connection"),
        (post, Client, "_build"),
        (post, client_module, "AnswerReader"),
        (post, connection.Connection, "round_trip"),
        (get, connection.Connection, "_standing"),
        (post, AnswerReader, "feed"),
        (get, AnswerReader, "_frame"),
        (post, Client, "_header_of"),
        (post, connection.Connection, "close"),
    ],
)
def test_a_bug_anywhere_below_shows_no_key(
    build: Callable[[str], HttpRequest], owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever under a request something unexpected is raised, no frame that it passed shows the key.

    What is raised beside the request, where asyncio hands over what came, is a fault like any other.
    """
    raised = False

    def fail(*args: object, **options: object) -> None:
        nonlocal raised
        raised = True
        raise Refusal

    async def scene() -> object:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
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


def test_what_carries_the_key_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request's bytes and all that they pass keep the header, and print nothing of it."""
    shown: list[str] = []
    real = connection.Connection.round_trip

    async def look(self: connection.Connection, request: connection.Sealed, *args: Any, **options: Any) -> None:
        assert is_in(bytes(request).decode())
        shown.extend((repr(request), str(request), f"{request!r} {request}", repr([request]), repr(vars(self))))
        await real(self, request, *args, **options)
        shown.extend((repr(self), repr(vars(self))))

    async def scene() -> None:
        monkeypatch.setattr(connection.Connection, "round_trip", look)
        async with RawServer(act=say(respond(b"{}"))) as server, Client(ApiKey(CANARY)) as client:
            await client.send(post(server.origin))
            shown.extend((repr(client), repr(vars(client)), repr(client._key.header()), repr(vars(client._dialer))))
            assert f"Authorization: Bearer {CANARY}" in server.turns[0].head

    asyncio.run(scene())
    assert "<a request>" in "\n".join(shown)
    assert not is_in("\n".join(shown))


def test_a_cancelled_request_shows_no_key() -> None:
    """Stopping a run cancels what waits for an answer: the cancellation carries nothing out."""

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
def test_no_failure_leaves_a_trace(
    act: Act, build: Callable[[str], HttpRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every broken answer becomes a value; what was raised for it would have shown nothing either."""
    raised: list[Exception] = []
    real = client_module._words

    def words(error: Exception) -> str:
        raised.append(error)
        return real(error)

    async def scene() -> object:
        monkeypatch.setattr(client_module, "_words", words)
        async with RawServer(act=act) as server, Client(ApiKey(CANARY)) as client:
            return await client.send(build(server.origin))

    found = asyncio.run(scene())
    assert isinstance(found, TransportFault)
    assert raised
    assert not is_in(repr(found) + "".join(map(told, raised)))


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

    async def scene(send: Callable[[Client, str], Coroutine[Any, Any, object]]) -> None:
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


def break_(owner: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what lets a function raise what nobody expects."""

    def fail(*args: object, **options: object) -> None:
        raise Refusal

    return lambda patch: patch.setattr(owner, name, fail)


RUNS: dict[str, tuple[dict[str, Any], Callable[[pytest.MonkeyPatch], None]]] = {
    "no sandbox": ({"sandbox": True}, lambda patch: patch.setattr(sys, "executable", "/nowhere/python")),
    "another host": ({"api.base_url": "https://gateway.example"}, lambda patch: None),
    "no certificates": ({"api.ca_file": "/nowhere/ca.pem"}, lambda patch: None),
    "no key": ({"api.key_env": "NO_SUCH_KEY"}, lambda patch: None),
    "a bug in the client": ({}, break_(Client, "_build")),
    "a bug in the engine": ({}, break_(local.Engine, "run")),
    "a bug in the log": ({}, break_(RunLog, "fact")),
    "a bug in the downloads": ({}, break_(downloads, "inspect_image")),
    "a bug after the run": ({}, break_(run_module, "publish_results")),
    "a disk that fails": ({}, lambda patch: patch.setattr(storage, "sync_dir", failing_disk)),
}


def failing_disk(folder: Path) -> None:
    """Refuse as a broken disk does."""
    raise OSError(errno.EIO, "broken")


@pytest.mark.security(5)
@pytest.mark.parametrize("name", RUNS)
def test_whatever_ends_a_run_shows_no_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python, where a notebook or an error tracker prints all frames' variables: each way in which a run fails."""
    overrides, break_it = RUNS[name]
    options = batchflux.RunOptions(sandbox=bool(overrides.get("sandbox")))
    with quick_service() as service:
        spec = write_spec(tmp_path, service, "prompt\na kite\n", output={"dir": "out"})
        job = batchflux.load_job(spec, {key: value for key, value in overrides.items() if key != "sandbox"})
        break_it(monkeypatch)
        with pytest.raises((BatchfluxError, Refusal, BaseExceptionGroup)) as caught:
            batchflux.run(job, options)
        monkeypatch.undo()
    assert not is_in(told(caught.value))
    assert not is_in(str(caught.value))
