"""What each endpoint of the service answers: a request already read from the wire in, a whole answer out.

Joins behaviour, ledger and wire; the clock and the dice are handed in. Knows nothing of sockets or faults, and draws
no images: for those it only finds what is to be drawn.
"""

import hmac
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from batchflux.sandbox import wire
from batchflux.sandbox.behaviour import (
    FATED_BY_DICE,
    Behaviour,
    Fate,
    PredictionRecord,
    Refusal,
    draw_flags,
    seed_drawn,
)
from batchflux.sandbox.faults import Endpoint
from batchflux.sandbox.images import Picture
from batchflux.sandbox.ledger import Ledger
from batchflux.sandbox.vendor import MODELS, keep_known, with_defaults
from batchflux.sandbox.wire import Answer

__all__ = ["Call", "Endpoints", "Route", "parse_route"]

_PREFIX = "/api/v3/"

Place = Endpoint | Literal["home", "stats", "pricing", "nowhere"]

_HOME = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>batchflux sandbox</title>
<body style="font:16px/1.5 system-ui;max-width:40em;margin:4em auto;padding:0 1em">
<h1>This is a sandbox, not the model</h1>
<p>It speaks the wire of WaveSpeed's v3 API on this machine alone, so that a batchflux job can be rehearsed without a
key and without money. Its images are drawn here, by arithmetic; no model has seen the prompts.</p>
<p><a href="/sandbox/stats">What it has done so far</a></p></body></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes: the endpoint, and the model id, prediction id or file that the path names."""

    place: Place
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as read: its route, its body, and the Authorization header."""

    route: Route
    body: bytes = b""
    authorization: str = ""


_GETS: dict[str, Place] = {"balance": "balance", "models": "models"}
_POSTS: dict[str, Place] = {
    "predictions": "history",
    "predictions/delete": "delete",
    "billings/search": "billing",
    "model/price": "price",
    "model/pricing": "pricing",
}


def parse_route(method: str, path: str) -> Route:
    """Return where a request goes; a POST to no other endpoint is a submission to the model that the path names."""
    if path.startswith(_PREFIX):
        rest = path[len(_PREFIX) :].rstrip("/")
        if method == "POST":
            return Route(place=_POSTS.get(rest, "submit"), name=rest)
        if method == "GET" and rest.startswith("predictions/"):
            return Route(place="result", name=rest.removeprefix("predictions/").removesuffix("/result"))
        return Route(place=_GETS.get(rest, "nowhere") if method == "GET" else "nowhere")
    if method in ("GET", "HEAD"):
        if path.startswith("/output/"):
            return Route(place="output", name=path.removeprefix("/output/"))
        if path in ("/", "/sandbox/stats"):
            return Route(place="home" if path == "/" else "stats")
    return Route(place="nowhere")


