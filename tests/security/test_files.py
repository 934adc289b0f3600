"""What a run writes: where, for whom, and nothing anywhere else."""

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchflux.sandbox import Latency, SandboxConfig, SandboxThread
from tests.cli.driver import TIMEOUT_S, environment, write_job

# Every file that Python opens to write, renames, makes or removes, said before it happens.
_WITNESS = """
import os, sys
witness = open(sys.argv.pop(1), "w")
def hook(event, args):
    names = []
    if event == "open" and isinstance(args[0], (str, bytes)):
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(args[2], int) else 0
        names = [args[0]] if writes or set(args[1] or "r") & set("wax+") else []
    elif event in ("os.rename", "os.link", "os.symlink"):
        names = list(args[:2])
    elif event in ("os.mkdir", "os.remove", "os.truncate", "tempfile.mkstemp", "tempfile.mkdtemp"):
        names = [args[0]]
    for name in (name for name in names if not isinstance(name, int)):
        witness.write(os.path.abspath(os.fsdecode(name)) + "\\n")
        witness.flush()
sys.addaudithook(hook)
from batchflux.cli import main
main()
"""


def run_to_its_end(folder: Path, *, umask: int) -> list[Path]:
    """Run a job with images in a process of its own, export its results, and return every path that it wrote to."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    alone = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    witness = folder / "witness.txt"
    with SandboxThread(SandboxConfig(latency=Latency(median_s=0))) as service:
        job = write_job(
            folder / "job", prompts=["a kite"] * 2, api={"base_url": service.base_url}, output={"dir": "out"}
        )
        done = subprocess.run(
            [sys.executable, "-c", _WITNESS, witness, "run", job, "--quiet"],
            cwd=folder / "home",
            env=environment(alone),
            umask=umask,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    return [Path(line) for line in witness.read_text().splitlines()]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """A run's folder, and every path that it wrote to."""

    folder: Path
    touched: list[Path]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Run once for a user who shows others nothing."""
    folder = tmp_path_factory.mktemp("hidden")
    return Traces(folder=folder, touched=run_to_its_end(folder, umask=0o077))


@pytest.mark.security(28)
def test_nothing_is_written_but_in_the_run_directory(hidden: Traces) -> None:
    """No temporary folder of the system, no home, no cache: what a run touches lies in its own directory.

    Only its note to other runs of the account lies in the user's state folder.
    """
    folder, out = hidden.folder, hidden.folder / "job" / "out"
    assert len(hidden.touched) > 10
    outside = {path for path in hidden.touched if not (path.is_relative_to(out) or path.is_relative_to("/dev"))}
    outside = {path for path in outside if not path.is_relative_to(os.environ["XDG_STATE_HOME"])}
    assert outside == set()
    assert list((folder / "home").iterdir()) == list((folder / "tmp").iterdir()) == []
    assert not list(out.rglob(".tmp-*"))
    made = {path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(out)}
    assert made == {folder / "witness.txt", folder / "job" / "job.yaml", folder / "job" / "p.csv"}


def check_modes(out: Path, *, umask: int) -> None:
    """Hold every file and folder of a run directory against what the user lets others do."""
    paths = [out, *out.rglob("*")]
    assert len(paths) > 10
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & umask, f"{path}: {mode:o}"
        assert path.is_dir() or not mode & 0o111, f"{path}: {mode:o}"
        assert os.access(path, os.R_OK | os.W_OK)


@pytest.mark.security(27)
def test_a_user_who_shows_others_nothing(hidden: Traces) -> None:
    """The user's umask rules every file and folder: 077 hides all of a run; no file is ever made executable."""
    check_modes(hidden.folder / "job" / "out", umask=0o077)


@pytest.mark.slow
@pytest.mark.security(27)
@pytest.mark.parametrize("umask", [0o027, 0o022, 0o002])
def test_a_user_who_shows_others_something(umask: int, tmp_path: Path) -> None:
    """No file is written by more people than the user's umask says."""
    run_to_its_end(tmp_path, umask=umask)
    check_modes(tmp_path / "job" / "out", umask=umask)
