"""The service as a state machine: limits, queue, money, failures and forgetting, without waiting for any of it."""

import math
import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.sandbox.behaviour import FATED_BY_DICE, RETENTION_S, Behaviour, Fate, PredictionRecord, Refusal
from batchflux.sandbox.config import Latency, Rate, SandboxConfig
from tests.sandbox.caller import MAX, PRO

T0_S = 1_800_000_000.0


class Account:
    """A behaviour with its dice, so that a test says only what it is about."""

    def __init__(self, *, median_s: float = 10.0, **knobs: Any) -> None:
        knobs.setdefault("latency", Latency(median_s=median_s, sigma=0))
        self.behaviour = Behaviour(SandboxConfig(**knobs))
        self.rng = random.Random(7)

    def submit(
        self, *, at_s: float = 0.0, model: str = MAX, fate: Fate = FATED_BY_DICE, **inputs: Any
    ) -> PredictionRecord:
        """Submit, expecting to be accepted."""
        record = self.ask(at_s=at_s, model=model, fate=fate, **inputs)
        assert isinstance(record, PredictionRecord), record
        self.behaviour.add(record)
        return record

    def ask(
        self, *, at_s: float = 0.0, model: str = MAX, fate: Fate = FATED_BY_DICE, **inputs: Any
    ) -> PredictionRecord | Refusal:
        """Submit and return the decision without carrying it out."""
        body = {"prompt": "a kite", **inputs}
        return self.behaviour.submit(model, body, now_s=T0_S + at_s, rng=self.rng, fate=fate)

    def refusal(self, **submission: Any) -> Refusal:
        """Submit, expecting to be refused."""
        refusal = self.ask(**submission)
        assert isinstance(refusal, Refusal), refusal
        return refusal


def test_status_follows_the_clock() -> None:
    """A prediction is created, then processing, then completed, at the moments fixed when it was accepted."""
    account = Account(concurrency=1)
    account.submit()
    second = account.submit()
    moments = (0.0, 9.99, 10.0, 19.99, 20.0)
    assert [second.status_at(T0_S + at_s) for at_s in moments] == [
        "created",
        "created",
        "processing",
        "processing",
        "completed",
    ]
    assert [second.inference_ms_at(T0_S + at_s) for at_s in (19.99, 20.0)] == [0, 10_000]


def test_queue_is_first_come_first_served() -> None:
    """With two slots the third and fourth wait for the first slots to free, in the order they came."""
    account = Account(concurrency=2)
    starts = [account.submit(at_s=at_s).started_at_s - T0_S for at_s in (0, 1, 2, 3, 4)]
    assert starts == [0, 1, 10, 11, 20]


