"""The sandbox on a socket: reads requests, lets a fault befall them or answers them, and draws images off the loop.

The only room with a clock, dice and a port. Decides nothing about the service; listens on 127.0.0.1 alone. One task
a connection and none a prediction: what becomes of those is computed when it is asked for.
"""

import asyncio
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from batchflux.core.errors import StorageError, UsageError
from batchflux.sandbox import wire
from batchflux.sandbox.behaviour import FATED_BY_DICE, Behaviour, Fate, PredictionRecord, Refusal
from batchflux.sandbox.config import SandboxConfig
from batchflux.sandbox.disruption import Disruption, response_of
from batchflux.sandbox.endpoints import Call, Endpoints, parse_route
from batchflux.sandbox.faults import Endpoint, FaultPlayer
from batchflux.sandbox.images import Painter
from batchflux.sandbox.ledger import Ledger, StateInUse
from batchflux.sandbox.wire import Answer

__all__ = ["Sandbox"]

# A sandbox killed with its parent lets go of its memory within moments; its successor waits for that.
_STATE_PATIENCE_S = 10.0

# The service ends a synchronous wait after this long and says "processing", code 5004 (its SDKs' fixtures).
_SYNC_PATIENCE_S = 90.0

# How long open connections get to end by themselves when the sandbox stops.
_GOODBYE_S = 0.2

# A connection just taken is known to the server two turns of the loop later; before, nobody would close it.
_ACCEPT_TURNS = 3

# Prompts of 150,000 characters are expected; anything near this is refused with 413.
_MAX_BODY_BYTES = 8 * 1024 * 1024

_FAULTY: tuple[Endpoint, ...] = (
    "submit",
    "result",
    "history",
    "delete",
    "billing",
    "models",
    "balance",
    "price",
    "output",
)


