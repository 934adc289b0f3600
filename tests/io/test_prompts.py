"""Files and globs joined to one table: order, union of columns, types, places, packed forms."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from batchflux.core.errors import JobSpecError
from batchflux.io.prompts import missing_columns, open_table, shown, untextual_columns
from tests.io.tables import read_file, read_rows, refused, write_parquet


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that messages show names alone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.fault("I02")
def test_a_csv_keeps_every_cell_as_the_text_it_is(folder: Path) -> None:
    """Words that other readers take for nothing or for numbers, outer spaces and empty cells stay."""
    cells = ["NA", "null", "None", "007", "1e5", "true", "  two outer  ", "", "=1+1", "'", "\\", "\x1b[31m", "猫"]
    path = folder / "t.csv"
    path.write_bytes(("prompt,n\n" + "".join(f"{cell},{n}\n" for n, cell in enumerate(cells))).encode())
    assert [row["prompt"] for row in read_file(path)] == cells


@pytest.mark.fault("I01")
def test_csv_quotes_newlines_and_a_byte_order_mark_are_read_as_written(folder: Path) -> None:
    """A quoted cell keeps commas, quotes and both kinds of newline; CRLF ends lines; the mark is no part of a name."""
    path = folder / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfid,prompt\r\n1,"say ""hi"", twice"\r\n2,"a\r\nb\nc\rd"\r\n3,""""\r\n\r\n\r\n')
    table = open_table([path])
    assert table.column_names == ("id", "prompt")
    assert read_rows(table) == [
        {"id": "1", "prompt": 'say "hi", twice'},
        {"id": "2", "prompt": "a\r\nb\nc\rd"},
        {"id": "3", "prompt": '"'},
    ]


def test_lines_name_where_each_record_starts(folder: Path) -> None:
    """Rows count records, lines count newlines, those within cells included; both survive batches and parts."""
    path = folder / "t.csv"
    path.write_bytes(b'id,prompt\n1,"a\nb"\n2,c\n3,"d\n\n\ne"\n4,f\n')
    for part_bytes in (1, 7, 1 << 20):
        table = open_table([path], part_bytes=part_bytes)
        for batch_rows in (1, 3, 100):
            batches = list(table.batches(batch_rows=batch_rows))
            places = [batch.where(n) for batch in batches for n in range(batch.columns.num_rows)]
            assert places == ["t.csv:2: row 1", "t.csv:4: row 2", "t.csv:5: row 3", "t.csv:9: row 4"]
            assert {batch.path for batch in batches} == {path}


def test_a_one_column_csv_may_have_an_empty_row_between_others(folder: Path) -> None:
    """A blank line within a table of one column is an empty cell, at its end it is nothing; a quoted one is a row."""
    path = folder / "t.csv"
    path.write_bytes(b'prompt\na\n\nb\n""\n\n\n')
    assert [row["prompt"] for row in read_file(path)] == ["a", "", "b", ""]


def test_a_tsv_has_no_quotes(folder: Path) -> None:
    """A quote is a character like any other, at the beginning of a cell too."""
    path = folder / "t.tsv"
    path.write_bytes(b'prompt\tnote\r\n"G I G G L E" painted\t"\r\na, b\t\r\n')
    assert read_file(path) == [{"prompt": '"G I G G L E" painted', "note": '"'}, {"prompt": "a, b", "note": ""}]


def test_json_lines_learn_columns_and_types_from_every_line(folder: Path) -> None:
    """Keys are joined in order of appearance, missing ones are null, and each column has the type that holds it."""
    lines: list[dict[str, object]] = [
        {"prompt": "a", "n": 1, "x": 1, "ok": True, "deep": [{"k": "é"}], "mixed": "007", "void": None},
        {"prompt": None, "n": 2**63 - 1, "x": 2.5, "mixed": 7, "late": "z"},
        {"prompt": "null", "n": -(2**63), "x": -1, "ok": False, "deep": "[]", "mixed": False},
    ]
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n \n")
    table = open_table([path])
    expected = [("prompt", pa.string()), ("n", pa.int64()), ("x", pa.float64()), ("ok", pa.bool_())]
    expected += [("deep", pa.string()), ("mixed", pa.string()), ("void", pa.string()), ("late", pa.string())]
    assert table.schema.equals(pa.schema(expected))
    columns = {name: [row[name] for row in read_rows(table)] for name in table.column_names}
    assert columns == {
        "prompt": ["a", None, "null"],
        "n": [1, 2**63 - 1, -(2**63)],
        "x": [1.0, 2.5, -1.0],
        "ok": [True, None, False],
        "deep": ['[{"k": "é"}]', None, "[]"],
        "mixed": ["007", "7", "false"],
        "void": [None, None, None],
        "late": [None, "z", None],
    }


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        ("1 18446744073709551616", pa.string(), ["1", "18446744073709551616"]),
        ("0.5 9007199254740993", pa.string(), ["0.5", "9007199254740993"]),
        ("0.5 9007199254740992", pa.float64(), [0.5, 9007199254740992.0]),
        ("true 1", pa.string(), ["true", "1"]),
        ("1e3 null", pa.float64(), [1000.0, None]),
        (r'"\ud83d\ude00" "\u0000"', pa.string(), ["😀", "\0"]),
    ],
)
def test_json_numbers_lose_no_digit(folder: Path, values: str, kind: pa.DataType, read: list[object]) -> None:
    """A column whose numbers no int64 or double holds is text, digit for digit."""
    path = folder / "t.ndjson"
    path.write_text("\n".join(f'{{"v": {value}}}' for value in values.split()))
    assert open_table([path]).schema.field("v").type == kind
    assert [row["v"] for row in read_file(path)] == read


