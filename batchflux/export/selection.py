"""Which rows of a manifest are exported: streamed in batches, filtered by condition, by picks and by flags.

The manifest is opened once, so that a run that replaces it meanwhile changes nothing here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchflux.core.errors import UsageError
from batchflux.export.options import ExportOptions
from batchflux.export.picks import read_picks
from batchflux.export.where import parse_where
from batchflux.io.manifest import MANIFEST

__all__ = ["OnCells", "Selection"]

OnCells = Callable[[int, int], None]

_ROWS: Final = 500  # a second's worth or so of images, so that progress shows; whole row groups of Parquet


class Selection:
    """The rows of a run's manifest that an export takes. `selected` counts those given so far.

    Raises UsageError for a run without a manifest, and for options that don't fit its columns.
    """

    def __init__(self, run_dir: Path, options: ExportOptions, *, on_cells: OnCells | None = None) -> None:
        path = run_dir / MANIFEST
        if not path.exists():
            raise UsageError(
                f"{run_dir}: there is no {MANIFEST} yet; a run writes it at its end, at a stop, and in between"
            )
        self.options = options
        self.selected = 0
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(
                f"{path}: can't be read as Parquet: {error}; delete it, and batchflux run writes it anew from the "
                "checkpoint"
            ) from error
        self.schema: pa.Schema = self._file.schema_arrow
        self.n_cells: int = self._file.metadata.num_rows
        self._mask = parse_where(options.where, self.schema) if options.where is not None else None
        self._picked = read_picks(options.only) if options.only is not None else None
        self._on_cells = on_cells or (lambda done, total: None)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, in order, some thousand at a time; raises UsageError at the end for picks that are no cell's.

        What a flag of one image means to its cell is the format's own: nothing is dropped for it here.
        """
        left = set(self._picked or ())
        wanted = pa.array(sorted(left), pa.string()) if self._picked is not None else None
        done = 0
        for batch in self._batches():
            table = pa.Table.from_batches([batch])
            done += table.num_rows
            if wanted is not None:
                table = table.filter(pc.is_in(table["cell_id"], value_set=wanted))
                left.difference_update(table["cell_id"].to_pylist())
            if self._mask is not None:
                table = table.filter(self._mask(table))
            self.selected += table.num_rows
            if table.num_rows:
                yield table
            self._on_cells(done, self.n_cells)
        if left:
            some = ", ".join(sorted(left)[:3]) + (", ..." if len(left) > 3 else "")
            raise UsageError(f"{self.options.only}: {len(left):,} of the cells picked are none of this run's: {some}")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # Asked for all at once, the row groups are all fetched at once: a gigabyte for ten million cells.
        for group in range(self._file.num_row_groups):
            yield from self._file.iter_batches(batch_size=_ROWS, row_groups=[group])
