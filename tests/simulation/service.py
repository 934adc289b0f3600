"""A simulated service behind a simulated network: the sandbox's own state machine, and faults drawn from dice.

What the service does happens on timers of its own, whether or not the process that asked still lives. Its list of
creations is the truth that runs are held against. It keeps to what the engine may rely on: nothing is created or
listed for the first time later than `settle` after the connection ended.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.sandbox.behaviour import Behaviour, Fate, PredictionRecord
from batchflux.sandbox.config import SandboxConfig
from batchflux.sandbox.endpoints import Call, Endpoints, parse_route
from batchflux.sandbox.wire import Answer

__all__ = ["BASE_URL", "EPOCH_S", "Creation", "Outage", "Service", "Weather", "body_text"]

BASE_URL = "http://127.0.0.1:9/api/v3"
EPOCH_S = 1_790_000_000.0
_MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
# The client's own bound on an answer that doesn't come.
_READ_TIMEOUT_S = 30.0
_CREDIT_SHARE = 0.08

OutageKind = Literal["unreachable", "bad_gateway", "created_502", "refusing", "refusing_posts", "hanging"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A span of virtual seconds in which one thing befalls every request."""

    kind: OutageKind
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What goes wrong: shares of submissions, polls and listings by fault, and outages."""

    submit: dict[str, float] = field(default_factory=dict)
    poll: dict[str, float] = field(default_factory=dict)
    history: dict[str, float] = field(default_factory=dict)
    outages: tuple[Outage, ...] = ()
    has_history: bool = True
    stuck_share: float = 0.0
    codeless_share: float = 0.0
    slow_share: float = 0.0
    most_way_s: float = 0.2

    def outage_at(self, now_s: float) -> OutageKind | None:
        """Return what befalls everything at a moment."""
        return next((each.kind for each in self.outages if each.from_s <= now_s < each.to_s), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """One prediction that a submission of ours made: the truth."""

    record: PredictionRecord
    body: str
    session: int


def body_text(body: Any) -> str:
    """Return a request body as one comparable text."""
    return json.dumps(body, sort_keys=True)


class Service:
    """The account, the wire and the network between. `session` is whose requests are being sent."""

    def __init__(
        self, config: SandboxConfig, *, weather: Weather, settle_s: float, skew_s: float, dice: random.Random
    ) -> None:
        self.behaviour = Behaviour(config)
        self.weather = weather
        self.session = 0
        self.creations: list[Creation] = []
        self.rejected: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.posts = 0
        self.accepted_at_s: list[float] = []
        self.before_post: Callable[[str], None] = lambda body: None
        self.on_creation: Callable[[Creation], None] = lambda creation: None
        self._dice, self._skew_s = dice, skew_s
        # Created and listed by then: what the engine waits for.
        self._latest_s = max(0.2, settle_s - config.history_lag_s - 1.0)
        self._endpoints = Endpoints(
            self.behaviour, ledger=None, clock=self.clock_s, rng=dice, origin="http://127.0.0.1:9"
        )
        self._given: list[str] = []
        self._told_ids: set[str] = set()
        self._hidden_once: set[str] = set()
        self._empty_once: set[str] = set()

    # ------------------------------------------------------------------------------------------ the account

    def clock_s(self) -> float:
        """Return the service's own time of day."""
        return EPOCH_S + asyncio.get_running_loop().time() + self._skew_s

    def top_up(self, usd: float) -> None:
        """Put money on the account."""
        config = self.behaviour.config
        self.behaviour.config = replace(config, balance_usd=config.balance_usd + usd)

    def begin_session(self) -> None:
        """Another process asks from here on: connections of the last one are gone, and their answers with them."""
        self.session += 1
        self._given.clear()

    def create_foreign(self, number: int) -> None:
        """Let another job of the same account make a prediction."""
        body = {"prompt": f"somebody else's, the {number}th", "seed": number}
        record = self.behaviour.submit(_MODEL, body, now_s=self.clock_s(), rng=self._dice)
        if isinstance(record, PredictionRecord):
            self.behaviour.add(record)

    def is_codeless(self, prediction_id: str) -> bool:
        """Return whether the service never says the code of this prediction's failure."""
        return int(prediction_id[:8], 16) / 2**32 < self.weather.codeless_share

    def _create(self, call: Call, body: str, session: int) -> Answer:
        stuck = self._dice.random() < self.weather.stuck_share
        before = self._endpoints.last_created
        answer = self._endpoints.answer(call, fate=Fate(is_stuck=stuck))
        record = self._endpoints.last_created
        if record is not None and record is not before:
            creation = Creation(record=record, body=body, session=session)
            self.creations.append(creation)
            self.on_creation(creation)
        return answer

    # ------------------------------------------------------------------------------------------ the network

    async def send(self, request: HttpRequest) -> HttpAnswer | TransportFault:
        """Send one request once: `engine.ports.Transport`."""
        path = request.url.removeprefix("http://127.0.0.1:9")
        call = Call(route=parse_route(request.method, path), body=request.body or b"", authorization="Bearer key")
        match call.route.place:
            case "submit":
                return await self._submit(call)
            case "result":
                return await self._poll(call)
            case _:
                return await self._list(call)

    def _way_s(self) -> float:
        """Return how long a request or an answer is on its way."""
        return self._dice.uniform(0.005, self.weather.most_way_s)

    def _draw(self, shares: dict[str, float]) -> str:
        luck = self._dice.random()
        for fault, share in shares.items():
            if luck < share:
                self.met[fault] += 1
                return fault
            luck -= share
        return "none"

    async def _submit(self, call: Call) -> HttpAnswer | TransportFault:
        self.posts += 1
        body = body_text(json.loads(call.body))
        self.before_post(body)
        fault = self._draw(self.weather.submit)
        match self.weather.outage_at(asyncio.get_running_loop().time()):
            case "unreachable":
                fault = "not_sent"
            case "bad_gateway":
                fault = "502_before"
            case "created_502":
                fault = "502_after"
            case "refusing" | "refusing_posts":
                fault = "429"
            case "hanging":
                fault = "hang_after" if self._dice.random() < 0.5 else "hang_before"
        self.met["submissions"] += 1
        return await self._carry_out(fault, call, body)

    async def _carry_out(self, fault: str, call: Call, body: str) -> HttpAnswer | TransportFault:
        """Do to one submission what the fault says: `_after` means that the prediction is made all the same."""
        dice = self._dice
        name, _, moment = fault.partition("_")
        if fault == "not_sent":
            await asyncio.sleep(dice.choice((0.01, 0.5, 10.0)))
            return TransportFault(sent=False, message="no route to host")
        there_s = self._way_s()
        if name in ("hang", "late"):
            if moment != "before":
                late_s = dice.uniform(0.0, min(20.0, self._latest_s) if name == "hang" else self._latest_s)
                self._later(there_s + late_s, call, body)
            await asyncio.sleep(_READ_TIMEOUT_S if name == "hang" else there_s)
            return TransportFault(sent=True, message="timed out" if name == "hang" else "connection reset")
        if moment == "before":
            await asyncio.sleep(there_s)
            return self._spoilt(name, None)
        if name in ("429", "400", "401", "redirect"):
            await asyncio.sleep(there_s)
            if name == "400":
                self.rejected[body] += 1
            return self._refusal(name)
        if name == "double":
            self._later(there_s, call, body)
        reply = self._later(there_s, call, body)
        answer = _http(await reply)
        await asyncio.sleep(self._way_s() if name != "slow" else dice.uniform(1.0, 28.0))
        if name in ("none", "slow", "double"):
            self._remember(answer)
            return answer
        return self._spoilt(name, answer)

    def _later(self, seconds: float, call: Call, body: str) -> asyncio.Future[Answer]:
        """Let the service do what was asked for, on its own timer; nobody need live to hear."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Answer] = loop.create_future()
        session = self.session

        def work() -> None:
            answer = self._create(call, body, session)
            if not reply.cancelled():
                reply.set_result(answer)

        loop.call_later(seconds, work)
        return reply

    def _remember(self, answer: HttpAnswer) -> None:
        data = json.loads(answer.body).get("data")
        if isinstance(data, dict) and isinstance(data.get("id"), str):
            self._given.append(data["id"])
            self._told_ids.add(data["id"])
            self.accepted_at_s.append(asyncio.get_running_loop().time())

    def _spoilt(self, name: str, answer: HttpAnswer | None) -> HttpAnswer | TransportFault:
        """Return what is left of an answer; None where the prediction was never made."""
        match name:
            case "lost":
                return TransportFault(sent=True, message="connection reset by peer")
            case "garbage":
                return HttpAnswer(status=200, body=b'{"code":200,"data":{"id":"')
            case "html":
                return HttpAnswer(status=self._dice.choice((200, 403, 500, 503)), body=b"<html>be right back</html>")
            case "stale" if self._given and answer is not None:
                envelope = json.loads(answer.body)
                if isinstance(envelope.get("data"), dict):
                    envelope["data"]["id"] = self._dice.choice(self._given)
                    return replace(answer, body=json.dumps(envelope).encode())
                return answer
            case "stale":
                return TransportFault(sent=True, message="connection reset by peer")
            case _:
                envelope = {"code": int(name), "message": "the service's words"}
                return HttpAnswer(status=int(name), body=json.dumps(envelope).encode())

    def _refusal(self, name: str) -> HttpAnswer:
        if name == "redirect":
            return HttpAnswer(status=307, body=b"", location="https://elsewhere.example/")
        retry_after = self._dice.choice((None, "0", "1", "7", "90", "soon")) if name == "429" else None
        envelope = {"code": int(name), "message": "the service refuses"}
        return HttpAnswer(status=int(name), body=json.dumps(envelope).encode(), retry_after=retry_after)

    # ------------------------------------------------------------------------------------------ queries

    async def _poll(self, call: Call) -> HttpAnswer | TransportFault:
        fault = self._draw(self.weather.poll)
        match self.weather.outage_at(asyncio.get_running_loop().time()):
            case "unreachable" | "hanging":
                fault = "lost"
            case "bad_gateway":
                fault = "502"
            case "refusing":
                fault = "429"
        is_slow = self._dice.random() < self.weather.slow_share
        await asyncio.sleep(self._dice.uniform(0.5, 15.0) if is_slow else self._way_s())
        if fault in ("lost", "garbage", "html"):
            return self._spoilt(fault, None)
        if fault in ("429", "404", "500", "502"):
            return self._refusal(fault)
        return self._told(_http(self._endpoints.answer(call)), fault)

    def _told(self, answer: HttpAnswer, fault: str) -> HttpAnswer:
        """Return a result with the service's moods: a new word for a status, outputs that come later, no code."""
        envelope = json.loads(answer.body)
        data = envelope.get("data")
        if not isinstance(data, dict):
            return answer
        if fault == "word" and data["status"] in ("created", "processing"):
            data["status"] = "queued"
        if fault == "empty" and data["status"] == "completed" and data["id"] not in self._empty_once:
            self._empty_once.add(data["id"])
            data["outputs"] = []
        if self.is_codeless(data["id"]):
            data.pop("code", None)
        return replace(answer, body=json.dumps(envelope).encode())

    async def _list(self, call: Call) -> HttpAnswer | TransportFault:
        fault = self._draw(self.weather.history)
        if self.weather.outage_at(asyncio.get_running_loop().time()) in ("unreachable", "hanging", "bad_gateway"):
            fault = "lost"
        await asyncio.sleep(self._dice.uniform(0.005, 0.5))
        if not self.weather.has_history:
            return self._refusal("404")
        if fault in ("lost", "garbage", "html"):
            return self._spoilt(fault, None)
        if fault in ("429", "500"):
            return self._refusal(fault)
        answer = _http(self._endpoints.answer(call))
        return self._with_a_gap(answer) if fault == "missing" else answer

    def _with_a_gap(self, answer: HttpAnswer) -> HttpAnswer:
        """Leave an entry out of one listing, rather one that was lost; each at most once, since two must agree."""
        envelope = json.loads(answer.body)
        items = envelope["data"]["items"]
        candidates = [item for item in items if item["id"] not in self._hidden_once]
        untold = [item for item in candidates if item["id"] not in self._told_ids]
        if candidates:
            gone = self._dice.choice(untold or candidates)
            self._hidden_once.add(gone["id"])
            items.remove(gone)
        return replace(answer, body=json.dumps(envelope).encode())


def _http(answer: Answer) -> HttpAnswer:
    headers = answer.headers or {}
    return HttpAnswer(status=answer.status, body=answer.body, retry_after=headers.get("Retry-After"))
