"""The starter job of `batchflux init`: a commented spec and a prompt table, four cells, ready for the sandbox."""

import json
import shlex
from pathlib import Path

from batchflux.core.errors import UsageError
from batchflux.io.storage import make_dir, publish_bytes

__all__ = ["write_starter"]

_SPEC = """\
# A batchflux job: every prompt of the table, once for each combination of the values under `grid`.
#   batchflux plan {file}            what it would do and cost
#   batchflux run {file} --sandbox   a rehearsal: no key, no cost
#   batchflux run {file}             for real; needs WAVESPEED_API_KEY in the environment

prompts:
  path: {table}          # .csv .tsv .jsonl or .parquet
  columns:
    prompt: prompt            # which column holds the prompt's text
    id: id                    # optional: names for the rows

grid:                         # 2 prompts x 2 seeds = 4 cells
  seed: [1, 2]
  # guidance_scale: {{start: 2.5, stop: 7.5, num: 3}}
  # aspect_ratio: ["1:1", "16:9"]

params:                       # the same for every request
  aspect_ratio: "3:2"

# reuse: [runs/earlier]       # run directories whose completed cells cost nothing here

run:
  budget: 1.00                # USD for the run's whole life

# output:
#   dir: runs/{stem}          # where results go; this is the default, beside this file
"""
_TABLE = """\
id,prompt
lighthouse,"A lighthouse on a chalk cliff at dusk, its beam crossing low fog, oil painting"
orchard,"An orchard in late snow, one ladder against an apple tree, quiet morning light"
"""


def write_starter(file: Path) -> list[Path]:
    """Write the spec to `file` and its table beside it; returns both. Raises UsageError where one is there already."""
    table = file.with_name(f"{file.stem}-prompts.csv")
    for path in (file, table):
        if path.exists():
            raise UsageError(f"{path} is there already; name another file: batchflux init OTHER.yaml")
    if str(file.parent) not in ("", "."):
        make_dir(file.parent)
    publish_bytes(table, _TABLE.encode())
    publish_bytes(
        file,
        _SPEC.format(
            file=shlex.quote(str(file)), table=json.dumps(table.name, ensure_ascii=False), stem=file.stem
        ).encode(),
    )
    return [file, table]
