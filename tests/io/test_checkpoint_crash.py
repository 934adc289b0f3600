"""The checkpoint at its worst moments: killed, or without power, before, in and after each call to the disk."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchflux.io.checkpoint import CheckpointWriter, read_facts, read_state
from batchflux.io.facts import journal_path, part_path
from batchflux.io.journal import Journal, JournalHeader
from tests.io.durable import Crash, Death, DyingDisk, cell_numbers, make_fact

JOB = "job"
ROOT = Path(__file__).parents[2]
DEATHS: tuple[Death, ...] = ("before", "torn", "after")


class Told:
    """What the writer has promised so far: how many facts are written, and how many of them flushed."""

    def __init__(self) -> None:
        self.written = 0
        self.flushed = 0

    def note(self, *, is_flushed: bool) -> None:
        self.written += 1
        self.flushed = self.written if is_flushed else self.flushed


async def live(run_dir: Path, told: Told) -> None:
    """A run's life: intents, facts, two seals and an end."""
    async with CheckpointWriter.open(run_dir, JOB) as writer:
        for number in range(7):
            fact = make_fact(number)
            if number % 3 == 0:
                await writer.intent(fact)
            else:
                writer.record(fact)
            told.note(is_flushed=number % 3 == 0)
            if number in (2, 4):
                await writer.seal()
                told.flushed = told.written


def prepare(run_dir: Path) -> None:
    for name in ("checkpoint", "journal"):
        (run_dir / name).mkdir(parents=True)


def die(run_dir: Path, monkeypatch: pytest.MonkeyPatch, *, die_at: int | None, death: Death) -> tuple[DyingDisk, Told]:
    """Live until the disk's call of that number."""
    disk, told = DyingDisk(run_dir, die_at=die_at, death=death), Told()
    with disk.mounted(monkeypatch):
        if die_at is None:
            asyncio.run(live(run_dir, told))
        else:
            with pytest.raises(Crash):
                asyncio.run(live(run_dir, told))
    return disk, told


def check(run_dir: Path, *, at_least: int, at_most: int) -> None:
    """A prefix of the facts is there, as long as it must be, and a start and a later run change nothing in it."""
    found = cell_numbers(read_facts(run_dir, job_id=JOB))
    assert found == list(range(len(found)))
    assert at_least <= len(found) <= at_most

    async def go_on() -> None:
        async with CheckpointWriter.open(run_dir, JOB) as writer:
            assert cell_numbers(read_facts(run_dir)) == found
            writer.record(make_fact(len(found)))

    asyncio.run(go_on())
    assert cell_numbers(read_facts(run_dir)) == [*found, len(found)]
    assert all(name.startswith("part-") for name in os.listdir(run_dir / "checkpoint"))
    assert len([name for name in os.listdir(run_dir / "journal") if not name.startswith("torn-")]) == 1


@pytest.mark.fault("P02")
@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("joins", [False, True])
def test_killed_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death, joins: bool) -> None:
    """Whatever `record` returned from is there after the process died, and nothing that wasn't recorded."""
    monkeypatch.setattr("batchflux.io.joined._PARTS_A_FILE", 2 if joins else 128)
    prepare(tmp_path / "dry")
    calls = die(tmp_path / "dry", monkeypatch, die_at=None, death=death)[0].calls
    assert calls.count("replace") == 7 + joins  # four journals, three parts, and two of those once more
    for die_at, call in enumerate(calls):
        if death == "torn" and call != "write":
            continue
        run_dir = tmp_path / str(die_at)
        prepare(run_dir)
        _, told = die(run_dir, monkeypatch, die_at=die_at, death=death)
        check(run_dir, at_least=told.written, at_most=told.written + 1)
        shutil.rmtree(run_dir)


@pytest.mark.fault("D05")
@pytest.mark.parametrize("death", ["before", "after"])
@pytest.mark.parametrize("joins", [False, True])
def test_power_cut_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: Death, joins: bool) -> None:
    """Where nothing unflushed survives, every intent that was waited for is there, with all that came before it."""
    monkeypatch.setattr("batchflux.io.joined._PARTS_A_FILE", 2 if joins else 128)
    prepare(tmp_path / "dry")
    calls = die(tmp_path / "dry", monkeypatch, die_at=None, death=death)[0].calls
    for die_at in range(len(calls)):
        run_dir = tmp_path / str(die_at)
        prepare(run_dir)
        disk, told = die(run_dir, monkeypatch, die_at=die_at, death=death)
        disk.cut_power()
        check(run_dir, at_least=told.flushed, at_most=told.written + 1)
        shutil.rmtree(run_dir)


