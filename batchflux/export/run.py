"""Exports a run in one of the formats, from top to bottom: check, select, write, tell where it came from, publish."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from batchflux.core.errors import UsageError
from batchflux.export.card import CardFacts, build_card
from batchflux.export.dataset import DatasetWriter, SplitTotal
from batchflux.export.options import DEFAULT_SHARD_BYTES, ExportOptions, check_options
from batchflux.export.provenance import JOB_FILE, read_origin, write_provenance
from batchflux.export.samples import Images
from batchflux.export.selection import OnCells, Selection
from batchflux.export.staging import build_folder
from batchflux.export.table import export_table

__all__ = ["Exported", "export_run"]

# What a run keeps for itself: pandas and `verify` would stumble over a dataset there.
_OWN: Final = frozenset({"checkpoint", "images", "journal", "replicates", "sandbox"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: rows of a table, or images by split; `left_out` completed cells have no file on disk."""

    dest: Path
    cells: int
    splits: Mapping[str, SplitTotal] = field(default_factory=dict)
    left_out: int = 0
    flagged: int = 0

    def lines(self) -> list[str]:
        """Return the closing words."""
        if not self.splits:
            return [f"{self.cells:,} cells written to {self.dest}"]
        each = ", ".join(f"{name} {total.images:,}" for name, total in self.splits.items())
        n_images = sum(total.images for total in self.splits.values())
        lines = [f"{n_images:,} images written to {self.dest} ({each})"]
        if self.left_out:
            lines.append(f"  {self.left_out:,} completed cells have no image on disk; batchflux run --download-only")
        if self.flagged:
            lines.append(f"  {self.flagged:,} flagged images dropped")
        return lines


def export_run(run_dir: Path, dest: Path, options: ExportOptions, *, on_cells: OnCells | None = None) -> Exported:
    """Write a run's results to `dest`, whole or not at all. Raises UsageError, StorageError."""
    check_options(options)
    _check_dest(run_dir, dest)
    if options.form in ("csv", "jsonl"):
        cells = export_table(run_dir, dest, form=options.form, options=options, on_cells=on_cells)
        return Exported(dest=dest, cells=cells)
    selection = Selection(run_dir, options, on_cells=on_cells)
    images = Images(selection)
    _, is_sandbox = read_origin(run_dir)
    job = _read_job(run_dir)
    models: dict[str, None] = {}
    with build_folder(dest) as folder:
        writer = _writer(folder, run_dir, images.schema, options)
        with closing(writer):
            for batch in images.batches():
                writer.write(batch)
                models |= dict.fromkeys(pc.unique(batch.rows["model"]).to_pylist())
        if not writer.totals:
            raise UsageError(_nothing(images))
        write_provenance(folder, run_dir, options, models=list(models))
        facts = CardFacts(
            form=options.form,
            job=job,
            models=list(models),
            schema=images.schema,
            totals=_in_order(writer.totals, options),
            is_sandbox=is_sandbox,
            left_out=images.left_out,
            flagged=images.flagged,
        )
        (folder / "README.md").write_text(build_card(facts, writer), encoding="utf-8")
    return Exported(
        dest=dest, cells=selection.selected, splits=facts.totals, left_out=images.left_out, flagged=images.flagged
    )


def _writer(folder: Path, run_dir: Path, schema: pa.Schema, options: ExportOptions) -> DatasetWriter:
    shard_bytes = options.shard_bytes or DEFAULT_SHARD_BYTES
    match options.form:
        case "imagefolder":
            from batchflux.export.imagefolder import ImageFolderWriter

            return ImageFolderWriter(folder, run_dir, schema, link=bool(options.link))
        case "webdataset":
            from batchflux.export.webdataset import WebDatasetWriter

            return WebDatasetWriter(folder, run_dir, schema, shard_bytes=shard_bytes)
        case _:
            from batchflux.export.parquet import ParquetWriter

            return ParquetWriter(folder, run_dir, schema, shard_bytes=shard_bytes)


def _in_order(totals: Mapping[str, SplitTotal], options: ExportOptions) -> dict[str, SplitTotal]:
    """Return the totals in the order that the splits were said in, those that got nothing left out."""
    names = options.splits.shares if options.splits is not None else totals
    return {name: totals[name] for name in names if name in totals}


def _check_dest(run_dir: Path, dest: Path) -> None:
    home, place = run_dir.resolve(), dest.parent.resolve() / dest.name
    if place.is_relative_to(home) and place.relative_to(home).parts[:1] and place.relative_to(home).parts[0] in _OWN:
        raise UsageError(f"{dest}: lies among the run's own files; name a place outside {run_dir}")


def _nothing(images: Images) -> str:
    selection = images.selection
    if images.left_out:
        return (
            f"none of the {images.left_out:,} completed cells has its images on disk; `batchflux run --download-only` "
            "fetches them"
        )
    return f"there is no image to export: {selection.selected:,} of {selection.n_cells:,} cells selected"


def _read_job(run_dir: Path) -> dict[str, Any]:
    try:
        job = yaml.safe_load((run_dir / JOB_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{run_dir / JOB_FILE}: can't be read; put back the one that was there") from error
    return job if isinstance(job, dict) else {}