@pytest.mark.fault("I06")
def test_parquet_text_in_any_encoding_is_text_and_the_rest_keeps_its_type(folder: Path) -> None:
    """Large, dictionary and view strings become string; numbers, lists, binary and nulls stay; row groups stream."""
    texts = ["a", None, "b", "a", " NA "]
    lists = pa.array([[1], [], None, [2, 3], [4]], pa.list_(pa.int32()))
    columns = {
        "large": pa.array(texts, pa.large_string()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "view": pa.array(texts).cast(pa.string_view()),
        "id": pa.array([7, None, 9, 10, 11], pa.int32()),
        "lists": lists,
        "blob": pa.array([b"\xff", b"", None, b"a", b"b"]),
        "dotted.name": pa.array(texts),
    }
    path = write_parquet(folder / "t.parquet", columns, row_group_size=2)
    table = open_table([path])
    kinds = [pa.string(), pa.string(), pa.string(), pa.int32(), lists.type, pa.binary(), pa.string()]
    assert table.schema.types == kinds
    batches = list(table.batches(batch_rows=3))
    assert batches[0].where(1) == "t.parquet: row 2"
    assert sum(batch.columns.num_rows for batch in batches) == 5
    for batch_rows in (1, 3, 100):
        rows = read_rows(table, batch_rows=batch_rows)
        assert {name: [row[name] for row in rows] for name in columns} == {
            name: array.to_pylist() for name, array in columns.items()
        }
    assert [row["dotted.name"] for row in read_rows(table, columns=["dotted.name"])] == texts


@pytest.mark.fault("I06")
@pytest.mark.parametrize("has_arrow_types", [True, False])
def test_a_parquet_text_repeated_beyond_measure_is_unpacked_in_small_batches(
    folder: Path, has_arrow_types: bool
) -> None:
    """A file of a few kB that says a long text very often doesn't fill the memory."""
    long = "x" * 900_000
    prompts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([long]))
    columns = {"prompt": prompts if has_arrow_types else prompts.slice(0, 50).dictionary_decode()}
    path = write_parquet(folder / "t.parquet", columns, store_schema=has_arrow_types)
    assert path.stat().st_size < 1_000_000
    rows = 0
    for batch in open_table([path]).batches():
        assert batch.columns.nbytes < 20_000_000
        assert batch.first_row == rows + 1
        assert batch.columns.column(0)[0].as_py() == long
        rows += batch.columns.num_rows
        if rows >= 50:
            break
    assert rows >= 50


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_text_reads_like_plain_text(folder: Path, form: str, packing: str) -> None:
    """Every text form may be packed with gzip or zstd, in several members and larger than a part."""
    rows = [{"id": str(n), "prompt": f"a cat named {n}, 猫"} for n in range(3000)]
    lines = {
        "csv": ["id,prompt", *(f'{row["id"]},"{row["prompt"]}"' for row in rows)],
        "tsv": ["id\tprompt", *(f"{row['id']}\t{row['prompt']}" for row in rows)],
        "jsonl": [json.dumps(row) for row in rows],
    }[form]
    halves = ["\n".join(lines[:1000]).encode() + b"\n", "\n".join(lines[1000:]).encode()]
    path = folder / f"T.{form.upper()}.{packing}"
    if packing == "gz":
        path.write_bytes(b"".join(gzip.compress(half) for half in halves))
    else:
        with pa.CompressedOutputStream(path, "zstd") as stream:
            stream.write(b"".join(halves))
    for part_bytes in (100, 1 << 20):
        assert read_rows(open_table([path], part_bytes=part_bytes)) == rows


