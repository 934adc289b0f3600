"""Runs to export: a real one against a sandbox, and a made one of any size for what takes too long to run."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import batchflux
from batchflux.core.identity import body_key, cell_id
from batchflux.io.manifest import STATE_FIELDS
from tests.app.service import quick_service, write_spec

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
PROMPTS = [f"a kite over hill {n}" for n in range(10)] + ['a "quoted", <b>text</b>\nof two lines', "絵　文字 🎨"]


def real_run(folder: Path, **keys: Any) -> Path:
    """Return the directory of a finished run with images: 12 prompts, two seeds, two images a cell."""
    table = pa.table(
        {
            "prompt": PROMPTS,
            "key": [f"{n:03}" for n in range(len(PROMPTS))],
            "mood": ["=1+1", None, "2026-01-31"] * 4,
            "source_file_name": ["x.txt"] * 12,
            "image": list(range(12)),
            "words": [[str(n)] for n in range(12)],
            "day": pa.array(range(12), pa.date32()),
        }
    )
    asked: dict[str, Any] = {
        "grid": {"seed": [1, 2], "guidance_scale": [2.5, 3.5]},
        "params": {"num_images": 2},
        "output": {"dir": "out", "download": True},
        **keys,
    }
    with quick_service(image_size=64) as service:
        path = write_spec(folder, service, table, prompts={"columns": {"prompt": "prompt", "id": "key"}}, **asked)
        assert batchflux.run(batchflux.load_job(path)).exit_status == 0
    return folder / "out"


def made_run(folder: Path, n_cells: int, *, change: Mapping[int, Mapping[str, Any]] | None = None) -> Path:
    """Return a run directory with the papers and images of a finished run of one image a cell, none of it bought.

    `change` gives columns of some cells another value.
    """
    run_dir = folder / "out"
    (run_dir / "images").mkdir(parents=True)
    (run_dir / "job.yaml").write_text(f"name: made\nmodel: {MODEL}\nprompts: {{path: prompts.parquet}}\n")
    (run_dir / "run.json").write_text(json.dumps({"origin": "the sandbox", "run_id": "0", "identity_version": 1}))
    pq.write_table(pa.table({"prompt": ["a kite"]}), run_dir / "prompts.parquet")
    names = ("cell_id", "prompt_id", "prompt", "model")
    schema = pa.schema([*(pa.field(name, pa.string()) for name in names), pa.field("seed", pa.int64()), *STATE_FIELDS])
    with pq.ParquetWriter(run_dir / "manifest.parquet", schema) as writer:
        for first in range(0, n_cells, 5000):
            rows = [
                _made_cell(run_dir, n) | dict((change or {}).get(n, {}))
                for n in range(first, min(n_cells, first + 5000))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return run_dir


def _made_cell(run_dir: Path, n: int) -> dict[str, Any]:
    prompt, seed = f"a kite over hill {n // 4}", n % 4
    own_id = cell_id(body_key(MODEL, {"prompt": prompt, "seed": seed}))
    file = f"images/{own_id[:2]}/p{n}_{own_id[:12]}.png"
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), (n % 256, n // 256 % 256, 0)).save(picture, "PNG")
    path = run_dir / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture.getvalue())
    return {
        "cell_id": own_id,
        "prompt_id": str(n // 4),
        "prompt": prompt,
        "model": MODEL,
        "seed": seed,
        "status": "completed",
        "outputs": [f"https://h.example/{n}.png"],
        "has_nsfw_contents": [False],
        "files": [file],
        "sha256": [hashlib.sha256(picture.getvalue()).hexdigest()],
        "attempts": 1,
        "cost_usd": 0.08,
        "warnings": [],
    }


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file beneath a folder by its name there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