@given(
    arrivals=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    concurrency=st.integers(1, 5),
    rate=st.none() | st.integers(1, 8),
)
def test_limits_are_never_broken(arrivals: list[float], concurrency: int, rate: int | None) -> None:
    """Whatever arrives when, no more than the slots are at work at once and no window starts more than its rate."""
    limit = None if rate is None else Rate(images=rate, window_s=4)
    account = Account(concurrency=concurrency, rate=limit, latency=Latency(median_s=3, sigma=0.8))
    at_s = 0.0
    records = [account.submit(at_s=(at_s := at_s + gap)) for gap in arrivals]
    for record in records:
        at_work = [r for r in records if r.started_at_s <= record.started_at_s < r.finished_at_s]
        assert len(at_work) <= concurrency
        window = [r for r in records if r.started_at_s // 4 == record.started_at_s // 4]
        assert rate is None or len(window) <= rate
    assert [r.started_at_s for r in records] == sorted(r.started_at_s for r in records)
    assert all(record.started_at_s >= record.created_at_s for record in records)


def test_the_slots_are_kept_busy() -> None:
    """A queue that waits never leaves a slot empty: ten jobs of 10 s on two slots are done after 50 s."""
    account = Account(concurrency=2)
    assert max(account.submit().finished_at_s for _ in range(10)) == T0_S + 50


def test_concurrency_refused() -> None:
    """Over the limit a refusing service answers 429 with the concurrency message, until one is done."""
    account = Account(concurrency=1, over_limit="refuse", retry_after=True)
    account.submit()
    refusal = account.refusal(at_s=2.5)
    assert (refusal.status, refusal.retry_after_s) == (429, 8)
    assert "concurrency limit" in refusal.message
    assert account.submit(at_s=10).started_at_s == T0_S + 10
    assert account.behaviour.refused == {429: 1}


def test_rate_refused_by_images_and_minute() -> None:
    """The rate counts images started in a minute of the clock and says when the next one begins only if asked to."""
    account = Account(median_s=0, rate=Rate(images=4), over_limit="refuse")
    account.submit(num_images=3)
    refusal = account.refusal(at_s=30, num_images=2)
    assert (refusal.status, refusal.retry_after_s) == (429, None)
    assert "rate limit" in refusal.message
    account.submit(at_s=30, num_images=1)
    account.submit(at_s=60, num_images=4)


def test_rate_queued() -> None:
    """A queueing service starts what is over the rate at the beginning of the next windows."""
    account = Account(median_s=0, concurrency=None, rate=Rate(images=2))
    assert [account.submit(at_s=1).started_at_s - T0_S for _ in range(5)] == [1, 1, 60, 60, 120]


def test_a_submission_larger_than_the_rate_still_starts() -> None:
    """Four images at a rate of two get a window of their own instead of waiting for ever."""
    account = Account(median_s=0, concurrency=None, rate=Rate(images=2))
    account.submit()
    assert account.submit(num_images=4).started_at_s == T0_S + 60


def test_refused_submissions_leave_nothing_behind() -> None:
    """Refusals create no prediction, cost nothing and move no limit."""
    account = Account(concurrency=1, over_limit="refuse")
    account.submit()
    for _ in range(5):
        account.refusal()
    assert len(account.behaviour.everything()) == 1
    assert account.behaviour.balance_micro_usd(T0_S) == 1_000_000_000_000 - 80_000
    assert account.behaviour.counts(T0_S)["peak_in_flight"] == 1


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"prompt": ""}, '"prompt" is missing'),
        ({"prompt": 5}, '"prompt": value must be a string'),
        ({"guidance_scale": 10.01}, '"guidance_scale": number must be at most 10'),
        ({"guidance_scale": float("nan")}, '"guidance_scale": number must be at least 1'),
        ({"guidance_scale": "3.5"}, '"guidance_scale": value must be a number'),
        ({"seed": 1.5}, '"seed": value must be an integer'),
        ({"seed": True}, '"seed": value must be an integer'),
        ({"seed": 2147483648}, '"seed": number must be at most'),
        ({"num_images": 5}, '"num_images": number must be at most 4'),
        ({"safety_tolerance": 2}, '"safety_tolerance": value must be a string'),
        ({"safety_tolerance": "6"}, '"safety_tolerance": value must be one of'),
        ({"aspect_ratio": "wide"}, '"aspect_ratio": must be width:height'),
        ({"aspect_ratio": "22:9"}, '"aspect_ratio": must be width:height'),
    ],
)
def test_invalid_values_are_refused(inputs: dict[str, Any], words: str) -> None:
    """A known parameter with a wrong value is answered 400 with its name, and nothing is created."""
    account = Account()
    refusal = account.refusal(**inputs)
    assert refusal.status == 400
    assert words in refusal.message


def test_unknown_keys_are_dropped_in_silence() -> None:
    """An unknown parameter is no part of the prediction, which runs with the default, as the service's do."""
    record = Account().submit(guidence=9, steps=50)
    assert record.parsed_inputs() == {"prompt": "a kite"}


def test_the_schemas_differ() -> None:
    """Today's schema drops num_images in silence and bills one image; the page's makes four and bills four."""
    page, today = Account(), Account(schema="today")
    assert page.submit(num_images=4).price_micro_usd == 320_000
    record = today.submit(num_images=4, safety_tolerance="5", guidance_scale=15)
    assert (record.images, record.price_micro_usd) == (1, 80_000)
    assert record.parsed_inputs() == {"prompt": "a kite", "guidance_scale": 15}
    assert page.submit(model=PRO).price_micro_usd == 40_000


def test_unknown_model() -> None:
    """A model that nobody knows is a 404."""
    assert Account().refusal(model="wavespeed-ai/nothing").status == 404


def test_credit_runs_out_and_refunds_bring_it_back() -> None:
    """Without credit the answer is a 400 that says so; the refund of a failed prediction buys the next one."""
    account = Account(median_s=1, balance_usd=0.08, refund_after_s=5)
    account.submit(fate=Fate(code=5000))
    refusal = account.refusal(at_s=5.9)
    assert refusal.status == 400
    assert "Insufficient credits" in refusal.message
    account.submit(at_s=6)
    assert account.behaviour.balance_micro_usd(T0_S + 100) == 0


