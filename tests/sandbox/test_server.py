"""The service's wire over a real socket: every endpoint, its envelope, its refusals, and what a restart remembers."""

import io
import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchflux.core.errors import UsageError
from batchflux.sandbox import Latency, Rate, SandboxConfig, SandboxThread
from batchflux.sandbox.behaviour import RETENTION_S
from tests.sandbox.caller import MAX, PRO, Caller, Clock

AT_ONCE = Latency(median_s=0)
TEN_SECONDS = Latency(median_s=10, sigma=0)


@pytest.fixture
def caller() -> Iterator[Caller]:
    """A caller of a sandbox that completes everything at once."""
    with SandboxThread(SandboxConfig(latency=AT_ONCE, image_size=64)) as sandbox:
        yield Caller(sandbox.origin)


def test_one_generation(caller: Caller) -> None:
    """A submission is answered with a fresh prediction, a poll with the finished one, its outputs with images."""
    submitted = caller.submit(prompt="a kite", num_images=2, seed=5, aspect_ratio="16:9")
    assert submitted.status == 200
    assert submitted.document["code"] == 200
    assert submitted.document["message"] == "success"
    data = submitted.data
    assert (data["status"], data["outputs"], data["error"], data["model"]) == ("created", [], "", MAX)
    assert data["has_nsfw_contents"] is None
    assert data["timings"] == {"inference": 0}
    assert data["urls"]["get"].endswith(f"/api/v3/predictions/{data['id']}/result")
    assert len(data["created_at"].split(".")[1]) == len("123Z")
    done = caller.result(data["id"]).data
    assert (done["status"], done["has_nsfw_contents"]) == ("completed", [False, False])
    assert len(done["created_at"].split(".")[1]) == len("123456789Z")
    assert done["created_at"].startswith(data["created_at"].removesuffix("Z"))
    images = [caller.output(url) for url in done["outputs"]]
    assert [image.headers["Content-Type"] for image in images] == ["image/png", "image/png"]
    assert Image.open(io.BytesIO(images[0].body)).size == (64, 36)
    assert images[0].body != images[1].body
    assert images[0].body == caller.output(done["outputs"][0]).body


def test_the_older_result_path(caller: Caller) -> None:
    """GET /predictions/ID gives the same object as its /result."""
    prediction_id = caller.submit(prompt="a kite").data["id"]
    older = caller.call("GET", f"/api/v3/predictions/{prediction_id}")
    assert older.body == caller.result(prediction_id).body


def test_the_model_pages_own_example() -> None:
    """The page's example body is accepted as it stands and its inference time is told when it is done."""
    clock = Clock()
    with SandboxThread(SandboxConfig(latency=TEN_SECONDS), clock=clock) as sandbox:
        caller = Caller(sandbox.origin)
        inputs: dict[str, Any] = {
            "aspect_ratio": "1:1",
            "num_images": 1,
            "guidance_scale": 3.5,
            "safety_tolerance": "2",
        }
        prediction_id = caller.submit(prompt="A bustling cyberpunk cityscape at night", **inputs).data["id"]
        assert caller.result(prediction_id).data["status"] == "processing"
        assert caller.call("GET", f"/output/{prediction_id}/1.png").status == 404
        clock.now_s += 10
        done = caller.result(prediction_id).data
        assert (done["status"], done["timings"]) == ("completed", {"inference": 10_000})


def test_a_failed_prediction() -> None:
    """A failure is HTTP 200, envelope 200, with its code and words in the data and no outputs."""
    with SandboxThread(SandboxConfig(latency=AT_ONCE)) as sandbox:
        caller = Caller(sandbox.origin)
        reply = caller.result(caller.submit(prompt="sandbox:refuse").data["id"])
        assert (reply.status, reply.document["code"]) == (200, 200)
        assert (reply.data["status"], reply.data["code"], reply.data["outputs"]) == ("failed", 1200, [])
        assert "sensitive" in reply.data["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", f"/api/v3/{MAX}", {}, 400),
        ("POST", f"/api/v3/{MAX}", b"{", 400),
        ("POST", f"/api/v3/{MAX}", b"[" * 100_000, 400),
        ("POST", f"/api/v3/{MAX}", [1], 400),
        ("POST", f"/api/v3/{MAX}", b'"' + b"x" * 9_000_000 + b'"', 413),
        ("POST", "/api/v3/no/such/model", {"prompt": "a"}, 404),
        ("GET", "/api/v3/predictions/nothing/result", None, 404),
        ("POST", "/api/v3/predictions", {"page": 1}, 400),
        ("POST", "/api/v3/predictions", {"page": 0, "page_size": 10}, 400),
        ("POST", "/api/v3/predictions", {"page": 1, "page_size": 101}, 400),
        ("POST", "/api/v3/predictions", {"page": 1, "page_size": 1, "created_after": "yesterday"}, 400),
        ("POST", "/api/v3/predictions/delete", {"ids": "all"}, 400),
        ("POST", "/api/v3/billings/search", {"page": 1, "page_size": 9, "billing_type": "gift"}, 400),
        ("POST", "/api/v3/model/price", {"model_id": "none"}, 404),
        ("GET", "/api/v3/nowhere", None, 404),
        ("DELETE", "/api/v3/predictions/x", None, 404),
        ("GET", "/output/nothing/1.png", None, 404),
    ],
)
def test_refusals_wear_the_envelope(caller: Caller, method: str, path: str, body: Any, status: int) -> None:
    """Every refusal repeats its HTTP status in the envelope and says why."""
    reply = caller.call(method, path, body)
    assert (reply.status, reply.document["code"]) == (status, status)
    assert reply.document["message"]


