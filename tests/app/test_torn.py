"""A journal's end is torn, and the service accepted what it held: nothing is bought twice for it.

The submission that is not on record is made by the test itself; the service's ledger is the truth.
"""

import json
import os
import struct
import time
import urllib.request
import zlib
from pathlib import Path

import pytest

from batchflux.app.run import RunOptions
from batchflux.core.errors import CheckpointDamaged
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.journal import encode_fact
from batchflux.sandbox import FaultRule, RunningSandbox, SandboxThread
from tests.app.test_reconciliation import config, created, key, run

__all__ = ["key"]

pytestmark = pytest.mark.usefixtures("key")


def submit(sandbox: RunningSandbox, number: int) -> None:
    """Buy the cell of a row, as a submission does that no record tells of."""
    body = json.dumps({"prompt": f"prompt number {number}", "seed": 1}).encode()
    headers = {"Authorization": "Bearer a-key-for-loopback", "Content-Type": "application/json"}
    url = f"{sandbox.base_url}/wavespeed-ai/flux-kontext-max/text-to-image"
    urllib.request.urlopen(urllib.request.Request(url, body, headers)).close()  # noqa: S310 - our own sandbox


def tear(folder: Path, *, last_fact_at_ms: int | None = None, written_at_s: float | None = None) -> None:
    """End the newest journal in half a record, after one whole fact where a moment is given for it."""
    path = max(folder.rglob("*.journal"))
    with path.open("ab") as file:
        if last_fact_at_ms is not None:
            payload = encode_fact(
                Fact(
                    cell_id="0" * 32,
                    kind=FactKind.RELEASED,
                    at_ms=last_fact_at_ms,
                    attempt=1,
                    status=CellStatus.PENDING,
                    attempts=0,
                    cost_micro_usd=0,
                )
            )
            file.write(struct.pack("<II", len(payload), zlib.crc32(payload)) + payload)
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
