"""What the benchmarks of scale measure on: jobs of any size, and run directories as our own writers leave them."""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from batchflux.app.job import Job, load_job
from batchflux.app.rundir import RunIdentity, freeze_job
from batchflux.core.identity import Key, cell_id
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.checkpoint import CheckpointWriter

PRICE_MICRO_USD = 80_000


def make_job(folder: Path, *, rows: int, seeds: int, name: str = "scale", port: int = 9) -> Path:
    """Write a job of rows × seeds whose service is a loopback port, with prompts of 60 to 100 characters."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{name}.csv"
    with table.open("w", encoding="utf-8") as file:
        file.write("key,caption\n")
        for row in range(rows):
            file.write(f"r{row:07},a photograph of street number {row} in the early morning light of an autumn day\n")
    job = folder / f"{name}.yaml"
    job.write_text(
        f"""
name: {name}
api: {{base_url: "http://127.0.0.1:{port}/api/v3"}}
prompts: {{path: {table.name}, columns: {{prompt: caption, id: key}}}}
grid: {{seed: {{count: {seeds}}}}}
run: {{budget: 100000000, price: 0.08}}
output: {{dir: runs/{name}, download: false}}
"""
    )
    return job


def finish_cells(job_file: Path, *, cells: int) -> Job:
    """Write what a run leaves that completed the first cells of a job: an intent, an id and an outcome of each."""
    job = load_job(job_file)
    identity = RunIdentity.open(job.run_dir, origin=job.spec.api.origin)
    job = freeze_job(job)
    asyncio.run(_record(job, identity, cells=cells))
    return job


async def _record(job: Job, identity: RunIdentity, *, cells: int) -> None:
    async with CheckpointWriter.open(job.run_dir, identity.run_id) as writer:
        for number, (_, facts) in enumerate(islice(lives(job), cells)):
            for fact in facts:
                writer.record(fact)
            if number % 1000 == 999:
                await writer.seal_if_due(0.0)


def lives(job: Job) -> Iterator[tuple[int, tuple[Fact, Fact, Fact]]]:
    """Yield each cell of a job, by its index, with the facts of a life in which nothing went wrong."""
    at_ms = time.time_ns() // 1_000_000 - 3_600_000
    model = job.recipe.models[0]
    for piece in job.grid.slices():
        for index, key in zip(piece.indexes.tolist(), piece.keys.tolist(), strict=True):
            name = cell_id(Key(*key))
            prediction, at_ms = f"{name[:8]}{index:024}", at_ms + 1
            row, seed = divmod(index, job.grid.n_combinations)
            body = json.dumps({"prompt": job.rows.part(row).words["caption"], "seed": seed})
            facts = (
                Fact(
                    cell_id=name,
                    kind=FactKind.INTENT,
                    at_ms=at_ms,
                    attempt=1,
                    status=CellStatus.UNKNOWN,
                    cost_micro_usd=PRICE_MICRO_USD,
                    price_micro_usd=PRICE_MICRO_USD,
                    prompt_id=f"r{row:07}",
                    model=model,
                    body=body,
                ),
                Fact(
                    cell_id=name,
                    kind=FactKind.ACCEPTED,
                    at_ms=at_ms + 50,
                    attempt=1,
                    attempts=1,
                    status=CellStatus.SUBMITTED,
                    cost_micro_usd=PRICE_MICRO_USD,
                    prediction_id=prediction,
                    submitted_at_ms=at_ms,
                    created_at_ms=at_ms + 20,
                ),
                Fact(
                    cell_id=name,
                    kind=FactKind.OUTCOME,
                    at_ms=at_ms + 2050,
                    attempt=1,
                    attempts=1,
                    status=CellStatus.COMPLETED,
                    cost_micro_usd=PRICE_MICRO_USD,
                    prediction_id=prediction,
                    submitted_at_ms=at_ms,
                    created_at_ms=at_ms + 20,
                    completed_at_ms=at_ms + 2050,
                    latency_ms=2050,
                    inference_ms=1900,
                    outputs=(f"https://images.example/{prediction}/1.png",),
                    has_nsfw_contents=(False,),
                ),
            )
            yield index, facts
