"""The journal: what is appended is read back, whatever tears or flips, and one flush serves all who wait."""

import asyncio
import dataclasses
import errno
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.errors import StorageError
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.journal import (
    Journal,
    JournalHeader,
    decode_fact,
    encode_fact,
    read_journal,
    scan_journal,
)
from tests.io.durable import facts, make_fact, make_facts

HEADER = JournalHeader(job_id="job", sequence=7, predecessor="ab" * 32)

# Format 1 as it was first written. A run directory of today must be readable by every later version.
GOLDEN = (
    b"<\x00\x00\x00\xff_`\x12"
    b'{"journal":1,"job_id":"job","sequence":2,"predecessor":null}'
    b'"\x01\x00\x00-7\xdb\x9c'
    b'{"cell_id":"00000000000000000000000000000001","kind":"outcome","at_ms":1763000000001,"at'
    b'tempt":1,"status":"completed","attempts":1,"cost_micro_usd":80000,"prediction_id":"predi'
    b'ction-1","outputs":["https://host.example/1.png"],"has_nsfw_contents":[null,false],"warn'
    b'ings":["a \xe2\x80\x9cwarning\xe2\x80\x9d"]}'
    b"R\x00\x00\x00?T\xfb\xf4"
    b'{"predecessor":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}'
)


def begin(path: Path) -> Journal:
    return Journal.create(path, header=HEADER)


def journal_bytes(path: Path, history: list[Fact]) -> bytes:
    journal = begin(path)
    for fact in history:
        journal.append(fact)
    journal.close()
    return path.read_bytes()


@given(facts())
def test_a_fact_is_read_back_as_it_was(fact: Fact) -> None:
    """Every field survives, lone surrogates too."""
    assert decode_fact(encode_fact(fact)) == fact


@given(facts())
def test_a_fact_is_written_as_the_json_module_would(fact: Fact) -> None:
    """The encoder is made for facts, and the text is still plain JSON: the same fields, order and values."""
    stated = {name: value for name, value in dataclasses.asdict(fact).items() if value is not None and value != ()}
    written = json.loads(encode_fact(fact))
    assert list(written) == list(stated)
    assert written == json.loads(json.dumps(stated))


def test_encoding_is_compact() -> None:
    """None and empty fields are left out, zero is not, and text is UTF-8 where it can be."""
    fact = Fact(cell_id="ab", kind=FactKind.RELEASED, at_ms=5, attempt=1, status=CellStatus.PENDING, error="ü")
    assert encode_fact(fact).decode() == (
        '{"cell_id":"ab","kind":"released","at_ms":5,"attempt":1,"status":"pending",'
        '"attempts":0,"cost_micro_usd":0,"error":"ü"}'
    )
    assert b"\\ud800" in encode_fact(dataclasses.replace(fact, error="\ud800"))


def test_a_number_that_no_part_could_hold_is_refused() -> None:
    """It fails where it comes from, and not when the journal is sealed."""
    with pytest.raises(OverflowError, match="beyond int64"):
        encode_fact(make_fact(1, inference_ms=2**63))


@pytest.mark.parametrize("payload", [b"{}", b"[", b"\xff", b'{"cell_id":"a","kind":"new","status":"pending"}'])
def test_what_is_no_fact_is_a_value_error(payload: bytes) -> None:
    """Payloads that hold no fact are told apart from facts."""
    with pytest.raises(ValueError, match=r"."):
        decode_fact(payload)


def test_fields_of_a_newer_version_are_passed_over() -> None:
    """A fact with a field that isn't known yet is the fact without it."""
    payload = encode_fact(make_fact(1)).replace(b'{"cell_id"', b'{"cell_id":"x","new":[1],"cell_id"')
    assert decode_fact(payload) == make_fact(1)


@pytest.mark.fault("D18", "P13")
def test_format_1_is_read_for_ever(tmp_path: Path) -> None:
    """The golden journal holds what it held when format 1 was new, and is still written so."""
    path = tmp_path / "journal"
    journal = Journal.create(path, header=JournalHeader(job_id="job", sequence=2))
    journal.append(make_fact(1))
    journal.append_predecessor("cd" * 32)
    journal.close()
    assert path.read_bytes() == GOLDEN
    contents = read_journal(path)
    assert contents.header == JournalHeader(job_id="job", sequence=2, predecessor="cd" * 32)
    assert contents.facts == (make_fact(1),)


@pytest.mark.fault("D07", "D06")
def test_every_truncation_gives_the_whole_records_before_it(tmp_path: Path) -> None:
    """Cut anywhere behind the header, the journal is its whole records and a torn tail, never damage."""
    history = make_facts(4)
    data = journal_bytes(tmp_path / "journal", history)
    ends = [len(journal_bytes(tmp_path / "journal", history[:count])) for count in range(5)]
    for length in range(ends[0], len(data)):
        scan = scan_journal(data[:length])
        whole = sum(end <= length for end in ends) - 1
        assert scan.payloads == tuple(map(encode_fact, history[:whole]))
        assert scan.damage is None
        assert scan.torn_bytes == length - ends[whole]


