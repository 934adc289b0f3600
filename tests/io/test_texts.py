"""Texts come back as they were appended, wherever they lie, and no file of them can be seen."""

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from batchflux.core.arrow import from_texts
from batchflux.core.errors import StorageError
from batchflux.io.texts import Texts

_ROWS: list[list[str | None]] = [["ein Bär", None, ""], ["日本" * 50], [], [None, None], ["a\x00b", "c", "🙂" * 3]]
_ALL = [text for rows in _ROWS for text in rows]


def _texts(held_bytes: int) -> Texts:
    texts = Texts(held_bytes=held_bytes)
    for rows in _ROWS:
        whole = from_texts(["before", None, *rows, "behind"])
        texts.append(whole.slice(2, len(rows)))
    return texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("held_bytes", [0, 20, 400, 1 << 20])
def test_texts_come_back(folder: Path, held_bytes: int) -> None:
    """Slices of Arrow columns, nulls and empty texts among them, are read at any place, whatever lies in the file."""
    texts = _texts(held_bytes)
    assert len(texts) == len(_ALL)
    for row in reversed(range(len(_ALL))):
        assert texts[row] == _ALL[row]
    assert list(folder.iterdir()) == []


def test_few_texts_make_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits into memory asks for no place on a disk, since there may be none."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("wrote"))
    assert _texts(1 << 20)[0] == "ein Bär"


def test_without_a_place_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be made, texts stay in memory."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    texts = _texts(0)
    assert [texts[row] for row in range(len(texts))] == _ALL


def test_on_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk takes in part only stays in memory, and what comes after it is read all the same."""
    sizes = iter([None, 3, 0])
    write = os.pwrite

    def pwrite(fd: int, data: memoryview, place: int) -> int:
        return write(fd, data[: next(sizes, None)], place)

    monkeypatch.setattr(os, "pwrite", pwrite)
    texts = _texts(0)
    assert [texts[row] for row in range(len(texts))] == _ALL


def test_a_file_that_was_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are gone are no shorter text, but a fault of the disk."""
    texts = _texts(0)
    monkeypatch.setattr(os, "pread", lambda *_: b"ein")
    with pytest.raises(StorageError, match="shorter than it was written"):
        texts[0]


def test_the_file_is_let_go_of(folder: Path) -> None:
    """The open file goes with the texts, without a warning."""
    before = os.listdir("/dev/fd")
    texts = _texts(0)
    assert isinstance(texts[0], str)
    del texts
    assert len(os.listdir("/dev/fd")) == len(before)


def test_an_empty_column_of_arrow() -> None:
    """A column without any row, whose buffers Arrow may leave out, adds nothing."""
    texts = Texts(held_bytes=0)
    texts.append(pa.nulls(0, pa.string()))
    texts.append(from_texts(["", ""]))
    assert [texts[0], texts[1]] == ["", ""]