@pytest.mark.fault("I13")
def test_cells_longer_than_a_part_arrive_whole(folder: Path) -> None:
    """Prompts of 150,000 and of three million characters, with every trap in them, in CSV and JSON Lines."""
    prompts = ['wow, "so"\r\n“long”\n' * 9_000, "x" * 3_000_000, "short"]
    table = folder / "t.csv"
    table.write_bytes(("prompt\n" + "".join(f'"{text.replace(chr(34), chr(34) * 2)}"\n' for text in prompts)).encode())
    lines = folder / "t.jsonl"
    lines.write_text("\n".join(json.dumps({"prompt": text}) for text in prompts))
    for path in (table, lines):
        rows = read_rows(open_table([path], part_bytes=1 << 16))
        assert [row["prompt"] for row in rows] == prompts


def test_long_json_lines_come_in_batches_of_few_rows(folder: Path) -> None:
    """A batch is bounded by its bytes too, so that long prompts don't fill the memory."""
    path = folder / "t.jsonl"
    path.write_text((json.dumps({"prompt": "x" * 1_000_000}) + "\n") * 30)
    batches = list(open_table([path]).batches())
    assert max(batch.columns.nbytes for batch in batches) < 10_000_000
    assert [batch.where(0) for batch in batches][1] == f"t.jsonl:{batches[0].columns.num_rows + 1}: row 10"
    assert sum(batch.columns.num_rows for batch in batches) == 30


def test_several_files_join_by_column_name(folder: Path) -> None:
    """Columns come in order of first appearance, absent ones null, and types that differ become text for all."""
    (folder / "a.csv").write_text("id,prompt\n007,one\n")
    write_parquet(folder / "b.parquet", {"prompt": pa.array(["two"]), "id": pa.array([8]), "n": pa.array([1.5])})
    (folder / "c.jsonl").write_text('{"prompt": "three", "n": 2.5, "id": null}\n')
    table = open_table([folder / "a.csv", folder / "b.parquet", folder / "c.jsonl"])
    assert table.schema.equals(pa.schema([("id", pa.string()), ("prompt", pa.string()), ("n", pa.float64())]))
    assert read_rows(table) == [
        {"id": "007", "prompt": "one", "n": None},
        {"id": "8", "prompt": "two", "n": 1.5},
        {"id": None, "prompt": "three", "n": 2.5},
    ]
    assert [row["n"] for row in read_rows(table, columns=["n"])] == [None, 1.5, 2.5]
    places = [batch.where(0) for batch in table.batches(columns=["id"])]
    assert places == ["a.csv:2: row 1", "b.parquet: row 1", "c.jsonl:1: row 1"]


def test_integers_of_two_widths_stay_integers(folder: Path) -> None:
    """int32 and int64 shards join as int64, since that changes no value."""
    write_parquet(folder / "a.parquet", {"n": pa.array([1], pa.int32())})
    write_parquet(folder / "b.parquet", {"n": pa.array([2**40])})
    assert read_rows(open_table(["*.parquet"])) == [{"n": 1}, {"n": 2**40}]


def test_a_glob_is_sorted_by_name_and_a_list_keeps_its_order(folder: Path) -> None:
    """Patterns come in the order given, each one's files by name; folders and hidden files don't match."""
    for name in ("b10.csv", "b2.csv", "a.csv", ".hidden.csv", "odd[1].csv"):
        (folder / name).write_text(f"prompt\n{name}\n")
    (folder / "b_folder.csv").mkdir()
    table = open_table([folder / "b*.csv", "a.csv", "odd[1].csv"])
    assert [path.name for path in table.paths] == ["b10.csv", "b2.csv", "a.csv", "odd[1].csv"]
    assert [row["prompt"] for row in read_rows(table)] == [path.name for path in table.paths]
    assert all(path.is_absolute() for path in table.paths)


def test_a_missing_column_is_named_with_those_there_are(folder: Path) -> None:
    """The nearest name comes first, then all names, those that could be misread in quotes."""
    (folder / "a.csv").write_text('id,Prompt, tag,"x,y"\n1,a,b,c\n')
    table = open_table(["a.csv"])
    have = "the columns are: id, Prompt, ' tag', 'x,y'"
    assert [str(problem) for problem in missing_columns(table, ["prompt", "tag", "id", "zebra", "zebra"])] == [
        f"a.csv:1: no column 'prompt'; did you mean 'Prompt'? {have}",
        f"a.csv:1: no column 'tag'; did you mean ' tag'? {have}",
        f"a.csv:1: no column 'zebra'; {have}",
    ]
    with pytest.raises(JobSpecError, match="no column 'zebra'"):
        list(table.batches(columns=["zebra"]))
    (folder / "b.jsonl").write_text('{"p": 1}\n')
    (folder / "c.jsonl").write_text('{"q": 1}\n')
    [problem] = missing_columns(open_table(["b.jsonl", "c.jsonl", "a.csv"]), ["zebra"])
    assert problem.where == "b.jsonl (and 2 more files)"


