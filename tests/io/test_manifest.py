"""The manifest as users read it: its columns, order and types, one row a cell whatever became of it, in grid order."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflux
from batchflux.core.progress import Progress
from batchflux.engine.observers import Lines
from batchflux.engine.ports import Watcher
from batchflux.sandbox import FaultRule, RunningSandbox
from tests.app.service import quick_service, write_spec

_STATE = {
    "status": "string",
    "prediction_id": "string",
    "result_url": "string",
    "outputs": "list<element: string>",
    "outputs_expire_at": "timestamp[ms, tz=UTC]",
    "has_nsfw_contents": "list<element: bool>",
    "files": "list<element: string>",
    "sha256": "list<element: string>",
    "inference_ms": "int64",
    "created_at": "timestamp[ms, tz=UTC]",
    "submitted_at": "timestamp[ms, tz=UTC]",
    "completed_at": "timestamp[ms, tz=UTC]",
    "latency_ms": "int64",
    "attempts": "int64",
    "cost_usd": "double",
    "error_kind": "string",
    "error": "string",
    "warnings": "list<element: string>",
    "reused_from": "string",
}
_HEAD = {"cell_id": "string", "prompt_id": "string", "prompt": "string", "model": "string"}
_PRO = "wavespeed-ai/flux-kontext-pro/text-to-image"
_MAX = "wavespeed-ai/flux-kontext-max/text-to-image"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """A service that loses the answer to every prompt that says so, and tells neither history nor schemas."""
    rules = (
        FaultRule(on="submit", do="close", when="after", prompt="lose this"),
        FaultRule(on="history", do="status", status=404),
        FaultRule(on="models", do="status", status=503),
    )
    with quick_service(*rules) as running:
        yield running


def _run(path: Path, **options: object) -> pa.Table:
    batchflux.run(batchflux.load_job(path), batchflux.RunOptions(**options))  # type: ignore[arg-type]
    return pq.ParquetFile(path.parent / "out" / "manifest.parquet").read()


def _types(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def test_columns_order_and_types_to_the_letter(service: RunningSandbox, tmp_path: Path) -> None:
    """Ids, parameters in their order and types, template axes, the state, then the table's own columns."""
    table = pa.table(
        {
            "key": ["k1", "k2"],
            "scene": ["a kite", "a crow"],
            "status": ["mine", "too"],
            "prompt": ["raw", "words"],
            "row_status": [1, 2],
            "tolerance": ["3", ""],
            "day": [dt.date(2024, 1, 2), None],
            "weight": [Decimal("1.50"), Decimal("2.25")],
        }
    )
    path = write_spec(
        tmp_path,
        service,
        table,
        prompts={"template": "{scene}, {style}", "columns": {"id": "key", "safety_tolerance": "tolerance"}},
        grid={"style": ["ink", "oil"], "guidance_scale": [2.5, 5], "seed": {"random": 2}},
        params={"num_images": 2, "aspect_ratio": "16:9"},
    )
    manifest = _run(path)
    assert list(_types(manifest).items()) == list(
        {
            **_HEAD,
            "seed": "int64",
            "guidance_scale": "double",
            "aspect_ratio": "string",
            "num_images": "int64",
            "safety_tolerance": "string",
            "style": "string",
            **_STATE,
            "scene": "string",
            "row_status": "string",
            "row_prompt": "string",
            "row_row_status": "int64",
            "day": "date32[day]",
            "weight": "decimal128(3, 2)",
        }.items()
    )
    rows = manifest.to_pylist()
    seeds = [row["seed"] for row in rows[:2]]
    assert [(r["prompt_id"], r["prompt"], r["guidance_scale"], r["seed"]) for r in rows] == [
        (key, f"{scene}, {style}", guidance, seed)
        for key, scene in (("k1", "a kite"), ("k2", "a crow"))
        for style in ("ink", "oil")
        for guidance in (2.5, 5.0)
        for seed in seeds
    ]
    assert len(set(seeds)) == 2
    assert [r["safety_tolerance"] for r in rows] == ["3"] * 8 + [None] * 8
    assert [r["row_status"] for r in rows] == ["mine"] * 8 + ["too"] * 8
    assert rows[0]["cost_usd"] == pytest.approx(0.16)
    assert len(rows[0]["outputs"]) == 2


