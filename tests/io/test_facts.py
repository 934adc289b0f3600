"""Reading a run directory that is damaged, foreign, incomplete, or at work: believe what has its place."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from batchflux.core.errors import CheckpointDamaged, StorageError
from batchflux.core.ledger import fold
from batchflux.io import facts as facts_module
from batchflux.io.checkpoint import CheckpointWriter, read_facts, read_state
from batchflux.io.facts import journal_path, part_path, review_facts, stream_facts
from batchflux.io.journal import Journal, JournalHeader
from batchflux.io.parts import build_part
from batchflux.io.storage import read_bytes
from tests.io.durable import as_table, cell_numbers, make_fact

JOB = "job"


def make_run(run_dir: Path, *, job_id: str = JOB, cells: int = 3, start: int = 0) -> Path:
    """A closed run of `cells` parts, each holding one fact."""

    async def main() -> None:
        async with CheckpointWriter.open(run_dir, job_id) as writer:
            for number in range(start, start + cells):
                writer.record(make_fact(number))
                await writer.seal()

    asyncio.run(main())
    return run_dir


def leave_journal(run_dir: Path, sequence: int, *numbers: int, predecessor: str | None = None) -> Path:
    """A journal as a killed run leaves it."""
    path = journal_path(run_dir, sequence)
    journal = Journal.create(path, header=JournalHeader(job_id=JOB, sequence=sequence, predecessor=predecessor))
    for number in numbers:
        journal.append(make_fact(number))
    journal.close()
    return path


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def truncate(run_dir: Path) -> None:
    os.truncate(part_path(run_dir, 2), 300)


def empty(run_dir: Path) -> None:
    os.truncate(part_path(run_dir, 2), 0)


def flip_page(run_dir: Path) -> None:
    flip(part_path(run_dir, 2), 40)


def lose_one(run_dir: Path) -> None:
    part_path(run_dir, 2).unlink()


def lose_first(run_dir: Path) -> None:
    part_path(run_dir, 1).unlink()


def lose_last(run_dir: Path) -> None:
    part_path(run_dir, 3).unlink()


def swap(run_dir: Path) -> None:
    first, second = part_path(run_dir, 1).read_bytes(), part_path(run_dir, 2).read_bytes()
    part_path(run_dir, 1).write_bytes(second)
    part_path(run_dir, 2).write_bytes(first)


def take_from_another_job(run_dir: Path) -> None:
    other = make_run(run_dir / "other", job_id="other")
    shutil.copy(part_path(other, 2), part_path(run_dir, 2))
    shutil.rmtree(other)


def take_from_another_history(run_dir: Path) -> None:
    other = make_run(run_dir / "other", start=10)
    shutil.copy(part_path(other, 2), part_path(run_dir, 2))
    shutil.rmtree(other)


def replace_last(run_dir: Path) -> None:
    other = make_run(run_dir / "other", start=10)
    shutil.copy(part_path(other, 3), part_path(run_dir, 3))
    shutil.rmtree(other)


def put_another_file(run_dir: Path) -> None:
    shutil.copy(part_path(run_dir, 2), run_dir / "checkpoint" / "part-00000002 (1).parquet")


@pytest.mark.fault("D08", "D09", "D12")
@pytest.mark.parametrize(
    ("harm", "named", "believed"),
    [
        (truncate, [r"part-00000002\.parquet: fails its check"], [0, 2]),
        (empty, [r"part-00000002\.parquet: fails its check"], [0, 2]),
        (flip_page, [r"part-00000002\.parquet: fails its check"], [0, 2]),
        (lose_one, [r"part-00000002\.parquet: missing"], [0, 2]),
        (lose_first, [r"part-00000001\.parquet: missing"], [1, 2]),
        (lose_last, [r"part-00000003\.parquet: missing"], [0, 1]),
        (swap, [r"part-00000001\.parquet: is number 2 under", r"part-00000002\.parquet: is number 1 under"], [2]),
        (take_from_another_job, [r"part-00000002\.parquet: belongs to another job \(other, not job\)"], [0, 2]),
        (
            take_from_another_history,
            [r"part-00000001\.parquet: is not the file that .*part-00000002", r"part-00000002.*part-00000003"],
            [2],
        ),
        (replace_last, [r"part-00000002.*not the file", r"part-00000003\.parquet: is not the file that journal/"], [0]),
        (put_another_file, [r"checkpoint/part-00000002 \(1\)\.parquet: is no part; move it out"], [0, 1, 2]),
    ],
)
def test_damage_is_named_and_the_rest_believed(
    tmp_path: Path, harm: Callable[[Path], None], named: list[str], believed: list[int]
) -> None:
    """Each way of losing or changing a part is refused with its name; told to tolerate, the sound parts are given."""
    make_run(tmp_path)
    harm(tmp_path)
    with pytest.raises(CheckpointDamaged, match=named[0]):
        read_facts(tmp_path)
    with pytest.raises(CheckpointDamaged):
        read_state(tmp_path)
    found = read_facts(tmp_path, tolerate=True)
    assert len(found.damage) == len(named)
    for line, pattern in zip(found.damage, named, strict=True):
        assert re.search(pattern, line)
    assert cell_numbers(found.facts) == believed


def test_a_sound_run_has_no_damage(tmp_path: Path) -> None:
    """The same run unharmed is whole, for any reader that names the right job."""
    make_run(tmp_path)
    found = read_facts(tmp_path, tolerate=True, job_id=JOB)
    assert found.damage == ()
    assert cell_numbers(found.facts) == [0, 1, 2]
    with pytest.raises(CheckpointDamaged, match=r"belongs to another job \(job, not mine\)"):
        read_facts(tmp_path, job_id="mine")


@pytest.mark.fault("D09")
def test_no_byte_of_any_part_can_change_unseen(tmp_path: Path) -> None:
    """Every single flipped byte of a closed run's last part is found, though no later part vouches for it."""
    make_run(tmp_path, cells=1)
    path = part_path(tmp_path, 1)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(path, place)
        assert read_facts(tmp_path, columns=["cell_id"], tolerate=True).damage, place
        path.write_bytes(whole)


