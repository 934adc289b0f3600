"""One job's life against a sandbox: run, killed, run again, and held against the service's own ledger at the end.

The ledger is a file that the sandbox writes before it answers; the runs are other processes, so what kills them can't
touch it.
"""

import hashlib
import json
import shutil
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

import batchflux
from batchflux.io.images import inspect_image
from batchflux.sandbox import FaultScript, Latency, RunningSandbox, SandboxConfig, SandboxThread
from batchflux.sandbox.faults import NO_FAULTS
from tests.kills.points import NO_INTENT, Strike
from tests.kills.victim import HUNG, End, Victims

__all__ = ["PRICE_USD", "Body", "Life", "Plan"]

Body = tuple[str, int]  # prompt and seed

PRICE_USD = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What kind of job a life has. `failures` maps `data.code` to its share of the predictions.

    `settle` is longer than the sandbox takes for a request that it has, on a busy machine; the harness waits for that
    besides.
    """

    rows: int = 8
    seeds: int = 2
    download: bool = False
    inputs: bool = True
    latency_s: float = 0.005
    settle: str = "250ms"
    failures: tuple[tuple[int, float], ...] = ()
    faults: FaultScript = NO_FAULTS

    @property
    def bodies(self) -> set[Body]:
        """Every cell, as the service knows it."""
        return {(f"prompt {row} of a life", seed) for row in range(self.rows) for seed in range(self.seeds)}


class Life:
    """A job, its run directory and its sandbox; `begun` is a context manager that makes them."""

    def __init__(
        self, folder: Path, plan: Plan, sandbox: RunningSandbox, victims: Victims, *, service_dir: Path
    ) -> None:
        self.plan, self.sandbox, self.victims = plan, sandbox, victims
        self.run_dir = folder / "run"
        self._job = folder / "job.yaml"
        self._ledger = service_dir / "ledger.jsonl"
        rows = sorted({prompt for prompt, _ in plan.bodies})
        (folder / "prompts.csv").write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in rows))
        self._job.write_text(
            f"api: {{base_url: '{sandbox.base_url}', settle: {plan.settle}}}\n"
            "prompts: {path: prompts.csv}\n"
            f"grid: {{seed: {list(range(plan.seeds))}}}\n"
            f"output: {{dir: run, download: {str(plan.download).lower()}, report: false}}\n"
        )

    @classmethod
    @contextmanager
    def begun(cls, folder: Path, plan: Plan, victims: Victims, *, service_dir: Path | None = None) -> Iterator[Self]:
        """Start the sandbox and write the job; `service_dir` is for a service whose disk is another one."""
        folder.mkdir(parents=True)
        service_dir = folder / "service" if service_dir is None else service_dir
        config = SandboxConfig(
            latency=Latency(median_s=plan.latency_s, sigma=0.3 if plan.latency_s else 0.0),
            state_dir=service_dir,
            history_inputs="on" if plan.inputs else "absent",
            failures=dict(plan.failures),
            image_size=64,
            faults=plan.faults,
        )
        with SandboxThread(config) as sandbox:
            yield cls(folder, plan, sandbox, victims, service_dir=service_dir)

    def run(self, strike: Strike | None = None, *options: str, **knobs: Any) -> End:
        """Run the job once, and return when the service has done with whatever it was sent."""
        end = self.victims.run(
            ["run", str(self._job), "--json", "--quiet", *options], run_dir=self.run_dir, strike=strike, **knobs
        )
        assert end.status not in (NO_INTENT, HUNG), end
        if (left := self.run_dir.with_name("cut")).exists():
            shutil.rmtree(self.run_dir, ignore_errors=True)  # cut before it was even made
            left.rename(self.run_dir)
        with urllib.request.urlopen(f"{self.sandbox.origin}/sandbox/stats") as answer:  # noqa: S310 - our own sandbox
            answer.read()
        return end

    def records(self) -> list[dict[str, Any]]:
        """Every prediction that the service ever created, oldest first."""
        return [json.loads(line) for line in self._ledger.read_text().splitlines()]

    def created(self) -> Counter[Body]:
        """How often the service made each cell; predictions that it failed itself, and refunds, are left out."""
        return Counter(body_of(record) for record in self.records() if record["code"] == 0)

    def unanswered(self) -> int:
        """How many submissions the durable facts know no answer to: the most that may be unknown."""
        return int((batchflux.read_checkpoint(self.run_dir)["status"] == "unknown").sum())

    def live(self, strikes: Sequence[Strike], *, must_strike: bool = True) -> int:
        """Run once a strike, each run killed by its own, and return how many were."""
        kills = 0
        for strike in strikes:
            end = self.run(strike)
            if must_strike:
                assert end.is_killed, f"{strike} struck nothing: {end}"
            kills += end.is_killed
            self.check_never_twice()
        return kills

    # ------------------------------------------------------------------------------------------ what must hold

    def check_never_twice(self) -> None:
        """At any moment: no cell was made twice, and nothing was made that the job doesn't have."""
        created = self.created()
        assert created.keys() <= self.plan.bodies
        assert max(created.values(), default=0) <= 1, [body for body, times in created.items() if times > 1]

    def accept_torn_ends(self) -> None:
        """Without inputs no history tells what a torn end held, and the run waits for the user: who knows, as here,
        that only what was not flushed is torn, moves it out of the way."""
        if not self.plan.inputs and self.run_dir.is_dir():
            self.run(None, "--limit", "0")  # sets it aside
            for path in (self.run_dir / "journal").glob("torn-*"):
                path.unlink()

    def finish(self) -> End:
        """Run undisturbed and hold everything against the ledger; then again, which must be silent."""
        self.accept_torn_ends()
        end = self.run()
        self.check_never_twice()
        if self.plan.inputs:
            self.check_whole(end)
        else:
            self.check_held(end)
        if self.plan.inputs:
            before = self.records()
            again = self.run()
            assert (again.status, self.records()) == (0, before), again.err
            assert not {"send submit", "send history"} & again.passages.keys()
            self.check_whole(again)
        return end

    def check_whole(self, end: End) -> None:
        """Every cell completed, made exactly once, and in the manifest with its own prediction and its own images."""
        cells = len(self.plan.bodies)
        assert end.status == 0, (end.status, end.err)
        assert self.created() == dict.fromkeys(self.plan.bodies, 1)
        summary = end.summary
        assert (summary["completed"], summary["cells"], summary["unknown"], summary["failed"]) == (cells, cells, 0, 0)
        assert summary["cost_usd"] == round(cells * PRICE_USD, 6)
        manifest = self.manifest()
        assert (manifest["status"] == "completed").all()
        assert list(manifest["cost_usd"].unique()) == [PRICE_USD]
        made = {record["id"]: body_of(record) for record in self.records() if record["code"] == 0}
        bodies = zip(manifest["prompt"], manifest["seed"].astype(int), strict=True)
        assert dict(zip(manifest["prediction_id"], bodies, strict=True)) == made
        if self.plan.download:
            self.check_images(manifest)
        self.check_tidy()

    def check_held(self, end: End) -> None:
        """Without inputs in the history: no cell lost, none twice; what can't be told is held, named and counted."""
        manifest = self.manifest()
        assert set(manifest["status"]) <= {"completed", "unknown"}
        held = manifest[manifest["status"] == "unknown"]
        assert end.status == (1 if len(held) else 0), end.err
        assert (end.summary["unknown"], end.summary["completed"]) == (len(held), len(manifest) - len(held))
        assert end.summary["cost_usd"] == round(len(manifest) * PRICE_USD, 6)
        made = {record["id"]: body_of(record) for record in self.records() if record["code"] == 0}
        for record in manifest[manifest["status"] == "completed"].to_dict("records"):
            assert made.pop(record["prediction_id"]) == (record["prompt"], record["seed"])
        # What is left over in the ledger belongs to held cells, whose words name it, or the first five of it.
        assert set(made.values()) <= set(zip(held["prompt"], held["seed"].astype(int), strict=True))
        assert all(any(name in words or " more" in words for words in held["error"]) for name in made)
        self.check_tidy()

    def check_images(self, manifest: pd.DataFrame) -> None:
        """Every cell has its image on the disk, whole and as hashed, and nothing else lies there."""
        files = [self.run_dir / name for names in manifest["files"] for name in names]
        hashes = [each for each_cell in manifest["sha256"] for each in each_cell]
        assert len(files) == len(set(files)) == len(manifest)
        for path, wanted in zip(files, hashes, strict=True):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted
            inspect_image(path)
        assert {path for path in (self.run_dir / "images").rglob("*") if path.is_file()} == set(files)

    def check_tidy(self) -> None:
        """Nothing half-done lies about, and the state reads as the manifest says."""
        assert not list(self.run_dir.rglob(".tmp-*"))
        assert not list(self.run_dir.rglob("damaged-*"))
        journals = [path.name for path in (self.run_dir / "journal").iterdir()]
        assert len([name for name in journals if not name.startswith("looked-up-")]) == 1, journals
        state = batchflux.read_checkpoint(self.run_dir).set_index("cell_id")["status"].to_dict()
        assert state == self.manifest().set_index("cell_id")["status"].to_dict()

    def manifest(self) -> pd.DataFrame:
        """The manifest, one row a cell of the job."""
        manifest = batchflux.read_manifest(self.run_dir)
        bodies = list(zip(manifest["prompt"], manifest["seed"].astype(int), strict=True))
        assert len(bodies) == len(self.plan.bodies)
        assert set(bodies) == self.plan.bodies
        return manifest


def body_of(record: dict[str, Any]) -> Body:
    """Which cell a prediction of the ledger is."""
    inputs = json.loads(record["inputs"])
    return inputs["prompt"], inputs["seed"]
