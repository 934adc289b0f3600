"""Each fault of a prompt table as a tiny file named after it, and the exact lines that refuse it."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from batchflux.io.tablefile import MAX_RECORD_BYTES
from tests.io.tables import refused, write_parquet

_KNOWN = "a table is a .csv, .tsv, .jsonl or .ndjson file, each also as .gz or .zst, or a .parquet file"
_SAVE = "save the table as UTF-8"
_DOUBLE = "double each quote that belongs to the text"
_ROW_NEEDED = "a header line and at least one row are needed"
_RETURN = "a carriage return without a newline; end lines with LF or CRLF; where it is text, "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that messages show names alone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


CSV_FAULTS = {
    "empty": (b"", f": the file is empty; {_ROW_NEEDED}"),
    "mark-only": (b"\xef\xbb\xbf", f": the file is empty; {_ROW_NEEDED}"),
    "newlines-only": (b"\n\r\n\n", f": the file is empty; {_ROW_NEEDED}"),
    "header-only": (b"id,prompt\n\n", ": the table has no rows; at least one must follow the header line"),
    "utf-16": ("id,prompt\n1,a\n".encode("utf-16"), ": is UTF-16 text; save it as UTF-8"),
    "utf-16-be": (b"\xfe\xff\x00i", ": is UTF-16 text; save it as UTF-8"),
    "utf-32": ("id\n1\n".encode("utf-32"), ": is UTF-32 text; save it as UTF-8"),
    "utf-16-unmarked": ("id\n1\n".encode("utf-16-le"), ":1: a NUL byte; save the table as UTF-8 text"),
    "gzip-unnamed": (gzip.compress(b"id\n1\n"), ": is a gzip file; let its name end in .gz"),
    "excel": (b"PK\x03\x04...", ": is a zip file or an Excel workbook; save the table as UTF-8 text"),
    "latin-1-header": (b"caf\xe9\n1\n", f":1: byte 0xe9 at offset 3 of the file isn't UTF-8; {_SAVE}"),
    "latin-1-row": (
        b'\xef\xbb\xbfid,p\n1,"a\n"\n2,caf\xe9\n3,b\n4,\xff\xfe\n',
        f":4: row 2: byte 0xe9 at offset 20 of the file isn't UTF-8; {_SAVE}",
        f":6: row 4: byte 0xff at offset 28 of the file isn't UTF-8; {_SAVE}",
    ),
    "surrogate-bytes": (b"p\n\xed\xa0\x80\n", f":2: row 1: byte 0xed at offset 2 of the file isn't UTF-8; {_SAVE}"),
    "nul-in-row": (b"id,p\n1,a\x00b\n", ":2: row 1: a NUL byte; save the table as UTF-8 text"),
    "old-mac-line-ends": (b"id,p\r1,a\r", f":1: {_RETURN}put the cell in quotes"),
    "lone-return": (b"id,p\n1,a\rb\n", f":2: row 1: {_RETURN}put the cell in quotes"),
    "blank-first-line": (b"\nid,p\n1,a\n", ":1: the first line is blank; it must name the columns"),
    "unnamed-column": (b",p\n0,a\n", ":1: column 1 has no name; name it or leave the column out"),
    "column-twice": (
        b"a,b,a,\n1,2,3,4\n",
        ":1: two columns are named 'a': 1 and 3; give each a name of its own",
        ":1: column 4 has no name; name it or leave the column out",
    ),
    "semicolons": (
        b"id;prompt\n1;a\n",
        ":1: the header 'id;prompt' holds semicolons and no comma; a .csv file is separated by commas: save it so",
    ),
    "tabs": (
        b"id\tprompt\n1\ta\n",
        ":1: the header 'id\\tprompt' holds tabs and no comma; a .csv file is separated by commas: save it so",
    ),
    "ragged": (
        b"id,p,q\n1,a,b\n2,a\n3,a,b,c\n\n4,a,b\n,\n",
        ":3: row 2: 2 cells where the header has 3; an empty cell still needs its comma",
        ":4: row 3: 4 cells where the header has 3; a cell that holds a comma needs quotes",
        ":5: row 4: a blank line within the table; take it out",
        ":7: row 6: 2 cells where the header has 3; an empty cell still needs its comma",
    ),
    "one-cell": (b"id,p\na\n", ":2: row 1: 1 cell where the header has 2; an empty cell still needs its comma"),
    "quote-inside": (
        b'id,p\n1,a\n2,5" disk\n3,b\n',
        ":3: row 2: column 'p' has a quote but doesn't begin with one; "
        "put the whole cell in quotes and double each quote in it",
    ),
    "quote-after-space": (
        b'id,p\n1, "a, b"\n',
        ":2: row 1: column 'p' has a quote but doesn't begin with one; "
        "put the whole cell in quotes and double each quote in it",
    ),
    "text-after-quote": (
        b'id,p\n1,"a"b\n',
        f":2: row 1: column 'p' has text after its closing quote; {_DOUBLE}",
    ),
    "quotes-not-doubled": (
        b'id,p\n1,"a\nsaid "hi" to me"\n',
        f":2: row 1: column 'p' has text after its closing quote on line 3; {_DOUBLE}",
    ),
    "unterminated-quote": (
        b'id,p\n1,"a ""b""\n2,c\n3,d\n',
        f":2: row 1: the quote that opens column 'p' is never closed; close it, or {_DOUBLE}",
    ),
    "unterminated-after-doubled-quotes": (
        b'id,p\n1,"a""\nb""',
        f":2: row 1: the quote that opens column 'p' is never closed; close it, or {_DOUBLE}",
    ),
    "return-after-quote": (b'p\n"a"\rb\n', f":2: row 1: column 'p' has text after its closing quote; {_DOUBLE}"),
    "anything-after-a-lost-row": (
        b'id,p\n\xfe,a\n2,a"b\n3,\xff\x00"\n4\n',
        f":2: row 1: byte 0xfe at offset 5 of the file isn't UTF-8; {_SAVE}",
        ":3: row 2: column 'p' has a quote but doesn't begin with one; "
        "put the whole cell in quotes and double each quote in it",
    ),
    "unterminated-doubled-quotes": (
        b'id,p\n1,a\n"2\n3","""""',
        f":3: row 2: the quote that opens column 'p' on line 4 is never closed; close it, or {_DOUBLE}",
    ),
    "unterminated-after-ragged": (
        b'id,p\n1\n2,"c\n\xff\n',
        ":2: row 1: 1 cell where the header has 2; an empty cell still needs its comma",
        f":3: row 2: the quote that opens column 'p' is never closed; close it, or {_DOUBLE}",
    ),
    "extra-quoted-cell": (b'id,p\n1,a,"b"c\n', f":2: row 1: column 3 has text after its closing quote; {_DOUBLE}"),
    "quote-in-header": (
        b'id,p"x\n1,a\n',
        ":1: column 2 has a quote but doesn't begin with one; put the whole cell in quotes and double each quote in it",
    ),
    "unterminated-header": (
        b'id,"p\n1,a\n',
        f":1: the quote that opens column 2 is never closed; close it, or {_DOUBLE}",
    ),
}


