"""Runs that follow from a run: picked and flagged cells drawn anew, drawn cells submitted a second time.

Says which run when, under the first one's lock and on its budget. How a job is run is the caller's `run_here`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from batchflux.app.job import Job
from batchflux.app.pairs import compare_pairs
from batchflux.app.prepare import RunOptions
from batchflux.app.redo import build_redo, flagged_cells
from batchflux.app.replicate import build_replicates
from batchflux.app.resume import Known
from batchflux.app.summary import Result
from batchflux.core.errors import UsageError
from batchflux.engine.ports import StopReason
from batchflux.io.lock import RunLock

__all__ = ["draw_anew", "less", "reseed", "submit_twice"]

RunHere = Callable[[Job, RunOptions], Awaitable[Result]]


async def draw_anew(job: Job, picked: Collection[str], options: RunOptions, run_here: RunHere, *, of: Path) -> Result:
    """Run the job that draws some cells of the run in `of` anew; `job` is whose budget bears it."""
    with TemporaryDirectory(prefix="batchflux-") as folder:
        redo = await asyncio.to_thread(build_redo, job, of, picked, folder=Path(folder))
        # Both are on one budget, so only one of them may spend at a time.
        with RunLock(job.run_dir) if redo.run_dir != job.run_dir else nullcontext():
            return await run_here(redo, replace(options, redo=None))


async def reseed(job: Job, result: Result, options: RunOptions, run_here: RunHere) -> Result:
    """Draw flagged cells anew, and those that come flagged again, as often as the spec says."""
    run = job.spec.run
    is_stopped = any(each.stop is not None for each in (result, *result.replicated))
    if run.on_nsfw != "reseed" or is_stopped or options.download_only or options.limit is not None:
        return result
    places = [job.run_dir]
    spent_usd = result.spent_now_usd + sum(each.spent_now_usd for each in result.replicated)
    for number in range(run.max_redo):
        flagged = [(place, each) for place in places for each in flagged_cells(place, round_number=number)]
        places = []
        for place, picked in flagged:
            try:
                redone = await draw_anew(job, picked, less(options, _micro(spent_usd)), run_here, of=place)
            except UsageError as error:  # a no of the user's is one; what was run before it has its result all the same
                stop = StopReason(kind="asked", message=f"flagged cells were not drawn anew: {error}")
                return replace(result, stop=stop, exit_status=max(result.exit_status, 3))
            result, spent_usd = result.with_redone(redone), spent_usd + redone.spent_now_usd
            places.append(redone.run_dir)
            if redone.stop is not None:
                return result
    return result


async def submit_twice(
    job: Job, known: Known, options: RunOptions, run_here: RunHere
) -> tuple[tuple[Result, ...], StopReason | None]:
    """Submit drawn cells of a run that is through a second time, and hold the images against each other.

    Returns how that ended, and why not all of it was done, where nothing else says so. `options` have the budget left.
    """
    if options.limit is not None or not (job.spec.run.replicate.is_asked or options.download_only):
        return (), None
    again: list[Result] = []
    stop = None
    with TemporaryDirectory(prefix="batchflux-") as folder:
        adds = not options.download_only
        for each in await asyncio.to_thread(build_replicates, job, known, folder=Path(folder), adds=adds):
            try:
                again.append(await run_here(each, options))
            except UsageError as error:  # a no of the user's is one, as above
                stop = StopReason(kind="asked", message=f"cells were not submitted a second time: {error}")
                break
            options = less(options, _micro(again[-1].spent_now_usd))
            if again[-1].stop is not None:
                break
    if again:
        await asyncio.to_thread(compare_pairs, job, known)
    return tuple(again), stop


def less(options: RunOptions, spent_micro_usd: int) -> RunOptions:
    """Return the same options with what was spent taken off their budget."""
    left = options.budget_micro_usd
    return options if left is None else replace(options, budget_micro_usd=max(0, left - spent_micro_usd))


def _micro(amount_usd: float) -> int:
    return round(amount_usd * 1_000_000)