def test_keys() -> None:
    """No key, and with a required one any other, gets 401; no key ever comes back in an answer."""
    with SandboxThread(SandboxConfig(require_key="canary-7", latency=AT_ONCE)) as sandbox:
        for key in (None, "", "canary-8", "kanari\u00e9"):
            reply = Caller(sandbox.origin, key=key).submit(prompt="a kite")
            assert (reply.status, reply.document["code"]) == (401, 401)
            assert b"canary" not in reply.body
        assert Caller(sandbox.origin, key="canary-7").submit(prompt="a kite").status == 200
        assert "canary" not in repr(sandbox.config)


def test_history_pages_newest_first() -> None:
    """Pages hold the newest first, filters narrow them, times are bounds with their ends."""
    clock = Clock()
    with SandboxThread(SandboxConfig(latency=TEN_SECONDS, concurrency=None), clock=clock) as sandbox:
        caller = Caller(sandbox.origin)
        ids = []
        for n in range(7):
            ids.append(caller.submit(PRO if n == 3 else MAX, prompt=f"kite {n}").data["id"])
            clock.now_s += 2
        listed = [[item["id"] for item in caller.history(page=p, page_size=3).data["items"]] for p in (1, 2, 3, 4)]
        assert listed == [ids[:3:-1], ids[3:0:-1], ids[:1], []]
        assert [item["id"] for item in caller.history(model=PRO).data["items"]] == [ids[3]]
        done = caller.history(status="completed").data["items"]
        assert [item["id"] for item in done] == ids[2::-1]
        assert done[0]["executionTime"] == done[0]["timings"]["inference"] == 10_000
        assert "inputs" not in done[0]
        span = {"created_after": "2027-01-15T08:00:02Z", "created_before": "2027-01-15T09:00:06.000000000+01:00"}
        assert [item["id"] for item in caller.history(**span).data["items"]] == ids[3:0:-1]
        clock.now_s += RETENTION_S - 10
        assert [item["id"] for item in caller.history().data["items"]] == ids[:2:-1]
        assert caller.result(ids[0]).status == 404


@pytest.mark.parametrize("mode", ["on", "off", "absent"])
def test_history_inputs(mode: Any) -> None:
    """Inputs come when asked for, as sent less what the schema drops; or null; or not at all."""
    with SandboxThread(SandboxConfig(latency=AT_ONCE, history_inputs=mode)) as sandbox:
        caller = Caller(sandbox.origin)
        caller.submit(prompt="a kite \ud800", seed=3, guidance_scale=5, colour="red")
        item = caller.history(include_inputs=True).data["items"][0]
        sent = {"prompt": "a kite \ud800", "seed": 3, "guidance_scale": 5}
        assert item.get("inputs", "no field") == {"on": sent, "off": None, "absent": "no field"}[mode]


def test_history_may_lag() -> None:
    """With a lag the listing doesn't know the newest predictions yet, the result endpoint does."""
    clock = Clock()
    with SandboxThread(SandboxConfig(history_lag_s=30), clock=clock) as sandbox:
        caller = Caller(sandbox.origin)
        prediction_id = caller.submit(prompt="a kite").data["id"]
        clock.now_s += 29
        assert caller.history().data["items"] == []
        assert caller.result(prediction_id).status == 200
        clock.now_s += 1
        assert len(caller.history().data["items"]) == 1


