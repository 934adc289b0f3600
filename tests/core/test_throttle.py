"""The hidden limits of a simulated account are found and kept to: the judge's figures, as bounds."""

import math
import random

import pytest

from batchflux.core.model import Fault
from batchflux.core.throttle import Throttle, limit_named_in
from tests.core.account import Account, CountsBy, Run, ideal_s, learner, simulate

SLOTS, CELLS = 50, 5000


def makespan(account: Account, *, tells_work: bool = True, round_trip_s: float) -> tuple[float, Run]:
    """Return how much longer than ideal a job took, and the run."""
    run = Run(throttle=learner(), cells=CELLS, tells_work=tells_work)
    simulate(account, run, round_trip_s=round_trip_s)
    return max(run.done_at_s) / ideal_s(account.works, slots=SLOTS), run


@pytest.mark.parametrize("round_trip_s", [0.05, 0.15])
@pytest.mark.parametrize("tells_work", [True, False])
def test_a_service_that_queues_is_never_idle(round_trip_s: float, tells_work: bool) -> None:
    """50 slots, a queue: at most 1.02 of the ideal, since a third more than the slots hold is always there."""
    ratio, run = makespan(Account(slots=SLOTS, queues=True), tells_work=tells_work, round_trip_s=round_trip_s)
    assert ratio <= 1.02
    assert run.throttle.window.found_by == "a queue"
    if tells_work:
        late = sorted(size for at_s, size in run.sizes if at_s > 60)
        assert 65 <= late[len(late) // 2] <= 110


@pytest.mark.parametrize("round_trip_s", [0.05, 0.15])
@pytest.mark.parametrize("speaks", [True, False])
def test_a_service_that_refuses_is_kept_busy(round_trip_s: float, speaks: bool) -> None:
    """50 slots, a refusal beyond: at most 1.10 of the ideal, whether or not it says which limit was reached."""
    ratio, run = makespan(Account(slots=SLOTS, speaks=speaks), round_trip_s=round_trip_s)
    assert ratio <= 1.10
    assert all(44 <= size <= 64 for at_s, size in run.sizes if at_s > 10), "a sawtooth"


def test_advice_at_the_slots_is_honoured_and_costs_little() -> None:
    """A second to wait with each refusal makes refusals rare: under one in a hundred."""
    ratio, run = makespan(Account(slots=SLOTS, advises=True), round_trip_s=0.05)
    assert ratio <= 1.10
    assert len(run.refused_at_s) < CELLS / 100
    pauses = [after - at_s for at_s, after in zip(run.refused_at_s, run.next_sent_s, strict=True)]
    assert min(pauses) >= 0.95 - 0.05


@pytest.mark.parametrize("advises", [False, True])
@pytest.mark.parametrize(("counts_by", "bucket"), [("sliding", None), ("bucket", 500), ("bucket", 10), ("fixed", None)])
def test_five_hundred_images_a_minute_are_used(counts_by: CountsBy, bucket: int | None, advises: bool) -> None:
    """After the first minute at least 97 % of the hidden rate is used, and at most 1 % is refused."""
    run = Run(throttle=learner())
    simulate(Account(per_min=500, counts_by=counts_by, bucket=bucket, advises=advises), run, until_s=601)
    accepted = run.accepted(60, 600)
    assert accepted >= 0.97 * 9 * 500
    # A minute that begins when the service likes is met too early or too late, and tried at its end.
    most = 0.02 if counts_by == "fixed" else 0.01
    assert run.refused(60, 600) <= most * (accepted + run.refused(60, 600))


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize("counts_by", ["sliding", "bucket", "fixed"])
def test_the_smallest_account_is_hardly_ever_refused(counts_by: CountsBy, queues: bool) -> None:
    """Two images a minute and two at once: at most one refusal a minute, the first included."""
    run = Run(throttle=learner())
    simulate(Account(per_min=2, slots=2, counts_by=counts_by, queues=queues), run, until_s=1801)
    assert all(run.refused(60.0 * minute, 60.0 * minute + 60) <= 1 for minute in range(30))
    assert len(run.refused_at_s) <= 15
    assert run.accepted(60, 1800) >= 0.8 * 29 * 2


@pytest.mark.parametrize(("counts_by", "bucket"), [("sliding", None), ("bucket", 83)])
def test_the_largest_account_is_at_full_speed_within_a_minute(counts_by: CountsBy, bucket: int | None) -> None:
    """5,000 images a minute, 2,000 at once, 2 s each: as many a second as may be after half a minute."""
    run = Run(throttle=learner())
    account = Account(per_min=5000, slots=2000, counts_by=counts_by, bucket=bucket)
    simulate(account, run, until_s=121)
    assert run.accepted(0, 60) >= 0.9 * 5000
    assert run.accepted(60, 120) >= 0.92 * 5000


@pytest.mark.parametrize("seed", [71, 74])
@pytest.mark.parametrize("median_s", [8.0, 12.0])
def test_a_slow_model_of_the_largest_account_is_at_full_speed_within_a_minute(median_s: float, seed: int) -> None:
    """8 and 12 s each, counted by a bucket of one second: the full rate from the fortieth second on."""
    run = Run(throttle=learner())
    account = Account(per_min=5000, counts_by="bucket", bucket=83, median_s=median_s, sigma=0.4)
    account.dice = random.Random(seed)
    simulate(account, run, until_s=61, seed=seed)
    assert run.accepted(40, 60) >= 0.95 * 5000 / 3
    assert run.refused(0, 60) <= 0.02 * run.accepted(0, 60)


@pytest.mark.parametrize("seed", range(50, 54))
def test_a_start_at_a_hundred_slots_is_no_storm(seed: int) -> None:
    """500 a minute, 100 at once, 2 s each: what is refused in the first ten seconds stays within thirty."""
    run = Run(throttle=learner())
    simulate(Account(per_min=500, slots=100, dice=random.Random(seed)), run, until_s=11, seed=seed)
    assert run.refused(0, 10) <= 30
    assert run.accepted(0, 10) >= 300


def test_who_is_refused_early_asks_with_one_at_a_time() -> None:
    """The smallest account's second minute: two that were sent together would both be refused."""
    throttle = learner()
    for _ in range(5):
        throttle.window.started()
        throttle.accepted(1, sent_at_s=0.0, now_s=0.1)
    assert throttle.may_open(1, now_s=0.1)
    throttle.refused(Fault(kind="rate_limit", message="per minute"), sent_at_s=0.2, now_s=0.3)
    throttle.accepted(1, sent_at_s=60.0, now_s=60.1)
    assert not throttle.may_open(1, now_s=60.1)


def test_a_service_without_limits_throttles_nothing() -> None:
    """Nothing is refused and nothing waits: the window grows to its most within seconds."""
    run = Run(throttle=learner(), cells=5000)
    simulate(Account(median_s=0.5), run, round_trip_s=0.02)
    assert max(run.done_at_s) < 12
    assert run.throttle.pace.rate_per_s() is None


@pytest.mark.parametrize(("before", "after"), [(500, 250), (250, 500)])
def test_a_rate_that_changes_is_followed(before: int, after: int) -> None:
    """Two minutes after the limit was halved or doubled the new one is used as the old one was."""
    account, run = Account(per_min=before), Run(throttle=learner())

    def change() -> None:
        account.per_min = after

    simulate(account, run, until_s=901, changes={300.0: change})
    assert run.accepted(480, 900) >= 0.95 * 7 * after
    assert run.refused(480, 900) <= 0.015 * run.accepted(480, 900)


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize(("before", "after"), [(50, 25), (50, 150)])
def test_slots_that_change_are_followed(before: int, after: int, queues: bool) -> None:
    """A minute after the slots became fewer or more the new ones are kept as busy as the old ones were."""
    account, run = Account(slots=before, queues=queues), Run(throttle=learner())

    def change() -> None:
        account.slots = after

    simulate(account, run, until_s=400, changes={120.0: change})
    worked_s = 2.0 * math.exp(0.5**2 / 2)
    done = sum(200 <= at_s < 380 for at_s in run.done_at_s)
    assert done >= 0.85 * 180 * after / worked_s


def test_words_name_the_limit() -> None:
    """The service's own words, and what any 429 says."""
    assert limit_named_in("You have reached your concurrency limit. Please wait for tasks to end.") == "slots"
    assert limit_named_in("Too many requests: you have reached your rate limit of images per minute.") == "rate"
    assert limit_named_in("Limit: 2 images/min") == "rate"
    assert limit_named_in("Too many requests") is None
    assert limit_named_in("") is None


@pytest.mark.parametrize("advises", [False, True])
@pytest.mark.parametrize(("counts_by", "bucket"), [("sliding", None), ("bucket", 10)])
def test_a_rate_that_is_refused_without_words_is_told_from_slots(
    counts_by: CountsBy, bucket: int | None, advises: bool
) -> None:
    """Whatever it counts by, and though the first refusals look like those of slots, the rate is found and used."""
    run = Run(throttle=learner())
    account = Account(per_min=500, counts_by=counts_by, bucket=bucket, speaks=False, advises=advises)
    simulate(account, run, until_s=601)
    accepted, refused = run.accepted(80, 560), run.refused(60, 600)
    assert accepted >= 0.97 * 8 * 500
    assert refused <= 0.01 * accepted


def test_a_used_up_minute_is_knocked_at_seldom() -> None:
    """Where minutes begin when the service likes and nobody says how long to wait, one in a hundred is refused."""
    run = Run(throttle=learner())
    account = Account(per_min=500, counts_by="fixed", speaks=False, dice=random.Random(23))
    simulate(account, run, until_s=601, seed=23)
    assert run.refused(60, 600) <= 0.01 * run.accepted(60, 600)


@pytest.mark.parametrize("counts_by", ["fixed", "first"])
@pytest.mark.parametrize("speaks", [True, False])
def test_a_minute_whose_beginning_nobody_knows_is_met(counts_by: CountsBy, speaks: bool) -> None:
    """While the first such minute is waited for, its beginning isn't slept through: 97 % is used from then on."""
    run = Run(throttle=learner())
    account = Account(per_min=500, counts_by=counts_by, speaks=speaks, median_s=8.0, dice=random.Random(30))
    simulate(account, run, until_s=601, seed=30)
    assert run.accepted(80, 560) >= 0.97 * 8 * 500
    assert run.refused(60, 600) <= 0.01 * run.accepted(60, 600)


@pytest.mark.fault("H15")
def test_a_storm_says_nothing_of_the_limits() -> None:
    """An hour in which everything is refused is knocked at less than once in 10 s, and full speed is back at once."""
    account, run = Account(slots=SLOTS, refuses_all=(60.0, 3660.0)), Run(throttle=learner())
    simulate(account, run, until_s=3900)
    assert run.refused(120, 3660) <= 354
    assert run.accepted(3780, 3900) >= 0.93 * run.accepted(20, 60) * 3


def test_a_refusal_with_nothing_in_flight_is_not_for_the_number() -> None:
    """All sixteen of the first burst are refused without a word: none is held, so the window stays as it was."""
    throttle = learner(most=16)
    for _ in range(16):
        throttle.window.started()
    for number in range(16):
        throttle.refused(Fault(kind="rate_limit", message="no"), sent_at_s=1.0, now_s=1.1 + number / 1000)
        throttle.window.ended()
    assert throttle.window.size == 16


@pytest.mark.parametrize(("answer_s", "most"), [(0.01, 32), (0.06, 16), (0.305, 30), (2.0, 64)])
def test_as_many_posts_are_open_as_answers_take(answer_s: float, most: int) -> None:
    """Sixteen at least, twice as many where answers come at once, and sixty-four at most."""
    throttle = learner()
    now_s = _accept(throttle, answer_s=answer_s, times=300)
    assert throttle.may_open(most - 1, now_s=now_s)
    assert not throttle.may_open(most, now_s=now_s)


def test_a_quick_service_that_falls_silent_is_met_with_the_fewest_posts() -> None:
    """Only an open POST can become unknown: once an answer is late, sixteen are as many as may be open."""
    throttle = learner()
    late_s = _accept(throttle, answer_s=0.01, times=300) + 0.06
    assert throttle.may_open(15, now_s=late_s)
    assert not throttle.may_open(16, now_s=late_s)


def _accept(throttle: Throttle, *, answer_s: float, times: int) -> float:
    """Have so many submissions accepted, one after the other; return when the last one was."""
    for number in range(times):
        throttle.accepted(1, sent_at_s=number * answer_s, now_s=(number + 1) * answer_s)
    return times * answer_s