def test_every_status_has_its_row(service: RunningSandbox, tmp_path: Path) -> None:
    """Pending, completed, failed and unknown cells: what isn't known is null, lists are empty."""
    prompts = ["a kite", "sandbox:refuse", "lose this", "a crow"]
    path = write_spec(tmp_path, service, "prompt\n" + "\n".join(prompts) + "\n", params={"seed": 1})
    rows = _run(path, limit=3).to_pylist()
    assert [row["status"] for row in rows] == ["completed", "failed", "unknown", "pending"]
    done, failed, unknown, pending = rows
    assert done["result_url"] == f"{service.base_url}/predictions/{done['prediction_id']}/result"
    assert done["outputs_expire_at"] - done["created_at"] == dt.timedelta(days=7)
    assert (done["attempts"], done["cost_usd"], done["error_kind"], done["warnings"]) == (1, 0.08, None, [])
    assert done["submitted_at"] <= done["completed_at"]
    assert done["latency_ms"] >= 0
    assert (failed["error_kind"], failed["outputs"], failed["attempts"]) == ("content_policy", [], 1)
    assert "sensitive" in failed["error"]
    assert (unknown["error_kind"], unknown["prediction_id"], unknown["result_url"]) == ("unknown_outcome", None, None)
    assert (unknown["cost_usd"], unknown["attempts"]) == (0.08, 0)
    nothing = {name for name, value in pending.items() if value is None}
    assert nothing == {
        "prediction_id",
        "result_url",
        "outputs_expire_at",
        "inference_ms",
        "created_at",
        "submitted_at",
        "completed_at",
        "latency_ms",
        "error_kind",
        "error",
        "reused_from",
    }
    assert (pending["attempts"], pending["cost_usd"], pending["seed"]) == (0, 0.0, 1)
    for name, row in itertools.product(("outputs", "files", "sha256", "has_nsfw_contents", "warnings"), rows):
        assert row[name] is not None
    again = _run(path).to_pylist()
    assert [row["status"] for row in again] == ["completed", "failed", "unknown", "completed"]
    assert again[:3] == rows[:3]


def test_grid_order_whatever_the_order_of_the_run(service: RunningSandbox, tmp_path: Path) -> None:
    """A balanced run leaves the same manifest, row after row, and excluded cells aren't in it."""
    path = write_spec(
        tmp_path,
        service,
        "prompt\na\nb\nc\n",
        grid={"seed": [5, 4], "aspect_ratio": ["1:1", "3:2"]},
        exclude=[{"seed": 4, "aspect_ratio": "3:2"}],
        run={"order": "balanced"},
    )
    rows = _run(path).to_pylist()
    assert [(r["prompt"], r["seed"], r["aspect_ratio"]) for r in rows] == [
        (prompt, *rest) for prompt in "abc" for rest in ((5, "1:1"), (5, "3:2"), (4, "1:1"))
    ]


def test_drawn_and_row_seeds_are_those_that_were_sent(service: RunningSandbox, tmp_path: Path) -> None:
    """The seed's column says what each request held: drawn where nothing gives one, the row's where it does."""
    path = write_spec(
        tmp_path, service, "prompt,s\na,7\nb,\nb,\n", prompts={"columns": {"prompt": "prompt", "seed": "s"}}
    )
    rows = _run(path).to_pylist()
    sent = {record.id: record.parsed_inputs()["seed"] for record in service.behaviour.everything()}
    assert [row["seed"] for row in rows] == [sent[row["prediction_id"]] for row in rows]
    assert rows[0]["seed"] == 7
    assert len({row["seed"] for row in rows}) == 3


def test_models_as_an_axis(service: RunningSandbox, tmp_path: Path) -> None:
    """Each row names its own model."""
    path = write_spec(tmp_path, service, "prompt\na\n", grid={"model": [_PRO, _MAX], "seed": [1]}, run={"price": 0.01})
    rows = _run(path).to_pylist()
    assert [row["model"] for row in rows] == [_PRO, _MAX]
    sent = {record.id: record.model for record in service.behaviour.everything()}
    assert [sent[row["prediction_id"]] for row in rows] == [_PRO, _MAX]


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        (["high", 2], "string", ["high", "2"]),
        ([2, 2.5], "double", [2.0, 2.5]),
        ([10**30, 1], "string", [f"1{30 * '0'}", "1"]),
        ([10**30, 0.5], "string", [f"1{30 * '0'}", "0.5"]),
    ],
)
def test_parameters_of_a_model_that_nothing_ships_for(
    service: RunningSandbox, tmp_path: Path, values: list[object], kind: str, shown: list[object]
) -> None:
    """Values of any type have their place: a manifest that can't be written would lose a paid run's results."""
    path = write_spec(
        tmp_path, service, "prompt\na\n", model=_PRO, run={"price": 0.01}, grid={"guidance_scale": values}
    )
    manifest = _run(path)
    assert _types(manifest)["guidance_scale"] == kind
    assert manifest["guidance_scale"].to_pylist() == shown


