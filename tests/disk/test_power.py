"""A whole run without power: killed at any call, and what was not flushed gone, or there by half, as the dice say."""

import random
from pathlib import Path

import pytest

from tests.kills.lives import Life, Plan
from tests.kills.points import Strike
from tests.kills.victim import Victims

# Where most is at stake: an intent on its way, an answer just heard, all done and not yet told.
_POINTS = ("send submit", "decipher submit", "publish results")


def live_through_cuts(folder: Path, victims: Victims, *, seed: int) -> int:
    """Cut the power of a few runs of a drawn job, finish it, hold it against the ledger; return the cuts."""
    dice = random.Random(seed)
    cuts = 0
    plan = Plan(rows=dice.randrange(3, 10), download=dice.random() < 0.5)
    with Life.begun(folder, plan, victims) as life:
        strikes = [Strike(act="cut", nth=dice.randrange(1, 220), seed=seed) for _ in range(dice.randrange(1, 4))]
        strikes.append(Strike(act="cut", point=dice.choice(_POINTS), seed=seed))
        for strike in strikes:
            end = life.run(strike)
            assert end.is_killed or end.status == 0, end
            cuts += end.is_killed
            life.check_never_twice()
        life.finish()
    return cuts


@pytest.mark.fault("D05")
def test_power_cuts(tmp_path: Path, victims: Victims) -> None:
    """Every cell is made once, and where the facts say that an image is, it is."""
    assert sum(live_through_cuts(tmp_path / str(seed), victims, seed=seed) for seed in range(3)) > 3


@pytest.mark.fault("D05")
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("hundred", range(5))
def test_many_power_cuts(tmp_path: Path, victims: Victims, hundred: int) -> None:
    """The same with five hundred other seeds."""
    for seed in range(hundred * 100 + 100, hundred * 100 + 200):
        live_through_cuts(tmp_path / str(seed), victims, seed=seed)


def test_all_images_are_there_after_a_cut_at_the_end(tmp_path: Path, victims: Victims) -> None:
    """When the run is about to write its manifest, every image that the facts name is durable with all its folders."""
    with Life.begun(tmp_path / "life", Plan(rows=6, download=True), victims) as life:
        assert life.run(Strike(act="cut", point="publish results", seed=3)).is_killed
        assert "send submit" not in life.finish().passages
