"""Each format loaded by the library that its users load it with, whole and streamed: as many images, the same words."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.export.dataset import features_of
from batchflux.export.options import ExportOptions, Format, parse_splits
from batchflux.export.run import export_run
from tests.app.service import quick_service, write_spec

# Before `datasets` is imported: nothing here has business on the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
datasets = pytest.importorskip("datasets")
webdataset = pytest.importorskip("webdataset")

_SPLITS = parse_splits("train=0.7,test=0.3")
_FORMATS: tuple[Format, ...] = ("imagefolder", "webdataset", "parquet")
_TABLES: tuple[Format, ...] = ("csv", "jsonl")
_SAME = ("prompt_id", "prompt", "model", "seed", "guidance_scale", "num_images", "inference_ms", "mood")

# webdataset leaves the archive that it reads to be closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in every format, each in a folder of its name, in shards of a few images."""
    folder = tmp_path_factory.mktemp("exported")
    for form in _FORMATS:
        size = None if form == "imagefolder" else 200_000
        export_run(run_dir, folder / form, ExportOptions(form=form, splits=_SPLITS, shard_bytes=size))
    return folder


def check(run_dir: Path, rows: Iterable[Mapping[str, Any]], same: Iterable[str] = _SAME) -> None:
    """Hold rows of a loaded dataset, one an image, against the manifest."""
    cells = {cell["cell_id"]: cell for cell in pq.read_table(run_dir / "manifest.parquet").to_pylist()}
    left = {(cell_id, n + 1) for cell_id, cell in cells.items() for n in range(len(cell["files"]))}
    for row in rows:
        left.remove((row["cell_id"], row["image_number"]))
        cell = cells[row["cell_id"]]
        assert {name: row[name] for name in same} == {name: cell[name] for name in same}
        assert row["sha256"] == cell["sha256"][row["image_number"] - 1]
    assert left == set()


def loaded(path: str, cache: Path, *, streaming: bool, **options: Any) -> Mapping[str, Any]:
    """Load a dataset with nothing said but what a user says."""
    found: Mapping[str, Any] = datasets.load_dataset(path, cache_dir=str(cache), streaming=streaming, **options)
    return found