def test_row_parameters_of_a_model_that_nothing_ships_for(service: RunningSandbox, tmp_path: Path) -> None:
    """A seed in a CSV is a number for any model; what is none stays the text that the row says."""
    columns = {"prompt": "prompt", "seed": "s", "guidance_scale": "g"}
    path = write_spec(
        tmp_path,
        service,
        "prompt,s,g\na,4,strong\nb,,2.50\n",
        prompts={"columns": columns},
        model=_PRO,
        run={"price": 0.01},
    )
    manifest = _run(path)
    types = _types(manifest)
    assert (types["seed"], types["guidance_scale"]) == ("int64", "string")
    assert manifest["seed"].to_pylist()[0] == 4
    assert manifest["guidance_scale"].to_pylist() == ["strong", "2.5"]
    assert manifest["error_kind"].to_pylist() == ["invalid_request", None]


def test_whole_floats_of_a_typed_table_are_sent_as_integers(service: RunningSandbox, tmp_path: Path) -> None:
    """A Parquet column of doubles, as missing values make it, still sends a seed that the schema calls an integer."""
    table = pa.table({"prompt": ["a whole seed", "b"], "s": [5.0, None]})
    path = write_spec(tmp_path, service, table, prompts={"columns": {"prompt": "prompt", "seed": "s"}})
    assert _run(path)["seed"].to_pylist()[0] == 5
    [record] = [r for r in service.behaviour.everything() if "whole seed" in r.inputs]
    assert '"seed":5}' in record.inputs.replace(".0", "!")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    """NaN and infinity in a column of a parameter are told by row, before anything is sent."""
    table = pa.table({"prompt": ["a", "b"], "s": [1.0, value]})
    path = write_spec(tmp_path, None, table, prompts={"columns": {"prompt": "prompt", "seed": "s"}})
    with pytest.raises(batchflux.JobSpecError, match=r"p\.parquet: row 2: column 's': must be a number"):
        batchflux.load_job(path)


def test_a_column_that_an_axis_outweighs_is_carried(service: RunningSandbox, tmp_path: Path) -> None:
    """What is in no request is a column of the table like any other."""
    path = write_spec(
        tmp_path,
        service,
        "prompt,seed\na,9\n",
        prompts={"columns": {"prompt": "prompt", "seed": "seed"}},
        grid={"seed": [1]},
    )
    [row] = _run(path).to_pylist()
    assert (row["seed"], row["row_seed"]) == (1, "9")


def test_retired_cells_keep_their_rows(service: RunningSandbox, tmp_path: Path) -> None:
    """Cells that leave the job move to retired.parquet with all that is known of them, and come back for nothing."""
    path = write_spec(tmp_path, service, "prompt\na\nb\n", grid={"seed": [1, 2]}, params={"num_images": 2})
    before = {row["cell_id"]: row for row in _run(path).to_pylist()}
    write_spec(tmp_path, service, "prompt\na\n", grid={"seed": [2, 3]}, params={"num_images": 2})
    _run(path)
    retired = pq.ParquetFile(tmp_path / "out" / "retired.parquet").read()
    assert list(_types(retired).items()) == list({**_HEAD, "seed": "int64", "num_images": "int64", **_STATE}.items())
    rows = retired.to_pylist()
    assert {(row["prompt"], row["seed"]) for row in rows} == {("a", 1), ("b", 1), ("b", 2)}
    assert [before[row["cell_id"]] for row in rows] == rows
    write_spec(tmp_path, service, "prompt\na\nb\n", grid={"seed": [1, 2, 3]}, params={"num_images": 2})
    made = service.stats["submissions_received"]
    _run(path)
    assert service.stats["submissions_received"] == made + 1
    assert not (tmp_path / "out" / "retired.parquet").exists()


