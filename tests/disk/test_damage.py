"""A killed run's files, damaged: a run stops spending and names the file, and never goes on from a wrong state."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kills.lives import Life, Plan
from tests.kills.points import Strike
from tests.kills.victim import Victims

FLIPS = 24


@pytest.fixture
def killed(tmp_path: Path, victims: Victims) -> Iterator[Life]:
    """A life of three killed runs, so with two parts sealed and a journal begun, and a copy of it as `sound`."""
    with Life.begun(tmp_path / "life", Plan(rows=25), victims) as life:
        life.live([Strike(act="kill after", point="write journal", nth=14)] * 3)
        assert len(parts_of(life)) >= 2
        shutil.copytree(life.run_dir, life.run_dir.with_name("sound"))
        yield life


def parts_of(life: Life) -> list[Path]:
    """The sealed parts, oldest first."""
    return sorted((life.run_dir / "checkpoint").glob("part-*"))


def journal_of(life: Life) -> Path:
    """The journal that still holds facts of its own."""
    return max((life.run_dir / "journal").iterdir(), key=lambda path: path.stat().st_size)


def restore(life: Life) -> None:
    """Put the sound copy back."""
    shutil.rmtree(life.run_dir)
    shutil.copytree(life.run_dir.with_name("sound"), life.run_dir)


def check_stopped(life: Life, name: str) -> None:
    """Nothing was submitted, the file is named, and trying again changes neither."""
    before = life.records()
    for _ in range(2):
        end = life.run()
        assert (end.status, life.records()) == (4, before), end
        assert name in end.err
        assert "Traceback" not in end.err


def last_record_of(journal: Path) -> int:
    """Where its last record begins."""
    return journal.read_bytes().rfind(b'{"cell_id":') - 8


def flip(path: Path, *, at: int, bit: int) -> None:
    """Turn one bit over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.fault("D07", "D09")
def test_flipped_bits(killed: Life) -> None:
    """Any bit of a part, and any of the journal but in its last record, which a torn write may have left so."""
    dice = random.Random(5)
    for number in range(FLIPS):
        restore(killed)
        path = dice.choice(parts_of(killed)) if number % 2 else journal_of(killed)
        last = last_record_of(path) if path.suffix == ".journal" else path.stat().st_size
        flip(path, at=dice.randrange(last), bit=dice.randrange(8))
        check_stopped(killed, path.name)
    restore(killed)
    killed.finish()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_last_record_that_went_bad(tmp_path: Path, victims: Victims, harm: str) -> None:
    """The intent of a submission that the service accepted, flushed and then gone bad: its cell looks pending, and is
    found in the history before anything is bought."""
    dice = random.Random(6)
    with Life.begun(tmp_path / "life", Plan(rows=10), victims) as life:
        assert life.run(Strike(act="kill after", point="send submit", nth=4), "--concurrency", "1").is_killed
        shutil.copytree(life.run_dir, life.run_dir.with_name("sound"))
        ledger = life.records()
        for _ in range(4):
            restore(life)
            path = journal_of(life)
            last = last_record_of(path)
            assert b'"kind":"intent"' in path.read_bytes()[last:]
            if harm == "flip":
                flip(path, at=dice.randrange(last, path.stat().st_size), bit=dice.randrange(8))
            else:
                os.truncate(path, dice.randrange(last + 1, path.stat().st_size))
            end = life.run(None, "--limit", "0")
            assert (end.status, life.records()) == (3, ledger), end.err
            assert end.summary["completed"] == len(ledger)
            assert list((life.run_dir / "journal").glob("looked-up-torn-*"))
        life.finish()


@pytest.mark.fault("D11")
@pytest.mark.parametrize("lives", [1, 2], ids=["in its first minute", "with a part sealed"])
def test_a_journal_that_is_gone(tmp_path: Path, victims: Victims, lives: int) -> None:
    """A killed run's journal that somebody removed: what it held is looked up before anything is bought."""
    with Life.begun(tmp_path / "life", Plan(rows=10), victims) as life:
        for _ in range(lives):
            assert life.run(Strike(act="kill after", point="send submit", nth=4), "--concurrency", "1").is_killed
        ledger = life.records()
        for path in (life.run_dir / "journal").iterdir():
            path.unlink()
        end = life.run(None, "--limit", "0")
        assert (end.status, life.records()) == (3, ledger), end.err
        assert end.summary["completed"] == len(ledger)
        life.finish()


def test_a_torn_end_where_the_history_cannot_tell(tmp_path: Path, victims: Victims) -> None:
    """Without inputs it could be any cell's: the run stops, tells the prediction, and goes on at the user's word."""
    with Life.begun(tmp_path / "life", Plan(rows=10, inputs=False), victims) as life:
        assert life.run(Strike(act="kill after", point="send submit", nth=4), "--concurrency", "1").is_killed
        path = journal_of(life)
        os.truncate(path, path.stat().st_size - 1)
        check_stopped(life, f"torn-{path.name}")
        assert life.records()[-1]["id"] in life.run().err
        end = life.run(None, "--resubmit-unknown")
        assert end.status == 0, end.err
        assert (life.manifest()["status"] == "completed").all()


@pytest.mark.fault("D08")
@pytest.mark.parametrize("number", [0, 1])
def test_a_part_that_is_gone(killed: Life, number: int) -> None:
    """A part that somebody removed is missed by its number."""
    path = parts_of(killed)[number]
    path.unlink()
    check_stopped(killed, path.name)


@pytest.mark.fault("D08", "D09")
def test_a_part_of_another_run(killed: Life, tmp_path: Path, victims: Victims) -> None:
    """A sound part of another run in the place of our own is no part of ours."""
    with Life.begun(tmp_path / "other", Plan(rows=15), victims) as other:
        other.finish()
        path = parts_of(killed)[0]
        shutil.copyfile(parts_of(other)[0], path)
    check_stopped(killed, path.name)


@pytest.mark.fault("D06")
def test_a_torn_end_costs_nothing(killed: Life) -> None:
    """A journal that ends in half a record, as a power cut leaves it, goes on by itself."""
    journal = journal_of(killed)
    with journal.open("ab") as file:
        file.write(journal.read_bytes()[-40:])
    killed.finish()
