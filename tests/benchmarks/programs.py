"""What batchflux is held against, each run as a fresh process: `python -m tests.benchmarks.programs NAME ...`.

Prints one line of JSON: cells, seconds and CPU seconds from the first submission to the last answer, imports and
set-up left out, so that a start costs no program anything.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS"]

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"


def prompt_of(cell: int) -> str:
    """Return a prompt of an ordinary length, another for each cell."""
    return f"a photograph of street number {cell} in the early morning light of an autumn day"


def inputs_of(cell: int) -> dict[str, Any]:
    """Return a request as batchflux sends it."""
    return {"prompt": prompt_of(cell), "seed": 1}


def bare(given: argparse.Namespace) -> None:
    """Submit and query with aiohttp from so many workers, and keep no books; connections are kept."""
    asyncio.run(_bare(given, force_close=False))


def bare_closing(given: argparse.Namespace) -> None:
    """Do the same with a connection of its own for each submission."""
    asyncio.run(_bare(given, force_close=True))


async def _bare(given: argparse.Namespace, *, force_close: bool) -> None:
    import aiohttp

    context = ssl.create_default_context(cafile=given.ca_file)
    cells = iter(range(given.cells))
    headers = {"Authorization": "Bearer sandbox"}
    posting = aiohttp.TCPConnector(limit=0, force_close=force_close, ssl=context)
    asking = aiohttp.TCPConnector(limit=0, ssl=context)

    async def work(post: aiohttp.ClientSession, get: aiohttp.ClientSession) -> None:
        for cell in cells:
            async with post.post(f"{given.base_url}/{MODEL}", json=inputs_of(cell), headers=headers) as answer:
                found = (await answer.json())["data"]["id"]
            async with get.get(f"{given.base_url}/predictions/{found}/result", headers=headers) as answer:
                assert (await answer.json())["data"]["status"] == "completed"

    async with aiohttp.ClientSession(connector=posting) as post, aiohttp.ClientSession(connector=asking) as get:
        clock = _Clock()
        async with asyncio.TaskGroup() as group:
            for _ in range(given.in_flight):
                group.create_task(work(post, get if force_close else post))
        clock.tell(given.cells)


def naive(given: argparse.Namespace) -> None:
    """Do what people write today: a DataFrame, a semaphore, and the whole status file written every 50 results."""
    import aiohttp
    import pandas as pd

    frame = pd.DataFrame({"prompt": [prompt_of(cell) for cell in range(given.cells)]})
    frame["status"] = "pending"
    frame["prediction_id"] = ""
    frame["url"] = ""
    path = Path(given.folder) / "status.csv"

    async def generate(session: aiohttp.ClientSession, room: asyncio.Semaphore, cell: int) -> int:
        async with room:
            body = {"prompt": frame.at[cell, "prompt"], "seed": 1}
            async with session.post(f"{given.base_url}/{MODEL}", json=body) as answer:
                found = (await answer.json())["data"]["id"]
            while True:
                async with session.get(f"{given.base_url}/predictions/{found}/result") as answer:
                    data = (await answer.json())["data"]
                if data["status"] == "completed":
                    break
                await asyncio.sleep(1)
        frame.at[cell, "status"] = "completed"
        frame.at[cell, "prediction_id"] = found
        frame.at[cell, "url"] = data["outputs"][0]
        return cell

    async def main() -> None:
        room = asyncio.Semaphore(given.in_flight)
        headers = {"Authorization": "Bearer sandbox"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            clock = _Clock()
            tasks = [generate(session, room, cell) for cell in range(given.cells)]
            for done, task in enumerate(asyncio.as_completed(tasks), start=1):
                await task
                if done % 50 == 0:
                    frame.to_csv(path, index=False)
            frame.to_csv(path, index=False)
            clock.tell(given.cells)

    asyncio.run(main())


def sdk(given: argparse.Namespace) -> None:
    """Use the service's official client in a pool of threads, its interval between looks set to nothing."""
    import wavespeed

    client = wavespeed.Client(api_key="sandbox", base_url=given.base_url.removesuffix("/api/v3"))

    def generate(cell: int) -> None:
        result = client.run(MODEL, inputs_of(cell), poll_interval=0.001, timeout=60)
        assert result["outputs"]

    with ThreadPoolExecutor(max_workers=given.in_flight) as pool:
        clock = _Clock()
        for _ in pool.map(generate, range(given.cells)):
            pass
        clock.tell(given.cells)


class _Clock:
    """Wall and CPU time from where it is made."""

    def __init__(self) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), time.process_time()

    def tell(self, cells: int) -> None:
        """Print what has passed."""
        seconds, cpu_s = time.perf_counter() - self._began_s, time.process_time() - self._cpu_s
        sys.stdout.write(json.dumps({"cells": cells, "seconds": seconds, "cpu_s": cpu_s}) + "\n")


PROGRAMS: dict[str, Callable[[argparse.Namespace], None]] = {
    "bare": bare,
    "bare-closing": bare_closing,
    "naive": naive,
    "sdk": sdk,
}


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("base_url")
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--folder", default=".")
    parser.add_argument("--ca-file")
    given = parser.parse_args()
    PROGRAMS[given.program](given)


if __name__ == "__main__":
    _main()