@pytest.mark.fault("D07")
def test_a_damaged_journal_is_set_aside_and_stops_every_start(tmp_path: Path) -> None:
    """Its whole records are sealed, the file is kept and named, and no start goes on until somebody takes it away."""
    make_run(tmp_path, cells=1)
    path = leave_journal(tmp_path, 2, 1, 2, 3)
    flip(path, -400)
    content = path.read_bytes()
    before = read_facts(tmp_path, tolerate=True)
    assert cell_numbers(before.facts) == [0, 1]
    assert "journal/00000002.journal: the record at byte" in before.damage[0]
    aside = path.with_name("damaged-00000002.journal")
    for _ in range(2):
        with pytest.raises(CheckpointDamaged, match=r"journal/damaged-00000002\.journal: .*may be bought again"):
            CheckpointWriter.open(tmp_path, JOB)
        assert aside.read_bytes() == content
        assert not path.exists()
        found = read_facts(tmp_path, tolerate=True)
        assert cell_numbers(found.facts) == [0, 1]
        assert len(found.damage) == 1
    aside.unlink()
    make_run(tmp_path, cells=1, start=7)
    assert cell_numbers(read_facts(tmp_path)) == [0, 1, 7]


@pytest.mark.fault("P03")
def test_setting_aside_survives_a_crash_in_the_middle(tmp_path: Path) -> None:
    """Renamed but not yet sealed, the whole records are still read and sealed by the next start."""
    make_run(tmp_path, cells=1)
    path = leave_journal(tmp_path, 2, 1, 2, 3)
    flip(path, -400)
    path.rename(path.with_name("damaged-00000002.journal"))
    assert cell_numbers(read_facts(tmp_path, tolerate=True).facts) == [0, 1]
    with pytest.raises(CheckpointDamaged):
        CheckpointWriter.open(tmp_path, JOB)
    assert cell_numbers(read_facts(tmp_path, tolerate=True).facts) == [0, 1]
    assert part_path(tmp_path, 2).exists()


