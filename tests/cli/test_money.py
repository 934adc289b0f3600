"""What is said and asked before money is spent, where loopback alone isn't known for what it is.

On a terminal by real processes, without one in this process.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from batchflux.sandbox import FaultRule, FaultScript, Latency, SandboxConfig, SandboxThread
from tests.cli.conftest import Command
from tests.cli.driver import Ended, on_terminal, write_job

_CODE = (
    "import batchflux.app.prepare as p; p.is_loopback_host = lambda host: False; import batchflux.cli as c; c.main()"
)
_PAID = (sys.executable, "-W", "error", "-c", _CODE)


@pytest.fixture
def paid(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process, taking loopback for any other host."""
    monkeypatch.setattr("batchflux.app.prepare.is_loopback_host", lambda host: False)
    return command


class _Shop:
    """A service that takes money, and the job of four cells of $0.08 that is run there."""

    def __init__(self, stack: ExitStack, folder: Path, command: Command | None = None, **knobs: Any) -> None:
        self._command = command
        self.service = stack.enter_context(SandboxThread(SandboxConfig(latency=Latency(median_s=0), **knobs)))
        self.folder = folder
        self.job = write_job(folder, api={"base_url": self.service.base_url})

    @property
    def made(self) -> int:
        return int(self.service.stats["submissions_received"])

    def run(self, *options: str) -> Ended:
        """Run without a terminal."""
        assert self._command is not None
        return self._command("run", self.job, *options, cwd=self.folder)

    def answer(self, text: str, *options: str, asked: str) -> Ended:
        """Run on a terminal, type an answer to the question."""
        with on_terminal("run", self.job, *options, cwd=self.folder, command=_PAID) as run:
            run.wait_for(asked)
            run.type(text)
            return run.wait()


@pytest.mark.security(32)
def test_without_a_terminal_a_bound_or_a_yes_is_needed(paid: Command, tmp_path: Path) -> None:
    """2 and how to say it; a budget agrees to no more than itself, so the next run is asked again."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path, paid)
        refused = shop.run()
        assert refused.status == 2
        assert "this spends up to $0.32, and there is no terminal to ask at" in refused.err
        assert "--yes" in refused.err
        assert "--budget" in refused.err
        assert shop.made == 0
        assert (shop.run("--budget", "0.17").status, shop.made) == (3, 2)
        again = shop.run()
        assert (again.status, shop.made) == (2, 2)
        assert "this spends up to $0.16" in again.err
        limited = shop.run("--limit", "1")
        assert limited.status == 2
        assert "this spends up to $0.08" in limited.err
        assert (shop.run("--limit", "1", "--yes").status, shop.made) == (3, 3)
        assert (shop.run().status, shop.made) == (2, 3)
        assert (shop.run("--yes").status, shop.made) == (0, 4)
        assert (shop.run().status, shop.made) == (0, 4)


def test_what_was_agreed_to_is_asked_once(paid: Command, tmp_path: Path) -> None:
    """A run that goes on within it isn't asked again; an edit that costs more is, one that costs nothing isn't."""
    refused_once = FaultScript(rules=(FaultRule(on="submit", do="status", status=400, times=1),))
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path, paid, faults=refused_once)
        url = {"base_url": shop.service.base_url}
        assert (shop.run("--yes").status, len(shop.service.behaviour.everything())) == (1, 3)
        assert (shop.run("--retry-failed").status, len(shop.service.behaviour.everything())) == (0, 4)
        made = shop.made
        shop.job = write_job(tmp_path, api=url, grid={"seed": [1, 2, 3]})
        more = shop.run()
        assert (more.status, shop.made) == (2, made)
        assert "4 cells kept, 2 new, 0 retired; 4 done already" in more.err
        shop.job = write_job(tmp_path, api=url, grid={"seed": [2]})
        assert (shop.run().status, shop.made) == (0, made)


@pytest.mark.security(32)
@pytest.mark.parametrize(("typed", "status", "made"), [("y\n", 0, 4), ("n\n", 2, 0), ("\n", 2, 0), ("\x03", 130, 0)])
def test_the_question(tmp_path: Path, typed: str, status: int, made: int) -> None:
    """A terminal is told cells, images, cost and balance, and asked; no, nothing and Ctrl-C spend nothing."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path, balance_usd=10)
        done = shop.answer(typed, asked="Spend up to $0.32? [y/N]")
        assert (done.status, shop.made) == (status, made)
        assert "4 cells to pay, 4 images, $0.32 of a balance of $10.00" in done.err
        if status == 0:
            assert "job: 100%" in done.err
            assert "4/4" in done.err
            assert "spent $0.32" in done.err
            assert "\njob: 4 of 4 cells completed\n" in done.err


def test_the_question_says_what_it_is_about_though_quiet(tmp_path: Path) -> None:
    """`--quiet` shows no progress, but nobody agrees to what he wasn't told."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path)
        done = shop.answer("y\n", "--quiet", asked="Spend up to $0.32? [y/N]")
        assert done.status == 0
        assert "job: 4 cells, 4 images are left to pay" in done.err
        assert "100%" not in done.err


@pytest.mark.fault("I12")
def test_a_balance_that_does_not_buy_all(tmp_path: Path) -> None:
    """It says how many cells it buys, asks about those, and stops with 4 when the credit is used."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path, balance_usd=0.25)
        done = shop.answer("y\n", asked="Buy 3 cells? [y/N]")
        assert "the balance of $0.25 buys 3 of the 4 cells that are left" in done.err
        assert done.status == 4
        assert "3 of 4 cells completed, 1 pending" in done.err


def test_loopback_is_never_asked_about(command: Command, tmp_path: Path) -> None:
    """A sandbox's play money needs no yes."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path)
        assert command("run", shop.job, cwd=tmp_path).status == 0


def test_a_consent_that_is_no_amount_is_none(paid: Command, tmp_path: Path) -> None:
    """What was agreed to, damaged to a number beyond all bounds: asked again, in plain words."""
    with ExitStack() as stack:
        shop = _Shop(stack, tmp_path, paid)
        assert shop.run("--limit", "1", "--yes").status == 3
        (tmp_path / "out" / "agreed.json").write_text('{"micro_usd": 1e999}')
        assert (shop.run().status, shop.made) == (2, 1)
