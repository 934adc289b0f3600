"""A rehearsal killed half-way, as a user would start it: its sandbox ends with it, and both go on where they were."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import batchflux
from tests.kills.victim import ROOT

ROWS = 8


def start(job: Path) -> subprocess.Popen[str]:
    """Start `batchflux run JOB --sandbox` as a process of its own, without a key."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("WAVESPEED_API_KEY", None)
    command = [sys.executable, "-m", "batchflux", "run", str(job), "--sandbox", "--json", "--quiet", "-j", "3"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def made(ledger: Path) -> list[str]:
    """The prompts that the rehearsal's own service was asked for so far."""
    if not ledger.exists():
        return []
    whole = [line for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(json.loads(line)["inputs"])["prompt"] for line in whole]


def kill_at(job: Path, ledger: Path, *, predictions: int) -> None:
    """Kill a rehearsal with SIGKILL once its service has made so many predictions."""
    with start(job) as child:
        while len(made(ledger)) < predictions:
            try:
                raise AssertionError(f"it ended too early: {child.communicate(timeout=0.02)}")
            except subprocess.TimeoutExpired:
                continue
        child.kill()


def test_a_killed_rehearsal_goes_on(tmp_path: Path) -> None:
    """Killed, it is run again and ends with every cell made once and its image on the disk."""
    (tmp_path / "prompts.csv").write_text("prompt\n" + "".join(f"picture {row}\n" for row in range(ROWS)))
    job = tmp_path / "job.yaml"
    job.write_text("prompts: {path: prompts.csv}\napi: {settle: 250ms}\noutput: {dir: run}\n")
    run_dir = tmp_path / "run-sandbox"
    ledger = run_dir / "sandbox" / "ledger.jsonl"
    kill_at(job, ledger, predictions=3)
    assert len(made(ledger)) < ROWS
    with start(job) as child:
        out, err = child.communicate()
    assert child.returncode == 0, err
    summary = json.loads(out)
    assert (summary["completed"], summary["unknown"], summary["images_missing"]) == (ROWS, 0, 0)
    assert Counter(made(ledger)) == {f"picture {row}": 1 for row in range(ROWS)}
    files = [run_dir / name for names in batchflux.read_manifest(run_dir)["files"] for name in names]
    assert len(files) == ROWS
    assert all(path.is_file() for path in files)
