"""`batchflux report`, and the page that a run leaves: from a real run, beside it, and after it was killed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflux
from batchflux.app import reporting
from batchflux.app.reporting import write_report
from batchflux.core.errors import StorageError
from batchflux.report.pagefiles import REPORT
from batchflux.sandbox import Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.app.service import quick_service, write_spec
from tests.cli.conftest import Command
from tests.cli.driver import started, wait_until, write_job
from tests.report.test_pagefiles import array_of, cells_told, data_of, value_of

_TABLE = "prompt\na kite\na crow\n"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency."""
    with quick_service() as running:
        yield running


def test_a_run_leaves_its_page(service: RunningSandbox, tmp_path: Path) -> None:
    """Its path is in the closing words and in the JSON; images of every cell are on it."""
    path = write_spec(
        tmp_path,
        service,
        _TABLE,
        grid={"seed": [1, 2]},
        params={"num_images": 2},
        output={"dir": "out", "download": True},
    )
    result = batchflux.run(batchflux.load_job(path))
    assert result.report == tmp_path / "out" / REPORT
    assert any(line.startswith("  report: ") and line.endswith("out/report.html") for line in result.lines())
    assert json.loads(result.as_json())["report"] == str(result.report)
    told = cells_told(tmp_path / "out")
    assert [len(cell["files"]) for cell in told.values()] == [2] * 4
    assert (array_of(tmp_path / "out", "thumb", ">u8") != 0).all()
    assert set(array_of(tmp_path / "out", "files", "<u1")) == {2}


def test_a_run_that_wants_no_page_leaves_none(service: RunningSandbox, tmp_path: Path) -> None:
    """`output.report: false` turns it off; the command makes it all the same, without images where none were saved."""
    path = write_spec(tmp_path, service, _TABLE, output={"dir": "out", "download": False, "report": False})
    result = batchflux.run(batchflux.load_job(path))
    assert result.report is None
    assert not (tmp_path / "out" / REPORT).exists()
    assert not any("report" in line for line in result.lines())
    written = write_report(tmp_path / "out")
    assert written.path.exists()
    assert set(array_of(tmp_path / "out", "files", "<u1")) == {0}


def test_a_large_run_waits_to_be_asked(
    service: RunningSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its most cells a run ends without a page."""
    monkeypatch.setattr(reporting, "MOST_CELLS_BY_ITSELF", 1)
    path = write_spec(tmp_path, service, _TABLE)
    assert batchflux.run(batchflux.load_job(path)).report is None


def test_a_page_that_can_t_be_written_harms_no_run(
    command: Command,
    service: RunningSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run ends as well as without it, and says what is left out."""

    def refuse(run_dir: Path, **how: float) -> None:
        raise StorageError(run_dir / REPORT, doing="write the file", cause=OSError(28, "No space left on device"))

    monkeypatch.setattr(reporting, "write_report", refuse)
    path = write_spec(tmp_path, service, _TABLE)
    done = command("run", path, "--yes", cwd=tmp_path)
    assert done.status == 0
    assert "warning: the run's page is left out: " in done.err
    assert "  report: " not in done.err


def test_the_command_says_where_the_page_lies(
    command: Command,
    service: RunningSandbox,
    tmp_path: Path,
) -> None:
    """A run directory and a job file are as good; `--json` prints the figures and writes nothing."""
    path = write_spec(tmp_path, service, _TABLE, grid={"guidance_scale": [2, 4], "seed": [1, 2, 3]})
    assert batchflux.run(batchflux.load_job(path)).exit_status == 0
    for given in (path, tmp_path / "out"):
        (tmp_path / "out" / REPORT).unlink()
        done = command("report", given, cwd=tmp_path)
        assert (done.status, done.out) == (0, "12 cells: out/report.html\n")
        assert (tmp_path / "out" / REPORT).exists()
    before = (tmp_path / "out" / REPORT).stat().st_mtime_ns
    found = command("report", path, "--json", cwd=tmp_path).document
    assert (tmp_path / "out" / REPORT).stat().st_mtime_ns == before
    assert (found["cells"], found["by_status"]["completed"], found["cost_usd"]) == (12, 12, 0.96)
    assert [axis["name"] for axis in found["axes"]] == ["guidance_scale", "seed"]
    (value, _) = found["axes"][0]["values"]
    assert (value["value"], value["cells"], value["failed"]["hits"]) == ("2", 6, 0)
    assert {"n", "median", "interval"} <= set(value["latency_ms"])
    assert value["inference_ms"] is None  # this service tells of no time that it worked
    assert {"metric", "is_effect", "p", "sentence", "test"} == set(found["axes"][0]["effects"][0])
    slowest = found["slowest"][0]
    assert slowest["latency_ms"] == max(cell["latency_ms"] for cell in found["slowest"])
    assert set(slowest["axes"]) == {"guidance_scale", "seed"}


def test_what_has_no_run_has_no_page(command: Command, tmp_path: Path) -> None:
    """A folder that is none is refused in one sentence, with nothing written."""
    done = command("report", tmp_path, cwd=tmp_path)
    assert done.status == 2
    assert "no run directory" in done.err
    assert list(tmp_path.iterdir()) == []


def test_beside_a_live_run_and_after_its_end(tmp_path: Path) -> None:
    """Made while cells are in flight and after a kill, the page has what was known, and disturbs nobody."""
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0.1, sigma=0.3))) as service:
        api = {"base_url": service.base_url, "settle": "200ms"}
        job = write_job(tmp_path, prompts=[f"a kite {place}" for place in range(8)], api=api)
        run_dir = tmp_path / "out"
        with started("run", job, "--yes", "-j", "2", cwd=tmp_path) as live:
            wait_until(lambda: service.stats["submissions_received"] >= 5, "five submissions")
            write_report(run_dir)
            status = array_of(run_dir, "status", "<u1")
            assert len(status) == 16
            assert (status == 0).sum() > 0
            live.process.kill()
            live.process.wait(20)
        write_report(run_dir)
        after = array_of(run_dir, "status", "<u1")
        assert (after == 2).sum() >= (status == 2).sum()
        assert (after == 0).sum() > 0
        done = batchflux.run(batchflux.load_job(job))
        assert done.exit_status == 0
        assert set(array_of(run_dir, "status", "<u1")) == {2}


def test_a_sandbox_that_slows_with_guidance_is_found_out(tmp_path: Path) -> None:
    """The whole way: a service whose predictions take longer with guidance is told of in the figures, seeds aren't."""
    latency = Latency(median_s=0.05, sigma=0.1, per_guidance=0.1)
    with SandboxThread(SandboxConfig(latency=latency)) as service:
        path = write_spec(
            tmp_path,
            service,
            "prompt\n" + "".join(f"kite {place}\n" for place in range(8)),
            grid={"guidance_scale": [1, 5, 10], "seed": [1, 2]},
        )
        result = batchflux.run(batchflux.load_job(path))
    assert result.exit_status == 0
    sweep = value_of(data_of(tmp_path / "out") / "sweep.js")
    effects = {(axis["name"], effect["metric"]): effect for axis in sweep["axes"] for effect in axis["effects"]}
    assert effects["guidance_scale", "inference_ms"]["is_effect"] is True
    assert effects["guidance_scale", "inference_ms"]["sentence"].startswith("Inference time rises with it")
    assert effects["seed", "inference_ms"]["is_effect"] is False
