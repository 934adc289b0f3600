"""The words of the command line: whole sentences in the help, and a screen that reads well when a run is over."""

import re
from pathlib import Path

import click
import pytest

from batchflux.cli import _cli
from batchflux.sandbox.process import command as sandbox_command
from tests.docs.checkout import Checkout

COMMANDS: dict[str, click.Command] = {**_cli.commands, "sandbox": sandbox_command}


def test_each_command_and_option_says_what_it_is_for() -> None:
    """Every command and option has a help that ends as a sentence does, and the list of commands cuts none short."""
    overview = click.Context(_cli, info_name="batchflux", terminal_width=80)
    assert "..." not in _cli.get_help(overview).partition("Commands:")[2]
    for name, command in COMMANDS.items():
        assert (command.help or "").rstrip().endswith((".", "4 cells.")), name
        for option in command.params:
            if isinstance(option, click.Option):
                assert re.search(r"[.)\]]$", option.help or ""), (name, option.name)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_takes_help_in_both_spellings(name: str, tmp_path: Path) -> None:
    """`-h` and `--help` say the same, on standard output, with status 0."""
    said = {Checkout(tmp_path / flag).shell(f"batchflux {name} {flag}").stdout for flag in ("-h", "--help")}
    assert len(said) == 1
    assert f"Usage: batchflux {name}" in said.pop()


def test_a_finished_bar_is_left_as_it_stood(tmp_path: Path) -> None:
    """On a terminal the bar ends full, with nothing in flight, once, and the closing words begin on their own line."""
    screen = Checkout(tmp_path).terminal("batchflux run jobs/quickstart.yaml --sandbox --limit 24")
    bars = [line for line in screen.splitlines() if "cell/s" in line]
    assert len(bars) == 1
    assert re.fullmatch(r"quickstart: 100%\|█+\| 24/24 \[.*, in flight 0, play money \$1\.92\]", bars[0])
    assert "\nquickstart: 24 of 24 cells completed\n" in screen


def test_a_job_that_has_not_run_yet_is_no_missing_file(tmp_path: Path) -> None:
    """`status` and `export` of a job that was only rehearsed say so, and where the rehearsal lies."""
    checkout = Checkout(tmp_path)
    assert checkout.shell("batchflux run jobs/quickstart.yaml --sandbox --limit 1 --quiet").returncode == 3
    for line in ("batchflux status jobs/quickstart.yaml", "batchflux export jobs/quickstart.yaml x.csv --format csv"):
        said = checkout.shell(line)
        assert said.returncode == 2
        assert said.stderr == (
            "batchflux: jobs/runs/quickstart: there is no run yet; begin it with batchflux run jobs/quickstart.yaml "
            "(its rehearsal is jobs/runs/quickstart-sandbox)\n"
        )
