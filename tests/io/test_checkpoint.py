"""The writer in its daily life: facts in, parts out, and readers beside it."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from batchflux.core.errors import StorageError, UsageError
from batchflux.core.model import CellStatus, FactKind
from batchflux.io import checkpoint
from batchflux.io.checkpoint import FACT_SCHEMA, CheckpointWriter, read_checkpoint, read_facts, read_state
from batchflux.io.recovery import publish_part
from tests.io.durable import as_table, cell_numbers, make_fact, make_facts

JOB = "job"
ROOT = Path(__file__).parents[2]


def parts(run_dir: Path) -> list[str]:
    return sorted(os.listdir(run_dir / "checkpoint"))


def journals(run_dir: Path) -> list[str]:
    return sorted(os.listdir(run_dir / "journal"))


def test_facts_come_back_in_order_from_parts_and_journal(tmp_path: Path) -> None:
    """Sealed or not, in this run or an earlier one, every fact is read as it was and in writing order."""
    history = make_facts(6)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            for number, fact in enumerate(history[:4]):
                writer.record(fact)
                if number == 1:
                    await writer.seal()
            assert read_facts(tmp_path).equals(as_table(history[:4]))
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            assert writer.recovered == ()
            for fact in history[4:]:
                await writer.intent(fact)
            assert read_facts(tmp_path, job_id=JOB).equals(as_table(history))

    asyncio.run(main())
    assert read_facts(tmp_path).equals(as_table(history))
    assert read_facts(tmp_path).schema.equals(FACT_SCHEMA)
    assert parts(tmp_path) == [f"part-0000000{number}.parquet" for number in (1, 2, 3)]
    assert journals(tmp_path) == ["00000004.journal"]


def test_nothing_to_seal_makes_no_part(tmp_path: Path) -> None:
    """Runs that do nothing leave no parts and use up no numbers."""

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            await writer.seal()
            assert not await writer.seal_if_due(0.0)
            assert not await writer.seal_if_due(1e9)

    for _ in range(3):
        asyncio.run(main())
    assert parts(tmp_path) == []
    assert journals(tmp_path) == ["00000001.journal"]
    assert read_facts(tmp_path).num_rows == 0
    assert read_state(tmp_path).schema.equals(FACT_SCHEMA)


def test_sealing_is_due_by_age_number_or_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal is sealed when a minute is over, or sooner when it holds enough facts or bytes."""
    monkeypatch.setattr(checkpoint, "SEAL_AFTER_FACTS", 3)
    monkeypatch.setattr(checkpoint, "SEAL_AFTER_BYTES", 10_000)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            assert not await writer.seal_if_due(100.0)
            writer.record(make_fact(0))
            assert not await writer.seal_if_due(159.9)
            assert await writer.seal_if_due(160.0)
            writer.record(make_fact(1))
            assert not await writer.seal_if_due(219.9)
            assert await writer.seal_if_due(220.0)
            for number in range(2, 5):
                writer.record(make_fact(number))
            assert await writer.seal_if_due(220.1)
            writer.record(make_fact(5, body="x" * 10_000))
            assert await writer.seal_if_due(220.2)
            assert len(parts(tmp_path)) == 4

    asyncio.run(main())


class Gate:
    """Holds a function up until it may go on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.begun.set()
        assert self.may_go_on.wait(60)
        return self._function(*args, **kwargs)

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 60)


@pytest.mark.fault("D14")
def test_facts_are_taken_and_flushed_while_a_part_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal holds nobody up, and readers see every fact once at that moment too."""
    gate = Gate(publish_part)
    monkeypatch.setattr(checkpoint, "publish_part", gate)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer, asyncio.TaskGroup() as group:
            writer.record(make_fact(0))
            sealing = group.create_task(writer.seal())
            await gate.wait_begun()
            writer.record(make_fact(1))
            await writer.intent(make_fact(2))
            await writer.flushed()
            assert not sealing.done()
            assert cell_numbers(read_facts(tmp_path)) == [0, 1, 2]
            assert parts(tmp_path) == []
            gate.may_go_on.set()

    asyncio.run(main())
    assert cell_numbers(read_facts(tmp_path)) == [0, 1, 2]
    assert len(parts(tmp_path)) == 2


