"""Where a dataset came from, for whoever wants to trust or rebuild it: the spec as it ran, digests, versions, recipe.

Holds no time and no path, so that the same run gives the same bytes.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

import batchflux
from batchflux.core.catalog import known_model
from batchflux.core.errors import UsageError
from batchflux.core.identity import canonical_json, describe_identity
from batchflux.export.options import ExportOptions
from batchflux.io.manifest import MANIFEST

__all__ = ["JOB_FILE", "read_origin", "write_provenance"]

JOB_FILE: Final = "job.yaml"
PROVENANCE: Final = "provenance.json"
_PROMPTS: Final = "prompts.parquet"
_RUN: Final = "run.json"
_SANDBOX: Final = "the sandbox"  # as a rehearsal's run.json names its origin


def read_origin(run_dir: Path) -> tuple[str, bool]:
    """Return which API made the images, and whether that was a sandbox. Raises UsageError."""
    try:
        origin = str(json.loads((run_dir / _RUN).read_text(encoding="utf-8"))["origin"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run_dir / _RUN}: can't be read, so it can't be told where the images are from") from error
    return origin, origin == _SANDBOX


def write_provenance(folder: Path, run_dir: Path, options: ExportOptions, *, models: list[str]) -> None:
    """Put `job.yaml` and `provenance.json` into a dataset's folder. Raises UsageError where the run lacks a paper."""
    for name in (JOB_FILE, _PROMPTS):
        if not (run_dir / name).is_file():
            raise UsageError(f"{run_dir / name}: is missing; put back the one that was there")
    shutil.copyfile(run_dir / JOB_FILE, folder / JOB_FILE)
    origin, is_sandbox = read_origin(run_dir)
    paper = {
        "made_by": {"batchflux": batchflux.__version__, "pyarrow": pa.__version__},
        "api": {"origin": origin, "is_sandbox": is_sandbox},
        "export": _as_asked(options),
        "sha256": {name: _digest(run_dir / name) for name in (JOB_FILE, _PROMPTS, MANIFEST)},
        "schemas": {
            "job": _digest(Path(batchflux.__file__).parent / "core" / "job.schema.json"),
            "prompts": _schema_digest(run_dir / _PROMPTS),
            "manifest": _schema_digest(run_dir / MANIFEST),
            "parameters": {model: _parameters_digest(model) for model in models},
        },
        "cell_id": describe_identity(),
    }
    text = json.dumps(paper, ensure_ascii=False, indent=1) + "\n"
    (folder / PROVENANCE).write_text(text, encoding="utf-8")


def _as_asked(options: ExportOptions) -> dict[str, Any]:
    splits = options.splits.shares if options.splits is not None else {}
    return {
        "format": options.form,
        "where": options.where,
        "nsfw": options.nsfw,
        "only": None if options.only is None else _digest(options.only),
        "split": {name: str(share) for name, share in splits.items()},
        "max_shard_bytes": options.shard_bytes,
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _schema_digest(path: Path) -> str:
    """Return a digest of a table's column names and types in their order, a line each."""
    lines = "".join(f"{field.name}\t{field.type}\n" for field in pq.read_schema(path))
    return hashlib.sha256(lines.encode()).hexdigest()


def _parameters_digest(model: str) -> str | None:
    """Return a digest of what batchflux knew of a model's parameters; None where it knew nothing."""
    known = known_model(model)
    if known is None:
        return None
    parameters: dict[str, Any] = {
        name: {
            "type": each.type,
            "required": each.required,
            "default": each.default,
            "minimum": each.minimum,
            "maximum": each.maximum,
            "allowed": list(each.allowed),
        }
        for name, each in known.parameters.items()
    }
    return hashlib.sha256(canonical_json(parameters).encode()).hexdigest()
