"""Two real runs with one key on one account: each gets its part, and they leave nothing behind."""

import os
from pathlib import Path

import pandas as pd
import pytest

from batchflux.sandbox import Latency, SandboxConfig, SandboxThread
from tests.cli.driver import batchflux_command, started, write_job


@pytest.mark.slow
def test_who_comes_second_is_not_starved(tmp_path: Path) -> None:
    """Six slots that refuse a seventh: once both have heard of each other, each completes a quarter at least."""
    config = SandboxConfig(latency=Latency(median_s=0.15, sigma=0.2), concurrency=6, over_limit="refuse")
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with SandboxThread(config) as service:
        jobs = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            jobs.append(
                write_job(
                    tmp_path / name,
                    api={"base_url": service.base_url},
                    grid={"seed": list(range(80))},
                    output={"download": False, "dir": "out"},
                )
            )
        with (
            started("run", jobs[0], "--yes", cwd=tmp_path, env=env) as one,
            started("run", jobs[1], "--yes", cwd=tmp_path, env=env) as two,
        ):
            assert [one.wait().status, two.wait().status] == [0, 0]
    done = [pd.read_parquet(tmp_path / name / "out" / "manifest.parquet").completed_at for name in ("one", "two")]
    until = min(times.max() for times in done)
    since = max(times.min() for times in done) + pd.Timedelta(seconds=3)
    counts = [int(times.between(since, until).sum()) for times in done]
    assert min(counts) >= 0.25 * sum(counts), counts
    assert os.listdir(tmp_path / "state" / "batchflux") == []
    status = batchflux_command("status", tmp_path / "one" / "out", cwd=tmp_path, env=env)
    assert "predictions at once (learned from refusals)" in status.out
    again = batchflux_command("plan", jobs[0], "--json", cwd=tmp_path, env=env)
    assert "predictions at once" in again.document["limit"]