def test_a_cancelled_seal_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while its part is written, a seal leaves a sound chain: the next one builds on that part."""
    gate = Gate(publish_part)
    monkeypatch.setattr(checkpoint, "publish_part", gate)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            writer.record(make_fact(0))
            async with asyncio.TaskGroup() as group:
                sealing = group.create_task(writer.seal())
                await gate.wait_begun()
                sealing.cancel()
            writer.record(make_fact(1))
            gate.may_go_on.set()

    asyncio.run(main())
    assert cell_numbers(read_facts(tmp_path)) == [0, 1]
    assert (len(parts(tmp_path)), journals(tmp_path)) == (2, ["00000003.journal"])


def test_what_nobody_waits_for_is_flushed_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` flushes by itself, and again for what comes later."""
    monkeypatch.setattr(checkpoint, "_FLUSH_AFTER_S", 0.0)
    fdatasync, flushed = os.fdatasync, threading.Semaphore(0)

    def spy(fd: int) -> None:
        fdatasync(fd)
        flushed.release()

    monkeypatch.setattr(os, "fdatasync", spy)

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer, asyncio.TaskGroup() as group:
            running = group.create_task(writer.run())
            for number in range(2):
                writer.record(make_fact(number))
                assert await asyncio.to_thread(flushed.acquire, timeout=60)
            running.cancel()

    asyncio.run(main())


def test_unwatched_facts_wait_less_than_the_promise() -> None:
    """The delay leaves a tenth of a second of the promised 0.3 s for the flush itself."""
    assert checkpoint._FLUSH_AFTER_S <= 0.2