@pytest.mark.fault("D07")
def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """A flipped bit never changes a fact: facts before it stand; unless it is in the last record, it is damage."""
    history = make_facts(3)
    data = journal_bytes(tmp_path / "journal", history)
    ends = [len(journal_bytes(tmp_path / "journal", history[:count])) for count in range(4)]
    payloads = tuple(map(encode_fact, history))
    for place in range(len(data)):
        for bit in (1, 32, 128):
            flipped = bytearray(data)
            flipped[place] ^= bit
            scan = scan_journal(bytes(flipped))
            whole = sum(end <= place for end in ends)
            assert scan.payloads == payloads[: max(0, whole - 1)]
            assert (scan.damage is None) == (place >= ends[2])


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_without_an_error(data: bytes) -> None:
    """Whatever lies in the file, reading it ends with a verdict."""
    scan = scan_journal(data)
    assert scan.payloads == ()
    assert scan.damage is not None


@pytest.mark.fault("D06")
def test_zeros_after_a_power_cut_are_a_torn_tail(tmp_path: Path) -> None:
    """Some file systems leave zeros where data was not flushed; they pass for no record."""
    data = journal_bytes(tmp_path / "journal", make_facts(2))
    scan = scan_journal(data + bytes(4096))
    assert (len(scan.payloads), scan.torn_bytes, scan.damage) == (2, 4096, None)


@pytest.mark.fault("D18", "P13")
def test_a_newer_format_is_not_read(tmp_path: Path) -> None:
    """Facts of a format that isn't known are not believed, and it says what to do."""
    path = tmp_path / "journal"
    Journal.create(path, header=dataclasses.replace(HEADER, format=2)).close()
    contents = read_journal(path)
    assert contents.header is None
    assert contents.damage == "its format 2 is a newer batchflux's: update batchflux to read it"


def test_reading_beside_the_writer(tmp_path: Path) -> None:
    """Everything appended is there for a reader at once, without a flush."""
    journal = begin(tmp_path / "journal")
    for count, fact in enumerate(make_facts(3), start=1):
        journal.append(fact)
        assert len(read_journal(tmp_path / "journal").facts) == count
    journal.close()


@pytest.mark.fault("D02")
def test_one_append_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record leaves in one call, so that a killed process tears none; short writes are gone on with."""
    journal = begin(tmp_path / "journal")
    sizes: list[int] = []
    write = os.write

    def spy(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data[:100])

    monkeypatch.setattr(os, "write", spy)
    journal.append(make_fact(1))
    monkeypatch.undo()
    assert sizes[0] == len(encode_fact(make_fact(1))) + 8
    assert len(sizes) == -(-sizes[0] // 100)
    assert read_journal(tmp_path / "journal").facts == (make_fact(1),)
    journal.close()


class GatedFlush:
    """A disk whose flushes wait for permission."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end, self.count = threading.Event(), threading.Event(), 0
        self._fdatasync = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._flush)

    def _flush(self, fd: int) -> None:
        self.count += 1
        self.begun.set()
        assert self.may_end.wait(60)
        self._fdatasync(fd)

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


@pytest.mark.fault("D14")
def test_what_queues_while_a_flush_runs_shares_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred waiters that come during one flush need one more, and no flush is done for nothing."""
    disk = GatedFlush(monkeypatch)

    async def main() -> None:
        journal = begin(tmp_path / "journal")
        async with asyncio.TaskGroup() as group:

            async def write(number: int) -> None:
                journal.append(make_fact(number))
                await journal.flushed()

            group.create_task(write(0))
            await disk.wait_begun()
            waiters = [group.create_task(write(number)) for number in range(1, 101)]
            await asyncio.sleep(0)
            assert journal.facts == 101
            assert not any(waiter.done() for waiter in waiters)
            disk.may_end.set()
        assert disk.count == 2
        await journal.flushed()
        assert disk.count == 2
        journal.close()

    asyncio.run(main())


def test_what_is_appended_in_one_go_shares_the_first_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten waiters that come at once need one flush, one of them gone meanwhile, and are woken together."""
    disk = GatedFlush(monkeypatch)
    disk.may_end.set()

    async def main() -> None:
        journal = begin(tmp_path / "journal")
        woken: list[int] = []

        async def write(number: int) -> None:
            journal.append(make_fact(number))
            await journal.flushed()
            woken.append(number)
            await asyncio.sleep(0)
            assert len(woken) == 9

        async with asyncio.TaskGroup() as group:
            waiters = [group.create_task(write(number)) for number in range(10)]
            await asyncio.sleep(0)
            waiters[3].cancel()
        assert disk.count == 1
        journal.close()

    asyncio.run(main())


def test_a_journal_may_be_closed_while_those_who_waited_are_gone(tmp_path: Path) -> None:
    """Nothing is flushed for who was cancelled before the flush began, and nothing is left behind in the loop."""

    async def main() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
        journal = begin(tmp_path / "journal")
        journal.append(make_fact(1))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(journal.flushed())
            await asyncio.sleep(0)
            waiting.cancel()
            journal.close()
        assert faults == []

    asyncio.run(main())


