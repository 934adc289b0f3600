"""What the journal and its parts cost a cell, from the first to the millionth: our own writer, ordinary facts.

Three facts a cell, sealed as in a run; the baseline is the first tenth, so that a ratio of 1 means a cost that doesn't
grow with what is done already.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.checkpoint import CheckpointWriter
from tests.benchmarks.programs import MODEL, prompt_of
from tests.benchmarks.table import Row

__all__ = ["run"]

_CELLS = 1_000_000
_TENTHS = 10
_BATCH = 100  # cells between two looks whether a seal is due, and between two waits for a flush


def run(scale: float = 1.0) -> list[Row]:
    """Measure; with `scale` 1 in about three minutes."""
    cells = max(2000, round(_CELLS * scale))
    with tempfile.TemporaryDirectory(prefix="batchflux-checkpoint-") as folder:
        tenths = asyncio.run(_write(Path(folder), cells // _TENTHS))
    label = "first tenth"
    rows = [Row(name=f"cells 1 to {cells // _TENTHS:,}", value=tenths[0], unit="ms CPU a cell")]
    for number, cost_ms in enumerate(tenths[1:], start=1):
        first, last = number * (cells // _TENTHS) + 1, (number + 1) * (cells // _TENTHS)
        rows.append(
            Row(
                name=f"cells {first:,} to {last:,}",
                value=cost_ms,
                unit="ms CPU a cell",
                baseline=label,
                baseline_value=tenths[0],
                ratio=cost_ms / tenths[0],
                target="about 1" if number == _TENTHS - 1 else "",
            )
        )
    return rows


async def _write(run_dir: Path, cells_a_tenth: int) -> list[float]:
    costs_ms = []
    async with CheckpointWriter.open(run_dir, "benchmark") as writer:
        for tenth in range(_TENTHS):
            began_s = time.process_time()
            for cell in range(tenth * cells_a_tenth, (tenth + 1) * cells_a_tenth):
                for fact in _facts(cell):
                    writer.record(fact)
                if cell % _BATCH == 0:
                    await writer.flushed()
                    await writer.seal_if_due(time.monotonic())
            costs_ms.append(1000 * (time.process_time() - began_s) / cells_a_tenth)
    return costs_ms


def _facts(cell: int) -> list[Fact]:
    at_ms = 1_790_000_000_000 + cell * 12
    cell_id, prediction_id = f"{cell:032x}", f"{cell:032x}"
    intent = Fact(
        cell_id=cell_id,
        kind=FactKind.INTENT,
        at_ms=at_ms,
        attempt=1,
        status=CellStatus.UNKNOWN,
        attempts=0,
        cost_micro_usd=80_000,
        prompt_id=f"p{cell}",
        model=MODEL,
        body=f'{{"prompt":"{prompt_of(cell)}","seed":1}}',
        price_micro_usd=80_000,
        error_kind="unknown_outcome",
        error="the run ended before the service answered",
    )
    accepted = Fact(
        cell_id=cell_id,
        kind=FactKind.ACCEPTED,
        at_ms=at_ms + 90,
        attempt=1,
        status=CellStatus.SUBMITTED,
        attempts=1,
        cost_micro_usd=80_000,
        prediction_id=prediction_id,
        submitted_at_ms=at_ms,
        created_at_ms=at_ms + 40,
    )
    outcome = Fact(
        cell_id=cell_id,
        kind=FactKind.OUTCOME,
        at_ms=at_ms + 9000,
        attempt=1,
        status=CellStatus.COMPLETED,
        attempts=1,
        cost_micro_usd=80_000,
        prediction_id=prediction_id,
        submitted_at_ms=at_ms,
        created_at_ms=at_ms + 40,
        completed_at_ms=at_ms + 9000,
        latency_ms=9000,
        inference_ms=8700,
        outputs=(f"https://outputs.example/{prediction_id}.png",),
        has_nsfw_contents=(False,),
    )
    return [intent, accepted, outcome]
