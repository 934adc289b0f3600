"""`verify --account`: the books of a real run against the history and the billing of a sandbox with its own ledger."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import batchflux
from batchflux.app.run import RunOptions
from batchflux.app.verify import Verification, verify_run
from batchflux.core.errors import UsageError
from batchflux.core.history import rfc3339
from batchflux.io.lock import RunLock
from batchflux.sandbox import FaultRule, RunningSandbox, SandboxThread
from tests.app.verified import CELLS, config, run_job
from tests.canary import CANARY

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"
HOUR_MS = 3_600_000

pytestmark = pytest.mark.usefixtures("key")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a key for the sandbox, which takes any."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)


def buy(sandbox: RunningSandbox, prompt: str = "somebody else's", model: str = MODEL) -> str:
    """Make a prediction behind the run's back and return its id."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{sandbox.base_url}/{model}",
        data=json.dumps({"prompt": prompt}).encode(),
        headers={"Authorization": "Bearer x"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return str(json.load(answer)["data"]["id"])


def checked(result: batchflux.Result, **options: Any) -> Verification:
    """Verify a run with its account."""
    return verify_run(result.run_dir, account=True, **options)


def only(found: Verification, *words: str) -> None:
    """Hold that there is one problem, which has these words."""
    (line,) = found.problems
    assert all(word in line for word in words), line
    assert found.exit_status == 1


def charge(name: str, *, price: float = 0.08, key: str = "row", kind: str = "deduct", at_ms: int) -> dict[str, Any]:
    """Return a row of the billing."""
    prediction = {"uuid": name, "model_uuid": MODEL, "status": "completed"}
    return {"uuid": key, "billing_type": kind, "price": price, "created_at": rfc3339(at_ms), "prediction": prediction}


def test_books_that_agree(tmp_path: Path) -> None:
    """Failures refunded, moderation kept, answers lost and found: every cent on both sides is the same."""
    rules = (
        FaultRule(on="submit", do="fail", code=5003, at=frozenset({1, 6})),
        FaultRule(on="submit", do="fail", code=1200, at=frozenset({3})),
        FaultRule(on="submit", do="close", when="after", at=frozenset({8})),
        FaultRule(on="submit", do="status", status=502, when="before", at=frozenset({10})),
    )
    with SandboxThread(config(*rules, refund_after_s=0.0)) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        found = checked(result)
    assert (found.problems, found.notes) == ((), ())
    assert found.account is not None
    assert (found.account.predictions, found.account.orphans) == (CELLS + 2, ())
    assert found.account.books_usd == pytest.approx(CELLS * 0.08)
    assert found.account.charged_usd == pytest.approx((CELLS + 2) * 0.08)
    assert found.account.refunded_usd == pytest.approx(2 * 0.08)
    assert f"  account: {CELLS + 2} predictions, $0.96 in the books; the account charged $1.12" in str(found)


@pytest.mark.fault("S19")
def test_orphans_are_listed_by_id_with_their_dollars(tmp_path: Path) -> None:
    """Made behind the run's back, or twice for one submission: each by its id, its price, its time and its model."""
    pro = "wavespeed-ai/flux-kontext-pro/text-to-image"
    rule = FaultRule(on="submit", do="duplicate", at=frozenset({5}))
    with SandboxThread(config(rule)) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        bought = {buy(sandbox), buy(sandbox, model=pro)}
        found = checked(result)
        mine = set(batchflux.read_manifest(result.run_dir)["prediction_id"])
        twin = {record.id for record in sandbox.behaviour.everything()} - mine - bought
    assert len(twin) == 1
    orphans = [line for line in found.problems if line.startswith("no attempt of the run explains: prediction ")]
    assert (len(orphans), len(found.problems), found.exit_status) == (3, 3, 1)
    assert {re.search(r"prediction ([0-9a-f]{32}), \$0\.\d\d, made at \d{4}-", line)[1] for line in orphans} == (  # type: ignore[index]
        bought | twin
    )
    assert sum(pro in line for line in orphans) == 1
    assert found.account is not None
    assert {orphan.prediction_id for orphan in found.account.orphans} == bought | twin


def test_what_the_account_did_at_other_times_is_not_the_runs(tmp_path: Path) -> None:
    """Predictions of hours before the run and hours after it are somebody's, and not orphans of it."""
    skew_s = [-3 * 3600.0]
    with SandboxThread(config(), clock=lambda: time.time() + skew_s[0]) as sandbox:
        buy(sandbox)
        skew_s[0] = 0.0
        result = run_job(tmp_path / "job", sandbox)
        skew_s[0] = 3 * 3600.0
        buy(sandbox)
        found = checked(result)
    assert found.problems == ()


def test_a_service_whose_clock_is_off(tmp_path: Path) -> None:
    """The window is laid on the service's clock: an hour off, all predictions are still found, and an orphan too."""
    with SandboxThread(config(), clock=lambda: time.time() - 3600.0) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        assert checked(result).problems == ()
        orphan = buy(sandbox)
        only(checked(result), "no attempt of the run explains", orphan)


def test_a_held_submission_is_named_as_what_it_may_be(tmp_path: Path) -> None:
    """An answer that was lost and can't be told from others: its prediction is an orphan until somebody decides."""
    rule = FaultRule(on="submit", do="close", when="after", at=frozenset({3}))
    with SandboxThread(config(rule, history_inputs="absent")) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        assert result.standing.unknown == 1
        only(checked(result), "no attempt of the run explains", "asks again whose it is")


MONEY: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "twice": ([{}, {"key": "again"}], "charged twice: ", "$0.16 in 2 charges"),
    "another price": ([{"price": 0.11}], "charged another price: ", "$0.08 in the books, charged $0.11"),
    "not at all": ([], "not charged: ", "$0.08 in the books, charged $0.00"),
}


