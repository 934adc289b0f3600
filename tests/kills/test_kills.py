"""The real program killed with SIGKILL, at named points and at random moments, against a service whose ledger is truth.

Whatever is killed, and however often: in the end every cell was made exactly once, and nothing is unknown where the
history gives inputs.
"""

import random
from pathlib import Path

import pytest

from batchflux.sandbox import FaultRule, FaultScript
from tests.kills.lives import Life, Plan
from tests.kills.many import live_randomly
from tests.kills.points import Act, Strike
from tests.kills.victim import Victims

KILLS: tuple[Act, ...] = ("kill before", "kill after")


def strikes(*points: str, acts: tuple[Act, ...] = KILLS) -> list[Strike]:
    """Strikes from lines such as "replace part 2": the second passage of "replace part"."""
    named = [(words[:-1], int(words[-1])) for words in (point.split() for point in points)]
    return [Strike(act=act, point=" ".join(words), nth=nth) for words, nth in named for act in acts]


# One life a list, each run of it killed at the next point; none of them gets further than the one before it, or the
# point is one that a late run passes too.
LIVES: dict[str, tuple[Plan, list[Strike]]] = {
    "before the first submission": (
        Plan(rows=4),
        strikes(
            "write new run.json 1",
            "replace run.json 1",
            "write lock 1",
            "replace prompts.parquet 1",
            "write new job.yaml 1",
            "replace job.yaml 1",
            "recover journals 1",
            "fsync new journal 1",
            "replace journal 1",
            "fsync journal folder 2",
            "write journal 1",
        ),
    ),
    "the journal": (
        Plan(rows=30),
        strikes("write journal 14", "fdatasync journal 4")
        + strikes("write journal 3", "write journal 11", acts=("tear",))
        + strikes("write journal 2", "fdatasync journal 1"),
    ),
    "around a submission": (
        Plan(rows=40),
        strikes("send submit 3", acts=(*KILLS, "tear"))
        + strikes("decipher submit 6")
        + strikes("send submit 1", acts=("tear",))
        + strikes("send result 2"),
    ),
    "sealing": (
        Plan(rows=60),
        strikes("write new part 1", acts=("tear", "kill after"))
        + strikes("replace part 2", "fsync part folder 2", "unlink journal 2", "fsync journal folder 5"),
    ),
    "recovery and reconciliation": (
        Plan(rows=10),
        strikes("send submit 9", acts=("kill after",))
        + strikes("recover journals 1")
        + strikes("replace part 1", acts=("kill before",))
        + strikes("write new part 1", acts=("tear",))
        + strikes("fsync part folder 1", acts=("kill after",))
        + strikes("unlink journal 1", acts=("kill after",))
        + strikes("send history 1", "send history 3", "judge lost 1")
        + strikes("write journal 1", acts=("tear", "kill after")),
    ),
    "the images": (
        Plan(rows=8, download=True),
        strikes("open new image 2", "fsync new image 1", "replace image 2", "fsync image folder 1")
        + strikes("write new image 1", acts=("tear",)),
    ),
    "the manifest": (
        Plan(rows=4),
        strikes("open new manifest.parquet 1", "fsync new manifest.parquet 1", "replace manifest.parquet 1"),
    ),
}


@pytest.mark.fault("P02")
@pytest.mark.parametrize("name", LIVES)
def test_killed_at_named_points(tmp_path: Path, victims: Victims, name: str) -> None:
    """Every run but the last is killed at its point; the last one leaves every cell made once, and knows it."""
    plan, wanted = LIVES[name]
    with Life.begun(tmp_path / "life", plan, victims) as life:
        assert life.live(wanted) == len(wanted)
        life.finish()


@pytest.mark.fault("P01")
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random(tmp_path: Path, victims: Victims, seed: int) -> None:
    """Runs killed at any file call or any moment, jobs of all kinds: the seed is in the test's name."""
    assert live_randomly(tmp_path / "life", victims, dice=random.Random(seed)).kills > 0


@pytest.mark.parametrize("seed", range(3))
def test_killed_without_inputs_in_the_history(tmp_path: Path, victims: Victims, seed: int) -> None:
    """What can't be told is held and counted; nothing is lost, nothing is made twice."""
    dice = random.Random(1000 + seed)
    plan = Plan(rows=10, inputs=False)
    with Life.begun(tmp_path / "life", plan, victims) as life:
        life.live([Strike(act="kill after", point="send submit", nth=dice.randrange(4, 9))])
        life.live([Strike(act="tear", point="send submit", nth=1)], must_strike=False)
        unanswered = life.unanswered()
        assert 1 <= life.finish().summary["unknown"] <= unanswered


@pytest.mark.fault("P03")
def test_a_service_that_is_still_at_work_on_what_a_dead_run_sent(tmp_path: Path, victims: Victims) -> None:
    """Predictions that come to be after the run that asked for them died are waited for and adopted."""
    late = FaultScript(rules=(FaultRule(on="submit", do="late", seconds=0.8, at=frozenset({5, 6, 7, 8})),))
    with Life.begun(tmp_path / "life", Plan(rows=10, faults=late, settle="1200ms"), victims) as life:
        life.live(strikes("send submit 5", acts=("kill after",)))
        life.finish()


def test_a_manifest_that_an_earlier_run_left(tmp_path: Path, victims: Victims) -> None:
    """A run that ends at --limit leaves a manifest; the next one, killed before it writes its own, leaves it old."""
    with Life.begun(tmp_path / "life", Plan(rows=5), victims) as life:
        assert life.run(None, "--limit", "4").status == 3
        assert (life.manifest()["status"] == "completed").sum() == 4
        life.live(strikes("publish results 1", acts=("kill before",)))
        assert (life.manifest()["status"] == "completed").sum() == 4
        life.finish()
