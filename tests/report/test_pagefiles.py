"""The page's files: every cell told once and in its place, made anew without harm, beside a run and after a crash."""

import asyncio
import base64
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import batchflux
from batchflux.app.job import Job
from batchflux.app.publish import is_manifest_current, publish_results
from batchflux.app.reading import read_known
from batchflux.app.reporting import report_json, write_report
from batchflux.app.rundir import RunIdentity, freeze_job
from batchflux.core.errors import StorageError
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.checkpoint import CheckpointWriter
from batchflux.io.manifest import MANIFEST
from batchflux.report.page import build_page
from batchflux.report.pagefiles import REPORT
from batchflux.report.thumbnails import make_thumbnails, thumbnail_name
from tests.report.made import BEGIN_MS, Drawn, lognormal, made_job, made_run


def data_of(run_dir: Path) -> Path:
    """Return the folder that a run's page names."""
    found = re.search(r'data-folder="([^"]+)"', (run_dir / REPORT).read_text(encoding="utf-8"))
    assert found is not None
    return run_dir / found[1]


def value_of(path: Path) -> Any:
    """Return the value that a data file hands over; nothing else may be in it."""
    text = path.read_text(encoding="ascii")
    assert "<" not in text
    name, _, rest = text.removeprefix("batchfluxTake(").partition(",")
    assert json.loads(name) == path.stem
    return json.loads(rest.removesuffix(");\n"))


