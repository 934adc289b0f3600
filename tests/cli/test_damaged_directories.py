"""Run directories that were meddled with, and jobs of impossible size: said before anything is submitted."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchflux.sandbox import Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.cli.conftest import Command
from tests.cli.driver import write_job


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency."""
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0))) as running:
        yield running


def _begun(folder: Path, service: RunningSandbox, command: Command) -> tuple[Path, int]:
    """Return a job of four cells of which two are done, and how many submissions the service has had."""
    job = write_job(folder, api={"base_url": service.base_url, "settle": "200ms"})
    assert command("run", job, "--limit", "2", cwd=folder).status == 3
    return job, service.stats["submissions_received"]


def _lose_parts(out: Path) -> None:
    for part in (out / "checkpoint").glob("*.parquet"):
        part.unlink()


def _lose_the_checkpoint(out: Path) -> None:
    shutil.rmtree(out / "checkpoint")


def _make_a_part_unreadable(out: Path) -> None:
    part = next((out / "checkpoint").glob("*.parquet"))
    part.unlink()
    part.mkdir()


@pytest.mark.fault("D04", "D11")
@pytest.mark.parametrize("harm", [_lose_parts, _lose_the_checkpoint, _make_a_part_unreadable])
def test_facts_that_are_gone_stop_the_spending(
    command: Command, service: RunningSandbox, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """What was paid for can't be told any more, so nothing is bought on a guess."""
    job, made = _begun(tmp_path, service, command)
    harm(tmp_path / "out")
    done = command("run", job, cwd=tmp_path)
    assert done.status in (2, 4)
    assert "part-00000001.parquet" in done.err
    assert service.stats["submissions_received"] == made


@pytest.mark.fault("D11")
def test_a_checkpoint_that_is_gone_with_its_journal(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """A manifest beside nothing else: there was a run, and what it paid for can't be told."""
    job, made = _begun(tmp_path, service, command)
    for name in ("checkpoint", "journal"):
        shutil.rmtree(tmp_path / "out" / name)
    done = command("run", job, cwd=tmp_path)
    assert done.status == 4
    assert "checkpoint/ and journal/ are missing beside a manifest.parquet" in done.err
    assert service.stats["submissions_received"] == made


@pytest.mark.fault("D11")
def test_a_journal_that_is_gone_after_its_seal_is_not_missed(
    command: Command, service: RunningSandbox, tmp_path: Path
) -> None:
    """A run that ended has all its facts in parts: the rest is bought, and nothing twice."""
    job, made = _begun(tmp_path, service, command)
    for journal in (tmp_path / "out" / "journal").iterdir():
        journal.unlink()
    assert command("run", job, cwd=tmp_path).status == 0
    assert service.stats["submissions_received"] == made + 2


@pytest.mark.fault("D13")
@pytest.mark.parametrize("place", ["out", "out/checkpoint", "out/journal", "out/lock", "out/run.json"])
def test_a_place_that_is_taken_by_something_else(
    command: Command, service: RunningSandbox, tmp_path: Path, place: str
) -> None:
    """A file where a folder should be, or a folder where a file should: refused, and nothing submitted."""
    made = service.stats["submissions_received"]
    job = write_job(tmp_path, api={"base_url": service.base_url})
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    if path.name in ("lock", "run.json"):
        path.mkdir()
    else:
        path.write_text("in the way")
    done = command("run", job, cwd=tmp_path)
    assert done.status in (2, 4)
    assert "out" in done.err
    assert service.stats["submissions_received"] == made


@pytest.mark.fault("D13")
@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to the superuser")
def test_a_directory_that_is_read_only(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Refused before anything is submitted."""
    job, made = _begun(tmp_path, service, command)
    (tmp_path / "out").chmod(0o500)
    try:
        done = command("run", job, cwd=tmp_path)
    finally:
        (tmp_path / "out").chmod(0o700)
    assert done.status in (2, 4)
    assert service.stats["submissions_received"] == made


@pytest.mark.fault("I12")
def test_a_grid_beyond_all_bounds(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Its size is said by arithmetic, without being expanded, and nothing is made."""
    grid = {"seed": {"count": 1_000_000}, "guidance_scale": {"start": 1, "stop": 10, "num": 901}}
    job = write_job(tmp_path, prompts=[f"kite {n}" for n in range(1000)], grid=grid, api={"base_url": service.base_url})
    for verb in ("plan", "run"):
        done = command(verb, job, cwd=tmp_path)
        assert done.status == 2
        assert "901,000,000,000 cells" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("I12")
def test_a_model_without_a_price(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Where nothing tells what a cell costs, no money is spent: it is asked for."""
    made = service.stats["submissions_received"]
    job = write_job(tmp_path, model="somebody/other-model", api={"base_url": service.base_url})
    done = command("plan", job, cwd=tmp_path)
    assert "run.price" in done.out + done.err
    assert service.stats["submissions_received"] == made
