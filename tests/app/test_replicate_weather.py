"""A run and its replicates in bad weather: answers lost, histories refused, sessions cut short; none bought twice.

`python -m tests.app.test_replicate_weather FIRST COUNT` goes through more seeds than the suite does.
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux import RunOptions
from batchflux.app.job import load_job
from batchflux.app.verify import verify_run
from batchflux.sandbox import FaultRule
from tests.app.service import quick_service, write_spec

_ROWS = 8
_SESSIONS = 8


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_each_request_is_bought_as_often_as_asked(tmp_path: Path, seed: int) -> None:
    """Whatever is lost on either side, a cell is bought once, a drawn one once more, each with its own prediction."""
    live(tmp_path, seed)


def live(folder: Path, seed: int) -> None:
    """Run a job with some equal rows session by session until nothing is left, and look at the ledger."""
    dice = random.Random(seed)
    rows = [f"a kite over hill {dice.randrange(_ROWS - 2)}" for _ in range(_ROWS)]
    with quick_service(*_weather(dice), image_size=64) as service:
        spec: dict[str, Any] = {"grid": {"seed": [1, 2]}, "output": {"dir": "out"}, "run": {"replicate": "40%"}}
        path = write_spec(folder, service, "prompt\n" + "\n".join(rows) + "\n", **spec)
        for _ in range(_SESSIONS):
            limit = dice.choice([None, None, 3])
            budget = dice.choice([None, None, 400_000])
            settings = {"run.concurrency": dice.choice([1, 3, 16])}
            batchflux.run(load_job(path, settings), RunOptions(limit=limit, budget_micro_usd=budget))
        result = batchflux.run(load_job(path))
        assert (result.exit_status, result.standing.completed) == (0, 2 * _ROWS), str(result)
        first, second = batchflux.read_manifest(result.run_dir), _replicates(result.run_dir)
        asked = Counter(zip(first["prompt"], first["seed"], strict=True))
        asked.update(zip(second["prompt"], second["seed"], strict=True))
        bought = Counter(
            (inputs["prompt"], inputs["seed"])
            for inputs in (each.parsed_inputs() for each in service.behaviour.everything())
        )
        assert bought == asked
        ids = [*first["prediction_id"], *second["prediction_id"]]
        assert set(ids) == {each.id for each in service.behaviour.everything()}
        assert len(ids) == len(set(ids))
        n_distinct = 2 * len(set(rows))
        assert len(second) == min(n_distinct, round(0.4 * 2 * _ROWS))
        assert verify_run(result.run_dir, account=True).problems == ()


def _weather(dice: random.Random) -> list[FaultRule]:
    """Return faults of the first requests: answers lost before and after the service acted, a history that is away."""
    places = dice.sample(range(1, 26), 8)
    return [
        FaultRule(on="submit", do="close", when="after", at=frozenset(places[:3])),
        FaultRule(on="submit", do="close", when="before", at=frozenset(places[3:5])),
        FaultRule(on="submit", do="status", status=502, when="after", at=frozenset(places[5:7])),
        FaultRule(on="submit", do="status", status=502, when="before", at=frozenset(places[7:])),
        FaultRule(on="history", do="status", status=404, at=frozenset(dice.sample(range(1, 12), 4))),
    ]


def _replicates(run_dir: Path) -> Any:
    (place,) = (run_dir / "replicates").iterdir()
    return batchflux.read_manifest(place)


def _main(first: int, count: int) -> None:
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            live(Path(folder), seed)
        sys.stdout.write(f"seed {seed} holds\n")


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