async def wait_in_vain(journal: Journal) -> None:
    with pytest.raises(StorageError, match="could not flush the journal: Input/output error"):
        await journal.flushed()


@pytest.mark.fault("D03")
def test_a_failed_flush_poisons_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who wait hear of it, so does every later append and flush, and the disk isn't asked again."""
    asked = 0

    def fail(_fd: int) -> None:
        nonlocal asked
        asked += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        journal = begin(tmp_path / "journal")
        monkeypatch.setattr(os, "fdatasync", fail)
        for fact in make_facts(2):
            journal.append(fact)
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_in_vain(journal))
            group.create_task(wait_in_vain(journal))
        monkeypatch.undo()
        with pytest.raises(StorageError, match="could not flush the journal: Input/output error"):
            journal.append(make_fact(3))
        with pytest.raises(StorageError):
            await journal.flushed()
        assert journal.has_failed
        assert asked == 1
        journal.close()

    asyncio.run(main())
    assert len(read_journal(tmp_path / "journal").facts) == 2


@pytest.mark.fault("D03")
def test_a_failed_flush_is_told_though_its_waiter_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a failed flush once; whoever asked being gone, the next one must still hear of it."""
    begun, may_end = threading.Event(), threading.Event()

    def fail_late(_fd: int) -> None:
        begun.set()
        assert may_end.wait(60)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        journal = begin(tmp_path / "journal")
        journal.append(make_fact(1))
        monkeypatch.setattr(os, "fdatasync", fail_late)
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(journal.flushed())
            await asyncio.to_thread(begun.wait, 60)
            waiter.cancel()
        monkeypatch.undo()
        may_end.set()
        with pytest.raises(StorageError, match="could not flush"):
            await journal.flushed()
        journal.close()

    asyncio.run(main())


class FullDisk:
    """Writes that are refused half-way once the disk is full; `held` closings of what held room make some again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, error: int = errno.ENOSPC, gives_back: bool = True) -> None:
        self.is_full = True
        self._write, self._close, self._error, self._gives_back = os.write, os.close, error, gives_back
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "close", self.close)

    def write(self, fd: int, data: bytes) -> int:
        if not self.is_full:
            return self._write(fd, data)
        if len(data) <= 20:
            raise OSError(self._error, os.strerror(self._error))
        self._write(fd, data[:20])
        raise OSError(self._error, os.strerror(self._error))

    def close(self, fd: int) -> None:
        self.is_full = self.is_full and not self._gives_back
        self._close(fd)


@pytest.mark.fault("D01")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_takes_no_intent_and_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """D01: what is held free takes the answers still to come, behind the last whole record; intents stay refused."""
    journal = begin(tmp_path / "journal")
    journal.append(make_fact(1))
    FullDisk(monkeypatch, error=error)
    for number in (2, 3):
        with pytest.raises(StorageError, match="could not write to the journal"):
            journal.append(make_fact(number, kind=FactKind.INTENT))
        journal.append(make_fact(number + 10))
    asyncio.run(journal.flushed())
    monkeypatch.undo()
    assert (journal.has_failed, journal.facts) == (False, 3)
    assert journal.size_bytes == (tmp_path / "journal").stat().st_size
    journal.close()
    contents = read_journal(tmp_path / "journal")
    assert contents.facts == (make_fact(1), make_fact(12), make_fact(13))
    assert (contents.torn_bytes, contents.damage) == (0, None)


def test_an_answer_that_meets_the_full_disk_first_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody need hear of it yet: the next intent does."""
    journal = begin(tmp_path / "journal")
    FullDisk(monkeypatch)
    journal.append(make_fact(1))
    with pytest.raises(StorageError, match="No space left on device"):
        journal.append(make_fact(2, kind=FactKind.INTENT))
    monkeypatch.undo()
    journal.close()
    assert read_journal(tmp_path / "journal").facts == (make_fact(1),)


@pytest.mark.parametrize(("error", "gives_back"), [(errno.ENOSPC, False), (errno.EIO, True), (errno.EFBIG, True)])
def test_a_write_that_fails_for_good_poisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, gives_back: bool
) -> None:
    """A full disk whose held room went to others, or any other failure: what was whole before it stays readable."""
    journal = begin(tmp_path / "journal")
    journal.append(make_fact(1))
    FullDisk(monkeypatch, error=error, gives_back=gives_back)
    with pytest.raises(StorageError, match="could not write to the journal"):
        journal.append(make_fact(2))
    monkeypatch.undo()
    with pytest.raises(StorageError):
        journal.append(make_fact(3))
    assert journal.has_failed
    journal.close()
    contents = read_journal(tmp_path / "journal")
    assert contents.facts == (make_fact(1),)
    assert (contents.torn_bytes, contents.damage) == (20, None)


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    """An append after the end fails instead of reaching another file under the same number."""
    journal = begin(tmp_path / "journal")
    journal.close()
    journal.close()
    with pytest.raises(StorageError, match="Bad file descriptor"):
        journal.append(make_fact(1))
