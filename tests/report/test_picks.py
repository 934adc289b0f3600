"""Marks all the way: keys in the browser, the file that it downloads, and the commands that take that very file."""

import csv
import json
from pathlib import Path

import batchflux
from tests.cli.conftest import Command
from tests.cli.driver import write_job
from tests.report.browser import Page

_NO_KEY = {"WAVESPEED_API_KEY": ""}


def _press_on(page: Page, view: str, index: int, key: str) -> None:
    """Mark a cell of a view by its key; it is marked again in no other place."""
    page.run(f"document.querySelector('{view} .tile[data-index=\"{index}\"]').focus()")
    page.press(key)
    page.wait(f"document.querySelector('{view} .tile[data-index=\"{index}\"] .mark')")


def test_marks_reach_the_commands(page: Page, command: Command, tmp_path: Path) -> None:
    """Marked in grid, gallery and lightbox of a rehearsal's page: winners are exported, rejects drawn anew."""
    job = write_job(tmp_path, output={"dir": "out"})
    assert command("run", job, "--sandbox", "--quiet", cwd=tmp_path, env=_NO_KEY).status == 0
    twin = tmp_path / "out-sandbox"
    address = (twin / "report.html").as_uri()
    page.open(address)
    _press_on(page, "#view-grid", 0, "w")
    page.open(f"{address}#view=gallery")
    page.wait("document.querySelectorAll('#view-gallery .tile').length === 4")
    _press_on(page, "#view-gallery", 1, "x")
    page.click('#view-gallery .tile[data-index="3"]')
    page.wait("document.querySelector('#lightbox').open")
    page.press("w")
    page.wait("document.querySelector('[data-key=winner]').getAttribute('aria-pressed') === 'true'")
    page.press("Escape")
    page.wait("document.querySelector('#picks').textContent === '★ 2  ✕ 1'")
    picks = page.download("#picks", tmp_path, "picks.csv")
    page.run("localStorage.clear()")

    cells = list(batchflux.read_manifest(twin)["cell_id"])
    with picks.open(newline="", encoding="utf-8") as file:
        marks = {row["cell_id"]: row["mark"] for row in csv.DictReader(file)}
    assert marks == {cells[0]: "winner", cells[1]: "reject", cells[3]: "winner"}

    assert command("export", twin, "best.jsonl", "--format", "jsonl", "--only", picks, cwd=tmp_path).status == 0
    best = [json.loads(line)["cell_id"] for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert best == [cells[0], cells[3]]

    done = command("run", job, "--sandbox", "--redo", picks, "--json", cwd=tmp_path, env=_NO_KEY)
    assert (done.status, done.document["completed"], done.document["cost_usd"]) == (0, 1, 0.08)
    assert list(batchflux.read_manifest(done.document["run_dir"])["redo_of"]) == [cells[1]]
