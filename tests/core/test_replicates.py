"""Which cells are drawn to be submitted twice, and what is said of the pairs."""

import pyarrow as pa
import pytest

from batchflux.core.replicates import PAIR_SCHEMA, n_asked, sum_up
from batchflux.core.sanity import replicate_warning
from batchflux.core.units import SomeCells


@pytest.mark.parametrize(
    ("cells", "share", "of", "n"),
    [(5, None, 10, 5), (20, None, 10, 10), (0, None, 10, 0), (None, 0.01, 6528, 65), (None, 0.01, 10, 1),
     (None, 1.0, 7, 7), (None, 0.0, 10, 0), (None, 0.5, 0, 0)],
)  # fmt: skip
def test_a_number_or_a_share(cells: int | None, share: float | None, of: int, n: int) -> None:
    """A share is rounded, but one cell at least where any is asked for; a number is never more than there are."""
    assert n_asked(SomeCells(cells=cells, share=share), of) == n


def test_the_worst_image_tells_of_a_cell() -> None:
    """Each cell counts once; one of which an image differs is different, whatever became of the others."""
    said: list[tuple[str, str, float | None]] = [
        ("a", "same_bytes", 0.0),
        ("a", "different", 3.0),
        ("b", "same_pixels", 0.0),
        ("b", "same_bytes", 0.0),
    ]
    said += [("c", "not_compared", None), ("d", "same_bytes", 0.0), ("e", "different", None)]
    rows = [{"cell_id": cell, "verdict": verdict, "mean_difference": how} for cell, verdict, how in said]
    found = sum_up(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), cost_usd=0.4)
    assert (found.cells, found.same_bytes, found.same_pixels, found.different, found.not_compared) == (5, 1, 2, 2, 1)
    assert (found.least_difference, found.greatest_difference) == (3.0, 3.0)
    assert found.lines() == [
        "of 5 cells submitted twice, 2 gave the same pixels (1 the same bytes) and 2 another image; that cost $0.40",
        "  mean pixel difference 3 of 255",
        "  1 could not be compared: replicates.parquet says why",
    ]


def test_the_warning_says_how_far_apart_the_worst_are() -> None:
    """Of several images the one that differs most."""
    assert replicate_warning([0.5, 12.345]) == (
        "the same seed gave another image when it was submitted again (mean pixel difference 12.3 of 255)"
    )
