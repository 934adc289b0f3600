"""Makes the README's picture, a contact sheet of the quickstart, from the images of a real sandbox run.

Run as `python -m tests.docs.picture RUN_DIR PNG` after `batchflux run jobs/quickstart.yaml --sandbox`.
"""

import sys
from pathlib import Path

from PIL import Image

import batchflux

__all__ = ["contact_sheet"]

_TILE = (216, 144)  # 3:2, as the job asks
_GAP = 6
_PAPER = (250, 249, 246)


def contact_sheet(run_dir: Path) -> Image.Image:
    """Return the run's images as a sheet: a row a prompt, a column each seed and guidance, in the manifest's order."""
    cells = batchflux.read_manifest(run_dir)
    columns = cells.groupby(["seed", "guidance_scale"]).ngroup()
    rows = cells.groupby("prompt_id", sort=False).ngroup()
    width, height = _TILE
    size = ((columns.max() + 1) * (width + _GAP) + _GAP, (rows.max() + 1) * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    for files, column, row in zip(cells["files"], columns, rows, strict=True):
        with Image.open(run_dir / files[0]) as image:
            tile = image.convert("RGB").resize(_TILE, Image.Resampling.LANCZOS)
        sheet.paste(tile, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


if __name__ == "__main__":
    # Few colours keep the file small in every clone; the eye doesn't miss the rest.
    contact_sheet(Path(sys.argv[1])).quantize(240, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
