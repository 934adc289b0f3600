"""A service without latency in this process, its ledger at hand, and jobs to be run against it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.canary import CANARY


@contextmanager
def quick_service(*rules: FaultRule, **knobs: Any) -> Iterator[RunningSandbox]:
    """Run a service whose predictions are done at once, with these faults, and let this process have a key."""
    config = SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules), **knobs)
    with SandboxThread(config) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAVESPEED_API_KEY", CANARY)
        # The first look at a prediction comes after half a second: here it would be all of the time.
        patch.setattr("batchflux.core.polling._FIRST_GUESS_S", 0.02)
        patch.setattr("batchflux.core.polling._SHORTEST_STEP_S", 0.02)
        yield running


def write_spec(
    folder: Path, service: RunningSandbox | None, table: str | pa.Table, prompts: Any = None, **keys: Any
) -> Path:
    """Write job.yaml and its table, CSV text or an Arrow table; its run directory is `out`, nothing is downloaded."""
    if isinstance(table, str):
        (folder / "p.csv").write_text(table, encoding="utf-8", newline="")
    else:
        pq.write_table(table, folder / "p.parquet")
    spec = {
        "api": {"base_url": service.base_url, "settle": "200ms"} if service is not None else {},
        "output": {"dir": "out", "download": False},
        "prompts": {"path": "p.csv" if isinstance(table, str) else "p.parquet", **(prompts or {})},
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path
