"""`python -m tests.export.many [--images N]`: how fast N small images go into each format, and in how much memory.

Each export is a process of its own, so that its peak is its own; the yardstick is reading and hashing the same files.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.export.runs import made_run

FORMATS = ("webdataset", "parquet", "imagefolder")


def main() -> None:
    """Print a line a format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--format", choices=FORMATS, action="append")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = made_run(Path(folder), asked.images)
        began_s = time.perf_counter()
        for path in sorted((run_dir / "images").rglob("*.png")):
            hashlib.sha256(path.read_bytes()).digest()
        took_s = time.perf_counter() - began_s
        _say(f"reading and hashing alone: {asked.images / took_s:,.0f} images/s")
        for form in asked.format or FORMATS:
            _export(run_dir, Path(folder) / form, form, n_images=asked.images)


def _export(run_dir: Path, dest: Path, form: str, *, n_images: int) -> None:
    code = (
        "import resource, sys; from batchflux.__main__ import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, "export", str(run_dir), str(dest), "--format", form]
    command += ["--max-shard-size", "20MB"] if form != "imagefolder" else []
    began_s = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took_s = time.perf_counter() - began_s
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    _say(f"{form}: {n_images / took_s:,.0f} images/s, peak memory {peak / 1e6:,.0f} MB")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
