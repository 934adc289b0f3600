"""Writes the figures of `results/` into the README's section "How fast": `python -m tests.benchmarks.readme`.

A test holds the two together. Rows that have something to reach are shown; a benchmark's other rows are in its file.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["figures", "with_figures"]

_HERE = Path(__file__).parent
_README = _HERE.parents[1] / "README.md"
_BEGIN, _END = "<!-- figures: python -m tests.benchmarks.readme -->\n", "<!-- end of figures -->"


def figures(results: Path) -> str:
    """Return the table of all results and a line about the machine, as Markdown."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    rows = [(each["benchmark"], row) for each in found for row in each["rows"] if row.get("target")]
    if not rows:
        return ""
    lines = [
        "| what | here | baseline | its figure | ratio | aim | runs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_line(benchmark, row) for benchmark, row in rows]
    about = max(found, key=lambda each: str(each["at"]))
    loads = sorted({round(each["load"]) for each in found})
    load = f"{loads[0]} to {loads[-1]}" if len(loads) > 1 else str(loads[0])
    machine = f"{about['cores']} cores of {about['cpu']}, {about['os']}, Python {about['python']}"
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items() if name != "batchflux")
    days = sorted({str(each["at"])[:10] for each in found})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]} (each file of results/ says when)"
    lines += ["", f"Measured {when} on {machine}, {packages}; load when each began: {load}."]
    return "\n".join(lines) + "\n"


def with_figures(text: str, table: str) -> str:
    """Return a README with this table in its place."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("the README has no place for figures")
    return before + begin + table + end + after


def _line(benchmark: str, row: dict[str, Any]) -> str:
    figure = f"{row['value']:,.3g}" if row["value"] < 1000 else f"{row['value']:,.0f}"
    theirs = row["baseline_value"]
    shown = "" if theirs is None else f"{theirs:,.3g}" if theirs < 1000 else f"{theirs:,.0f}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    cells = [f"{benchmark}: {row['name']}", f"{figure} {row['unit']}", row["baseline"], shown]
    cells += [ratio, row["target"], str(row.get("runs", 1))]
    return f"| {' | '.join(cells)} |"


def _main() -> None:
    text = _README.read_text(encoding="utf-8")
    _README.write_text(with_figures(text, figures(_HERE / "results")), encoding="utf-8")


if __name__ == "__main__":
    _main()
