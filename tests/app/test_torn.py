"""A journal's end is torn, and the service accepted what it held: nothing is bought twice for it.

The submission that is not on record is made by the test itself; the service's ledger is the truth.
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchflux.app.run import RunOptions
from batchflux.core.errors import CheckpointDamaged
from batchflux.sandbox import FaultRule, RunningSandbox, SandboxThread
from batchflux.sandbox.behaviour import PredictionRecord
from tests.app.test_reconciliation import config, created, key, run

__all__ = ["key"]

pytestmark = pytest.mark.usefixtures("key")


def submit(sandbox: RunningSandbox, number: int) -> None:
    """Buy the cell of a row, as a submission does that no record tells of."""
    body = json.dumps({"prompt": f"prompt number {number}", "seed": 1}).encode()
    headers = {"Authorization": "Bearer a-key-for-loopback", "Content-Type": "application/json"}
    url = f"{sandbox.base_url}/wavespeed-ai/flux-kontext-max/text-to-image"
    urllib.request.urlopen(urllib.request.Request(url, body, headers)).close()  # noqa: S310 - our own sandbox


def tear(folder: Path, *, written_at_s: float | None = None) -> None:
    """End the newest journal in half a record."""
    path = max(folder.rglob("*.journal"))
    with path.open("ab") as file:
        file.write(b"\x40\x02\x00\x00half")
    if written_at_s is not None:
        os.utime(path, (written_at_s, written_at_s))


def test_another_lost_submission_explains_nothing(tmp_path: Path) -> None:
    """One cell is unknown, and was never accepted; the one prediction without inputs may be the torn record's."""
    rules = (
        FaultRule(on="submit", do="status", status=502, at=frozenset({2})),
        FaultRule(on="history", do="status", status=404, times=1),
    )
    with SandboxThread(config(*rules, history_inputs="absent")) as sandbox:
        assert run(tmp_path, sandbox, cells=4, options=RunOptions(limit=2)).standing.unknown == 1
        submit(sandbox, 2)
        tear(tmp_path)
        with pytest.raises(CheckpointDamaged, match="could be any cell's"):
            run(tmp_path, sandbox, cells=4)
        assert created(sandbox) == {1: 2}


def test_the_retry_of_a_failed_cell(tmp_path: Path) -> None:
    """The end of a run with --retry-failed was torn: the cell is not bought a third time."""
    rule = FaultRule(on="submit", do="fail", code=1403, prompt="number 1", times=1)
    with SandboxThread(config(rule)) as sandbox:
        assert run(tmp_path, sandbox, cells=2).standing.failed == 1
        submit(sandbox, 1)
        tear(tmp_path)
        assert run(tmp_path, sandbox, cells=3).standing.completed == 3
        again = run(tmp_path, sandbox, cells=3, options=RunOptions(retry_failed=True))
        assert created(sandbox) == {1: 2, 2: 1}
    assert again.standing.cost_usd == pytest.approx(4 * 0.08)


def test_older_than_the_history_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service forgets a prediction after a week: that it lists none then proves nothing."""
    plain, later_s = time.time_ns, 8 * 86400
    rule = FaultRule(on="history", do="patch", data={"items": []})
    with SandboxThread(config(rule)) as sandbox:
        run(tmp_path, sandbox, cells=4, options=RunOptions(limit=2))
        submit(sandbox, 2)
        tear(tmp_path)
        monkeypatch.setattr(time, "time_ns", lambda: plain() + later_s * 10**9)
        with pytest.raises(CheckpointDamaged, match="a week only"):
            run(tmp_path, sandbox, cells=4)
        assert created(sandbox) == {1: 3}


def test_a_journal_whose_time_of_writing_was_lost(tmp_path: Path) -> None:
    """A restored copy may be dated long before what it holds: it is looked for until now."""
    with SandboxThread(config()) as sandbox:
        run(tmp_path, sandbox, cells=4, options=RunOptions(limit=2))
        submit(sandbox, 2)
        tear(tmp_path, written_at_s=time.time() - 3 * 86400)
        assert run(tmp_path, sandbox, cells=4).standing.completed == 4
        assert created(sandbox) == {1: 4}


def _trimmed(inputs: dict[str, Any]) -> None:
    inputs["prompt"] = inputs["prompt"].replace(" ", "")


def _as_text(inputs: dict[str, Any]) -> None:
    inputs["seed"] = str(inputs["seed"])


def _without_seed(inputs: dict[str, Any]) -> None:
    del inputs["seed"]


@pytest.mark.parametrize("change", [_trimmed, _as_text, _without_seed])
def test_a_history_that_changes_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> None:
    """It shows in what the run itself has sent: then a prediction that no cell seems to ask for proves nothing."""
    with SandboxThread(config()) as sandbox:
        run(tmp_path, sandbox, cells=4, options=RunOptions(limit=2))
        submit(sandbox, 2)
        tear(tmp_path)
        plain = PredictionRecord.parsed_inputs

        def changed(record: PredictionRecord) -> dict[str, Any]:
            inputs: dict[str, Any] = plain(record)
            change(inputs)
            return inputs

        with monkeypatch.context() as patch:
            patch.setattr(PredictionRecord, "parsed_inputs", changed)
            with pytest.raises(CheckpointDamaged, match="could be any cell's"):
                run(tmp_path, sandbox, cells=4)
        assert created(sandbox) == {1: 3}
        assert run(tmp_path, sandbox, cells=4).standing.completed == 4
        assert created(sandbox) == {1: 4}
