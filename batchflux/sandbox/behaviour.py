"""The service as a state machine: what becomes of a submission, decided whole at the moment it is accepted.

Pure: `now_s` (seconds since the epoch) and the dice are arguments; no sockets, files or clock. A prediction's start,
end and outcome are all fixed when it is created, since the limits' queue is first come, first served; so its status
at any later moment is arithmetic, and one ledger record is its whole life.
"""

import hashlib
import heapq
import json
import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from batchflux.sandbox.config import Rate, SandboxConfig
from batchflux.sandbox.vendor import FAILURE_WORDS, MODELS, check_inputs, keep_known, with_defaults

__all__ = [
    "FATED_BY_DICE",
    "RETENTION_S",
    "Behaviour",
    "Fate",
    "PredictionRecord",
    "Refusal",
    "Status",
    "draw_flags",
    "seed_drawn",
]

Status = Literal["created", "processing", "completed", "failed"]

# The service deletes predictions and their outputs after 7 days.
RETENTION_S = 7 * 24 * 3600.0

_MODERATION = 1200
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRecord:
    """One prediction from creation to end. `inputs` is the JSON of what was sent, without what the schema drops.

    Times are seconds since the epoch; `finished_at_s` is infinite for one that never ends. `code` 0 completes, another
    one fails with `error`. `refund_at_s` is when its price comes back, None where it never does.
    """

    id: str
    model: str
    inputs: str
    images: int
    seed: int
    price_micro_usd: int
    created_at_s: float
    started_at_s: float
    finished_at_s: float
    code: int = 0
    error: str = ""
    refund_at_s: float | None = None

    def status_at(self, now_s: float) -> Status:
        """Return the service's word for it at a moment."""
        if now_s >= self.finished_at_s:
            return "failed" if self.code else "completed"
        return "processing" if now_s >= self.started_at_s else "created"

    def inference_ms_at(self, now_s: float) -> int:
        """Return how long it was worked on, in whole milliseconds; 0 until it is done."""
        return round((self.finished_at_s - self.started_at_s) * 1000) if now_s >= self.finished_at_s else 0

    def parsed_inputs(self) -> dict[str, Any]:
        """Return the inputs as sent, without those that the schema drops."""
        inputs: dict[str, Any] = json.loads(self.inputs)
        return inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a call was not done: the HTTP status, which the envelope's code repeats, and the message."""

    status: int
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a script wills for one prediction: None leaves `code` to the dice; `is_stuck` never ends it."""

    code: int | None = None
    error: str | None = None
    is_stuck: bool = False


FATED_BY_DICE = Fate()


class Behaviour:
    """All predictions of one account, its limits and its money. Not thread-safe; one event loop owns it."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.refused: Counter[int] = Counter()
        self.peak_in_flight = 0
        self._by_id: dict[str, PredictionRecord] = {}
        self._in_order: list[PredictionRecord] = []
        self._listed: dict[str, list[PredictionRecord]] = {}
        self._creations: Counter[bytes] = Counter()
        self._unfinished: list[float] = []
        self._slots: list[float] = []
        self._last_start_s = -math.inf
        self._window, self._window_images = -1, 0
        self._spent_micro_usd = 0
        self._refunds_due: list[tuple[float, int]] = []

    def submit(
        self, model: str, body: Any, *, now_s: float, rng: random.Random, fate: Fate = FATED_BY_DICE
    ) -> PredictionRecord | Refusal:
        """Decide a submission: a new prediction, not yet added, or why there is none."""
        known = MODELS.get(model)
        if known is None:
            return self._refuse(404, f"model {model} not found")
        if not isinstance(body, Mapping):
            return self._refuse(400, "the request body must be a JSON object")
        properties = known.schemas[self.config.schema]
        inputs = keep_known(properties, body)
        wrong = check_inputs(properties, inputs)
        if wrong is not None:
            return self._refuse(400, wrong)
        filled = with_defaults(properties, inputs)
        images = int(filled.get("num_images", 1))
        price_micro_usd = self.price_micro_usd(model, images=images, inputs=filled)
        refusal = self._over_limit(now_s, images=images) or self._out_of_credit(price_micro_usd, now_s=now_s)
        if refusal is not None:
            self.refused[refusal.status] += 1
            return refusal
        code, error = self._draw_outcome(filled["prompt"], fate=fate, rng=rng)
        service_s = self.config.latency.draw(rng, guidance=filled["guidance_scale"])
        started_at_s = self._next_start(now_s, images=images)
        finished_at_s = math.inf if fate.is_stuck else started_at_s + service_s
        is_refunded = code and (code != _MODERATION or self.config.refund_moderation)
        seed = filled.get("seed", -1)
        return PredictionRecord(
            id=f"{rng.getrandbits(128):032x}",
            model=model,
            inputs=json.dumps(inputs, separators=(",", ":")),
            images=images,
            seed=rng.getrandbits(31) if seed == -1 else seed,
            price_micro_usd=price_micro_usd,
            created_at_s=now_s,
            started_at_s=started_at_s,
            finished_at_s=finished_at_s,
            code=code,
            error=error,
            refund_at_s=finished_at_s + self.config.refund_after_s if is_refunded else None,
        )

    def add(self, record: PredictionRecord) -> None:
        """Take in a prediction, fresh from `submit` or from the ledger (then in the order of creation)."""
        self._by_id[record.id] = record
        self._in_order.append(record)
        self._listed.setdefault(record.model, []).append(record)
        self._creations[_digest(record)] += 1
        self._book_limits(record)
        self._spent_micro_usd += record.price_micro_usd
        if record.refund_at_s is not None:
            heapq.heappush(self._refunds_due, (record.refund_at_s, record.price_micro_usd))

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Forget predictions for good and return the ids that were known; their charges stay."""
        gone = [record for record in (self._by_id.pop(each, None) for each in dict.fromkeys(ids)) if record is not None]
        for record in gone:
            self._listed[record.model].remove(record)
        return [record.id for record in gone]

    def find(self, prediction_id: str, *, now_s: float) -> PredictionRecord | None:
        """Return a prediction that the service still keeps, or None."""
        record = self._by_id.get(prediction_id)
        return None if record is None or now_s - record.created_at_s >= RETENTION_S else record

    def created_between(
        self, after_s: float, before_s: float, *, model: str | None, now_s: float
    ) -> list[PredictionRecord]:
        """Return the kept predictions created in a span, ends included, oldest first."""
        after_s = max(after_s, math.nextafter(now_s - RETENTION_S, math.inf))
        chosen = self._listed.values() if model is None else [self._listed.get(model, [])]
        found: list[PredictionRecord] = []
        for records in chosen:
            low = bisect_left(records, after_s, key=attrgetter("created_at_s"))
            high = bisect_right(records, before_s, key=attrgetter("created_at_s"))
            found += records[low:high]
        if model is None and len(self._listed) > 1:
            found.sort(key=attrgetter("created_at_s"))
        return found

    def everything(self) -> list[PredictionRecord]:
        """Return every prediction ever created, deleted ones too, oldest first: the ground truth of tests."""
        return list(self._in_order)

    def creations(self) -> Counter[tuple[str, str]]:
        """Return how often each (model, canonical inputs) was created; the inputs have their defaults filled in."""
        return Counter((record.model, _canonical(record)) for record in self._in_order)

    def balance_micro_usd(self, now_s: float) -> int:
        """Return what the account holds: opening balance less charges, plus the refunds due by now."""
        while self._refunds_due and self._refunds_due[0][0] <= now_s:
            self._spent_micro_usd -= heapq.heappop(self._refunds_due)[1]
        return round(self.config.balance_usd * _MICRO) - self._spent_micro_usd

    def price_micro_usd(self, model: str, *, images: int, inputs: Mapping[str, Any] | None = None) -> int:
        """Return the price of so many images of a known model; `inputs` may make them dearer, or cheaper."""
        listed = MODELS[model].price_micro_usd
        each = float(listed if self.config.price_usd is None else round(self.config.price_usd * _MICRO))
        for name, value in (inputs or {}).items():
            each *= self.config.dear.get(f"{name}={value}", 1.0)
        return round(each) * images

    def in_flight(self, now_s: float) -> int:
        """Return how many predictions are created or processing."""
        while self._unfinished and self._unfinished[0] <= now_s:
            heapq.heappop(self._unfinished)
        return len(self._unfinished)

    def counts(self, now_s: float) -> dict[str, int]:
        """Return what was done so far, for people and tests."""
        return {
            "submissions_accepted": len(self._in_order),
            "images_accepted": sum(record.images for record in self._in_order),
            "distinct_inputs": len(self._creations),
            "inputs_created_more_than_once": sum(count > 1 for count in self._creations.values()),
            "submissions_refused": sum(self.refused.values()),
            "in_flight": self.in_flight(now_s),
            "peak_in_flight": self.peak_in_flight,
        }

    def _refuse(self, status: int, message: str) -> Refusal:
        self.refused[status] += 1
        return Refusal(status=status, message=message)

    def _draw_outcome(self, prompt: str, *, fate: Fate, rng: random.Random) -> tuple[int, str]:
        code = 0
        luck = rng.random()  # thrown even where a script decides, so that scripts don't shift everyone else's luck
        for candidate, share in self.config.failures.items():
            if luck < share:
                code = candidate
                break
            luck -= share
        if self.config.moderation_word and self.config.moderation_word.casefold() in prompt.casefold():
            code = _MODERATION
        if fate.code is not None:
            code = fate.code
        words = FAILURE_WORDS.get(code, "The task failed.") if code else ""
        return code, words if fate.error is None else fate.error

    def _out_of_credit(self, price_micro_usd: int, *, now_s: float) -> Refusal | None:
        if price_micro_usd <= self.balance_micro_usd(now_s):
            return None
        return Refusal(status=400, message="Insufficient credits. Please top up your account.")

    def _over_limit(self, now_s: float, *, images: int) -> Refusal | None:
        if self.config.over_limit == "queue":
            return None
        if self.config.concurrency is not None and self.in_flight(now_s) >= self.config.concurrency:
            wait_s = max(1, math.ceil(self._unfinished[0] - now_s)) if math.isfinite(self._unfinished[0]) else 60
            return self._too_many("You have reached your concurrency limit. Please wait for tasks to end.", wait_s)
        rate = self.config.rate
        if rate is None or self._has_room(now_s, images=images):
            return None
        wait_s = max(1, math.ceil((_window_at(now_s, rate) + 1) * rate.window_s - now_s))
        return self._too_many("Too many requests: you have reached your rate limit of images per minute.", wait_s)

    def _too_many(self, message: str, wait_s: int) -> Refusal:
        return Refusal(status=429, message=message, retry_after_s=wait_s if self.config.retry_after else None)

    def _has_room(self, at_s: float, *, images: int) -> bool:
        rate = self.config.rate
        if rate is None or math.isinf(at_s) or _window_at(at_s, rate) > self._window:
            return True
        # One submission larger than the whole window would otherwise never start: it gets an empty one.
        return self._window_images == 0 or self._window_images + images <= rate.images

    def _next_start(self, now_s: float, *, images: int) -> float:
        start_s = max(now_s, self._last_start_s)
        limit = self.config.concurrency
        if limit is not None and len(self._slots) >= limit:
            start_s = max(start_s, self._slots[0])
        rate = self.config.rate
        if rate is not None and not self._has_room(start_s, images=images):
            start_s = max(start_s, (self._window + 1) * rate.window_s)
        return start_s

    def _book_limits(self, record: PredictionRecord) -> None:
        self._last_start_s = max(self._last_start_s, record.started_at_s)
        self.in_flight(record.created_at_s)
        heapq.heappush(self._unfinished, record.finished_at_s)
        self.peak_in_flight = max(self.peak_in_flight, len(self._unfinished))
        if self.config.concurrency is not None:
            # A slot that frees before this start is the one it takes; only the latest ends matter.
            book = heapq.heappush if len(self._slots) < self.config.concurrency else heapq.heapreplace
            book(self._slots, record.finished_at_s)
        if self.config.rate is not None and math.isfinite(record.started_at_s):
            window = _window_at(record.started_at_s, self.config.rate)
            if window > self._window:
                self._window, self._window_images = window, 0
            self._window_images += record.images


def _window_at(at_s: float, rate: Rate) -> int:
    # The tolerance keeps the very start of a window, computed as a product, from falling into the one before it.
    return math.floor(at_s / rate.window_s + 1e-4)


def _canonical(record: PredictionRecord) -> str:
    # The schema of the day may have changed between restarts: the page's, which knows the most, fills the defaults in.
    properties = {**MODELS[record.model].schemas["today"], **MODELS[record.model].schemas["page"]}
    return json.dumps(with_defaults(properties, record.parsed_inputs()), sort_keys=True)


def _digest(record: PredictionRecord) -> bytes:
    return hashlib.blake2b(f"{record.model}\n{_canonical(record)}".encode(), digest_size=16).digest()


def draw_flags(record: PredictionRecord, share: float) -> list[bool]:
    """Return which of a prediction's images are flagged, that share of all: by the request, so always alike."""
    text = f"{record.model}\n{_canonical(record)}\n{record.seed}".encode()
    draws = (hashlib.blake2b(text, digest_size=8, salt=bytes([number])).digest() for number in range(record.images))
    return [int.from_bytes(draw) < share * 2**64 for draw in draws]


def seed_drawn(record: PredictionRecord, share: float) -> int:
    """Return the seed that a prediction's images are drawn with: of that share of all another than it says."""
    draw = int.from_bytes(hashlib.blake2b(record.id.encode(), digest_size=8, person=b"drift").digest())
    return record.seed if draw >= share * 2**64 else draw % 2**31
