"""Helpers of verify's tests: a real run against a sandbox in a thread, and a copy of what it left, to be damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import batchflux
from batchflux.app.run import RunOptions
from batchflux.app.verify import Verification, verify_run
from batchflux.sandbox import FaultRule, FaultScript, Latency, RunningSandbox, SandboxConfig

CELLS = 12


def config(*rules: FaultRule, **knobs: Any) -> SandboxConfig:
    """Return a quick sandbox that draws small images."""
    usual: dict[str, Any] = {"latency": Latency(median_s=0.01, sigma=0.0), "image_size": 64}
    return SandboxConfig(**{**usual, **knobs}, faults=FaultScript(rules=rules))


def run_job(
    folder: Path,
    sandbox: RunningSandbox,
    *,
    options: RunOptions | None = None,
    download: bool = True,
    **settings: object,
) -> batchflux.Result:
    """Run a job of CELLS cells in a folder against a sandbox; a second call goes on."""
    folder.mkdir(exist_ok=True)
    (folder / "p.csv").write_text("prompt\n" + "".join(f"prompt number {row}\n" for row in range(CELLS // 2)))
    (folder / "job.yaml").write_text(
        f"prompts: {{path: p.csv}}\noutput: {{dir: run, download: {str(download).lower()}}}\ngrid: {{seed: [1, 2]}}\n"
        "run: {concurrency: 4}\n"
    )
    overrides = {
        "api.base_url": sandbox.base_url,
        "api.settle": "600ms",
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return batchflux.run(batchflux.load_job(folder / "job.yaml", overrides), options)


def damaged(run_dir: Path, tmp_path: Path, damage: Callable[[Path], object]) -> Verification:
    """Return what verify finds in a copy of a run directory after some damage."""
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    damage(copy)
    return verify_run(copy)


def flip(path: Path, *, at: float = 0.5) -> None:
    """Flip one bit of a file, at a share of its length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path.write_bytes(bytes(data))