def cells_told(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Return all cells of all chunks by their index, each told once, in order."""
    told: dict[int, dict[str, Any]] = {}
    for path in sorted(data_of(run_dir).glob("cells-*.js")):
        columns = dict(value_of(path)["columns"])
        for place, index in enumerate(columns["index"]):
            assert index not in told
            told[index] = {name: values[place] for name, values in columns.items()}
    assert list(told) == sorted(told)
    return told


def array_of(run_dir: Path, name: str, kind: str) -> np.ndarray[Any, Any]:
    """Return one of the index's arrays."""
    return np.frombuffer(base64.b64decode(value_of(data_of(run_dir) / "index.js")[name]), dtype=kind)


def _run(folder: Path, *, n: int = 6, grid: dict[str, Any] | None = None, **keys: Any) -> tuple[Job, Path]:
    prompts = [f"kite {place}" for place in range(n)]
    job = made_job(folder, prompts=prompts, grid=grid or {"guidance_scale": [2, 4], "seed": [1, 2, 3]}, **keys)
    return job, made_run(job, Drawn(inference_ms=lognormal(job.grid.n_cells, 1)))


def test_every_cell_is_told_as_the_manifest_tells_it(tmp_path: Path) -> None:
    """Cells, names, prompts, ids and times of the page are the manifest's, cell by cell; `exclude` leaves its holes."""
    job, run_dir = _run(tmp_path, n=300, exclude=[{"guidance_scale": 4, "seed": 2}])
    write_report(run_dir)
    rows = batchflux.read_manifest(run_dir).to_dict("records")
    told = cells_told(run_dir)
    assert len(told) == len(rows) == job.grid.n_cells == 300 * 5
    holes = set(range(1800)) - set(told)
    assert holes == {row * 6 + 4 for row in range(300)}
    status, inference = array_of(run_dir, "status", "<u1"), array_of(run_dir, "inference", "<i4")
    texts = [value_of(path) for path in sorted(data_of(run_dir).glob("rows-*.js"))]
    names = [name for some in texts for name in some["names"]]
    prompts = [said for some in texts for said in some["prompts"]]
    keys = base64.b64decode(value_of(data_of(run_dir) / "keys.js"))
    for (index, cell), row in zip(told.items(), rows, strict=True):
        assert cell["cell_id"] == row["cell_id"] == keys[index * 16 : index * 16 + 16].hex()
        assert (cell["seed"], cell["guidance_scale"]) == (row["seed"], row["guidance_scale"])
        assert cell["inference_ms"] == row["inference_ms"] == inference[index]
        assert (names[index // 6], prompts[index // 6]) == (row["prompt_id"], [row["prompt"]])
        assert cell["completed_at"] == round(row["completed_at"].timestamp() * 1000)
        assert (run_dir / cell["files"][0]).exists()
        assert status[index] == 2
    assert set(status[sorted(holes)]) == {255}


def test_words_of_the_template_give_each_row_its_prompts(tmp_path: Path) -> None:
    """A row's prompts stand once for each word, whatever other axes there are, the model among them."""
    grid = {"style": ["noir", "gouache"], "seed": {"random": 2, "per_row": True, "key": 1}}
    section = {"columns": {"id": "id"}, "template": "{prompt}, {style}"}
    _, run_dir = _run(tmp_path, n=3, grid=grid, prompts_section=section)
    write_report(run_dir)
    index = value_of(data_of(run_dir) / "index.js")
    assert index["wordOf"] == [0, 0, 1, 1]
    assert [axis["words"] for axis in index["axes"]] == [["noir", "gouache"], ["no. 1", "no. 2"]]
    assert value_of(data_of(run_dir) / "rows-00000.js")["prompts"][1] == ["kite 1, noir", "kite 1, gouache"]


@pytest.mark.parametrize(("has_manifest", "is_sealed"), [(True, True), (True, False), (False, True)])
def test_a_stale_manifest_is_not_believed(tmp_path: Path, has_manifest: bool, is_sealed: bool) -> None:
    """After a crash the page shows what the journal knows, and the manifest on the disk stays as it is."""
    job, run_dir = _run(tmp_path, n=4)
    identity = RunIdentity.read(run_dir)
    assert identity is not None
    if not has_manifest:
        (run_dir / MANIFEST).unlink()
    before = (run_dir / MANIFEST).read_bytes() if has_manifest else b""
    cell = freeze_job(job).grid.cell(9, job.rows.part(1))
    if not is_sealed:  # a start makes the journal, and a killed run's manifest may be of that moment
        asyncio.run(_begin(run_dir, identity.run_id))
        known = read_known(job.grid, run_dir, identity)
        (run_dir / MANIFEST).unlink()
        publish_results(job, known, base_url="https://api.wavespeed.ai/api/v3")
        before = (run_dir / MANIFEST).read_bytes()
    asyncio.run(_write_fact(run_dir, identity.run_id, cell.cell_id, is_sealed=is_sealed))
    assert is_manifest_current(run_dir) is (not is_sealed)  # of so little news its stamp knows nothing
    write_report(run_dir)
    status = array_of(run_dir, "status", "<u1")
    assert status[9] == 3
    assert set(np.delete(status, 9)) == {2}
    index = value_of(data_of(run_dir) / "index.js")
    assert index["reasons"] == ["", "the dog ate it"]
    assert ((run_dir / MANIFEST).read_bytes() if has_manifest else b"") == before
    figures = json.loads(report_json(run_dir))
    assert figures["by_status"] == {"pending": 0, "submitted": 0, "completed": 23, "failed": 1, "unknown": 0}
    assert [cell["cell_id"] for cell in figures["failed_cells"]] == [cell.cell_id]


async def _begin(run_dir: Path, run_id: str) -> None:
    async with CheckpointWriter.open(run_dir, run_id):
        pass


async def _write_fact(run_dir: Path, run_id: str, cell_id: str, *, is_sealed: bool) -> None:
    """Write one fact as a run does that ends, or that is killed before the fact became a part."""
    fact = Fact(
        cell_id=cell_id,
        kind=FactKind.OUTCOME,
        at_ms=BEGIN_MS,
        attempt=1,
        status=CellStatus.FAILED,
        attempts=1,
        error_kind="generation_failed",
        error="the dog ate it",
    )
    copy = run_dir.parent / "killed"
    async with CheckpointWriter.open(run_dir, run_id) as writer:
        writer.record(fact)
        await writer.flushed()
        shutil.copytree(run_dir, copy)
    if not is_sealed:
        shutil.rmtree(run_dir)
        copy.rename(run_dir)


def test_a_page_is_made_anew_without_harm(tmp_path: Path) -> None:
    """The second page has data of its own, the first's are gone, thumbnails are made once, and nothing else stays."""
    _, run_dir = _run(tmp_path)
    write_report(run_dir)
    first = data_of(run_dir)
    made = {path: path.stat().st_mtime_ns for path in run_dir.glob("report/thumbnails/*/*.webp")}
    assert len(made) == 24
    (run_dir / "report" / "data-00000000").mkdir()  # another's that is at work just now
    write_report(run_dir)
    assert not first.exists()
    assert data_of(run_dir).is_dir()
    assert {path: path.stat().st_mtime_ns for path in run_dir.glob("report/thumbnails/*/*.webp")} == made
    assert sorted(path.name for path in (run_dir / "report").iterdir()) == sorted(
        ["data-00000000", data_of(run_dir).name, "thumbnails"]
    )
    assert list(run_dir.rglob(".tmp-*")) == []


def test_thumbnails_are_small_and_like_their_images(tmp_path: Path) -> None:
    """At most 320 pixels wide or high, of the image's own shape; what is no image is named, and an end in time is."""
    Image.new("RGB", (1500, 1000), (200, 30, 30)).save(tmp_path / "a.jpg")
    Image.new("RGBA", (40, 80), (0, 0, 200, 100)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "d.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    wanted = [(1, tmp_path / "a.jpg"), (2, tmp_path / "b.png"), (3, tmp_path / "c.png"), (4, tmp_path / "gone.png")]
    wanted += [(5, tmp_path / "d.png"), (1, tmp_path / "a.jpg")]
    folder = tmp_path / "thumbnails"
    assert make_thumbnails(wanted, folder, within_s=0) == {1, 2, 3, 4, 5}
    assert make_thumbnails(wanted, folder) == {3, 4, 5}
    with Image.open(folder / thumbnail_name(1)) as image:
        assert (image.format, image.size) == ("WEBP", (320, 213))
        assert image.convert("RGB").getpixel((100, 100)) == pytest.approx((200, 30, 30), abs=6)
    with Image.open(folder / thumbnail_name(2)) as image:
        assert image.size == (40, 80)
    assert make_thumbnails(wanted[:2], folder, within_s=0) == set()


def test_a_disk_that_takes_no_page_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses half-way, the page that was there stays whole and what was begun is gone."""
    _, run_dir = _run(tmp_path)
    write_report(run_dir)
    before, folder = (run_dir / REPORT).read_bytes(), data_of(run_dir)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    from batchflux.report import pagefiles

    def refuse(path: Path, data: bytes) -> None:
        raise StorageError(path, doing="write the file", cause=OSError(28, "No space left on device"))

    monkeypatch.setattr(pagefiles, "replace_bytes", refuse)
    with pytest.raises(StorageError):
        write_report(run_dir)
    assert (run_dir / REPORT).read_bytes() == before
    assert {path.name: path.read_bytes() for path in data_of(run_dir).iterdir()} == kept
    assert [path.name for path in (run_dir / "report").glob("data-*")] == [folder.name]


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_no_name_gets_out_of_its_place(name: str) -> None:
    """Whatever a run is called, the page has one script and one stylesheet, and the policy knows both."""
    page = build_page(title=name, folder="report/data-0", thumbnails="report/thumbnails")
    plain = build_page(title="", folder="report/data-0", thumbnails="report/thumbnails")
    for mark in ("<script", "</script", "<style", "<img", "<h1", "%%"):
        assert page.count(mark) == plain.count(mark)
    policies = [re.search(r'Security-Policy" content="([^"]+)"', text) for text in (page, plain)]
    assert policies[0] is not None
    assert policies[1] is not None
    assert policies[0][1] == policies[1][1]
    assert "unsafe" not in policies[0][1]


def test_the_scripts_parse_no_markup() -> None:
    """No script makes elements from text or runs text; a live page asks for how the run stands, and no more."""
    folder = Path(batchflux.__file__).parent / "report" / "page"
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(.*|XMLHttp|srcdoc|https?://(?!www\.w3\.org/2000/svg)"
    asks = ['fetch("now.json", { cache: "no-store" });']
    for path in folder.iterdir():
        assert re.findall(banned, path.read_text(encoding="utf-8")) == (asks if path.name == "now.js" else []), (
            path.name
        )
    assert "fetch(" not in build_page(title="", folder="", thumbnails="")
    ordered = build_page(title="", folder="", thumbnails="", is_live=True)
    begins = [ordered.index(path.read_text(encoding="utf-8")) for path in folder.glob("*.js")]
    assert len(begins) == len(set(begins)) > 8
    assert all(before < after for before, after in pairwise(sorted(begins)))
