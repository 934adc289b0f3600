"""What lies beside the images: the dataset card, which nothing in a job can break, and the papers that say whence."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from batchflux.export.options import ExportOptions
from batchflux.export.run import export_run
from tests.export.runs import made_run


def test_card_and_provenance(run_dir: Path, tmp_path: Path) -> None:
    """The card's header says sizes, splits and columns and no licence; the papers are the run's, by their digests."""
    export_run(run_dir, tmp_path / "x", ExportOptions(form="parquet", where="seed == 1"))
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert "license" not in header
    assert "# license: yours to state" in card
    assert header["size_categories"] == ["n<1K"]
    assert [split["num_examples"] for split in header["dataset_info"]["splits"]] == [48]
    assert {"name": "words", "list": "string"} in header["dataset_info"]["features"]
    assert "wavespeed-ai/flux-kontext-max/text-to-image" in card
    paper = json.loads((tmp_path / "x" / "provenance.json").read_text())
    assert paper["export"]["where"] == "seed == 1"
    for name in ("job.yaml", "prompts.parquet", "manifest.parquet"):
        assert paper["sha256"][name] == hashlib.sha256((run_dir / name).read_bytes()).hexdigest()
    assert (tmp_path / "x" / "job.yaml").read_bytes() == (run_dir / "job.yaml").read_bytes()
    assert str(tmp_path) not in json.dumps(paper) + card


def test_a_cell_id_follows_from_the_recipe_alone(run_dir: Path, tmp_path: Path) -> None:
    """Who has the dataset and its provenance, and nothing of this program, computes the same ids."""
    export_run(run_dir, tmp_path / "x", ExportOptions(form="imagefolder"))
    recipe = json.loads((tmp_path / "x" / "provenance.json").read_text())["cell_id"]
    rows = pq.read_table(tmp_path / "x" / "train" / "metadata.parquet").to_pylist()
    assert any(row["guidance_scale"] == 3.5 for row in rows)
    for row in rows:
        lanes = [0, 0]
        sent = [("model", "", row["model"])]
        for name in ("prompt", "seed", "guidance_scale", "num_images"):
            value = int(row[name]) if isinstance(row[name], float) and row[name].is_integer() else row[name]
            text = json.dumps(value, sort_keys=True, separators=(",", ":"))
            if recipe["defaults"][row["model"]].get(name) != text:
                sent.append(("parameter", name, text))
        for parts in sent:
            digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16, person=b"batchflux-cell-1").digest()
            lanes = [
                (lane + int.from_bytes(half, "big")) % 2**64
                for lane, half in zip(lanes, (digest[:8], digest[8:]), strict=True)
            ]
        assert row["cell_id"] == "".join(f"{lane:016x}" for lane in lanes)


def test_a_card_can_not_be_broken_out_of(tmp_path: Path) -> None:
    """Names and texts of a job stay text in header and body: no HTML, no fence closed, no key of YAML added."""
    run_dir = made_run(tmp_path, 1, change={0: {"model": "m|<script>`x`"}})
    evil = {"name": "a\n---\nlicense: mit # <script>", "params": {"style": "```\n<img src=x onerror=1>\n````"}}
    (run_dir / "job.yaml").write_text(yaml.safe_dump(evil))
    export_run(run_dir, tmp_path / "x", ExportOptions(form="parquet"))
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    opening, header, body = card.split("---\n", 2)
    assert opening == ""
    assert yaml.safe_load(header)["pretty_name"] == "a --- license: mit # <script>"
    assert "license" not in yaml.safe_load(header)
    fence = next(line for line in body.splitlines() if line.endswith("yaml")).removesuffix("yaml")
    outside = "".join(body.split(fence)[::2])
    assert len(fence) > 4
    assert "<script>" not in outside
    assert "<img" not in outside
