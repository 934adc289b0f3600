"""Parts that were joined are read sooner, and say nothing that they don't say one by one."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batchflux.io import joined as joined_module
from batchflux.io.checkpoint import CheckpointWriter, read_facts
from batchflux.io.facts import list_parts, part_path
from batchflux.io.joined import JOINED_DIR, join_next
from batchflux.io.parts import decipher_part
from tests.io.durable import make_fact
from tests.io.test_facts import JOB, flip, make_run

_PARTS = 10


@pytest.fixture(autouse=True)
def _few_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Join every four parts."""
    monkeypatch.setattr(joined_module, "_PARTS_A_FILE", 4)


def _names(run_dir: Path) -> list[str]:
    return sorted(path.name[:6] for path in (run_dir / JOINED_DIR).glob("*"))


def _files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / JOINED_DIR).iterdir())


def test_parts_are_joined_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten parts eight are read from two files, in order and whole, whatever the columns; two are opened."""
    run_dir = make_run(tmp_path, cells=_PARTS)
    assert _names(run_dir) == ["000000", "000001"]
    opened = []

    def counting(data: bytes, *, columns: list[str]) -> object:
        opened.append(columns)
        return decipher_part(data, columns=columns)

    monkeypatch.setattr("batchflux.io.facts.decipher_part", counting)
    quick = [read_facts(run_dir, job_id=JOB), read_facts(run_dir, columns=["at", "cell_id", "outputs"])]
    assert len(opened) == 2 * 2
    shutil.rmtree(run_dir / JOINED_DIR)
    slow = [read_facts(run_dir, job_id=JOB), read_facts(run_dir, columns=["at", "cell_id", "outputs"])]
    assert quick == slow
    assert quick[0].num_rows == _PARTS


def _remove(run_dir: Path) -> None:
    part_path(run_dir, 3).unlink()


def _rot(run_dir: Path) -> None:
    flip(part_path(run_dir, 3), 90)


def _cut(run_dir: Path) -> None:
    part_path(run_dir, 6).write_bytes(b"")


def _swap(run_dir: Path) -> None:
    shutil.copy(part_path(run_dir, 2), part_path(run_dir, 3))


def _foreign(run_dir: Path) -> None:
    other = make_run(run_dir.with_name("other"), cells=3, job_id="another")
    shutil.copy(part_path(other, 3), part_path(run_dir, 3))


def _older(run_dir: Path) -> None:
    other = make_run(run_dir.with_name("older"), cells=3, start=20)
    shutil.copy(part_path(other, 3), part_path(run_dir, 3))


@pytest.mark.parametrize("harm", [_remove, _rot, _cut, _swap, _foreign, _older])
def test_harm_to_a_part_shows(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """A part that is missing, bad, foreign or another is named as if nothing had been joined, and no more believed."""
    run_dir = make_run(tmp_path / "run", cells=_PARTS)
    harm(run_dir)
    beside = read_facts(run_dir, tolerate=True)
    shutil.rmtree(run_dir / JOINED_DIR)
    alone = read_facts(run_dir, tolerate=True)
    assert beside.damage == alone.damage != ()
    assert beside.facts == alone.facts


def test_a_bad_file_costs_time_alone(tmp_path: Path) -> None:
    """Any flipped byte, a cut, an empty file or another run's: the parts themselves are read."""
    run_dir = make_run(tmp_path / "run", cells=_PARTS)
    expected = read_facts(run_dir)
    first, second = _files(run_dir)
    data = first.read_bytes()
    for place in range(0, len(data), 97):
        flip(first, place)
        assert read_facts(run_dir) == expected
        first.write_bytes(data)
    for bad in (b"", data[:-1], second.read_bytes()):
        first.write_bytes(bad)
        assert read_facts(run_dir) == expected
    foreign = _files(make_run(tmp_path / "other", cells=4, start=50))[0]
    first.unlink()
    shutil.copy(foreign, first.with_name(foreign.name))
    assert read_facts(run_dir) == expected


def test_what_was_left_out_is_joined_later(tmp_path: Path) -> None:
    """A run killed before it joined parts, or while it wrote the file, has it made by a later one."""
    run_dir = make_run(tmp_path, cells=_PARTS)
    expected = read_facts(run_dir)
    shutil.rmtree(run_dir / JOINED_DIR)
    (run_dir / JOINED_DIR).mkdir()
    (run_dir / JOINED_DIR / ".tmp-1").write_bytes(b"half")
    assert read_facts(run_dir) == expected
    join_next(run_dir, list_parts(run_dir))
    assert _names(run_dir) == ["000001"]
    assert read_facts(run_dir) == expected
    for _ in range(2):
        join_next(run_dir, list_parts(run_dir))
        assert _names(run_dir) == ["000000", "000001"]
    assert read_facts(run_dir) == expected


def test_large_parts_stay_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that together exceed the bound are left as they are, and are no hindrance to earlier ones."""
    run_dir = make_run(tmp_path, cells=8)
    shutil.rmtree(run_dir / JOINED_DIR)
    sizes = [sum(part_path(run_dir, part).stat().st_size for part in range(first, first + 4)) for first in (1, 5)]
    part_path(run_dir, 8).write_bytes(part_path(run_dir, 8).read_bytes() + b"\0" * 4096)
    monkeypatch.setattr(joined_module, "_MOST_BYTES", max(sizes))
    join_next(run_dir, list_parts(run_dir))
    assert _names(run_dir) == ["000000"]


@pytest.mark.parametrize("harm", [_remove, _rot, _cut])
def test_a_run_goes_on_beside_a_part_that_went_bad(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Whoever joins parts doesn't judge them: nothing is made of them, and the next reader names the bad one."""

    async def main() -> None:
        async with CheckpointWriter.open(tmp_path, JOB) as writer:
            for number in range(8):
                if number == 6:
                    shutil.rmtree(tmp_path / JOINED_DIR)
                    harm(tmp_path)
                writer.record(make_fact(number))
                await writer.seal()

    asyncio.run(main())
    assert _names(tmp_path) == (["000000"] if harm is _cut else ["000001"])
    assert read_facts(tmp_path, tolerate=True).damage


def test_a_reader_beside(tmp_path: Path) -> None:
    """Whoever reads without the lock while parts are sealed and joined sees ever more facts and no damage."""
    seen: list[int] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.append(read_facts(tmp_path, job_id=JOB).num_rows)

    reader = threading.Thread(target=read)
    (tmp_path / "checkpoint").mkdir()
    reader.start()
    try:
        make_run(tmp_path, cells=40)
    finally:
        is_over.set()
        reader.join()
    assert read_facts(tmp_path).num_rows == 40
    assert seen == sorted(seen)