def rows_of(splits: Mapping[str, Any], image: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of all splits; each one's image decodes to a picture."""
    for split in splits.values():
        for row in split:
            assert row[image].size == (64, 64)
            yield row


def test_columns_are_named_as_datasets_names_them() -> None:
    """Whatever types a prompt table has, `datasets` reads the card's columns as exactly those; else none are said."""
    deep = pa.struct([("x", pa.list_(pa.float64())), ("when", pa.date32())])
    plain = [pa.string(), pa.large_string(), pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.date32(), pa.binary()]
    times = [pa.timestamp("ms", tz="UTC"), pa.timestamp("us"), pa.time32("s"), pa.time64("us"), pa.decimal128(3, 2)]
    lists = [pa.list_(pa.string()), pa.list_(pa.list_(pa.int64())), pa.list_(deep), deep]
    schema = pa.schema([(f"column {n}", kind) for n, kind in enumerate([*plain, *times, *lists])])
    said = features_of(schema)
    assert said == datasets.Features.from_arrow_schema(schema)._to_yaml_list()
    for unknown in (pa.map_(pa.string(), pa.string()), pa.list_(pa.map_(pa.string(), pa.string()))):
        assert features_of(pa.schema([("a", pa.string()), ("b", unknown)])) is None


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_datasets_loads_it(run_dir: Path, exported: Path, tmp_path: Path, form: Format, streaming: bool) -> None:
    """`load_dataset` of the folder, and by the format's own loader, gives every image with its typed columns."""
    own = exported / form / ("data" if form == "parquet" else "")
    for path, options in ((str(exported / form), {}), (form, {"data_dir": str(own)})):
        found = loaded(path, tmp_path / str(len(options)), streaming=streaming, **options)
        assert set(found) == {"train", "test"}
        check(run_dir, rows_of(found, "image"), (*_SAME, "day", "words", "created_at"))


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_webdataset(run_dir: Path, exported: Path, tmp_path: Path, streaming: bool) -> None:
    """`load_dataset` of the folder reads the archives, its columns told by the card and not guessed from five rows."""
    found = loaded(str(exported / "webdataset"), tmp_path, streaming=streaming)
    rows = list(rows_of(found, "png"))
    assert all(row["txt"] == row["json"]["prompt"] for row in rows)
    check(run_dir, (row["json"] for row in rows))


def test_webdataset_reads_it(run_dir: Path, exported: Path) -> None:
    """The webdataset package reads the shards, decodes the pictures and finds the words."""
    shards = sorted(str(path) for path in (exported / "webdataset").glob("*.tar"))
    assert len(shards) > 2
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert {row["png"].size for row in rows} == {(64, 64)}
    assert all(row["txt"] == row["json"]["prompt"] for row in rows)
    check(run_dir, (row["json"] for row in rows))


def test_pandas_reads_the_metadata(run_dir: Path, exported: Path) -> None:
    """pandas, which knows nothing of images, reads the metadata of a folder and the shards of Parquet."""
    import pandas as pd

    for pattern in ("imagefolder/*/metadata.parquet", "parquet/data/*.parquet"):
        frames = [pd.read_parquet(path, dtype_backend="pyarrow") for path in sorted(exported.glob(pattern))]
        rows = pd.concat(frames).to_dict("records")
        check(run_dir, ({str(name): None if value is pd.NA else value for name, value in row.items()} for row in rows))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_comes_back_whole(tmp_path: Path) -> None:
    """A run of 6,528 cells in every format, loaded by `datasets`, `webdataset` and pandas, is the manifest's."""
    import pandas as pd

    table = "caption,mood\n" + "".join(f'"a kite, ""{n}""",{n % 3 or "=1+1"}\n' for n in range(136))
    grid = {"seed": {"count": 6, "start": 1}, "guidance_scale": {"start": 1, "stop": 8, "num": 8}}
    with quick_service(image_size=64) as service:
        columns = {"columns": {"prompt": "caption"}}
        output = {"dir": "out", "download": True}
        path = write_spec(tmp_path, service, table, prompts=columns, grid=grid, output=output)
        assert batchflux.run(batchflux.load_job(path)).exit_status == 0
    run_dir = tmp_path / "out"
    same = [name for name in _SAME if name != "num_images"]
    for form in _FORMATS:
        export_run(run_dir, tmp_path / form, ExportOptions(form=form, splits=_SPLITS))
        image = "png" if form == "webdataset" else "image"
        found = loaded(str(tmp_path / form), tmp_path / "cache", streaming=False)
        assert sum(split.num_rows for split in found.values()) == 6528
        rows = rows_of(found, image)
        check(run_dir, (row["json"] for row in rows) if form == "webdataset" else rows, same)
    shards = sorted(str(path) for path in (tmp_path / "webdataset").glob("*.tar"))
    check(run_dir, (row["json"] for row in webdataset.WebDataset(shards, shardshuffle=False).decode()), same)
    cells = pq.read_table(run_dir / "manifest.parquet").to_pylist()
    for form in _TABLES:
        export_run(run_dir, tmp_path / f"t.{form}", ExportOptions(form=form))
        kinds = {"prompt": str, "mood": str}
        place = tmp_path / f"t.{form}"
        frame = pd.read_csv(place, dtype=kinds) if form == "csv" else pd.read_json(place, lines=True, dtype=kinds)
        assert len(frame) == 6528
        for name in ("cell_id", "prompt", "seed", "guidance_scale", "latency_ms"):
            assert frame[name].tolist() == [cell[name] for cell in cells], name
        guard = "'" if form == "csv" else ""
        assert set(frame["mood"]) == {f"{guard}=1+1", "1", "2"}