@pytest.mark.fault("D08")
@pytest.mark.parametrize(
    ("sequence", "header", "named"),
    [
        (2, JournalHeader(job_id="other", sequence=2), "belongs to another job"),
        (3, JournalHeader(job_id=JOB, sequence=3), "where 2 comes next"),
        (2, JournalHeader(job_id=JOB, sequence=1), "is number 1"),
        (2, JournalHeader(job_id=JOB, sequence=2, predecessor="00" * 32), "another part than the one before"),
        (2, JournalHeader(job_id=JOB, sequence=2, format=9), "format 9 is a newer"),
    ],
)
def test_a_journal_without_its_place_is_left_alone(
    tmp_path: Path, sequence: int, header: JournalHeader, named: str
) -> None:
    """What can't follow the last part stops the start, and nothing at all is changed."""
    make_run(tmp_path, cells=1)
    journal_path(tmp_path, 2).unlink()
    journal = Journal.create(journal_path(tmp_path, sequence), header=header)
    journal.append(make_fact(5))
    journal.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointDamaged, match=named):
        CheckpointWriter.open(tmp_path, JOB)
    with pytest.raises(CheckpointDamaged):
        read_facts(tmp_path, job_id=JOB)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a journal at all"])
def test_a_journal_whose_header_is_gone(tmp_path: Path, content: bytes) -> None:
    """A journal is published with its header, so one without is damage, and is named."""
    make_run(tmp_path, cells=1)
    journal_path(tmp_path, 2).write_bytes(content)
    with pytest.raises(CheckpointDamaged, match=r"journal/00000002\.journal: its header can't be read"):
        CheckpointWriter.open(tmp_path, JOB)
    with pytest.raises(CheckpointDamaged, match="its header"):
        read_facts(tmp_path)


