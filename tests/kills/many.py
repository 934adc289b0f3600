"""Random lives by the hundred: `python -m tests.kills.many 1000` kills that many runs and prints what came of it."""

import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.kills.lives import Life, Plan
from tests.kills.points import Act, Strike
from tests.kills.victim import Victims

__all__ = ["Lived", "live_randomly"]

_POINTS = ("send submit", "decipher submit", "write journal", "fdatasync journal", "send history", "send result")
_ACTS: tuple[Act, ...] = ("kill before", "kill after", "tear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """What a life had: runs killed, cells, predictions made, and cells held in the end (0 where inputs are given)."""

    kills: int
    cells: int
    made: int
    held: int


def draw_plan(dice: random.Random) -> Plan:
    """Any small job: with and without images, failures that the service refunds, inputs in its history."""
    return Plan(
        rows=dice.randrange(4, 13),
        seeds=dice.randrange(1, 4),
        download=dice.random() < 0.3,
        inputs=dice.random() < 0.8,
        latency_s=dice.choice((0.0, 0.005, 0.03)),
        failures=((5000, 0.1),) if dice.random() < 0.2 else (),
    )


def live_randomly(folder: Path, victims: Victims, *, dice: random.Random) -> Lived:
    """Kill a drawn job's runs a few times, finish it, and hold it against the ledger; raises AssertionError."""
    plan = draw_plan(dice)
    kills = 0
    with Life.begun(folder, plan, victims) as life:
        for number in range(dice.randrange(2, 6)):
            if number == 0:
                end = life.run(Strike(act=dice.choice(_ACTS), nth=dice.randrange(1, 60)))
            elif dice.random() < 0.3:
                end = life.run(moment_s=dice.uniform(0.02, 0.5))
            elif dice.random() < 0.5:
                end = life.run(Strike(act=dice.choice(_ACTS), point=dice.choice(_POINTS), nth=dice.randrange(1, 12)))
            else:
                end = life.run(Strike(act=dice.choice(_ACTS), nth=dice.randrange(1, 120)))
            kills += end.is_killed
            life.check_never_twice()
            life.accept_torn_ends()
        end = life.finish()
        return Lived(
            kills=kills, cells=len(plan.bodies), made=sum(life.created().values()), held=end.summary["unknown"]
        )


def main(wanted: int, first_seed: int) -> None:
    """Live until so many runs were killed; a life that breaks a promise ends it with its seed."""
    lives: list[Lived] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Victims(Path(name)) as victims:
        while sum(life.kills for life in lives) < wanted:
            seed = first_seed + len(lives)
            try:
                lives.append(live_randomly(Path(name) / str(seed), victims, dice=random.Random(seed)))
            except AssertionError as error:
                raise AssertionError(f"seed {seed} broke a promise") from error
    cells, made, held = (sum(getattr(life, field) for life in lives) for field in ("cells", "made", "held"))
    took_s = time.monotonic() - began_s
    sys.stdout.write(
        f"{sum(life.kills for life in lives)} kills in {len(lives)} lives, {took_s:.0f} s: {cells} cells, "
        f"{made} predictions, made twice 0, lost 0, held {held} (only without inputs in the history)\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
