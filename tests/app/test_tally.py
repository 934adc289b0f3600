"""What became of cells, added up in pieces: the same as of all at once, and exact."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.app.tally import Tally

SCHEMA = pa.schema(
    [
        ("status", pa.string()),
        ("outputs", pa.list_(pa.string())),
        ("files", pa.list_(pa.string())),
        ("inference_ms", pa.int64()),
        ("latency_ms", pa.int64()),
        ("completed_at", pa.timestamp("ms", tz="UTC")),
        ("error_kind", pa.string()),
    ]
)
_URLS = st.lists(st.just("u"), max_size=3)
_TIMES = st.none() | st.integers(0, 1000)

rows = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["pending", "submitted", "completed", "failed", "unknown"]),
        "outputs": _URLS,
        "files": _URLS,
        "inference_ms": _TIMES,
        "latency_ms": _TIMES,
        "completed_at": _TIMES.map(lambda ms: None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)),
        "error_kind": st.none() | st.sampled_from(["server", "download"]),
    }
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.lists(rows, max_size=6), max_size=6))
def test_sums_are_those_of_all_rows(pieces: list[list[dict[str, Any]]]) -> None:
    """However the cells are cut."""
    tally = Tally(since_ms=500)
    for piece in pieces:
        tally.add(pa.Table.from_pylist(piece, schema=SCHEMA))
    cells = [row for piece in pieces for row in piece]
    done = [row for row in cells if row["status"] == "completed"]
    late = [row for row in cells if row["completed_at"] is not None and row["completed_at"].timestamp() >= 0.5]
    assert tally.images == sum(len(row["outputs"]) for row in done)
    assert tally.files == sum(len(row["files"]) for row in done)
    assert tally.images_since == sum(len(row["outputs"]) for row in late)
    assert tally.completed_since == len(late)
    if late:
        assert tally.first_since_ms == round(min(row["completed_at"].timestamp() for row in late) * 1000)
    for kind in ("server", "download"):
        said = [row for row in cells if row["error_kind"] == kind and row["status"] != "pending"]
        assert tally.errors.get(kind, 0) == len(said)
    times = [row["inference_ms"] for row in done if row["inference_ms"] is not None]
    for share in (0.5, 0.95):
        found = tally.inference_ms.quantile(share)
        assert found == (pytest.approx(float(np.quantile(times, share))) if times else None)