def test_a_journal_is_not_dropped_for_a_bad_part(tmp_path: Path) -> None:
    """Where a part is unsound and its journal still there, as after a crash in between, both are kept."""
    make_run(tmp_path, cells=1)
    journal_path(tmp_path, 2).unlink()
    path = leave_journal(tmp_path, 1, 0)
    flip(part_path(tmp_path, 1), 40)
    with pytest.raises(CheckpointDamaged, match=r"part-00000001.*its journal journal/00000001.journal is still there"):
        CheckpointWriter.open(tmp_path, JOB)
    assert path.exists()
    data = build_part(
        as_table([]), job_id=JOB, sequence=1, predecessor=None, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    part_path(tmp_path, 1).write_bytes(data)
    with pytest.raises(CheckpointDamaged, match="holds less than its journal"):
        CheckpointWriter.open(tmp_path, JOB)
    assert path.exists()


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    """What an interrupted write left is passed over without a word."""
    make_run(tmp_path, cells=1)
    path = leave_journal(tmp_path, 2, 1, 2)
    os.truncate(path, path.stat().st_size - 3)
    assert cell_numbers(read_facts(tmp_path)) == [0, 1]


@pytest.mark.fault("C08", "C07")
def test_a_file_that_vanishes_is_found_as_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal sealed between listing and opening makes the reader look again, and every fact is seen once."""
    make_run(tmp_path, cells=1)
    leave_journal(tmp_path, 2, 1, 2)
    sealed: list[Path] = []

    def seal_first(path: Path) -> bytes:
        if path.suffix == ".journal" and not sealed:
            sealed.append(path)
            asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
        return read_bytes(path)

    monkeypatch.setattr(facts_module, "read_bytes", seal_first)
    assert cell_numbers(read_facts(tmp_path)) == [0, 1, 2]
    assert len(sealed) == 1


@pytest.mark.fault("C07")
def test_a_reader_never_sees_a_fact_without_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts written to the old journal and then to the new one, while a reader is between the two, keep their order."""
    make_run(tmp_path, cells=1)
    journals = [
        Journal.create(journal_path(tmp_path, sequence), header=JournalHeader(job_id=JOB, sequence=sequence))
        for sequence in (2, 3)
    ]
    reads: list[Path] = []

    def write_between(path: Path) -> bytes:
        data = read_bytes(path)
        reads.append(path)
        if len(reads) == 1:
            for number, journal in enumerate(journals, start=1):
                journal.append(make_fact(number))
        return data

    monkeypatch.setattr(facts_module, "read_bytes", write_between)
    assert cell_numbers(read_facts(tmp_path)) == [0, 1]
    assert cell_numbers(read_facts(tmp_path)) == [0, 1, 2]
    for journal in journals:
        journal.close()


def test_files_that_keep_vanishing_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader doesn't look for ever."""
    make_run(tmp_path, cells=1)

    def vanish(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(facts_module, "read_bytes", vanish)
    with pytest.raises(StorageError, match="keep vanishing"):
        read_facts(tmp_path)


def test_the_state_is_the_fold_of_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded piece by piece, in the memory of its cells, a history gives the state that it gives at once."""
    monkeypatch.setattr(facts_module, "_COMPACT_ABOVE_ROWS", 2)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            for number in range(40):
                writer.record(make_fact(number % 4, latency_ms=number))
                if number % 3 == 0:
                    await writer.seal()

    asyncio.run(main())
    assert read_state(tmp_path).equals(fold(read_facts(tmp_path)))
    assert read_state(tmp_path).column("latency_ms").to_pylist() == [36, 37, 38, 39]
    some = read_state(tmp_path, columns=["latency_ms"])
    assert some.column_names == ["cell_id", "kind", "attempt", "status", "error_kind", "error", "latency_ms"]
    assert some.column("latency_ms").to_pylist() == [36, 37, 38, 39]


def test_a_review_watches_each_fact_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches gets all facts in order, anew where a file vanished half-way; the state is the folded one."""
    monkeypatch.setattr(facts_module, "_COMPACT_ABOVE_ROWS", 1)
    make_run(tmp_path, cells=1)
    for sequence, number in ((2, 1), (3, 2), (4, 0)):
        leave_journal(tmp_path, sequence, number)
    asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
    vanished: list[Path] = []
    begun: list[list[int]] = []

    def vanish_once(path: Path) -> bytes:
        if path == part_path(tmp_path, 3) and not vanished:
            vanished.append(path)
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read_bytes(path)

    def begin() -> Callable[[pa.Table], None]:
        seen: list[int] = []
        begun.append(seen)
        return lambda table: seen.extend(cell_numbers(table))

    monkeypatch.setattr(facts_module, "read_bytes", vanish_once)
    found = review_facts(tmp_path, columns=["cost_micro_usd"], watched=["cell_id", "at"], begin=begin, job_id=JOB)
    assert len(begun) == 2
    assert begun[1] == cell_numbers(read_facts(tmp_path)) == [0, 1, 2, 0]
    assert found.damage == ()
    assert found.facts.equals(read_state(tmp_path, columns=["cost_micro_usd"]))
    flip_part = part_path(tmp_path, 3)
    flip_part.write_bytes(flip_part.read_bytes()[:-1])
    damaged = review_facts(tmp_path, columns=[], watched=["cell_id"], begin=begin)
    assert len(damaged.damage) == 1
    assert begun[2] == [0, 1, 0] == [*cell_numbers(damaged.facts), 0]


def test_small_parts_are_streamed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and each fact once, as many parts at a time as make a table worth looking at."""
    make_run(tmp_path, cells=1)
    for sequence in range(2, 8):
        leave_journal(tmp_path, sequence, sequence)
        asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
    monkeypatch.setattr(facts_module, "_JOIN_BELOW_ROWS", 3)
    tables: list[list[int]] = []
    damage = stream_facts(
        tmp_path, columns=["cell_id"], begin=lambda: lambda table: tables.append(cell_numbers(table)), job_id=JOB
    )
    assert (damage, tables) == ((), [[0, 2, 3], [4, 5, 6], [7]])


def test_some_columns_of_parts_and_journals(tmp_path: Path) -> None:
    """Named columns come alone, in their order, from sealed and unsealed facts alike."""
    make_run(tmp_path, cells=1)
    leave_journal(tmp_path, 2, 1)
    table = read_facts(tmp_path, columns=["status", "cell_id"])
    assert table.column_names == ["status", "cell_id"]
    assert cell_numbers(table) == [0, 1]