def test_money() -> None:
    """Charges, refunds and the balance add up, newest first, a page at a time."""
    clock = Clock()
    config = SandboxConfig(latency=AT_ONCE, failures={5000: 1.0}, refund_after_s=60, balance_usd=1)
    with SandboxThread(config, clock=clock) as sandbox:
        caller = Caller(sandbox.origin)
        failed = caller.submit(prompt="a kite", num_images=2).data["id"]
        assert caller.call("GET", "/api/v3/balance").data == {"balance": 0.84}
        clock.now_s += 60
        assert caller.call("GET", "/api/v3/balance").data == {"balance": 1.0}
        rows = caller.call("POST", "/api/v3/billings/search", {"page": 1, "page_size": 100}).data
        assert [(row["billing_type"], row["price"]) for row in rows["items"]] == [("refund", 0.16), ("deduct", 0.16)]
        assert {row["prediction"]["uuid"] for row in rows["items"]} == {failed}
        assert rows["has_more"] is False
        query = {"page": 1, "page_size": 1, "billing_type": "deduct"}
        assert caller.call("POST", "/api/v3/billings/search", query).data["items"][0]["prediction"] == {
            "uuid": failed,
            "model_uuid": MAX,
            "status": "failed",
        }
        first = caller.call("POST", "/api/v3/billings/search", {"page": 1, "page_size": 1}).data
        assert (first["page"], first["has_more"]) == (1, True)


def test_price(caller: Caller) -> None:
    """The quote follows the inputs, takes partial ones, and the legacy call gives the same number."""
    ask = {"model_id": MAX, "inputs": {"num_images": 3}}
    assert caller.call("POST", "/api/v3/model/price", ask).data["discounted_price"] == 0.24
    assert caller.call("POST", "/api/v3/model/pricing", ask).data == {"unit_price": 0.24}
    assert caller.call("POST", "/api/v3/model/price", {"model_id": PRO}).data["price"] == 0.04


@pytest.mark.parametrize(("schema", "count", "maximum"), [("page", True, 10), ("today", False, 20)])
def test_models(schema: Any, count: bool, maximum: int) -> None:
    """The models' list holds the request schema of the day and the price."""
    with SandboxThread(SandboxConfig(schema=schema, price_usd=0.1)) as sandbox:
        listed = {model["model_id"]: model for model in Caller(sandbox.origin).call("GET", "/api/v3/models").data}
        assert set(listed) == {MAX, PRO}
        run = listed[MAX]["api_schema"]["api_schemas"][0]
        properties = run["request_schema"]["properties"]
        assert ("num_images" in properties) is count
        assert properties["guidance_scale"]["maximum"] == maximum
        assert run["request_schema"]["required"] == ["prompt"]
        assert run["api_path"] == f"/api/v3/{MAX}"
        assert listed[MAX]["base_price"] == 0.1


def test_synchronous_mode() -> None:
    """Where the schema has it, synchronous mode answers with the finished prediction; the page's drops it."""
    for schema, status in (("today", "completed"), ("page", "created")):
        with SandboxThread(SandboxConfig(schema=schema, latency=AT_ONCE)) as sandbox:  # type: ignore[arg-type]
            data = Caller(sandbox.origin).submit(prompt="a kite", enable_sync_mode=True).data
            assert data["status"] == status


def test_deletion(caller: Caller) -> None:
    """Deleted predictions are gone with their outputs."""
    prediction_id = caller.submit(prompt="a kite").data["id"]
    url = caller.result(prediction_id).data["outputs"][0]
    assert caller.call("POST", "/api/v3/predictions/delete", {"ids": [prediction_id]}).data == {"deleted_count": 1}
    assert (caller.result(prediction_id).status, caller.output(url).status) == (404, 404)


def test_refusing_limits_over_the_wire() -> None:
    """A refusal of the limits is a 429 with Retry-After where the sandbox is told to give one."""
    config = SandboxConfig(rate=Rate(images=1), over_limit="refuse", retry_after=True)
    clock = Clock(1_800_000_015.0)
    with SandboxThread(config, clock=clock) as sandbox:
        caller = Caller(sandbox.origin)
        caller.submit(prompt="a kite")
        reply = caller.submit(prompt="a boat")
        assert (reply.status, reply.document["code"], reply.headers["Retry-After"]) == (429, 429, "45")


def test_stats_and_home() -> None:
    """The sandbox counts what it did, and its front page says what it is; neither needs a key."""
    with SandboxThread(SandboxConfig(latency=AT_ONCE)) as sandbox:
        for prompt in ("a kite", "a kite", ""):
            Caller(sandbox.origin).submit(prompt=prompt)
        stranger = Caller(sandbox.origin, key=None)
        assert b"This is a sandbox, not the model" in stranger.call("GET", "/").body
        stats = stranger.call("GET", "/sandbox/stats").data
        assert stats == sandbox.stats
        assert stats["submissions_received"] == 3
        assert stats["submissions_accepted"] == 2
        assert stats["distinct_inputs"] == 1
        assert stats["inputs_created_more_than_once"] == 1
        assert stats["refused_by_status"] == {"400": 1}