@pytest.mark.fault("S21")
@pytest.mark.parametrize("case", MONEY)
def test_money_that_differs_is_named(tmp_path: Path, case: str) -> None:
    """A prediction of the run charged twice, at another price or not at all, by its id and both amounts."""
    rows, what, amounts = MONEY[case]
    state = tmp_path / "memory"
    with SandboxThread(config(state_dir=state)) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        records = sandbox.behaviour.everything()
        at_ms = round(records[0].created_at_s * 1000)
    chosen = records[4].id
    billed = [charge(record.id, key=record.id, at_ms=at_ms) for record in records if record.id != chosen]
    billed += [charge(chosen, at_ms=at_ms, **row) for row in rows]
    patch = FaultRule(on="billing", do="patch", data={"items": billed, "has_more": False})
    with SandboxThread(config(patch, state_dir=state)) as sandbox:
        assert sandbox.base_url == batchflux.load_job(result.run_dir).spec.api.base_url
        only(checked(result), what, f"prediction {chosen} (cell ", amounts)


@pytest.mark.fault("S22")
def test_a_refund_that_does_not_come(tmp_path: Path) -> None:
    """It is awaited for the three hours that the service takes, and then missing, by its id."""
    rule = FaultRule(on="submit", do="fail", code=5000, at=frozenset({2}))
    with SandboxThread(config(rule, refund_after_s=1e6)) as sandbox:
        result = run_job(tmp_path / "job", sandbox)
        failed = next(record.id for record in sandbox.behaviour.everything() if record.code)
        soon = checked(result)
        late = checked(result, now_ms=round(sandbox.behaviour.everything()[0].created_at_s * 1000) + 4 * HOUR_MS)
    assert soon.ok
    assert soon.notes[0].startswith(f"refund awaited: prediction {failed} (cell ")
    only(late, "failed and not refunded: ", f"prediction {failed} (cell ", "$0.08")