def test_a_column_that_is_no_text_is_named(folder: Path) -> None:
    """Binary, list and structure columns can be carried but not used as text; numbers can."""
    columns = {"prompt": pa.array([b"x"]), "tags": pa.array([["a"]]), "n": pa.array([1])}
    table = open_table([write_parquet(folder / "t.parquet", columns)])
    assert [str(problem) for problem in untextual_columns(table, ["prompt", "tags", "n", "absent"])] == [
        "t.parquet: column 'prompt' holds binary, not text; write it as a column of strings",
        "t.parquet: column 'tags' holds list<element: string>, not text; write it as a column of strings",
    ]


def test_no_faulty_row_is_yielded_and_every_file_is_checked(folder: Path) -> None:
    """The faults of all files come in one error, and no batch is yielded after the first fault."""
    (folder / "a.csv").write_text("p,q\n1,2\n")
    (folder / "b.csv").write_text("p,q\n1\n")
    (folder / "c.csv").write_text("p,q\n1,2\n3,4,5\n")
    (folder / "d.csv").write_text("p,q\n1,2\n")
    seen: list[str] = []
    with pytest.raises(JobSpecError) as caught:
        seen.extend(batch.where(0) for batch in open_table(["*.csv"]).batches())
    assert seen == ["a.csv:2: row 1"]
    assert [problem.where for problem in caught.value.problems] == ["b.csv:2: row 1", "c.csv:3: row 2"]


@pytest.mark.fault("I08")
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_file_that_changes_after_it_was_opened_is_refused(folder: Path, name: str) -> None:
    """What was learned at the opening would no longer hold."""
    path, text = folder / name, {"t.csv": "p\n1\n", "t.jsonl": '{"p": 1}\n'}
    if name == "t.parquet":
        write_parquet(path, {"p": pa.array([1])})
    else:
        path.write_text(text[name])
    table = open_table([path])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(JobSpecError, match=f"{name}: the file changed while it was read; run again when it is whole"):
        list(table.batches())


def test_paths_are_shown_relative_and_printable(folder: Path) -> None:
    """A path below the current directory is shown relative to it, another one absolute, neither with controls."""
    assert shown(folder / "sub" / "t.csv") == "sub/t.csv"
    assert shown(folder.parent / "t.csv") == str(folder.parent / "t.csv")
    assert shown("a\x1b[31m\n.csv") == "a\\x1b[31m\\n.csv"
    (folder / "a\x1b.csv").write_text("p\n")
    assert refused("a\x1b.csv") == ["a\\x1b.csv: the table has no rows; at least one must follow the header line"]


def test_reading_loads_no_pandas(folder: Path) -> None:
    """Every form is read without pandas, whose import alone takes longer than a table."""
    (folder / "a.csv").write_text("id,prompt\n1,a\n")
    (folder / "b.jsonl").write_text('{"id": 1, "prompt": "b", "x": 1.5, "ok": true, "no": null}\n{"id": 2}\n')
    columns = {"prompt": pa.array(["c"]).dictionary_encode(), "id": pa.array([3], pa.int32()), "x": pa.array([0.5])}
    write_parquet(folder / "c.parquet", columns)
    code = (
        "import sys\n"
        "from batchflux.io.prompts import open_table, text_column\n"
        "for batch in open_table(sys.argv[1:]).batches():\n"
        "    [text_column(column) for column in batch.columns.columns]\n"
        "assert 'pandas' not in sys.modules\n"
    )
    names = [str(folder / name) for name in ("a.csv", "b.jsonl", "c.parquet")]
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, *names], check=True, cwd=root, timeout=60)


def test_batches_ask_for_columns_and_rows(folder: Path) -> None:
    """No column or no row a batch is a mistake of the caller."""
    (folder / "a.csv").write_text("id\n1\n")
    table = open_table(["a.csv"])
    with pytest.raises(ValueError, match="at least one"):
        list(table.batches(columns=[]))
    with pytest.raises(ValueError, match="at least one"):
        list(table.batches(batch_rows=0))