def test_a_restart_keeps_memory_and_port(tmp_path: Path) -> None:
    """A restarted sandbox knows its predictions, deletions and money, and listens where it did before."""
    config = SandboxConfig(latency=AT_ONCE, state_dir=tmp_path, balance_usd=10)
    with SandboxThread(config) as sandbox:
        caller = Caller(sandbox.origin)
        kept, gone = (caller.submit(prompt=prompt, seed=1).data["id"] for prompt in ("kept \ud800", "gone"))
        caller.call("POST", "/api/v3/predictions/delete", {"ids": [gone]})
        before, image = sandbox.origin, caller.output(caller.result(kept).data["outputs"][0]).body
    with (tmp_path / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"v":1,"kind":"created","id":"torn')
    with SandboxThread(config) as sandbox:
        caller = Caller(sandbox.origin)
        assert sandbox.origin == before
        assert caller.result(gone).status == 404
        assert caller.output(caller.result(kept).data["outputs"][0]).body == image
        assert caller.call("GET", "/api/v3/balance").data == {"balance": 9.84}
        newest = caller.submit(prompt="new").data["id"]
        assert newest not in (kept, gone)
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["created", "created", "deleted", "created"]


def test_another_port_gives_other_urls(tmp_path: Path) -> None:
    """Where the old port is taken a free one serves, and outputs are given with the address of today."""
    config = SandboxConfig(latency=AT_ONCE, state_dir=tmp_path)
    with SandboxThread(config) as sandbox:
        prediction_id = Caller(sandbox.origin).submit(prompt="a kite").data["id"]
    port = int(sandbox.origin.rpartition(":")[2])
    with SandboxThread(SandboxConfig(port=port)), SandboxThread(config) as moved:
        assert not moved.origin.endswith(f":{port}")
        url = Caller(moved.origin).result(prediction_id).data["outputs"][0]
        assert url.startswith(moved.origin)
        assert Caller(moved.origin).output(url).status == 200


def test_a_port_in_use_is_named() -> None:
    """Asked for a port that is taken, the sandbox doesn't start and names it."""
    with SandboxThread() as sandbox:
        port = int(sandbox.origin.rpartition(":")[2])
        with pytest.raises(UsageError, match=str(port)), SandboxThread(SandboxConfig(port=port)):
            pass


@pytest.mark.parametrize("line", [b"not json\n", b'{"v":9,"kind":"created"}\n', b'{"v":1,"kind":"created"}\n', b"[]\n"])
def test_a_foreign_memory_is_refused(tmp_path: Path, line: bytes) -> None:
    """A file that is not the sandbox's memory is named with its line, and left as it is."""
    (tmp_path / "ledger.jsonl").write_bytes(line + line)
    with pytest.raises(UsageError, match=r"ledger\.jsonl:1: "), SandboxThread(SandboxConfig(state_dir=tmp_path)):
        pass
    assert (tmp_path / "ledger.jsonl").read_bytes() == line + line


@pytest.mark.security(26)
@pytest.mark.parametrize(
    "knobs",
    [
        {"host": "0.0.0.0"},  # noqa: S104 - that it is refused is the point
        {"host": "localhost"},
        {"port": -1},
        {"concurrency": 0},
        {"image_size": 10},
        {"failures": {5000: 0.7, 1200: 0.7}},
        {"balance_usd": math.nan},
        {"refund_after_s": -1},
    ],
)
def test_impossible_configurations(knobs: dict[str, Any]) -> None:
    """What can't be is refused before anything listens."""
    with pytest.raises(UsageError):
        SandboxConfig(**knobs)


def test_a_full_disk_creates_nothing(tmp_path: Path) -> None:
    """Where the memory can't take a prediction the answer is 500, nothing exists, and later ones are kept whole."""
    config = SandboxConfig(latency=AT_ONCE, state_dir=tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SandboxThread(config) as sandbox:
        caller = Caller(sandbox.origin)
        caller.submit(prompt="kite" * 1000)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ledger.jsonl").stat().st_size + 50, limits[1]))
            full = caller.submit(prompt="a boat")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (full.status, len(sandbox.behaviour.everything())) == (500, 1)
        after = caller.submit(prompt="a car").data["id"]
    with SandboxThread(config) as sandbox:
        assert [record.id for record in sandbox.behaviour.everything()][1:] == [after]