class Sandbox:
    """A running sandbox: `async with Sandbox(config) as sandbox:`. Raises UsageError and StorageError at the start.

    `clock` gives seconds since the epoch, for tests that can't wait for days to pass.
    """

    def __init__(self, config: SandboxConfig, *, clock: Callable[[], float] | None = None) -> None:
        self.behaviour = Behaviour(config)
        self.faults = FaultPlayer(config.faults)
        self._config = config
        self._ledger: Ledger | None = None
        self._painters = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-painter")
        self._painter = Painter(long_side_px=config.image_size, image_format=config.image_format)
        self._clock = _steady_clock() if clock is None else clock
        self._later: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._painters.shutdown, wait=False, cancel_futures=True)
            if self._config.state_dir is not None:
                self._ledger = await _open_ledger(self._config.state_dir)
                stack.callback(self._ledger.close)
                self._remember(self._ledger)
            listener = _listen(self._config.port, last_port=self._ledger.read_port() if self._ledger else 0)
            stack.callback(listener.close)
            self._take_address(int(listener.getsockname()[1]))
            await self._start_listening(listener)
            stack.push_async_callback(self._stop_listening)
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    def _take_address(self, port: int) -> None:
        if self._ledger is not None:
            self._ledger.write_port(port)
        self.origin = f"http://{self._config.host}:{port}"
        self.base_url = f"{self.origin}/api/v3"
        self.endpoints = Endpoints(
            self.behaviour,
            ledger=self._ledger,
            clock=self._clock,
            # Seeded by what is remembered, too: a restarted sandbox must not give the same ids out again.
            rng=random.Random(f"{self._config.seed}:{len(self.behaviour.everything())}"),
            origin=self.origin,
        )

    async def _start_listening(self, listener: socket.socket) -> None:
        self._web = web.Server(self._handle, request_factory=_make_request, handler_cancellation=True, access_log=None)
        self._listening = await asyncio.get_running_loop().create_server(self._web, sock=listener, backlog=1024)

    async def _stop_listening(self) -> None:
        self._listening.close()
        for timer in self._later:
            timer.cancel()
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        await self._web.shutdown(_GOODBYE_S)

    def stats(self) -> dict[str, Any]:
        """Return what `GET /sandbox/stats` gives."""
        return {**self.endpoints.stats(), "faults": list(self.faults.hits)}

    def _remember(self, ledger: Ledger) -> None:
        for entry in ledger.read():
            if isinstance(entry, PredictionRecord):
                self.behaviour.add(entry)
            else:
                self.behaviour.delete(entry)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        route = parse_route(request.method, request.path)
        self.endpoints.requests[route.place] += 1
        try:
            body = await request.read() if request.method == "POST" else b""
        except web.HTTPRequestEntityTooLarge:
            return response_of(wire.build_refusal(Refusal(status=413, message="the request body is too large")))
        call = Call(route=route, body=body, authorization=request.headers.get("Authorization", ""))
        place = route.place
        if place in _FAULTY and self.faults.has_rules_for(place):
            prompt, prediction_id = self.endpoints.prompt_of(call)
            rule = self.faults.choose(place, prompt=prompt, prediction_id=prediction_id)
            if rule is not None:
                return await Disruption(
                    rule=rule,
                    request=request,
                    make=lambda fate: self._answer(call, fate),
                    previous_id=self._previous_id,
                    create_later=lambda delay_s: self._create_later(call, delay_s),
                ).answer()
        return response_of(await self._answer(call, FATED_BY_DICE))

    async def _answer(self, call: Call, fate: Fate) -> Answer:
        match call.route.place:
            case "output":
                return await self._draw(call.route.name)
            case "stats":
                return wire.build_answer(self.stats())
            case "submit" if self._config.schema == "today":
                return await self._submit_and_wait(call, fate)
            case _:
                return self._answer_at_once(call, fate)

    def _answer_at_once(self, call: Call, fate: Fate = FATED_BY_DICE) -> Answer:
        try:
            return self.endpoints.answer(call, fate=fate)
        except StorageError as error:
            # Nothing was created: what the memory can't hold must not exist.
            return wire.build_refusal(Refusal(status=500, message=str(error)))

    async def _draw(self, name: str) -> Answer:
        picture = self.endpoints.find_picture(name)
        if picture is None:
            return wire.build_refusal(Refusal(status=404, message="no such output"))
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._painters, self._painter.draw, picture)
        return Answer(body=image, content_type=f"image/{self._config.image_format}")

    async def _submit_and_wait(self, call: Call, fate: Fate) -> Answer:
        """Submit, and where the inputs ask for synchronous mode, hold the answer until the prediction is done."""
        before = self.endpoints.last_created
        answer = self._answer_at_once(call, fate)
        record = self.endpoints.last_created
        if record is None or record is before or not record.parsed_inputs().get("enable_sync_mode"):
            return answer
        wait_s = self.endpoints.seconds_until_done(record)
        await asyncio.sleep(min(wait_s, _SYNC_PATIENCE_S))
        if wait_s <= _SYNC_PATIENCE_S:
            return self.endpoints.prediction_answer(record, is_fresh=False)
        return self.endpoints.sync_expired_answer(record)

    def _previous_id(self) -> str:
        previous = self.endpoints.previous_created
        return "" if previous is None else previous.id

    def _create_later(self, call: Call, delay_s: float) -> None:
        def create() -> None:
            self._later.discard(timer)
            self._answer_at_once(call)

        timer = asyncio.get_running_loop().call_later(delay_s, create)
        self._later.add(timer)


def _steady_clock() -> Callable[[], float]:
    """Return wall-clock time in seconds that a step of the clock can't turn back."""
    epoch_s = time.time() - time.monotonic()
    return lambda: epoch_s + time.monotonic()


async def _open_ledger(state_dir: Path) -> Ledger:
    deadline_s = time.monotonic() + _STATE_PATIENCE_S
    while True:
        try:
            return Ledger(state_dir)
        except StateInUse:
            if time.monotonic() >= deadline_s:
                raise
            await asyncio.sleep(0.05)


def _listen(port: int, *, last_port: int) -> socket.socket:
    """Return a socket bound to loopback: to the port asked for, else the last one if it is free, else any."""
    for candidate in (port,) if port else (last_port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError as error:
            listener.close()
            if candidate == port:
                raise UsageError(f"the sandbox can't listen on port {port}: {error.strerror}") from error
            continue
        return listener
    raise UsageError("no free port on loopback")


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY_BYTES)
