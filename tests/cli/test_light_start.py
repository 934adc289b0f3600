"""What the commands of every day must not load: pandas takes 0.4 s of a small run and 35 MB of any, aiohttp 0.2 s."""

import sys
from pathlib import Path

from tests.cli.driver import batchflux_command, write_job

# The command, and behind it one line: what was loaded by its end.
_TELLING = """
import sys
from batchflux.__main__ import main
sys.argv[0] = "batchflux"
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended
finally:
    print("loaded", *sorted({"pandas", "aiohttp"} & set(sys.modules)), file=sys.stderr)
"""
_COMMAND = (sys.executable, "-c", _TELLING)


def test_no_aiohttp_where_no_image_is_fetched(tmp_path: Path) -> None:
    """Submissions and queries go by a client of our own: only images are fetched with it."""
    job = write_job(tmp_path, output={"dir": "out", "download": False}, grid={"seed": [1, 2]})
    done = batchflux_command("run", job, "--sandbox", cwd=tmp_path, command=_COMMAND)
    assert (done.status, done.err.splitlines()[-1].split()) == (0, ["loaded"])


def test_no_pandas(tmp_path: Path) -> None:
    """Neither a whole run with its manifest and page, nor what looks at it and runs it again, loads pandas."""
    job = write_job(tmp_path, output={"dir": "out"}, grid={"seed": [1, 2], "guidance_scale": [2.5, 3]})
    twin = tmp_path / "out-sandbox"
    plan, run, looks = ("plan", job), ("run", job, "--sandbox"), [("status", twin), ("verify", twin)]
    for words in (plan, run, *looks, run, plan):
        done = batchflux_command(*words, cwd=tmp_path, command=_COMMAND)
        assert (done.status, "pandas" in done.err.splitlines()[-1].split()) == (0, False), words
    assert (twin / "manifest.parquet").exists()
    assert (twin / "report.html").exists()
