"""Files from strangers: what they unpack to, and what they would like to run, is bounded and not run."""

import gzip
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.io import tablefile
from tests.app.service import write_spec


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._target,)


@pytest.mark.security(12)
@pytest.mark.security(25)
@pytest.mark.parametrize("name", ["p.csv.gz", "p.tsv.gz", "p.jsonl.gz", "p.csv.zst", "p.jsonl.zst"])
def test_a_table_that_unpacks_to_far_more_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without number in a small file end in a message, long before they fill the memory."""
    monkeypatch.setattr(tablefile, "_UNPACKED_ANYWAY_BYTES", 1 << 18)
    row = b'{"prompt": "%s"}\n' if "jsonl" in name else b"%s\n"
    data = b"prompt\n" * ("jsonl" not in name) + row % (b"a" * 1000) * 5000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else pa.compress(data, "zstd", True))
    spec = write_spec(tmp_path, None, "prompt\na\n", prompts={"path": name})
    with pytest.raises(batchflux.JobSpecError, match="unpacks to more than 200 times its size"):
        batchflux.load_job(spec)


@pytest.mark.security(25)
def test_a_table_that_packs_well_is_read(tmp_path: Path) -> None:
    """A table that repeats itself is no bomb: below a size that any machine holds, no ratio counts."""
    rows = 50_000
    data = b"prompt\n" + b"the same kite\n" * rows
    packed = gzip.compress(data)
    assert len(data) > 200 * len(packed)
    (tmp_path / "p.csv.gz").write_bytes(packed)
    spec = write_spec(tmp_path, None, "prompt\na\n", prompts={"path": "p.csv.gz"})
    assert batchflux.load_job(spec).grid.n_cells == rows


@pytest.mark.security(24)
@pytest.mark.security(34)
def test_a_parquet_table_runs_nothing(tmp_path: Path) -> None:
    """CVE-2023-47248: what its metadata would have unpickled, in columns, in the schema and for pandas, stays bytes."""
    made = tmp_path / "made"
    evil = pickle.dumps(Bomb(made))
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    fields = [pa.field("prompt", pa.string()), pa.field("x", pa.int64(), metadata=extension)]
    schema = pa.schema(fields, metadata={"pandas": '{"index_columns": ["__import__(\'os\')"], "columns": []}'})
    table = pa.Table.from_arrays([pa.array(["a kite"]), pa.array([1])], schema=schema)
    spec = write_spec(tmp_path, None, table)
    try:
        job = batchflux.load_job(spec)
    except batchflux.JobSpecError:
        pass  # refused is as good
    else:
        assert job.grid.n_cells == 1
        assert "a kite" in str(pq.read_table(tmp_path / "p.parquet", columns=["prompt"]))
    assert not made.exists()
    pickle.loads(evil)  # noqa: S301 - the test's own, to know that it would have shown
    assert made.exists()


@pytest.mark.security(22)
@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:type", "!x", "!!binary"]
)
def test_a_tag_makes_no_object(tag: str, tmp_path: Path) -> None:
    """A spec's tags are refused with their place, whatever they would have made."""
    spec = tmp_path / "job.yaml"
    spec.write_text(f'prompts: {{path: p.csv}}\nname: {tag} ["touch {tmp_path}/made"]\n')
    with pytest.raises(batchflux.JobSpecError, match=r"job\.yaml:2:"):
        batchflux.load_job(spec)
    assert not (tmp_path / "made").exists()
