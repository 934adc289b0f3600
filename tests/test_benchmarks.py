"""The benchmarks' command: that it runs, measures something and writes it down. Nothing here is timed."""

import json
import pkgutil
import subprocess
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

from tests import benchmarks
from tests.benchmarks.plot import Bars, bar_chart
from tests.benchmarks.readme import figures, with_figures

ROOT = Path(__file__).parents[1]


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)


def test_the_command_measures_and_writes_its_figures(tmp_path: Path) -> None:
    """At a tiny scale, three benchmarks print their rows and leave figures with machine and versions."""
    command = [sys.executable, "-m", "tests.benchmarks", "throughput", "checkpoint", "downloads", "--scale", "0.002"]
    done = _run([*command, "--results", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert "== throughput" in done.stdout
    for name in ("throughput", "checkpoint", "downloads"):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["benchmark"] == name
        assert found["cores"] >= 1
        assert "aiohttp" in found["packages"]
        assert all(row["value"] > 0 for row in found["rows"])
    ratios = [row["ratio"] for row in json.loads((tmp_path / "throughput.json").read_text())["rows"]]
    assert all(ratio > 0 for ratio in ratios)


def test_the_command_can_run_each_of_them() -> None:
    """Whatever the command takes for a benchmark is called as it can be, and so is what draws its plot."""
    found = [import_module(f"tests.benchmarks.{each.name}") for each in pkgutil.iter_modules(benchmarks.__path__)]
    runs = {module.__name__.rpartition(".")[2]: getattr(module, "run", None) for module in found}
    assert {name for name, run in runs.items() if run} >= {"throughput", "peers", "makespan", "memory", "start"}
    for module in found:
        if run := runs[module.__name__.rpartition(".")[2]]:
            signature(run).bind(0.5)
        elif main := getattr(module, "main", None):
            signature(main).bind()
        if draw := getattr(module, "draw", None):
            signature(draw).bind([])
            assert next(iter(signature(draw).parameters)) == "rows"


def test_a_name_that_is_none_is_refused() -> None:
    """A benchmark that doesn't exist ends the command with 2, naming those that do."""
    command = [sys.executable, "-m", "tests.benchmarks", "trougput"]
    done = _run(command)
    assert done.returncode == 2
    assert "throughput" in done.stderr


def test_the_readme_shows_the_results_as_they_are() -> None:
    """The README's figures are those of the results' files, word for word."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_figures(text, figures(ROOT / "tests/benchmarks/results")) == text


def test_bars_are_as_long_as_their_figures() -> None:
    """In the chart the longest figure fills the room and the others have their share of it."""
    text = bar_chart(Bars(title="a & b", unit="cells/s", groups={"1": {"x": 100.0, "y": 25.0}}))
    assert "a &amp; b" in text
    assert 'width="520.0"' in text
    assert 'width="130.0"' in text
