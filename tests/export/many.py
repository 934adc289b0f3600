"""`python -m tests.export.many [--images N]`: how fast N small images go into each format, and in how much memory.

Each export is a process of its own, so that its peak is its own; the yardstick is reading and hashing the same files.
With `--kill` another one is killed when half of it is written, and begun again: it must give the same bytes.
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
    parser.add_argument("--kill", action="store_true")
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
            if asked.kill:
                _kill(run_dir, Path(folder) / form, Path(folder) / f"{form}-again", form, n_images=asked.images)


def _command(run_dir: Path, dest: Path, form: str) -> list[str]:
    code = (
        "import resource, sys; from batchflux.__main__ import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, "export", str(run_dir), str(dest), "--format", form]
    return [*command, *(["--max-shard-size", "20MB"] if form != "imagefolder" else [])]


def _export(run_dir: Path, dest: Path, form: str, *, n_images: int) -> None:
    began_s = time.perf_counter()
    done = subprocess.run(_command(run_dir, dest, form), check=True, capture_output=True, text=True)
    took_s = time.perf_counter() - began_s
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    _say(f"{form}: {n_images / took_s:,.0f} images/s, peak memory {peak / 1e6:,.0f} MB")


def _kill(run_dir: Path, whole: Path, dest: Path, form: str, *, n_images: int) -> None:
    """Kill an export half-way, begin it again, and hold what it wrote against an undisturbed one. Raises SystemExit."""
    size_bytes, unfinished = _size(whole), dest.with_name(f".{dest.name}.partial")
    process = subprocess.Popen(_command(run_dir, dest, form), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while _size(unfinished) < size_bytes / 2:
        if process.poll() is not None:
            raise SystemExit(f"{form}: it ended before half of it was seen to be written")
        time.sleep(0.05)
    process.kill()
    process.wait()
    if dest.exists():
        raise SystemExit(f"{form}: a killed export stands at its place")
    share = _size(unfinished) / size_bytes
    _export(run_dir, dest, form, n_images=n_images)
    if _digests(dest) != _digests(whole) or unfinished.exists():
        raise SystemExit(f"{form}: other bytes after a kill")
    _say(f"{form}: killed at {share:.0%}, begun again: the same bytes in {len(_digests(dest)):,} files")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
