"""The commands that look at a run or write beside it: plan, status, export, schema, init; what reaches a terminal."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflux
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from tests.cli.conftest import Command
from tests.cli.driver import batchflux_command, write_job

# What would colour, clear or turn a terminal's text: C0, DEL, C1 and the marks that change the direction of writing.
_STEERING = "\x1b[31m\x07\x7f\x9b2J\u202e"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service without latency."""
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0))) as running:
        yield running


def test_plan_says_what_run_would_do(command: Command, tmp_path: Path) -> None:
    """Without a key and without a trace: sizes, cells, money, hours, disk and the first requests."""
    job = write_job(
        tmp_path,
        prompts=["a kite", "a kite", "a crow"],
        grid={"seed": [1, 2], "guidance_scale": [2.5, 5]},
        params={"num_images": 2},
        output={"dir": "out"},
    )
    done = command("plan", job, cwd=tmp_path, env={"WAVESPEED_API_KEY": ""})
    assert (done.status, done.err) == (0, "")
    assert not (tmp_path / "out").exists()
    for words in (
        "12  (3 rows × 2 seeds × 2 guidance_scale values)",
        "0 kept, 12 new, 0 retired",
        "12 cells, 24 images",
        "$1.92  ($0.08 an image)",
        "4 cells repeat another's request: $0.64",
        "bronze 12 min; silver 3 s",
        "about 36 MB",
        'POST wavespeed-ai/flux-kontext-max/text-to-image  {"prompt": "a kite", "num_images": 2, "seed": 1, '
        '"guidance_scale": 2.5}',
    ):
        assert words in done.out
    plan = command("plan", job, "--json", cwd=tmp_path).document
    wanted = ["rows", "axes", "cells", "kept", "new", "retired", "done", "to_pay", "images", "cost_usd"]
    assert [plan[name] for name in wanted] == [3, {"seed": 2, "guidance_scale": 2}, 12, 0, 12, 0, 0, 12, 24, 1.92]
    assert len(plan["first_requests"]) == 3


