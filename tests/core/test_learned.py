"""What was learned: told, parsed back or refused whole, aged, and shared evenly by runs on one account."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.learned import Learned, learned_of, parse_learned, recall, share
from tests.core.account import Account, Run, learner, simulate

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000

SOME = Learned(at_ms=NOW_MS, slots=50.0, found_by="refusals", images_per_s=500 / 60, in_flight=50, is_hungry=True)

numbers = st.floats(1e-3, 1e5)
anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([])
)


@given(
    st.builds(
        Learned,
        at_ms=st.integers(0, 1 << 50),
        slots=st.none() | numbers,
        found_by=st.sampled_from([None, "refusals", "a queue"]),
        images_per_s=st.none() | numbers,
        in_flight=st.integers(0, 10_000),
        is_hungry=st.booleans(),
        stated_slots=st.none() | st.integers(1, 10_000),
        stated_per_s=st.none() | numbers,
    )
)
def test_what_is_written_is_read(learned: Learned) -> None:
    """By way of JSON it comes back as it was."""
    assert parse_learned(json.loads(json.dumps(learned.as_mapping()))) == learned


@given(st.dictionaries(st.sampled_from([*SOME.as_mapping()]), anything))
def test_foreign_words_never_raise(changes: dict[str, Any]) -> None:
    """Whatever a file holds under our names, what comes of it is None or can be begun with."""
    found = parse_learned({**SOME.as_mapping(), **changes})
    if found is not None:
        throttle = learner()
        recall(throttle, found, now_ms=NOW_MS)
        assert throttle.window.size >= 1
        rate = throttle.pace.rate_per_s()
        assert rate is None or rate > 0


@pytest.mark.parametrize("found", [None, [], "x", {}, {"version": 2}, {"version": 1}])
def test_what_is_not_ours_is_nothing(found: Any) -> None:
    """No version, another one, no mapping: nothing was learned."""
    assert parse_learned(found) is None


@pytest.mark.parametrize(("age_ms", "slots"), [(0, 50.0), (2 * 3_600_000, 35.0), (8 * DAY_MS, 32.0), (-DAY_MS, 32.0)])
def test_the_old_is_trusted_less(age_ms: int, slots: float) -> None:
    """Within an hour wholly, within a week carefully, then and from the future not at all."""
    throttle = learner()
    recall(throttle, SOME, now_ms=NOW_MS + age_ms)
    assert throttle.window.size == slots


def test_a_remembered_limit_stays_under_the_stated_one() -> None:
    """What the spec states is a cap on what is remembered too."""
    throttle = learner(most=8, rate_per_s=1.0)
    recall(throttle, SOME, now_ms=NOW_MS)
    assert (throttle.window.size, throttle.pace.rate_per_s()) == (8, 1.0)


def test_a_start_with_what_was_learned_meets_no_refusal() -> None:
    """The second run on an account of 500 a minute is at full speed from the start, without a first burst."""
    run = Run(throttle=learner())
    recall(run.throttle, SOME, now_ms=NOW_MS)
    simulate(Account(per_min=500, slots=50), run, until_s=61)
    assert run.accepted(0, 60) >= 0.95 * 500
    assert run.refused(0, 60) <= 5


def test_a_limit_that_was_raised_meanwhile_is_found() -> None:
    """500 a minute remembered, six times that allowed now: used from the third minute on, nothing refused before."""
    run = Run(throttle=learner())
    recall(run.throttle, replace(SOME, slots=None, found_by=None, images_per_s=500 / 60), now_ms=NOW_MS)
    simulate(Account(per_min=3000), run, until_s=301)
    assert run.accepted(120, 300) >= 0.95 * 3 * 3000
    assert run.refused(0, 60) == 0


def test_what_binds_is_said() -> None:
    """The slots where they are full, else the rate; nothing where nothing was met."""
    assert SOME.binds == "50 predictions at once (learned from refusals)"
    assert replace(SOME, in_flight=10).binds == "500 images/min (learned from refusals)"
    assert replace(SOME, images_per_s=None, found_by="a queue").binds == "50 predictions at once (learned from a queue)"
    assert replace(SOME, images_per_s=2 / 60, slots=None).binds == "2 images/min (learned from refusals)"
    nothing = replace(SOME, images_per_s=None, slots=None, found_by=None)
    assert nothing.binds is None
    assert replace(nothing, stated_slots=64).binds is None
    assert replace(nothing, stated_slots=50).binds == "50 predictions at once (the run's own cap: nothing was refused)"
    assert replace(nothing, stated_per_s=2 / 60).binds == "2 images/min (run.rate_limit)"
    assert replace(SOME, slots=None, stated_per_s=50.0).binds == "500 images/min (learned from refusals)"


def pair(account: Account, *, joins_at_s: float, until_s: float) -> tuple[Run, Run]:
    """Let two runs work on one account, each telling the other once a second what it holds."""
    runs = Run(throttle=learner()), Run(throttle=learner(), from_s=joins_at_s)

    def each_second(now_s: float) -> None:
        if now_s >= joins_at_s:
            held = [learned_of(run.throttle, at_ms=NOW_MS, is_hungry=True) for run in runs]
            share(runs[0].throttle, [held[1]])
            share(runs[1].throttle, [held[0]])

    simulate(account, *runs, until_s=until_s, each_second=each_second)
    return runs


@pytest.mark.parametrize("joins_at_s", [0.0, 130.0])
@pytest.mark.parametrize(
    ("limits", "most_refused"),
    [
        ({"per_min": 500}, 0.02),
        ({"per_min": 500, "counts_by": "bucket"}, 0.02),
        ({"slots": 50}, 0.1),
        ({"slots": 50, "queues": True}, 0.0),
    ],
    ids=["sliding", "bucket", "refusing", "queueing"],
)
def test_two_runs_get_half_each(limits: dict[str, Any], most_refused: float, joins_at_s: float) -> None:
    """Between 40 and 60 % each, together 95 % of one alone, whoever came first."""
    from_s, until_s = joins_at_s + 120, joins_at_s + 300
    one, two = pair(Account(**limits), joins_at_s=joins_at_s, until_s=until_s)
    both = one.accepted(from_s, until_s) + two.accepted(from_s, until_s)
    assert 0.4 <= two.accepted(from_s, until_s) / both <= 0.6
    assert one.refused(from_s, until_s) + two.refused(from_s, until_s) <= most_refused * both
    alone = Run(throttle=learner())
    simulate(Account(**limits), alone, until_s=until_s)
    assert both >= 0.95 * alone.accepted(from_s, until_s)


def test_what_a_run_leaves_is_taken_over() -> None:
    """When the other of two ends or dies, its part is this one's at once."""
    throttle = learner()
    recall(throttle, replace(SOME, slots=25.0, images_per_s=4.0), now_ms=NOW_MS)
    share(throttle, [], [replace(SOME, slots=25.0, images_per_s=4.0)])
    assert (throttle.window.size, throttle.pace.learned_per_s) == (50, 8)


def test_a_run_that_wants_no_more_takes_nothing() -> None:
    """One that only waits for its last predictions leaves the other's part alone."""
    throttle = learner()
    recall(throttle, SOME, now_ms=NOW_MS)
    share(throttle, [replace(SOME, slots=1.0, images_per_s=0.1, is_hungry=False)])
    assert throttle.window.size == 50