class Endpoints:
    """The service behind its wire. `clock` gives seconds since the epoch; `origin` is where it is reached."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        ledger: Ledger | None,
        clock: Callable[[], float],
        rng: random.Random,
        origin: str,
    ) -> None:
        self.behaviour = behaviour
        self.requests: Counter[str] = Counter()
        self._config = behaviour.config
        self._ledger, self._clock, self._rng, self._origin = ledger, clock, rng, origin
        self._extension = "png" if self._config.image_format == "png" else "jpeg"
        self._last_created: PredictionRecord | None = None
        self._previous: PredictionRecord | None = None

    @property
    def last_created(self) -> PredictionRecord | None:
        """The newest prediction that this process created."""
        return self._last_created

    @property
    def previous_created(self) -> PredictionRecord | None:
        """The one created before the newest."""
        return self._previous

    def answer(self, call: Call, *, fate: Fate = FATED_BY_DICE) -> Answer:
        """Answer anything but an image. Raises StorageError where the memory can't be written."""
        place = call.route.place
        if place == "home":
            return Answer(body=_HOME, content_type="text/html")
        if place == "stats":
            return wire.build_answer(self.stats())
        if place == "nowhere":
            return wire.build_refusal(Refusal(status=404, message="not found"))
        refusal = self._check_key(call.authorization)
        if refusal is not None:
            self.behaviour.refused[refusal.status] += place == "submit"
            return wire.build_refusal(refusal)
        match place:
            case "submit":
                return self._submit(call, fate=fate)
            case "result":
                return self._result(call.route.name)
            case "history":
                return self._history(wire.parse_json(call.body))
            case "delete":
                return self._delete(wire.parse_json(call.body))
            case "billing":
                return self._billing(wire.parse_json(call.body))
            case "balance":
                balance_usd = round(self.behaviour.balance_micro_usd(self._clock()) / 1_000_000, 6)
                return wire.build_answer({"balance": balance_usd})
            case "models":
                prices = {model: self.behaviour.price_micro_usd(model, images=1) for model in MODELS}
                return wire.build_models(self._config.schema, prices_micro_usd=prices, origin=self._origin)
            case _:
                return self._price(wire.parse_json(call.body), is_legacy=place == "pricing")

    def find_picture(self, name: str) -> Picture | None:
        """Return what the output file `ID/N.EXT` shows, or None where there is no such output (any more, or yet)."""
        prediction_id, _, file = name.partition("/")
        number, _, extension = file.partition(".")
        now_s = self._clock()
        record = self.behaviour.find(prediction_id, now_s=now_s)
        if record is None or record.status_at(now_s) != "completed" or extension != self._extension:
            return None
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= record.images):
            return None
        inputs = record.parsed_inputs()
        return Picture(
            prompt=inputs["prompt"],
            seed=seed_drawn(record, self._config.drift_share),
            guidance=float(inputs.get("guidance_scale", 3.5)),
            aspect_ratio=inputs.get("aspect_ratio", "1:1"),
            ordinal=int(number),
            images=record.images,
        )

    def prompt_of(self, call: Call) -> tuple[str, str]:
        """Return the prompt and the prediction id that a request is about, "" for what it isn't about."""
        if call.route.place == "submit":
            document = wire.parse_json(call.body)
            prompt = document.get("prompt") if isinstance(document, dict) else None
            return (prompt if isinstance(prompt, str) else ""), ""
        if call.route.place not in ("result", "output"):
            return "", ""
        prediction_id = call.route.name.partition("/")[0]
        record = self.behaviour.find(prediction_id, now_s=self._clock())
        return (record.parsed_inputs()["prompt"] if record else ""), prediction_id

    def stats(self) -> dict[str, Any]:
        """Return the counts of what was asked and done, for people and tests."""
        refused = {str(status): count for status, count in sorted(self.behaviour.refused.items())}
        return {
            **self.behaviour.counts(self._clock()),
            "refused_by_status": refused,
            "submissions_received": self.requests["submit"],
            "polls": self.requests["result"],
            "histories": self.requests["history"],
            "image_gets": self.requests["output"],
        }

    def seconds_until_done(self, record: PredictionRecord) -> float:
        """Return how long a prediction will still take."""
        return max(0.0, record.finished_at_s - self._clock())

    def prediction_answer(self, record: PredictionRecord, *, is_fresh: bool) -> Answer:
        """Return a prediction in its envelope."""
        return wire.build_answer(self._prediction(record, is_fresh=is_fresh))

    def sync_expired_answer(self, record: PredictionRecord) -> Answer:
        """Return what a synchronous wait that took too long is answered with: still at work, code 5004."""
        data = self._prediction(record, is_fresh=False)
        return wire.build_answer({**data, "status": "processing", "code": 5004, "error": "Sync mode timed out."})

    def _prediction(self, record: PredictionRecord, *, is_fresh: bool) -> dict[str, Any]:
        return self._with_flags(
            record,
            wire.build_prediction(
                record, now_s=self._clock(), origin=self._origin, extension=self._extension, is_fresh=is_fresh
            ),
        )

    def _with_flags(self, record: PredictionRecord, item: dict[str, Any]) -> dict[str, Any]:
        """Flag the share of a completed prediction's images that the sandbox was told to."""
        if self._config.nsfw_share and item["has_nsfw_contents"]:
            item["has_nsfw_contents"] = draw_flags(record, self._config.nsfw_share)
        return item

    def _submit(self, call: Call, *, fate: Fate) -> Answer:
        body = wire.parse_json(call.body)
        if isinstance(body, Refusal):
            self.behaviour.refused[body.status] += 1
            return wire.build_refusal(body)
        record = self.behaviour.submit(call.route.name, body, now_s=self._clock(), rng=self._rng, fate=fate)
        if isinstance(record, Refusal):
            return wire.build_refusal(record)
        if self._ledger is not None:
            self._ledger.append(record)
        self.behaviour.add(record)
        self._previous, self._last_created = self._last_created, record
        return self.prediction_answer(record, is_fresh=True)

    def _result(self, prediction_id: str) -> Answer:
        record = self.behaviour.find(prediction_id, now_s=self._clock())
        if record is None:
            return wire.build_refusal(Refusal(status=404, message="prediction not found"))
        return self.prediction_answer(record, is_fresh=False)

    def _history(self, document: Any) -> Answer:
        query = document if isinstance(document, Refusal) else wire.parse_history_query(document)
        if isinstance(query, Refusal):
            return wire.build_refusal(query)
        now_s = self._clock()
        before_s = min(query.before_s, now_s - self._config.history_lag_s)
        found = self.behaviour.created_between(query.after_s, before_s, model=query.model, now_s=now_s)
        newest_first = (
            record for record in reversed(found) if query.status is None or record.status_at(now_s) == query.status
        )
        start = (query.page - 1) * query.page_size
        page = islice(newest_first, start, start + query.page_size)
        return wire.build_history(query, [self._history_item(record, query=query, now_s=now_s) for record in page])

    def _history_item(self, record: PredictionRecord, *, query: wire.HistoryQuery, now_s: float) -> dict[str, Any]:
        item = self._with_flags(
            record, wire.build_history_item(record, now_s=now_s, origin=self._origin, extension=self._extension)
        )
        if query.wants_inputs and self._config.history_inputs != "absent":
            item["inputs"] = record.parsed_inputs() if self._config.history_inputs == "on" else None
        return item

    def _delete(self, document: Any) -> Answer:
        ids = document.get("ids") if isinstance(document, dict) else None
        if not isinstance(ids, list) or any(not isinstance(each, str) for each in ids):
            return wire.build_refusal(Refusal(status=400, message="ids must be a list of prediction ids"))
        gone = self.behaviour.delete(ids)
        if gone and self._ledger is not None:
            self._ledger.append(tuple(gone))
        return wire.build_answer({"deleted_count": len(gone)})

    def _billing(self, document: Any) -> Answer:
        query = document if isinstance(document, Refusal) else wire.parse_billing_query(document)
        if isinstance(query, Refusal):
            return wire.build_refusal(query)
        now_s = self._clock()
        dated: list[tuple[float, bool, PredictionRecord]] = []
        for record in self.behaviour.everything():
            if query.model not in (None, record.model):
                continue
            dated.append((record.created_at_s, False, record))
            if record.refund_at_s is not None and record.refund_at_s <= now_s:
                dated.append((record.refund_at_s, True, record))
        wanted = [row for row in dated if query.billing_type in (None, "refund" if row[1] else "deduct")]
        in_span = [row for row in wanted if query.after_s <= row[0] <= query.before_s]
        in_span.sort(key=lambda row: row[0], reverse=True)
        rows = [wire.build_billing_row(record, is_refund=refund, now_s=now_s) for _, refund, record in in_span]
        return wire.build_billing(query, rows)

    def _price(self, document: Any, *, is_legacy: bool) -> Answer:
        inputs = document.get("inputs") if isinstance(document, dict) else None
        model = MODELS.get(str(document.get("model_id"))) if isinstance(document, dict) else None
        if model is None:
            return wire.build_refusal(Refusal(status=404, message="model not found"))
        known = keep_known(model.schemas[self._config.schema], inputs if isinstance(inputs, dict) else {})
        images = known.get("num_images", 1)
        is_count = isinstance(images, int) and not isinstance(images, bool) and images >= 1
        filled = with_defaults(model.schemas[self._config.schema], known)
        count = images if is_count else 1
        price_micro_usd = self.behaviour.price_micro_usd(model.model_id, images=count, inputs=filled)
        if is_legacy:
            return wire.build_answer({"unit_price": price_micro_usd / 1_000_000})
        return wire.build_price(model.model_id, price_micro_usd=price_micro_usd)

    def _check_key(self, authorization: str) -> Refusal | None:
        """Refuse a missing key, or any but the required one; no key is ever kept, logged or echoed."""
        scheme, _, key = authorization.partition(" ")
        required = self._config.require_key
        if scheme.lower() != "bearer" or not key.strip():
            return Refusal(status=401, message="Unauthorized: the API key is missing.")
        if required is not None and not hmac.compare_digest(_bytes(key.strip()), _bytes(required)):
            return Refusal(status=401, message="Unauthorized: the API key is invalid.")
        return None


def _bytes(text: str) -> bytes:
    # Header bytes that aren't UTF-8 arrive as lone surrogates.
    return text.encode("utf-8", "surrogateescape")