def test_moderation() -> None:
    """The moderation word fails a prompt with 1200, which is not refunded unless the sandbox is told to."""
    refused = Account().submit(prompt="a Sandbox:Refuse of a kite")
    assert (refused.code, refused.status_at(T0_S + 99), refused.refund_at_s) == (1200, "failed", None)
    assert "sensitive" in refused.error
    kind = Account(refund_moderation=True).submit(prompt="sandbox:refuse")
    assert kind.refund_at_s == T0_S + 15


def test_failure_rates() -> None:
    """Codes fall as often as their shares say, and the same seed lets the same predictions fail."""
    runs = [[account.submit().code for _ in range(2000)] for account in (_failing(), _failing())]
    assert runs[0] == runs[1]
    assert 0.07 < runs[0].count(5000) / 2000 < 0.13
    assert 0.03 < runs[0].count(1406) / 2000 < 0.07
    assert set(runs[0]) == {0, 5000, 1406}


def _failing() -> Account:
    return Account(concurrency=None, failures={5000: 0.1, 1406: 0.05})


def test_a_stuck_prediction_never_ends() -> None:
    """A prediction that a script lets hang is processing for ever and keeps its slot."""
    account = Account(concurrency=1, rate=Rate(images=5))
    stuck = account.submit(fate=Fate(is_stuck=True))
    waiting = account.submit()
    assert stuck.status_at(T0_S + 1e9) == "processing"
    assert waiting.status_at(T0_S + 1e9) == "created"
    assert account.behaviour.in_flight(T0_S + 1e9) == 2


def test_seven_days() -> None:
    """After seven days a prediction is known to nobody, neither by id nor in the listing."""
    account = Account()
    old, young = account.submit(), account.submit(at_s=60)
    late_s = T0_S + RETENTION_S
    assert account.behaviour.find(old.id, now_s=late_s - 1) is old
    assert account.behaviour.find(old.id, now_s=late_s) is None
    assert account.behaviour.created_between(-math.inf, math.inf, model=None, now_s=late_s) == [young]


def test_deletion() -> None:
    """Deleted predictions are forgotten, their charges are not, and ids that nobody knows count for nothing."""
    account = Account()
    first, second = account.submit(), account.submit()
    assert account.behaviour.delete([first.id, "no such", first.id]) == [first.id]
    assert account.behaviour.find(first.id, now_s=T0_S) is None
    assert account.behaviour.created_between(-math.inf, math.inf, model=MAX, now_s=T0_S) == [second]
    assert len(account.behaviour.everything()) == 2


def test_creations_are_counted_by_what_they_mean() -> None:
    """A stated default, 5 for 5.0 and a dropped key are the same input; another seed is another one."""
    account = Account()
    account.submit(seed=1, guidance_scale=5)
    account.submit(guidance_scale=5.0, aspect_ratio="1:1", seed=1, nonsense=3)
    account.submit(seed=2, guidance_scale=5)
    counts = account.behaviour.counts(T0_S)
    assert counts["distinct_inputs"] == 2
    assert counts["inputs_created_more_than_once"] == 1
    assert sorted(account.behaviour.creations().values()) == [1, 2]


def test_seed_minus_one_draws_one() -> None:
    """Without a seed, or with -1, the service draws its own: two such predictions differ."""
    account = Account()
    drawn = {account.submit().seed, account.submit(seed=-1).seed}
    assert len(drawn) == 2
    assert -1 not in drawn


def test_latencies() -> None:
    """The lognormal has the median asked for, and a growth with guidance shows in it."""
    dice = random.Random(3)
    plain = Latency(median_s=2, sigma=0.5)
    assert 1.9 < median(plain.draw(dice, guidance=3.5) for _ in range(4000)) < 2.1
    growing = Latency(median_s=2, sigma=0, per_guidance=0.1)
    assert [growing.draw(dice, guidance=g) for g in (1, 6)] == [2, 3]
    assert Latency(median_s=0, sigma=0.5).draw(dice, guidance=1) == 0


def test_remembered_predictions_keep_their_limits() -> None:
    """A service rebuilt from its records decides the next submission as the one that never stopped."""
    account = Account(concurrency=3, rate=Rate(images=4), latency=Latency(median_s=20, sigma=0.9))
    for at_s in range(12):
        account.submit(at_s=at_s)
    again = Account(concurrency=3, rate=Rate(images=4), latency=Latency(median_s=20, sigma=0.9))
    for record in account.behaviour.everything():
        again.behaviour.add(record)
    again.rng.setstate(account.rng.getstate())
    assert again.submit(at_s=13) == account.submit(at_s=13)
    assert again.behaviour.counts(T0_S + 13) == account.behaviour.counts(T0_S + 13)