@pytest.mark.fault("I01")
@pytest.mark.parametrize("part_bytes", [1, 5, 1 << 20])
@pytest.mark.parametrize("fault", CSV_FAULTS)
def test_csv_fault(folder: Path, fault: str, part_bytes: int) -> None:
    """A faulty CSV is refused with file, line, row, and what would be right, however it is cut into parts."""
    data, *lines = CSV_FAULTS[fault]
    assert isinstance(data, bytes)
    (folder / f"{fault}.csv").write_bytes(data)
    assert refused(f"{fault}.csv", part_bytes=part_bytes) == [f"{fault}.csv{line!s}" for line in lines]


TSV_FAULTS = {
    "commas": (
        b"id,prompt\n1,a\n",
        ":1: the header 'id,prompt' holds commas and no tab; a .tsv file is separated by tabs: save it so",
    ),
    "ragged": (
        b"id\tp\n1\n2\ta\tb\n\n",
        ":2: row 1: 1 cell where the header has 2; an empty cell still needs its tab",
        ":3: row 2: 3 cells where the header has 2; a tab always ends a cell, none can hold one",
    ),
    "lone-return": (b"id\tp\n1\ta\rb\n", f":2: row 1: {_RETURN}a TSV cell can't hold one"),
    "header-only": (b"id\tp", ": the table has no rows; at least one must follow the header line"),
}