def test_plan_set_and_against(command: Command, tmp_path: Path) -> None:
    """`--set` changes any key for this time; `--against` tells the cells that two specs share and their price."""
    job = write_job(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(job.read_text().replace('"seed": [1, 2]', '"seed": [2, 3, 4]'))
    plan = command("plan", job, "--set", "grid.seed=[1,2,3,4]", "--json", cwd=tmp_path).document
    assert plan["cells"] == 8
    ratio = command("plan", job, "--set", "params.aspect_ratio=16:9", "--json", cwd=tmp_path).document
    assert ratio["first_requests"][0]["body"]["aspect_ratio"] == "16:9"
    compared = command("plan", job, "--against", other, cwd=tmp_path).out
    assert "2 cells in both, 2 only here ($0.16), 4 only there ($0.32)" in compared
    as_json = command("plan", job, "--against", other, "--json", cwd=tmp_path).document["against"]
    assert [as_json[name] for name in ("both", "only_this", "only_other")] == [2, 2, 4]
    assert (as_json["only_this_usd"], as_json["only_other_usd"]) == (0.16, 0.32)
    by_seed = {each["value"]: each for each in as_json["axes"]["seed"]}
    assert (by_seed[1]["only_this"], by_seed[2]["both"], by_seed[4]["only_other_usd"]) == (2, 2, 0.16)


def test_plan_asks_for_a_price_that_nothing_tells(command: Command, tmp_path: Path) -> None:
    """Another model's parameters aren't checked, and its price must be said."""
    job = write_job(tmp_path, model="vendor/model", params={"steps": 30})
    done = command("plan", job, cwd=tmp_path)
    assert done.status == 0
    assert "unknown: say run.price" in done.out
    assert "nothing ships for vendor/model" in done.out
    assert command("plan", job, "--json", cwd=tmp_path).document["cost_usd"] is None
    refused = command("run", job, "--yes", "--sandbox", cwd=tmp_path)
    assert refused.status == 2
    assert "say it as run.price" in refused.err


def test_status_of_what_was_never_run(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """A job that has no run yet is told so, and where its rehearsal is; so is a folder that is none."""
    job = write_job(tmp_path, api={"base_url": service.base_url})
    for verb in (["status"], ["export", "--format", "csv"]):
        done = command(*verb, job, *(["x.csv"] if "export" in verb else []), cwd=tmp_path)
        assert done.status == 2
        assert "there is no run yet; begin it with batchflux run" in done.err
    assert command("run", job, "--out", "out-sandbox", cwd=tmp_path).status == 0
    assert "(its rehearsal is out-sandbox)" in command("status", job, cwd=tmp_path).err
    done = command("status", tmp_path, cwd=tmp_path)
    assert done.status == 2
    assert "there is no run.json in it" in done.err
    assert command("run", ".", "--yes", cwd=tmp_path).status == 2  # a folder with a job.yaml is no run directory


def test_status_after_a_run(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """Counts, cost, timings and the keys of its object; of the job file or the directory alike."""
    job = write_job(tmp_path, api={"base_url": service.base_url})
    assert command("run", job, "--limit", "3", cwd=tmp_path).status == 3
    shown = command("status", job, cwd=tmp_path)
    assert shown.status == 0
    assert f"job: not at work, {tmp_path}/out" in shown.out
    assert "completed             3" in shown.out
    status = command("status", "out", "--json", cwd=tmp_path).document
    wanted = ["cells", "pending", "submitted", "completed", "failed", "unknown", "images", "cost_usd", "errors"]
    assert [status[name] for name in wanted] == [4, 1, 0, 3, 0, 0, 3, 0.24, {}]
    assert status["eta_s"] is None  # nobody is at work on what is left
    assert command("status", "out", "--failed", cwd=tmp_path).out == "no cell has failed\n"
    watched = command("status", "out", "--watch", cwd=tmp_path)
    assert watched.status == 0  # the run is over, so there is nothing to wait for


def test_export_from_the_command_line(command: Command, service: RunningSandbox, tmp_path: Path) -> None:
    """`export RUN_DIR DEST` writes one record a cell, whatever became of it, and says so."""
    job = write_job(tmp_path, prompts=["=kite()", "a crow"], api={"base_url": service.base_url})
    assert command("run", job, "--limit", "3", cwd=tmp_path).status == 3
    done = command("export", job, "x.csv", "--format", "csv", cwd=tmp_path)
    assert (done.status, done.out, done.err) == (0, "", "4 cells written to x.csv\n")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["prompt"], row["status"]) for row in rows] == [
        ("'=kite()", "completed"),
        ("'=kite()", "completed"),
        ("a crow", "completed"),
        ("a crow", "pending"),
    ]
    assert command("export", "out", "x.jsonl", "--format", "jsonl", cwd=tmp_path).status == 0
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["=kite()"] * 2 + ["a crow"] * 2
    assert command("export", "out", "x.xls", "--format", "xls", cwd=tmp_path).status == 2
    assert command("export", "out", tmp_path, "--format", "csv", cwd=tmp_path).status in (2, 4)


def test_init_and_what_it_says_next(command: Command, tmp_path: Path) -> None:
    """A starter of four cells that plans as it is; nothing that is there is overwritten; odd names are quoted."""
    done = command("init", cwd=tmp_path)
    assert (done.status, done.out) == (0, "")
    assert done.err.splitlines()[-1] == "next: batchflux plan job.yaml, then batchflux run job.yaml --sandbox"
    assert command("plan", "job.yaml", "--json", cwd=tmp_path).document["cells"] == 4
    again = command("init", cwd=tmp_path)
    assert again.status == 2
    assert "job.yaml is there already" in again.err
    odd = "sub dir/it's: #1.yaml"
    assert command("init", odd, cwd=tmp_path).status == 0
    assert command("plan", odd, "--json", "--set", "name=odd", cwd=tmp_path).document["cells"] == 4


def test_schema_is_json(command: Command, tmp_path: Path) -> None:
    """Editors get a JSON Schema on standard output."""
    done = command("schema", cwd=tmp_path)
    assert done.status == 0
    assert {"prompts", "grid", "run"} <= set(done.document["properties"])


def test_help_and_version(command: Command, tmp_path: Path) -> None:
    """Every command explains itself; the version is said."""
    assert command("--version", cwd=tmp_path).out == f"batchflux {batchflux.__version__}\n"
    for verb in ("run", "plan", "status", "export", "schema", "init", "sandbox"):
        assert verb in command("--help", cwd=tmp_path).out
        done = command(verb, "--help", cwd=tmp_path)
        assert done.status == 0
        assert "Usage" in done.out
    assert command("rum", cwd=tmp_path).status == 2
    assert command("run", "nowhere.yaml", cwd=tmp_path).status == 2


@pytest.mark.security(19)
@pytest.mark.fault("I13")
def test_nothing_from_data_steers_the_terminal(command: Command, tmp_path: Path) -> None:
    """Prompts, ids, paths and the service's words are shown without what a terminal would obey; JSON keeps values."""
    word = f"fail {_STEERING} here\nnext: rm"
    rules = (FaultRule(on="submit", do="fail", code=1200, error=word),)
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0), faults=FaultScript(rules=rules))) as service:
        job = write_job(
            tmp_path,
            prompts={"path": "p.jsonl", "columns": {"prompt": "prompt", "id": "id"}},
            grid={"seed": [1]},
            api={"base_url": service.base_url},
        )
        row = {"prompt": f"a kite {_STEERING}", "id": f"id{_STEERING}"}
        (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
        outputs = [
            command("plan", job, cwd=tmp_path),
            command("plan", job, "--json", cwd=tmp_path),
            command("run", job, "--json", cwd=tmp_path),
            command("status", "out", "--failed", cwd=tmp_path),
            command("status", "out", "--failed", "--json", cwd=tmp_path),
            command("run", job, "--out", f"out{_STEERING}", cwd=tmp_path),
        ]
    for done in outputs:
        shown = done.out + done.err
        assert not set(shown) & set("\x1b\x07\x7f\x9b\u202e")
    assert outputs[1].document["first_requests"][0]["body"]["prompt"] == row["prompt"]
    [failed] = outputs[4].document
    assert (failed["prompt_id"], failed["error"][:4]) == (row["id"], "fail")
    assert len(outputs[3].out.splitlines()) == 2


def test_other_scripts_are_shown_as_they_are(command: Command, tmp_path: Path) -> None:
    """Wide spaces, joiners and emoji steer nothing."""
    words = "絵　文字 👩‍🚀 می‌خواهم"
    job = write_job(tmp_path, prompts=[words])
    assert words in command("plan", job, cwd=tmp_path).out


def test_a_real_process_plans_without_a_key(tmp_path: Path) -> None:
    """The module is a command too, and standard output is the result alone."""
    done = batchflux_command("plan", write_job(tmp_path), "--json", cwd=tmp_path, env={"WAVESPEED_API_KEY": ""})
    assert (done.status, done.err, done.document["to_pay"]) == (0, "", 4)
