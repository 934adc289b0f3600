"""All benchmarks, or those named: `python -m tests.benchmarks [NAME ...] [--scale S] [--results DIR]`.

A benchmark is a module of this folder with `run(scale)`, which returns rows, or with `main()`, which also prints them.
Each prints ratios to a baseline measured in the same run; figures go to `results/NAME.json`, with the machine,
versions, date and load, and where the module has `draw`, a plot to `results/NAME.svg`. Ratios bear other work on the
machine, absolute figures don't.
"""

import argparse
import json
import os
import pkgutil
import platform
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.benchmarks.table import lines

_HERE = Path(__file__).parent
_PACKAGES = ("batchflux", "uvloop", "aiohttp", "pyarrow", "pandas", "wavespeed")


def main() -> None:
    """Run the benchmarks that the command line names, all where it names none."""
    names = [found.name for found in pkgutil.iter_modules([str(_HERE)]) if not found.name.startswith("_")]
    modules = {name: module for name in names if _is_benchmark(module := import_module(f"tests.benchmarks.{name}"))}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(modules)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full sizes; less than 1 proves nothing")
    parser.add_argument("--results", type=Path, help="where figures go; default: results/ here, and nowhere if scaled")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with it
    if unknown := set(given.names) - modules.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(modules)}")
    folder = given.results or (_HERE / "results" if given.scale == 1.0 else None)
    for name in given.names or modules:
        sys.stdout.write(f"== {name}\n")
        about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()[0], **_machine()}
        rows = _run(modules[name], given.scale)
        if folder is not None:
            _write(folder, modules[name], rows, about)
        sys.stdout.write("\n")


def _is_benchmark(module: ModuleType) -> bool:
    return hasattr(module, "run") or hasattr(module, "main")


def _run(module: ModuleType, scale: float) -> list[Any]:
    if not hasattr(module, "run"):
        return list(module.main())
    rows = list(module.run(scale))
    sys.stdout.write("\n".join(lines(rows)) + "\n")
    return rows


def _write(folder: Path, module: ModuleType, rows: list[Any], about: dict[str, Any]) -> None:
    name = module.__name__.rpartition(".")[2]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"benchmark": name, **about, "rows": [asdict(row) for row in rows]}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")
    if hasattr(module, "draw"):
        (folder / f"{name}.svg").write_text(module.draw(rows))


def _machine() -> dict[str, Any]:
    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": packages,
    }


def _cpu() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in facts if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