@pytest.mark.fault("I01")
@pytest.mark.parametrize("fault", TSV_FAULTS)
def test_tsv_fault(folder: Path, fault: str) -> None:
    """A faulty TSV is refused like a CSV, in words that fit a file without quotes."""
    data, *lines = TSV_FAULTS[fault]
    assert isinstance(data, bytes)
    (folder / f"{fault}.tsv").write_bytes(data)
    assert refused(f"{fault}.tsv") == [f"{fault}.tsv{line!s}" for line in lines]


_OBJECT = 'each line is an object such as {"prompt": "..."}'
_HALF = "is half of a character; write both halves of the pair, or the character itself"
JSONL_FAULTS = {
    "empty": (b"", ": the file is empty; at least one row is needed"),
    "newlines-only": (b"\n \r\n", ": the table has no rows; at least one is needed"),
    "utf-16": ('{"p": 1}'.encode("utf-16"), ": is UTF-16 text; save it as UTF-8"),
    "not-json": (
        b'{"p": 1}\n{"p" 1}\np: 1\n{"p": "a\tb"}\n{"p": 1} {}\n',
        ":2: row 2: no valid JSON at column 6: Expecting ':' delimiter",
        ":3: row 3: no valid JSON at column 1: Expecting value",
        ":4: row 4: no valid JSON at column 9: Invalid control character at",
        ":5: row 5: no valid JSON at column 10: Extra data",
    ),
    "not-objects": (
        b'[1]\n"a"\n1.5\ntrue\nnull\n',
        *(
            f":{n}: row {n}: not an object but {kind}; {_OBJECT}"
            for n, kind in enumerate(("a list", "a string", "a number", "a truth value", "null"), start=1)
        ),
    ),
    "key-twice": (
        b'{"p": 1, "q": 2, "p": 1}\n{"d": {"a": 1, "a": 2}}\n',
        ":1: row 1: the key 'p' stands twice; leave one out",
        ":2: row 2: the key 'a' stands twice; leave one out",
    ),
    "no-numbers": (
        b'{"p": NaN}\n{"p": -Infinity}\n{"p": 1e999}\n{"p": ' + b"9" * 5000 + b"}\n",
        ":1: row 1: NaN is no JSON value; use null for what isn't there",
        ":2: row 2: -Infinity is no JSON value; use null for what isn't there",
        ":3: row 3: the number 1e999 is too large; put it in quotes if it is text",
        ":4: row 4: an integer of thousands of digits; put it in quotes",
    ),
    "lone-surrogate": (
        b'{"p": "\\ud83d"}\n{"\\uDE00": 1}\n',
        f":1: row 1: \\ud83d {_HALF}",
        f":2: row 2: \\ude00 {_HALF}",
    ),
    "latin-1": (b'{"p": "a"}\n{"p": "\xe9"}\n', f":2: row 2: byte 0xe9, the line's 8th, isn't UTF-8; {_SAVE}"),
    "too-deep": (b'{"p": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ":1: row 1: nested too deeply"),
    "blank-line": (b'{"p": 1}\n\n\n{"p": 2}\n', ":2: row 2: a blank line within the table; take it out"),
    "empty-key": (b'{"p": 1, "": 2}\n', ": column 2 has no name; name it or leave the column out"),
    "no-key": (b"{}\n{}\n", f": no line has a key; {_OBJECT}"),
    "keys-are-data": (
        b"".join(b'{"name %d": 1}\n' % n for n in range(2001)),
        ": more than 2,000 different keys; keys name the columns, the same ones on every line",
    ),
}


@pytest.mark.parametrize("fault", JSONL_FAULTS)
def test_jsonl_fault(folder: Path, fault: str) -> None:
    """A faulty JSON Lines file is refused when it is opened, with every faulty line."""
    data, *lines = JSONL_FAULTS[fault]
    assert isinstance(data, bytes)
    (folder / f"{fault}.jsonl").write_bytes(data)
    assert refused(f"{fault}.jsonl") == [f"{fault}.jsonl{line!s}" for line in lines]


def test_more_than_twenty_faults_are_counted(folder: Path) -> None:
    """The first twenty are listed, the others counted, across parts and within one."""
    (folder / "csv.csv").write_text("id,p\n" + "1\n" * 90 + "1,a\n")
    (folder / "jsonl.jsonl").write_text('{"p": 1}\n' + "x\n" * 21)
    lines = refused("csv.csv", "jsonl.jsonl")
    assert lines[-1] == "jsonl.jsonl: 1 more fault like these"
    assert len(lines) == 21
    lines = refused("csv.csv")
    assert lines[19:] == [
        "csv.csv:21: row 20: 1 cell where the header has 2; an empty cell still needs its comma",
        "csv.csv: 70 more faults like these",
    ]


@pytest.mark.security(25)
@pytest.mark.parametrize("name", ["endless.csv", "endless.tsv", "endless.jsonl"])
def test_a_row_without_end_is_refused_at_a_bound(folder: Path, name: str) -> None:
    """A quote left open in a huge file, or a file that is one line, doesn't fill the memory."""
    quote = '"' if name.endswith("csv") else ""
    with gzip.open(folder / f"{name}.gz", "wb", compresslevel=1) as file:
        file.write(f"p\n{quote}".encode())
        for _ in range((MAX_RECORD_BYTES >> 20) * 2 + 1):
            file.write(b"x" * (1 << 20))
    [line] = refused(f"{name}.gz")
    what = {
        "endless.csv": f":2: row 1: the quote that opens column 'p' isn't closed within 16 MiB; close it, or {_DOUBLE}",
        "endless.tsv": ":2: row 1: the row is longer than 16 MiB; no table of prompts has such rows",
        "endless.jsonl": ":2: row 2: the line is longer than 16 MiB; one object a line is needed",
    }
    assert line == f"{name}.gz{what[name]}"


def test_packed_files_that_are_torn_or_something_else(folder: Path) -> None:
    """A torn or mislabelled archive is named as such, not read as far as it goes."""
    text = b"id,p\n" + b"".join(b"%d,a\n" % n for n in range(20_000))
    (folder / "torn.csv.gz").write_bytes(gzip.compress(text)[:-9])
    (folder / "plain.csv.gz").write_bytes(text)
    (folder / "flipped.csv.gz").write_bytes(gzip.compress(text)[:-5] + b"\0\0\0\0\0")
    with pa.CompressedOutputStream(folder / "whole.csv.zst", "zstd") as stream:
        stream.write(text)
    (folder / "torn.csv.zst").write_bytes((folder / "whole.csv.zst").read_bytes()[:-20])
    (folder / "plain.jsonl.zst").write_bytes(b'{"p": 1}\n')
    for name, words in {
        "torn.csv.gz": "isn't a whole gzip file: Compressed file ended before the end-of-stream marker was reached",
        "plain.csv.gz": "isn't a whole gzip file: Not a gzipped file (b'id')",
        "flipped.csv.gz": "isn't a whole gzip file: CRC check failed",
        "torn.csv.zst": "isn't a whole zstd file: Truncated compressed stream",
        "plain.jsonl.zst": "isn't a whole zstd file: ZSTD decompress failed",
    }.items():
        [line] = refused(name)
        assert line.startswith(f"{name}: {words}")
        assert line.endswith("; pack it anew")


def test_files_that_are_no_tables(folder: Path) -> None:
    """Every pattern's fault is told at once: no such file, a folder, an unknown name, nothing matched, named twice."""
    (folder / "a.csv").write_text("p\n1\n")
    (folder / "b.txt").write_text("p\n")
    (folder / "c.parquet.gz").write_text("p\n")
    (folder / "link.csv").symlink_to("a.csv")
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    twice = "the file is named twice, so each of its rows would be paid for twice; name it once"
    patterns = ["a.csv", "*.txt", "gone.csv", "gone*.csv", "c.parquet.gz", "link.csv", "folder.csv", "./a.csv"]
    assert refused(*patterns, "pipe.csv") == [
        "gone*.csv: no file matches",
        f"link.csv: {twice}",
        f"a.csv: {twice}",
        f"b.txt: the name doesn't say which form of table it is; {_KNOWN}",
        "gone.csv: there is no such file",
        f"c.parquet.gz: the name doesn't say which form of table it is; {_KNOWN}",
        "folder.csv: is a folder; name its files, for example with *.csv",
        "pipe.csv: is no regular file, and a table is read more than once",
    ]
    assert refused() == [f"prompts.path: no file is named; {_KNOWN}"]


@pytest.mark.security(24)
@pytest.mark.fault("I06")
def test_a_parquet_file_that_is_none(folder: Path) -> None:
    """Text, an empty file, a truncated one and one with a flipped bit are refused, never half read."""
    ids = pa.array(range(5000))
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    whole = write_parquet(folder / "whole.parquet", {"id": ids}, **options).read_bytes()
    (folder / "text.parquet").write_text("id,prompt\n1,a\n")
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "torn.parquet").write_bytes(whole[:-100])
    (folder / "flipped.parquet").write_bytes(whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:])
    for name in ("text", "empty", "torn", "flipped"):
        [line] = refused(f"{name}.parquet")
        assert line.startswith(f"{name}.parquet: can't be read as Parquet: ")
    assert "CRC checksum verification failed" in line


