"""No edit ever buys a cell again: after any edits exactly the set difference is submitted, as `plan` said, to the cent.

The oracle expands jobs naively and asks the sandbox's own ledger what was bought.
"""

import copy
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchflux
from batchflux.sandbox import RunningSandbox
from tests.app.drafts import PRICE_USD, Ask, Draft, canonical, without_defaults
from tests.app.edits import EDITS
from tests.app.service import quick_service


@pytest.fixture(scope="module")
def service() -> Iterator[RunningSandbox]:
    """One service without latency for all jobs; what each buys is told apart by when."""
    with quick_service() as running:
        yield running


def _plain() -> Draft:
    rows = [
        {"prompt": 'a lighthouse, "quoted"', "id": "x-0", "note": "one", "number": "0"},
        {"prompt": "NA", "id": "x-1", "note": "", "number": "1"},
        {"prompt": "an orchard in late snow", "id": "x-2", "note": "three", "number": "2"},
        {"prompt": "NA", "id": "x-3", "note": "an equal prompt", "number": "3"},
    ]
    return Draft(rows=rows, axes={"seed": [1, 2]}, params={"aspect_ratio": "3:2"})


def _drawn() -> Draft:
    draft = _plain()
    draft.axes, draft.row_params = {"guidance_scale": [2.5, 3.5]}, ["aspect_ratio"]
    for row, ratio in zip(draft.rows, ["16:9", "", "1:1", ""], strict=True):
        row["aspect_ratio"] = ratio
    return draft


def _per_row() -> Draft:
    draft = _plain()
    draft.axes = {"seed": {"random": 2, "key": 7, "per_row": True}}
    return draft


BASES = {"plain": _plain, "drawn": _drawn, "per_row": _per_row}


class Customer:
    """Runs a draft, again after every edit, and holds what it should have bought so far."""

    def __init__(self, service: RunningSandbox, root: Path) -> None:
        self._service = service
        self._root = root
        self._bought: Counter[Ask] = Counter()
        self._where: Path | None = None
        self._seen = {record.id for record in service.behaviour.everything()}

    def run(self, draft: Draft) -> None:
        """Plan and run a draft; both must agree with the oracle."""
        path = draft.write(self._root)
        where = path.parent / draft.run_dir
        if self._where not in (None, where):
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(self._where), where)
        self._where = where
        asks = draft.asks()
        wanted = asks - self._bought
        kept = asks & self._bought
        job = batchflux.load_job(path, {"api.base_url": self._service.base_url})
        plan = batchflux.plan(job)
        images = sum(int(json.loads(body).get("num_images", 1)) * count for (_, body, _), count in wanted.items())
        assert (plan.cells, plan.kept, plan.new) == (asks.total(), kept.total(), wanted.total())
        assert plan.retired == self._bought.total() - kept.total()
        assert (plan.to_pay, plan.images, plan.done) == (wanted.total(), images, kept.total())
        assert plan.cost_usd is not None
        assert Decimal(str(round(plan.cost_usd, 6))) == images * PRICE_USD
        result = batchflux.run(job)
        assert result.exit_status == 0
        assert Decimal(str(round(result.spent_now_usd, 6))) == images * PRICE_USD
        self._bought |= asks
        assert self._submitted(wanted) == _seedless(wanted)
        frame = batchflux.read_manifest(where)
        assert len(frame) == asks.total()
        assert set(frame["status"]) == {"completed"}
        assert frame["cell_id"].is_unique

    def _submitted(self, wanted: Counter[Ask]) -> Counter[tuple[str, str]]:
        """Return what was submitted since the last look, without the seeds of requests whose seed nobody stated."""
        stated = {(model, body) for model, body, source in wanted if not source}
        found: Counter[tuple[str, str]] = Counter()
        for record in self._service.behaviour.everything():
            if record.id in self._seen:
                continue
            self._seen.add(record.id)
            body = without_defaults(record.parsed_inputs(), model=record.model)
            bare = canonical({name: value for name, value in body.items() if name != "seed"})
            found[record.model, canonical(body) if (record.model, canonical(body)) in stated else bare] += 1
        return found


def _seedless(asks: Counter[Ask]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for (model, body, _), count in asks.items():
        found[model, body] += count
    return found


@pytest.mark.fault("I07", "I11")
@pytest.mark.parametrize("name", EDITS)
def test_each_edit_alone(service: RunningSandbox, tmp_path: Path, name: str) -> None:
    """A job is run, edited once and run again: only what the edit added is bought."""
    draft = _plain()
    customer = Customer(service, tmp_path)
    customer.run(draft)
    EDITS[name](draft, random.Random(1))
    customer.run(draft)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["drawn", "per_row"])
@pytest.mark.parametrize("name", EDITS)
def test_each_edit_of_other_jobs(service: RunningSandbox, tmp_path: Path, name: str, base: str) -> None:
    """The same for jobs whose seeds are drawn, by cell and by row."""
    draft = BASES[base]()
    customer = Customer(service, tmp_path)
    customer.run(draft)
    EDITS[name](draft, random.Random(2))
    customer.run(draft)


def _run_sequence(service: RunningSandbox, base: str, names: list[str], dice: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draft = BASES[base]()
        customer = Customer(service, Path(folder))
        customer.run(draft)
        for name in names:
            edited = copy.deepcopy(draft)
            EDITS[name](edited, dice)
            if 0 < edited.asks().total() <= 200:
                draft = edited
                customer.run(draft)


_SEQUENCES = {
    "base": st.sampled_from(sorted(BASES)),
    "names": st.lists(st.sampled_from(sorted(EDITS)), min_size=2, max_size=6),
    "dice": st.randoms(use_true_random=False),
}


@pytest.mark.fault("I07")
@settings(max_examples=8, derandomize=True)
@given(**_SEQUENCES)
def test_edits_in_sequence(service: RunningSandbox, base: str, names: list[str], dice: random.Random) -> None:
    """Edits upon edits, with a run after each, buy every request once and only once."""
    _run_sequence(service, base, names, dice)


@pytest.mark.slow
@settings(max_examples=150, derandomize=True)
@given(**_SEQUENCES)
def test_many_edits_in_sequence(service: RunningSandbox, base: str, names: list[str], dice: random.Random) -> None:
    """The same, for longer."""
    _run_sequence(service, base, names, dice)


def test_another_working_directory(service: RunningSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job by a relative path from elsewhere is the same job, in the same run directory."""
    path = _plain().write(tmp_path / "home")
    customer = Customer(service, tmp_path / "home")
    customer.run(_plain())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job = batchflux.load_job(os.path.relpath(path), {"api.base_url": service.base_url})
    plan = batchflux.plan(job)
    assert (plan.kept, plan.new, plan.to_pay) == (8, 0, 0)


@pytest.mark.parametrize("key", [0, 5])
def test_growing_a_sample_keeps_what_was_there(service: RunningSandbox, tmp_path: Path, key: int) -> None:
    """A larger sample holds the smaller one, wherever its rows stand in the table."""
    draft = _plain()
    draft.rows = [{"prompt": f"kite {number}", "number": str(number)} for number in range(9)]
    path = draft.write(tmp_path)
    draft.rows.reverse()
    sizes = {}
    for n in (2, 5, 9):
        job = batchflux.load_job(path, {"api.base_url": service.base_url, "prompts.sample": {"n": n, "key": key}})
        sizes[n] = batchflux.plan(job).to_pay
        assert batchflux.run(job).exit_status == 0
        draft.write(tmp_path)
    assert sizes == {2: 4, 5: 6, 9: 8}