def test_reading_per_cell_and_per_image(service: RunningSandbox, tmp_path: Path) -> None:
    """pandas gets nullable integers and UTC times; per image a row each, numbered from 1, none for what has none."""
    path = write_spec(
        tmp_path,
        service,
        "prompt,note\na,x\nsandbox:refuse,y\n",
        params={"num_images": 3, "seed": 1},
        output={"dir": "out", "download": True},
    )
    _run(path)
    frame = batchflux.read_manifest(path.parent / "out")
    assert [str(frame[name].dtype) for name in ("seed", "inference_ms", "attempts")] == ["Int64"] * 3
    assert str(frame["completed_at"].dtype) == "datetime64[ms, UTC]"
    images = batchflux.read_manifest(str(path.parent / "out"), per="image")
    assert list(images["image"]) == [1, 2, 3]
    assert list(images["prompt"]) == ["a"] * 3
    assert list(images["note"]) == ["x"] * 3
    assert {"output", "file", "sha256", "has_nsfw_content"} <= set(images.columns)
    assert all((tmp_path / "out" / name).is_file() for name in images["file"])
    assert images["output"].tolist() == list(frame["outputs"][0])
    with pytest.raises(ValueError, match="per is 'cell' or 'image'"):
        batchflux.read_manifest(tmp_path / "out", per="row")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        batchflux.read_manifest(tmp_path)


def test_the_checkpoint_is_read_by_pandas_and_as_state(service: RunningSandbox, tmp_path: Path) -> None:
    """The folder holds facts, several a cell; `read_checkpoint` gives one row a cell."""
    path = write_spec(tmp_path, service, "prompt\na\nb\n", grid={"seed": [1, 2]})
    _run(path)
    facts = pd.read_parquet(tmp_path / "out" / "checkpoint")
    assert {"cell_id", "kind", "at", "attempt", "prediction_id", "status"} <= set(facts.columns)
    assert len(facts) > 4
    assert facts["cell_id"].nunique() == 4
    state = batchflux.read_checkpoint(tmp_path / "out")
    assert len(state) == 4
    assert set(state["status"]) == {"completed"}


def test_a_manifest_that_is_up_to_date_is_left_alone(service: RunningSandbox, tmp_path: Path) -> None:
    """A run that changes nothing writes nothing; one that changes something writes the whole file anew."""
    path = write_spec(tmp_path, service, "prompt,note\na,x\n", params={"seed": 1})
    _run(path)
    manifest = tmp_path / "out" / "manifest.parquet"
    first = manifest.stat().st_ino
    _run(path)
    assert manifest.stat().st_ino == first
    write_spec(tmp_path, service, "prompt,note\na,y\n", params={"seed": 1})
    assert _run(path)["note"].to_pylist() == ["y"]
    assert manifest.stat().st_ino != first


@pytest.mark.fault("I08")
def test_a_table_that_goes_while_a_run_is_at_work(service: RunningSandbox, tmp_path: Path) -> None:
    """The manifest is made of the copy in the run directory: editing the table during a run spoils nothing."""
    path = write_spec(tmp_path, service, "prompt,note\na,x\nb,y\n", params={"seed": 1})

    def edit(_: Progress) -> Watcher:
        (tmp_path / "p.csv").unlink()
        return Lines(stream=StringIO())

    asyncio.run(batchflux.run_async(batchflux.load_job(path), observe=edit))
    assert list(batchflux.read_manifest(tmp_path / "out")["note"]) == ["x", "y"]
    assert batchflux.run(batchflux.load_job(tmp_path / "out")).exit_status == 0


@pytest.mark.fault("I08")
def test_a_table_that_is_edited_before_the_run_is_at_work(service: RunningSandbox, tmp_path: Path) -> None:
    """A question may wait for long: a table that was changed since it was read is refused, not run half and half."""
    job = batchflux.load_job(write_spec(tmp_path, service, "prompt\na\n", params={"seed": 1}))
    made = service.stats["submissions_received"]
    (tmp_path / "p.csv").write_text("prompt\nb\nc\n")
    with pytest.raises(batchflux.UsageError, match="was changed while the job was being prepared"):
        batchflux.run(job)
    assert service.stats["submissions_received"] == made