@pytest.mark.parametrize(
    ("on", "do", "words"),
    [
        ("billing", {"do": "status", "status": 404}, "billing not reached: not_found: HTTP 404"),
        ("history", {"do": "status", "status": 404}, "history not reached: not_found: HTTP 404"),
        ("billing", {"do": "status", "status": 403}, "billing not reached: auth: HTTP 403"),
        ("history", {"do": "patch", "data": {"items": [{"id": "../.."}]}}, "history not wholly read: "),
        ("billing", {"do": "patch", "data": {"items": [7], "has_more": False}}, "billing not wholly read: 1 "),
    ],
)
def test_a_listing_that_cannot_be_had_is_a_problem(tmp_path: Path, on: Any, do: Any, words: str) -> None:
    """Said plainly, since then nothing was confirmed; what the other listing says is said all the same."""
    with SandboxThread(config(FaultRule(on=on, **do))) as sandbox:
        result = run_job(tmp_path / "job", sandbox, download=False)
        orphan = buy(sandbox)
        found = checked(result)
    assert any(line.startswith(words) for line in found.problems), found.problems
    assert found.account is not None
    assert (found.account.charged_usd is None) == (on == "billing" and "reached" in words)
    is_told = any(orphan in line for line in found.problems)
    assert is_told or words.startswith("billing not wholly")


def test_a_busy_service_is_asked_again(tmp_path: Path) -> None:
    """Listings change nothing, so that a 503 and a lost answer cost a second and no more."""
    rules = (
        FaultRule(on="billing", do="status", status=503, first=1),
        FaultRule(on="history", do="reset", first=1),
    )
    with SandboxThread(config(*rules)) as sandbox:
        result = run_job(tmp_path / "job", sandbox, download=False)
        assert checked(result).problems == ()


def test_no_service_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two problems in plain words; a missing key is a matter of the environment."""
    monkeypatch.setattr("batchflux.engine.listing._TRIES", 1)
    with SandboxThread(config()) as sandbox:
        result = run_job(tmp_path / "job", sandbox, download=False)
    found = checked(result)
    assert [line.split(": ")[:2] for line in found.problems] == [
        ["history not reached", "network"],
        ["billing not reached", "network"],
    ]
    assert found.account is None
    monkeypatch.delenv("WAVESPEED_API_KEY")
    with pytest.raises(UsageError, match="WAVESPEED_API_KEY is not set"):
        checked(result)


@pytest.mark.parametrize("of_slice", [5, 5000])
def test_many_pages_and_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_slice: int) -> None:
    """A listing of more than a page, cut into slices of time or not, is read whole, and no row of it twice."""
    monkeypatch.setattr("batchflux.app.account._SLICE", of_slice)
    with SandboxThread(config()) as sandbox:
        result = run_job(tmp_path / "job", sandbox, download=False)
        bought = {buy(sandbox) for _ in range(230)}
        found = checked(result)
    orphans = [line for line in found.problems if line.startswith("no attempt of the run explains: ")]
    assert len(orphans) == len(found.problems) == len(bought)
    assert all(", $0.08, made at " in line for line in orphans)
    assert found.account is not None
    assert found.account.charged_usd == pytest.approx(CELLS * 0.08)


def test_beside_a_live_run(tmp_path: Path) -> None:
    """What was made in the last minute may be on its way into the books, so nothing is said of it yet."""
    with SandboxThread(config()) as sandbox:
        result = run_job(tmp_path / "job", sandbox, download=False)
        orphan = buy(sandbox)
        with RunLock(result.run_dir):
            live = checked(result)
        only(checked(result), orphan)
    assert live.ok
    assert live.notes == ("account: the run is at work, so its last minutes are not judged yet",)


def test_a_rehearsal_has_an_account_too(tmp_path: Path) -> None:
    """The twin's sandbox is started again for it, with the memory that it keeps."""
    (tmp_path / "p.csv").write_text("prompt\na lighthouse\na ferry\n")
    (tmp_path / "job.yaml").write_text("prompts: {path: p.csv}\noutput: {dir: run}\n")
    job = batchflux.load_job(tmp_path / "job.yaml")
    result = batchflux.run(job, RunOptions(sandbox=True, sandbox_options=("--latency", "0.01")))
    found = checked(result)
    assert found.problems == ()
    assert found.account is not None
    assert (found.account.predictions, found.account.charged_usd) == (2, 0.16)
