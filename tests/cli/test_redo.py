"""The commands around cells that cost nothing or are drawn anew, as they are typed, on rehearsals."""

import json
from pathlib import Path

import batchflux
from tests.cli.conftest import Command
from tests.cli.driver import write_job

_NO_KEY = {"WAVESPEED_API_KEY": ""}


def _ledger(twin: Path) -> int:
    return len((twin / "sandbox" / "ledger.jsonl").read_text().splitlines())


def test_a_rehearsal_takes_from_rehearsals(command: Command, tmp_path: Path) -> None:
    """A rehearsal of a job with `reuse` takes over what the other job's rehearsal has; before there is one, it buys."""
    earlier = write_job(tmp_path / "a")
    later = write_job(tmp_path / "b", grid={"seed": [1, 2, 3]}, reuse=["../a/out"])
    assert command("run", earlier, "--sandbox", "--quiet", cwd=tmp_path, env=_NO_KEY).status == 0
    missing = command("plan", later, cwd=tmp_path)
    assert (missing.status, "reuse: a/out: there is no such run directory" in missing.err) == (2, True)
    assert "(its rehearsal is a/out-sandbox)" in missing.err
    twins = command("run", later, "--sandbox", "--json", "--out", "first", cwd=tmp_path, env=_NO_KEY)
    assert (twins.status, twins.document["completed"], twins.document["cost_usd"]) == (0, 6, 0.16)
    (tmp_path / "a" / "out-sandbox").rename(tmp_path / "a" / "out")
    foreign = command("run", later, "--yes", cwd=tmp_path)
    assert (foreign.status, "was run with the sandbox, this job is for https://" in foreign.err) == (2, True)
    done = command("run", later, "--sandbox", "--json", cwd=tmp_path, env=_NO_KEY)
    assert (done.status, done.document["completed"], done.document["cost_usd"]) == (0, 6, 0.16)
    assert "taking over 4 cells from a/out" in done.err
    assert _ledger(tmp_path / "b" / "out-sandbox") == 2


def test_a_plan_says_what_is_saved(command: Command, tmp_path: Path) -> None:
    """`plan --json` has `reused` and `saved_usd`; of a job without `reuse` both are nothing."""
    job = write_job(tmp_path)
    planned = command("plan", job, "--json", cwd=tmp_path).document
    assert (planned["reused"], planned["saved_usd"]) == (0, 0)


def test_redo_of_a_rehearsal(command: Command, tmp_path: Path) -> None:
    """`run JOB --sandbox --redo` draws anew beside the twin, which can be looked at, gone on with and exported."""
    job = write_job(tmp_path, output={"dir": "out"})
    assert command("run", job, "--sandbox", "--quiet", cwd=tmp_path, env=_NO_KEY).status == 0
    cells = batchflux.read_manifest(tmp_path / "out-sandbox")
    (tmp_path / "picks.csv").write_text(f"cell_id,mark\n{cells['cell_id'][0]},reject\n{cells['cell_id'][1]},win\n")
    done = command("run", job, "--sandbox", "--redo", "picks.csv", "--json", cwd=tmp_path, env=_NO_KEY)
    assert (done.status, done.document["cells"], done.document["cost_usd"]) == (0, 1, 0.08)
    place = Path(done.document["run_dir"])
    assert place == tmp_path / "out-sandbox-redo"
    assert _ledger(place) == 1
    assert command("status", place, "--json", cwd=tmp_path).document["completed"] == 1
    assert command("verify", place, cwd=tmp_path).status == 0
    assert command("run", place, "--json", cwd=tmp_path, env=_NO_KEY).document["spent_now_usd"] == 0
    assert command("export", place, "again.jsonl", "--format", "jsonl", cwd=tmp_path).status == 0
    (row,) = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert (row["redo_of"], row["redo_round"]) == (cells["cell_id"][0], 1)
    wrong = command("run", job, "--redo", "picks.csv", cwd=tmp_path)
    assert (wrong.status, "there is no run yet" in wrong.err) == (2, True)


def test_a_plan_warns_of_reseeding(command: Command, tmp_path: Path) -> None:
    """What redrawing flagged cells may cost comes on top of what the plan says, and the plan says so."""
    job = write_job(tmp_path, run={"on_nsfw": "reseed"})
    assert "drawn anew, each up to 1 times, at a price on top" in command("plan", job, cwd=tmp_path).out


def test_cells_are_submitted_twice_in_a_rehearsal(command: Command, tmp_path: Path) -> None:
    """`plan` counts the second submissions in, `run --sandbox` makes them, `status` and `verify` tell of them."""
    job = write_job(tmp_path, output={"dir": "out"}, run={"replicate": "50%"})
    planned = command("plan", job, "--json", cwd=tmp_path).document
    assert (planned["cells"], planned["to_pay"], planned["replicates"], planned["cost_usd"]) == (4, 6, 2, 0.48)
    done = command("run", job, "--sandbox", "--json", cwd=tmp_path, env=_NO_KEY)
    assert (done.status, done.document["replicates"]["same_bytes"], done.document["cost_usd"]) == (0, 2, 0.32)
    told = command("status", "out-sandbox", cwd=tmp_path)
    assert "of 2 cells submitted twice, 2 gave the same pixels (2 the same bytes); that cost $0.16" in told.out
    (place,) = (tmp_path / "out-sandbox" / "replicates").iterdir()
    assert _ledger(place) == 2
    refused = command("run", place, cwd=tmp_path, env=_NO_KEY)
    assert (refused.status, "is run with it: batchflux run out-sandbox" in refused.err) == (2, True)
    (tmp_path / "out-sandbox").rename(tmp_path / "moved")
    assert command("run", "moved", "--json", cwd=tmp_path, env=_NO_KEY).document["replicates"]["cells"] == 2
    assert _ledger(tmp_path / "moved" / "replicates" / place.name) == 2
    assert "sound" in command("verify", "moved", cwd=tmp_path).out