def refuse(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.fault("D03")
def test_a_failed_flush_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` raises it though nobody waited; nothing more is taken; the facts written are sealed at the next start."""
    monkeypatch.setattr(checkpoint, "_FLUSH_AFTER_S", 0.0)

    async def main() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        writer.record(make_fact(0))
        monkeypatch.setattr(os, "fdatasync", refuse(errno.EIO))
        with pytest.raises(StorageError, match="could not flush"):
            await writer.run()
        monkeypatch.undo()
        with pytest.raises(StorageError):
            writer.record(make_fact(1))
        with pytest.raises(StorageError):
            await writer.intent(make_fact(1))
        with pytest.raises(StorageError):
            await writer.seal()
        with pytest.raises(StorageError):
            await writer.close()

    asyncio.run(main())
    assert parts(tmp_path) == []
    asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
    assert cell_numbers(read_facts(tmp_path)) == [0]


def test_a_flush_that_fails_in_sealing_poisons_the_next_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts of the old journal may be gone then, so the new one takes none that would build on them."""

    async def main() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        writer.record(make_fact(0))
        monkeypatch.setattr(os, "fdatasync", refuse(errno.EIO))
        with pytest.raises(StorageError, match="could not flush"):
            await writer.seal()
        monkeypatch.undo()
        with pytest.raises(StorageError, match="could not flush"):
            writer.record(make_fact(1))
        with pytest.raises(StorageError):
            await writer.close()

    asyncio.run(main())
    assert cell_numbers(read_facts(tmp_path)) == [0]


@pytest.mark.fault("D01")
def test_a_part_that_cannot_be_written_stops_sealing_but_not_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk too full for a part ends the run, and still takes the answers to what is in flight."""

    async def main() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        writer.record(make_fact(0))
        monkeypatch.setattr("batchflux.io.recovery.publish_bytes", publish_nothing)
        with pytest.raises(StorageError, match=r"part-00000001.parquet: could not write the file: No space"):
            await writer.seal()
        monkeypatch.undo()
        writer.record(make_fact(1))
        await writer.flushed()
        with pytest.raises(StorageError, match="No space"):
            await writer.close()

    def publish_nothing(path: Path, _data: bytes) -> None:
        raise StorageError(path, doing="write the file", cause=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    asyncio.run(main())
    assert parts(tmp_path) == []
    assert cell_numbers(read_facts(tmp_path)) == [0, 1]
    asyncio.run(CheckpointWriter.open(tmp_path, JOB).close())
    assert cell_numbers(read_facts(tmp_path)) == [0, 1]


@pytest.mark.fault("D02")
def test_a_journal_that_does_not_read_back_is_not_sealed(tmp_path: Path) -> None:
    """A disk that keeps other bytes than it was given is found out before its journal is removed."""

    async def main() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        writer.record(make_fact(0))
        path = tmp_path / "journal" / "00000001.journal"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StorageError, match="does not read back"):
            await writer.seal()
        assert path.exists()
        with pytest.raises(StorageError):
            await writer.close()

    asyncio.run(main())


def test_a_journal_that_was_deleted_stops_the_run(tmp_path: Path) -> None:
    """Whoever removes the journal beside a run takes facts away: the run stops instead of sealing nothing."""

    async def main() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        writer.record(make_fact(0))
        (tmp_path / "journal" / "00000001.journal").unlink()
        with pytest.raises(StorageError, match="could not seal the journal: No such file"):
            await writer.seal()
        with pytest.raises(StorageError):
            await writer.close()

    asyncio.run(main())


@pytest.mark.fault("C02", "C03")
def test_an_intent_is_asked_for_its_lock_after_its_flush(tmp_path: Path) -> None:
    """Whoever takes the directory over finds each intent whose POST left; the others' writers hear a refusal."""
    flushed: list[int] = []

    def is_ours() -> bool:
        flushed.append(len(cell_numbers(read_facts(tmp_path))))
        return len(flushed) < 3

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB, is_ours=is_ours) as writer:
            for number in range(2):
                await writer.intent(make_fact(number))
            with pytest.raises(StorageError, match="its lock is gone"):
                await writer.intent(make_fact(2))

    asyncio.run(main())
    assert flushed == [1, 2, 3]


@pytest.mark.fault("C08", "D12")
def test_pandas_reads_the_folder_at_any_moment(tmp_path: Path) -> None:
    """Empty, with one part or several, or with a temporary beside them, `pandas.read_parquet` gives the facts."""

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            assert pd.read_parquet(tmp_path / "checkpoint").empty
            for number in range(3):
                writer.record(make_fact(number))
                await writer.seal()
                (tmp_path / "checkpoint" / ".tmp-0badcafe-part-00000009.parquet").write_bytes(b"half")
                frame = pd.read_parquet(tmp_path / "checkpoint")
                assert frame["cell_id"].map(lambda cell_id: int(cell_id, 16)).tolist() == list(range(number + 1))

    asyncio.run(main())
    frame = pd.read_parquet(tmp_path / "checkpoint")
    assert list(frame.columns) == FACT_SCHEMA.names
    assert str(frame["at"].dtype) == "datetime64[ms, UTC]"
    assert frame["kind"].tolist() == ["outcome"] * 3


def test_read_checkpoint_is_the_state_with_money_in_usd(tmp_path: Path) -> None:
    """One row a cell, in USD, with what an unanswered intent means."""

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            writer.record(make_fact(1, kind=FactKind.INTENT, status=CellStatus.SUBMITTED, price_micro_usd=80_000))
            writer.record(make_fact(2, kind=FactKind.INTENT, price_micro_usd=40_000, body="{}"))
            writer.record(make_fact(2, cost_micro_usd=40_000))
            await writer.seal()
            writer.record(make_fact(2, kind=FactKind.FILES, files=("images/a.png",)))

    asyncio.run(main())
    frame = read_checkpoint(str(tmp_path)).set_index("cell_id")
    assert frame["status"].tolist() == ["unknown", "completed"]
    assert frame["error_kind"].tolist()[0] == "unknown_outcome"
    assert frame["cost_usd"].tolist() == [0.08, 0.04]
    assert frame["price_usd"].tolist() == [0.08, 0.04]
    assert [list(files) for files in frame["files"]] == [[], ["images/a.png"]]
    assert frame["body"].tolist()[1] == "{}"


def test_read_checkpoint_of_no_run_directory(tmp_path: Path) -> None:
    """A path that is no run directory is an error and not an empty frame."""
    with pytest.raises(UsageError, match="no run directory"):
        read_checkpoint(tmp_path / "rnus")


@pytest.mark.fault("H07")
def test_lone_surrogates_reach_parquet_as_valid_text(tmp_path: Path) -> None:
    """What UTF-8 can't encode breaks neither journal nor part; what it can, emoji and escapes, stays as it is."""
    body = r'{"prompt":"\\ud800 \ud83d\ude00"}'

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            writer.record(make_fact(0, error="a\ud800b \U0001f600", warnings=("\udfff",), body=body))

    asyncio.run(main())
    row = pd.read_parquet(tmp_path / "checkpoint").iloc[0]
    assert row["error"] == "a\ufffdb \U0001f600"
    assert list(row["warnings"]) == ["\ufffd"]
    assert row["body"] == body


NO_PANDAS = """
import asyncio, sys
from pathlib import Path
from batchflux.io.checkpoint import CheckpointWriter, read_facts, read_state
from tests.io.durable import make_fact
from batchflux.core.model import FactKind

async def main(run_dir):
    assert read_state(run_dir).num_rows == 0
    async with CheckpointWriter.open(run_dir, "job") as writer:
        writer.record(make_fact(0, kind=FactKind.INTENT))
        await writer.seal()
        writer.record(make_fact(0, kind=FactKind.FILES, error_kind="download"))
        writer.record(make_fact(1, error="\\ud800"))
        assert read_facts(run_dir, columns=["cell_id"]).num_rows == 3
    assert read_state(run_dir).num_rows == 2

asyncio.run(main(Path(sys.argv[1])))
"""


def test_pandas_is_not_loaded_on_the_way(tmp_path: Path) -> None:
    """Writing, sealing, reading and folding do without pandas, which would cost every start 0.4 s."""
    # The helpers import pytest and hypothesis; what is looked for is pandas alone.
    script = NO_PANDAS + "assert 'pandas' not in sys.modules"
    command = [sys.executable, "-c", script, str(tmp_path)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def open_and_close(run_dir: Path, *, put_away: bool = False) -> list[tuple[str, int | None]]:
    """A run that records nothing; returns the torn journals that it found, with the moment since which they lack."""

    async def main() -> list[tuple[str, int | None]]:
        async with CheckpointWriter.open(run_dir, JOB) as writer:
            for torn in writer.torn if put_away else ():
                torn.put_away()
            return [(torn.path.name, torn.since_ms) for torn in writer.torn]

    return asyncio.run(main())


def test_a_torn_journal_lies_aside_until_it_was_looked_into(tmp_path: Path) -> None:
    """At every start it is told again, with the moment of its last whole fact; then never more, and never deleted."""
    open_and_close(tmp_path)

    async def torn_life() -> None:
        writer = CheckpointWriter.open(tmp_path, JOB)
        for fact in make_facts(3):
            await writer.intent(fact)

    asyncio.run(torn_life())
    (name,) = journals(tmp_path)
    path = tmp_path / "journal" / name
    os.truncate(path, path.stat().st_size - 5)
    expected = [("torn-00000001.journal", make_facts(3)[1].at_ms)]
    assert open_and_close(tmp_path) == expected
    assert read_facts(tmp_path).num_rows == 2
    assert open_and_close(tmp_path, put_away=True) == expected
    assert open_and_close(tmp_path) == []
    assert "looked-up-torn-00000001.journal" in journals(tmp_path)


def test_a_journal_that_is_torn_in_its_first_record(tmp_path: Path) -> None:
    """It has no whole fact, and its number comes again: each such journal is kept, and none replaces another."""
    for _ in range(3):
        open_and_close(tmp_path)
        with (tmp_path / "journal" / "00000001.journal").open("ab") as file:
            file.write(b"\x0c\x01\x00\x00half a record")
    names = ["torn-00000001-2.journal", "torn-00000001-3.journal", "torn-00000001.journal"]
    assert open_and_close(tmp_path) == [(name, None) for name in names]
    assert parts(tmp_path) == []
