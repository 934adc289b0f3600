"""The Python API as a notebook uses it: load, plan, run, read; inside a running loop; errors of one family."""

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflux
from batchflux.sandbox import FaultRule, RunningSandbox
from tests.app.service import quick_service, write_spec
from tests.canary import CANARY
from tests.cli.driver import wait_until

# The big example of the interface, with the keys that it shows as comments taken up in other tests.
_EXAMPLE = """
name: city-guidance-sweep
extends: ../configs/silver.yaml
model: wavespeed-ai/flux-kontext-max/text-to-image
api:
  base_url: https://api.wavespeed.ai/api/v3
  key_env: WAVESPEED_API_KEY
  settle: 60s
  allow_unknown_params: false
prompts:
  path: prompts/city.csv
  columns:
    prompt: caption
    id: key
    aspect_ratio: ratio
  limit: 100
grid:
  seed: [1, 2, 3]
  guidance_scale: {start: 2.5, stop: 7.5, num: 3}
exclude:
  - {seed: 3, guidance_scale: 7.5}
params:
  aspect_ratio: "1:1"
run:
  concurrency: auto
  rate_limit: 500/min
  max_attempts: 4
  timeout: 30m
  patience: 12h
  budget: 25.00
  price: 0.08
  max_failed: 0
  on_unknown: hold
  order: rows
output:
  dir: ../runs/city
  download: true
"""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency, but for prompts that are never done."""
    with quick_service(FaultRule(on="submit", do="stuck", prompt="for ever")) as running:
        yield running


def test_the_interface_s_own_example(tmp_path: Path) -> None:
    """It loads with a table that matches, and plans: the grid beats the row, the row beats params."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "silver.yaml").write_text("run: {rate_limit: 500/min, concurrency: 50}\n")
    (tmp_path / "jobs" / "prompts").mkdir(parents=True)
    lines = [f"{n:03},a street,{'16:9' if n % 2 else ''},x" for n in range(150)]
    (tmp_path / "jobs" / "prompts" / "city.csv").write_text("\n".join(["key,caption,ratio,note", *lines]) + "\n")
    path = tmp_path / "jobs" / "city.yaml"
    path.write_text(_EXAMPLE)
    job = batchflux.load_job(path)
    plan = batchflux.plan(job)
    assert (plan.rows, plan.axes, plan.cells) == (100, {"seed": 3, "guidance_scale": 3}, 800)
    assert (plan.cost_usd, plan.name) == (64.0, "city-guidance-sweep")
    assert Path(plan.run_dir).resolve() == tmp_path / "runs" / "city"
    first = plan.first_requests[0]
    assert first["body"] == {"prompt": "a street", "aspect_ratio": "1:1", "seed": 1, "guidance_scale": 2.5}
    assert first["prompt_id"] == "000"
    assert plan.first_requests[1]["body"]["guidance_scale"] == 5  # type: ignore[index,call-overload]
    eight = batchflux.load_job(str(path), overrides={"run.concurrency": 8})
    assert eight.spec.run.concurrency == 8


def test_load_plan_run_read(service: RunningSandbox, tmp_path: Path) -> None:
    """The five lines of the interface."""
    job = batchflux.load_job(write_spec(tmp_path, service, "prompt\na <b>kite</b>\n", grid={"seed": [1, 2]}))
    plan = batchflux.plan(job)
    assert (plan.cells, plan.images, plan.cost_usd) == (2, 2, 0.16)
    assert "left to pay" in str(plan)
    assert "<table>" in plan._repr_html_()
    assert json.loads(plan.as_json())["to_pay"] == 2
    result = batchflux.run(job)
    assert (result.exit_status, result.standing.completed) == (0, 2)
    assert result.manifest == tmp_path / "out" / "manifest.parquet"
    assert result._repr_html_().startswith("<pre>job: 2 of 2 cells completed")
    assert len(batchflux.read_manifest(tmp_path / "out")) == 2


def test_inside_a_running_loop(service: RunningSandbox, tmp_path: Path) -> None:
    """A notebook's loop is running already: `run` works all the same, and so does awaiting."""
    job = batchflux.load_job(write_spec(tmp_path, service, "prompt\na\n", grid={"seed": [1, 2]}))

    async def cell() -> tuple[int, int]:
        first = batchflux.run(job, batchflux.RunOptions(limit=1))
        second = await batchflux.run_async(job)
        return first.exit_status, second.exit_status

    assert asyncio.run(cell()) == (3, 0)


@pytest.mark.timeout(30)
def test_an_interrupted_notebook_stops_spending(service: RunningSandbox, tmp_path: Path) -> None:
    """Ctrl-C while `run` waits for its thread stops the run in good order, then is raised."""
    job = batchflux.load_job(write_spec(tmp_path, service, "prompt\nfor ever\n", grid={"seed": [1, 2]}))
    before = service.stats["submissions_received"]

    def press() -> None:
        wait_until(lambda: service.stats["submissions_received"] == before + 2, "submissions")
        wait_until(lambda: any(thread.name == "batchflux-run" for thread in threading.enumerate()), "the run")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def cell() -> None:
        batchflux.run(job)

    # asyncio's own handler would cancel the cell's task; a notebook's kernel raises, as Python does.
    presser = threading.Thread(target=press)

    async def notebook() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        presser.start()
        await cell()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(notebook())
    presser.join()
    assert not any(thread.name == "batchflux-run" for thread in threading.enumerate())
    assert set(batchflux.read_manifest(tmp_path / "out")["status"]) == {"submitted"}


def test_errors_are_of_one_family(service: RunningSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user can get wrong raises a BatchfluxError, with every problem in it."""
    with pytest.raises(batchflux.JobSpecError):
        batchflux.load_job(tmp_path / "nowhere.yaml")
    path = write_spec(tmp_path, service, "prompt\n\n", grid={"sed": [1], "guidance_scale": [99]})
    with pytest.raises(batchflux.JobSpecError) as caught:
        batchflux.load_job(path)
    assert len(caught.value.problems) == 2
    assert isinstance(caught.value, batchflux.BatchfluxError)
    with pytest.raises(batchflux.UsageError, match=r"run\.json"):
        batchflux.load_job(tmp_path)
    job = batchflux.load_job(write_spec(tmp_path, service, "prompt\na\n"))
    monkeypatch.delenv("WAVESPEED_API_KEY")
    with pytest.raises(batchflux.UsageError, match="WAVESPEED_API_KEY"):
        batchflux.run(job)
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)
    batchflux.run(job)
    other = batchflux.load_job(job.path, {"api.base_url": "http://127.0.0.1:1/api/v3"})
    with pytest.raises(batchflux.ForeignRunDir):
        batchflux.run(other)


def test_the_public_names_are_there() -> None:
    """`batchflux.<name>` for each of them, and nothing heavy until one is used."""
    for name in batchflux.__all__:
        assert getattr(batchflux, name) is not None
    assert set(batchflux.__all__) <= set(dir(batchflux))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        batchflux.nothing  # noqa: B018


def test_a_row_s_part_is_that_row_s_for_two_threads(tmp_path: Path) -> None:
    """The manifest is written beside a run: both ask for rows at once, and each gets its own."""
    table = "prompt\n" + "".join(f"kite {row}\n" for row in range(50))
    rows = batchflux.load_job(write_spec(tmp_path, None, table)).rows
    wrong: list[int] = []

    def ask(offset: int) -> None:
        for step in range(3000):
            row = (step * 7 + offset) % 50
            if rows.part(row).words["prompt"] != f"kite {row}":
                wrong.append(row)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(offset,)) for offset in (0, 13)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
