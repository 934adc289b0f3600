"""Parts: the same facts out as in, every flipped byte found or harmless, other versions told apart."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import Fact
from batchflux.io.parts import FACT_SCHEMA, PartError, build_part, build_table, decipher_part, digest, empty_table
from tests.io.durable import NOW_MS, as_table, facts, make_fact, make_facts, valid_text

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def part_bytes(table: pa.Table) -> bytes:
    return build_part(table, job_id="job", sequence=7, predecessor="ab" * 32, created_at=AT)


def with_metadata(table: pa.Table, **changes: object) -> bytes:
    """A part as another version would have written it."""
    values = {"schema": "1.0", "job_id": "job", "first_sequence": 7, "sequence": 7, "predecessor": None}
    metadata = {b"batchflux.part": json.dumps(values | changes).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, write_page_checksum=True)
    return bytes(sink.getvalue())


@given(st.lists(facts(strings=valid_text), max_size=10))
def test_facts_come_back_as_they_were(history: list[Fact]) -> None:
    """Any facts, any text, survive journal payload, table and part; lists are empty and never null."""
    table = as_table(history)
    part = decipher_part(part_bytes(table))
    assert part.facts.equals(table)
    assert (part.job_id, part.first_sequence, part.sequence, part.predecessor) == ("job", 7, 7, "ab" * 32)
    rows = part.facts.to_pylist()
    assert [row["outputs"] for row in rows] == [list(fact.outputs) for fact in history]
    assert [row["cost_micro_usd"] for row in rows] == [fact.cost_micro_usd for fact in history]
    assert [row["error"] for row in rows] == [fact.error for fact in history]


def test_moments_are_utc_milliseconds() -> None:
    """The fact's milliseconds are the column's moment, named without the unit."""
    row = as_table([make_fact(5, submitted_at_ms=None)]).to_pylist()[0]
    assert row["at"].timestamp() * 1000 == NOW_MS + 5
    assert row["at"].utcoffset().total_seconds() == 0
    assert row["submitted_at"] is None


def test_a_record_longer_than_any_block() -> None:
    """Bodies of megabytes go through whole."""
    body = "x" * 3_000_000
    assert as_table([make_fact(1, body=body), make_fact(2)]).column("body").to_pylist() == [body, None]


def test_some_columns_only() -> None:
    """The named columns come in the order they were named."""
    part = decipher_part(part_bytes(as_table(make_facts(2))), columns=["status", "cell_id"])
    assert part.facts.column_names == ["status", "cell_id"]


@pytest.mark.parametrize("payload", [b'{"cell_id":5}', b'{"cell_id":"a"', b"\xff\xff", b'{"at_ms":1.5}'])
def test_a_payload_that_is_no_fact(payload: bytes) -> None:
    """What can't be a row of the schema is an error that says so."""
    with pytest.raises(PartError, match="no fact"):
        build_table([payload])


@pytest.mark.fault("D09")
def test_every_flipped_byte_of_the_pages_is_found() -> None:
    """No flipped byte of the pages gives other facts; of the footer each is an error or for the digest to find."""
    data = part_bytes(as_table([make_fact(number) for number in range(3)]))
    table = decipher_part(data).facts
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    errors = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        assert digest(bytes(flipped)) != digest(data)
        try:
            facts = decipher_part(bytes(flipped)).facts
        except PartError:
            errors += 1
        else:
            assert place >= footer or facts.equals(table)
    assert errors > footer * 0.8  # some bytes of a page's header mean nothing


@pytest.mark.fault("D09")
@pytest.mark.parametrize("length", [0, 3, 100, -1])
def test_a_truncated_part(length: int) -> None:
    """A part that isn't whole is no part."""
    with pytest.raises(PartError, match="fails its check"):
        decipher_part(part_bytes(as_table(make_facts(2)))[:length])


@pytest.mark.fault("D18", "P13")
def test_a_newer_minor_version_is_read_without_its_columns() -> None:
    """Columns that aren't known are passed over, those that aren't there are null or empty."""
    table = as_table(make_facts(2))
    newer = table.append_column("region", pa.array(["eu", "us"])).drop_columns(["warnings", "latency_ms", "at"])
    read = decipher_part(with_metadata(newer, schema="1.7")).facts
    assert read.schema.equals(FACT_SCHEMA)
    assert read.column("warnings").to_pylist() == [[], []]
    assert read.column("latency_ms").to_pylist() == [None, None]
    assert read.column("cell_id").equals(table.column("cell_id"))


@pytest.mark.fault("D18", "P13")
def test_a_part_of_an_older_minor_version_is_read() -> None:
    """A part of 1.0, which knew no hashes of what was fetched, has none."""
    older = as_table(make_facts(2)).drop_columns(["fetched_sha256"])
    read = decipher_part(with_metadata(older, schema="1.0")).facts
    assert read.schema.equals(FACT_SCHEMA)
    assert read.column("fetched_sha256").to_pylist() == [[], []]


@pytest.mark.fault("D18", "P13")
def test_a_newer_major_version_is_refused() -> None:
    """What was written under other rules is not read by these."""
    with pytest.raises(PartError, match=r"schema 2.0 is a newer batchflux's: update batchflux"):
        decipher_part(with_metadata(as_table(make_facts(1)), schema="2.0"))


@pytest.mark.parametrize("changes", [{"schema": "x"}, {"schema": None}])
def test_metadata_that_cannot_be_read(changes: dict[str, object]) -> None:
    """A part that doesn't say what it is isn't believed."""
    with pytest.raises(PartError, match="metadata"):
        decipher_part(with_metadata(as_table(make_facts(1)), **changes))


@pytest.mark.fault("D09")
def test_a_parquet_file_of_something_else() -> None:
    """Any other Parquet file is told apart from a part."""
    sink = pa.BufferOutputStream()
    pq.write_table(as_table(make_facts(1)), sink)
    with pytest.raises(PartError, match="no part of a checkpoint"):
        decipher_part(bytes(sink.getvalue()))


@pytest.mark.fault("D09")
def test_a_column_of_another_type() -> None:
    """A part whose columns aren't of the schema's types is an error, not a crash."""
    table = as_table(make_facts(1))
    broken = table.set_column(3, "attempt", pa.array(["first"]))
    with pytest.raises(PartError, match="fails its check"):
        decipher_part(with_metadata(broken))


def test_no_facts_at_all() -> None:
    """A table without rows still has the columns and types."""
    assert build_table([]).schema.equals(FACT_SCHEMA)
    assert empty_table(["at"]).schema.names == ["at"]
    assert decipher_part(part_bytes(empty_table())).facts.num_rows == 0