@pytest.mark.fault("I06")
def test_parquet_faults_name_file_and_row(folder: Path) -> None:
    """No rows, names twice or missing, and text that isn't UTF-8 (nested or not), which Parquet's readers let pass."""
    write_parquet(folder / "zero.parquet", {"p": pa.array([], pa.string())})
    assert refused("zero.parquet") == ["zero.parquet: the table has no rows; at least one is needed"]
    bad = pa.array([b"a", b"caf\xe9", None, b"b", b"\xff"]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 1, 1, 1, 2], pa.int32()), bad.slice(0, 2))
    write_parquet(folder / "latin.parquet", {"p": bad, "q": lists}, row_group_size=2)
    assert refused("latin.parquet") == [
        "latin.parquet: row 2: column 'p' holds bytes that aren't UTF-8",
        "latin.parquet: row 5: column 'p' holds bytes that aren't UTF-8",
        "latin.parquet: row 5: column 'q' holds bytes that aren't UTF-8",
    ]
    names = pa.Table.from_arrays([pa.array([1])] * 3, names=["a", "", "a"])
    pa.parquet.write_table(names, folder / "names.parquet")
    assert refused("names.parquet") == [
        "names.parquet: column 2 has no name; name it or leave the column out",
        "names.parquet: two columns are named 'a': 1 and 3; give each a name of its own",
    ]


def test_columns_that_do_not_join_are_refused(folder: Path) -> None:
    """A list or binary column can't become text beside another type."""
    write_parquet(folder / "a.parquet", {"p": pa.array([["a"]])})
    (folder / "b.csv").write_text("p\na\n")
    assert refused("a.parquet", "b.csv") == [
        "b.csv: column 'p' holds string here and list<element: string> in another file; give it one type in all files"
    ]


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    """The system's own word is given where a file exists but can't be opened."""
    (folder / "loop.csv").symlink_to("loop.csv")
    assert refused("loop.csv") == ["loop.csv: can't be read: Too many levels of symbolic links"]
