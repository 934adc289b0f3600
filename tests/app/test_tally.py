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
        ("warnings", pa.list_(pa.string())),
        ("created_at", pa.timestamp("ms", tz="UTC")),
        ("submitted_at", pa.timestamp("ms", tz="UTC")),
    ]
)
_URLS = st.lists(st.just("u"), max_size=3)
_TIMES = st.none() | st.integers(0, 1000)
_LINES = ["image 1 is of one colour", "image 2 is of one colour", "1 of 2 images arrived", "something else"]
_WEEK_MS, _DAY_MS = 7 * 86_400_000, 86_400_000
_NOW_MS = 3 * _WEEK_MS
# Around the two moments at which what is said of an image changes.
_AGES = st.none() | st.sampled_from([0, _WEEK_MS - _DAY_MS, _WEEK_MS]).flatmap(
    lambda ms: st.sampled_from([ms - 1, ms, ms + 1])
)


def moment(age_ms: int | None) -> datetime | None:
    return None if age_ms is None else datetime.fromtimestamp((_NOW_MS - age_ms) / 1000, UTC)


rows = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["pending", "submitted", "completed", "failed", "unknown"]),
        "outputs": _URLS,
        "files": _URLS,
        "inference_ms": _TIMES,
        "latency_ms": _TIMES,
        "completed_at": _TIMES.map(lambda ms: None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)),
        "error_kind": st.none() | st.sampled_from(["server", "download"]),
        "warnings": st.lists(st.sampled_from(_LINES), max_size=3),
        "created_at": _AGES.map(moment),
        "submitted_at": _AGES.map(moment),
    }
)


@settings(derandomize=True, max_examples=60)
@given(st.lists(st.lists(rows, max_size=6), max_size=6))
def test_sums_are_those_of_all_rows(pieces: list[list[dict[str, Any]]]) -> None:
    """However the cells are cut."""
    tally = Tally(since_ms=500, now_ms=_NOW_MS)
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
    for warned, lines in (("one_colour", _LINES[:2]), ("fewer_images", _LINES[2:3]), ("other", _LINES[3:])):
        assert tally.warnings.get(warned, 0) == len([row for row in cells if set(lines) & set(row["warnings"])])
    left = [
        (max(0, len(row["outputs"]) - len(row["files"])), begun.timestamp() * 1000 + _WEEK_MS - _NOW_MS)
        for row in done
        if (begun := row["created_at"] or row["submitted_at"]) is not None
    ]
    soon = [(images, left_ms) for images, left_ms in left if images and 0 < left_ms <= _DAY_MS]
    assert tally.expired == sum(images for images, left_ms in left if left_ms <= 0)
    assert tally.expiring == sum(images for images, _ in soon)
    if soon:
        assert tally.expires_at_ms == _NOW_MS + round(min(left_ms for _, left_ms in soon))