def leave_behind(run_dir: Path) -> None:
    """What the unluckiest crash leaves: a journal beside its part, two without, the first of them torn, a temporary."""

    async def first() -> None:
        async with CheckpointWriter.open(run_dir, JOB) as writer:
            writer.record(make_fact(0))

    asyncio.run(first())
    for sequence, numbers in ((1, [0]), (2, [1, 2]), (3, [3])):
        header = JournalHeader(job_id=JOB, sequence=sequence)
        journal = Journal.create(journal_path(run_dir, sequence), header=header)
        for number in numbers:
            journal.append(make_fact(number))
        journal.close()
    with journal_path(run_dir, 2).open("ab") as file:
        file.write(b"\x40\x00\x00\x00torn")
    (run_dir / "checkpoint" / ".tmp-0badcafe-part-00000002.parquet").write_bytes(b"PAR1")


@pytest.mark.fault("P03")
def test_recovery_killed_or_cut_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that dies while it seals what another one left loses nothing either."""
    template = tmp_path / "template"
    leave_behind(template)
    for die_at in range(200):
        run_dir = tmp_path / str(die_at)
        shutil.copytree(template, run_dir)
        disk = DyingDisk(run_dir, die_at=die_at, death="after")
        with disk.mounted(monkeypatch):
            if not begin_and_die(run_dir):
                break
        if die_at % 2:
            disk.cut_power()
        check(run_dir, at_least=4, at_most=4)
    assert 20 < die_at < 100


def begin_and_die(run_dir: Path) -> bool:
    try:
        writer = CheckpointWriter.open(run_dir, JOB)
    except Crash:
        return True
    asyncio.run(writer.close())
    return False


def test_recovery_says_what_it_did(tmp_path: Path) -> None:
    """Each journal that a start had to seal is named with its facts and what was torn."""
    leave_behind(tmp_path)
    writer = CheckpointWriter.open(tmp_path, JOB)
    assert writer.recovered == (
        "journal/00000002.journal: sealed 2 facts, 8 torn bytes at the end",
        "journal/00000003.journal: sealed 1 facts, 0 torn bytes at the end",
    )
    assert part_path(tmp_path, 3).exists()
    asyncio.run(writer.close())


@pytest.mark.fault("D05")
def test_power_cut_that_empties_an_older_journal(tmp_path: Path) -> None:
    """Where the older of two journals lost all that was unflushed, the newer one's facts still find their place."""
    for sequence, numbers in ((1, []), (2, [5])):
        journal = Journal.create(
            journal_path_in(tmp_path, sequence), header=JournalHeader(job_id=JOB, sequence=sequence)
        )
        for number in numbers:
            journal.append(make_fact(number))
        journal.close()
    assert cell_numbers(read_facts(tmp_path)) == [5]
    asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
    assert cell_numbers(read_facts(tmp_path)) == [5]
    assert cell_numbers(read_state(tmp_path)) == [5]


def journal_path_in(run_dir: Path, sequence: int) -> Path:
    path = journal_path(run_dir, sequence)
    path.parent.mkdir(exist_ok=True)
    return path


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
import pytest
from tests.io.durable import DyingDisk
from tests.io.test_checkpoint_crash import Told, live

class Killer(DyingDisk):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Telling(Told):
    def note(self, *, is_flushed):
        super().note(is_flushed=is_flushed)
        print(self.written, flush=True)

run_dir, die_at = Path(sys.argv[1]), int(sys.argv[2])
disk = Killer(run_dir, die_at=die_at, death=sys.argv[3])
with disk.mounted(pytest.MonkeyPatch()):
    asyncio.run(live(run_dir, Telling()))
"""


@pytest.mark.fault("P02")
@pytest.mark.parametrize(
    ("call", "death"),
    [("write", "torn"), ("fdatasync", "before"), ("replace", "before"), ("replace", "after"), ("unlink", "after")],
)
def test_killed_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, death: Death) -> None:
    """kill -9 of a real process, at a call in the middle of its life: all that it was told is written is there."""
    prepare(tmp_path / "dry")
    calls = die(tmp_path / "dry", monkeypatch, die_at=None, death="before")[0].calls
    places = [place for place, name in enumerate(calls) if name == call]
    die_at = places[len(places) // 2]
    prepare(tmp_path / "run")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(die_at), death]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    written = int(child.stdout.split()[-1])
    check(tmp_path / "run", at_least=written, at_most=written + 1)
