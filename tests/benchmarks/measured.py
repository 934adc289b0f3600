"""Runs a program as a fresh process and tells its cells a second and its CPU a cell; batchflux itself among them."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchflux.io.checkpoint import read_facts

__all__ = ["Speed", "run_batchflux", "run_program"]

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 500.0
_SAMPLE_EVERY_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a program took for its cells, start and end left out; `whole_s` is the process from start to end."""

    cells: int
    seconds: float
    cpu_s: float
    whole_s: float

    @property
    def cells_per_s(self) -> float:
        return self.cells / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a cell."""
        return 1000 * self.cpu_s / self.cells


def run_program(name: str, base_url: str, *, cells: int, folder: Path, in_flight: int = 50, ca: Path | None) -> Speed:
    """Run one of `programs`, which takes its own time."""
    command = [sys.executable, "-m", "tests.benchmarks.programs", name, base_url]
    command += ["--cells", str(cells), "--in-flight", str(in_flight), "--folder", str(folder)]
    command += [] if ca is None else ["--ca-file", str(ca)]
    began_s = time.perf_counter()
    done = subprocess.run(
        command, cwd=_ROOT, env=environment(), check=True, capture_output=True, text=True, timeout=_PATIENCE_S
    )
    return Speed(**json.loads(done.stdout), whole_s=time.perf_counter() - began_s)


def run_batchflux(base_url: str, *, cells: int, folder: Path, in_flight: int, ca: Path | None) -> Speed:
    """Run `batchflux run` as a user would, journal and checkpoint and manifest on, without images.

    Seconds count from the first intent to the last outcome, by its own facts; CPU is the process's in that time, all
    threads included.
    """
    job = write_job(folder, base_url=base_url, cells=cells, ca=ca)
    command = [sys.executable, "-m", "batchflux", "run", str(job), "--quiet", "--json", "-j", str(in_flight)]
    began_s = time.perf_counter()
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        sampler = _CpuSampler(process.pid)
        sampler.start()
        try:
            said, complaint = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()  # where it is over already, this does nothing
            sampler.end()
    whole_s = time.perf_counter() - began_s
    if process.returncode != 0 or json.loads(said)["completed"] != cells:
        raise RuntimeError(f"batchflux ended with {process.returncode}: {said}{complaint}")
    at_s = _moments_s(folder / "runs" / job.stem)
    cpu_s = sampler.cpu_s_at(at_s[-1]) - sampler.cpu_s_at(at_s[0])
    return Speed(cells=cells, seconds=float(at_s[-1] - at_s[0]), cpu_s=cpu_s, whole_s=whole_s)


def write_job(folder: Path, *, base_url: str, cells: int, ca: Path | None = None) -> Path:
    """Write a job of so many rows and its table; returns its file."""
    from tests.benchmarks.programs import prompt_of

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.csv").write_text("prompt\n" + "".join(f"{prompt_of(cell)}\n" for cell in range(cells)))
    api = {"base_url": base_url} | ({} if ca is None else {"ca_file": str(ca)})
    spec = {"api": api, "prompts": {"path": "prompts.csv"}, "params": {"seed": 1}, "output": {"download": False}}
    job = folder / "speed.yaml"
    job.write_text(json.dumps(spec))  # JSON is YAML
    return job


def environment() -> dict[str, str]:
    """Return what a measured process sees: this one's variables, and a key that no service knows."""
    return {**os.environ, "WAVESPEED_API_KEY": "benchmark", "PYTHONPATH": str(_ROOT)}


def _moments_s(run_dir: Path) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    facts = read_facts(run_dir, columns=["at"])
    return np.sort(np.asarray(facts["at"].cast("int64")).astype(np.float64)) / 1000


class _CpuSampler(threading.Thread):
    """Reads a process's CPU time now and then, with the wall clock's moment: facts carry that clock too."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._path = Path(f"/proc/{pid}/stat")
        self._over = threading.Event()
        self._at_s: list[float] = []
        self._cpu_s: list[float] = []

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY_S):
            try:
                fields = self._path.read_text().rpartition(")")[2].split()
            except OSError:
                return
            self._at_s.append(time.time())
            self._cpu_s.append((int(fields[11]) + int(fields[12])) / _TICKS_PER_S)

    def end(self) -> None:
        self._over.set()
        self.join()

    def cpu_s_at(self, at_s: float) -> float:
        return float(np.interp(at_s, self._at_s, self._cpu_s))
