"""Each scripted fault over a real socket: what the client sees of it, and what the service has done meanwhile."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batchflux.sandbox import Latency, RunningSandbox, SandboxConfig, SandboxThread, parse_fault_script
from tests.sandbox.caller import MAX, TIMEOUT_S, Caller


@contextmanager
def _faulty(*rules: dict[str, Any]) -> Iterator[tuple[Caller, RunningSandbox]]:
    config = SandboxConfig(
        latency=Latency(median_s=0), image_size=64, faults=parse_fault_script({"rules": list(rules)})
    )
    with SandboxThread(config) as sandbox:
        yield Caller(sandbox.origin), sandbox


def _created(sandbox: RunningSandbox) -> int:
    return len(sandbox.behaviour.everything())


def _address(sandbox: RunningSandbox) -> tuple[str, int]:
    return "127.0.0.1", int(sandbox.origin.rpartition(":")[2])


def _submission(prompt: str = "a kite") -> bytes:
    body = json.dumps({"prompt": prompt}).encode()
    head = f"POST /api/v3/{MAX} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _exchange(sandbox: RunningSandbox, request: bytes) -> bytes:
    """Send bytes and return all that comes until the connection ends."""
    with socket.create_connection(_address(sandbox), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


@pytest.mark.parametrize(("when", "created"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("status", [400, 408, 429, 500, 502, 503, 504])
def test_status(status: int, when: str, created: int) -> None:
    """An HTTP status comes with the script's headers, before or after the prediction was created."""
    rule = {"on": "submit", "do": "status", "status": status, "when": when, "headers": {"Retry-After": "3"}}
    with _faulty(rule) as (caller, sandbox):
        reply = caller.submit(prompt="a kite")
        assert (reply.status, reply.document["code"], reply.headers["Retry-After"]) == (status, status, "3")
        assert _created(sandbox) == created


@pytest.mark.parametrize(("when", "created"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("deed", ["reset", "close"])
def test_broken_connections(deed: str, when: str, created: int) -> None:
    """A reset is a reset and a close is an end without an answer, on either side of the creation."""
    with _faulty({"on": "submit", "do": deed, "when": when, "at": 1}) as (caller, sandbox):
        if deed == "reset":
            with pytest.raises(ConnectionResetError):
                _exchange(sandbox, _submission())
        else:
            assert _exchange(sandbox, _submission()) == b""
        assert _created(sandbox) == created
        assert caller.submit(prompt="a boat").status == 200


def test_hang() -> None:
    """A hang after the creation answers nothing, and nothing waits for it: no other client, no end."""
    with (
        _faulty({"on": "submit", "do": "hang", "when": "after", "at": 1}) as (caller, sandbox),
        socket.create_connection(_address(sandbox), timeout=TIMEOUT_S) as connection,
    ):
        connection.sendall(_submission())
        while not caller.history().data["items"]:
            pass
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        assert caller.submit(prompt="a boat").status == 200


def test_hang_that_ends() -> None:
    """A hang with seconds closes the connection after them."""
    with _faulty({"on": "submit", "do": "hang", "seconds": 0.01}) as (_, sandbox):
        assert _exchange(sandbox, _submission()) == b""


def test_raw() -> None:
    """Raw bytes go out as they are: a garbage status line."""
    with _faulty({"on": "submit", "do": "raw", "body": "HTTP/9 what\r\n\r\n", "when": "after"}) as (_, sandbox):
        assert _exchange(sandbox, _submission()) == b"HTTP/9 what\r\n\r\n"
        assert _created(sandbox) == 1


def test_delay_is_the_right_answer() -> None:
    """A delayed answer is whole and right."""
    with _faulty({"on": "result", "do": "delay", "seconds": 0.01}) as (caller, _):
        assert caller.result(caller.submit(prompt="a kite").data["id"]).data["status"] == "completed"


def test_truncated_with_a_length() -> None:
    """A body cut short of its Content-Length is an incomplete read, and the prediction exists."""
    with _faulty({"on": "submit", "do": "truncate", "keep_bytes": 10}) as (caller, sandbox):
        with pytest.raises(http.client.IncompleteRead) as caught:
            caller.submit(prompt="a kite")
        assert caught.value.partial == b'{"code":20'
        assert _created(sandbox) == 1


def test_truncated_without_a_length() -> None:
    """Without a length the end of the connection is the end of the body: only the JSON shows that it is cut."""
    with _faulty({"on": "submit", "do": "truncate", "with_length": False}) as (caller, _):
        reply = caller.submit(prompt="a kite")
        assert reply.status == 200
        with pytest.raises(json.JSONDecodeError):
            _ = reply.document


def test_trickle() -> None:
    """A trickled answer arrives byte for byte as the right one."""
    with _faulty({"on": "submit", "do": "trickle", "seconds": 0}) as (caller, _):
        assert caller.submit(prompt="a kite").data["status"] == "created"


def test_html_and_bad_json() -> None:
    """A maintenance page and JSON that ends too soon both come as a 200."""
    rules: list[dict[str, Any]] = [
        {"on": "submit", "do": "html", "at": 1},
        {"on": "submit", "do": "bad_json", "when": "after"},
    ]
    with _faulty(*rules) as (caller, sandbox):
        page = caller.submit(prompt="a kite")
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
        broken = caller.submit(prompt="a kite")
        assert (broken.status, broken.headers["Content-Type"]) == (200, "application/json")
        with pytest.raises(json.JSONDecodeError):
            _ = broken.document
        assert _created(sandbox) == 1


def test_redirect() -> None:
    """A redirect names the place that the script says."""
    rule = {"on": "submit", "do": "redirect", "status": 302, "location": "http://127.0.0.1:9/x"}
    with _faulty(rule) as (caller, sandbox):
        reply = caller.submit(prompt="a kite")
        assert (reply.status, reply.headers["Location"]) == (302, "http://127.0.0.1:9/x")
        assert _created(sandbox) == 0


def test_stale_answer() -> None:
    """The right answer comes once more, unasked for, on the idle connection."""
    with (
        _faulty({"on": "submit", "do": "stale", "at": 1}) as (_, sandbox),
        socket.create_connection(_address(sandbox), timeout=TIMEOUT_S) as connection,
    ):
        connection.sendall(_submission())
        answers = connection.makefile("rb")
        bodies = []
        for _answer in range(2):
            length = 0
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            bodies.append(answers.read(length))
        answers.close()
        assert bodies[0] == bodies[1]
        assert _created(sandbox) == 1


def test_reused_id() -> None:
    """The answer names the prediction before, though another one was created."""
    with _faulty({"on": "submit", "do": "reuse_id", "at": 2}) as (caller, sandbox):
        first, second, third = (caller.submit(prompt=prompt).data["id"] for prompt in "abc")
        assert first == second != third
        assert _created(sandbox) == 3


def test_duplicate() -> None:
    """One POST creates two predictions and names one."""
    with _faulty({"on": "submit", "do": "duplicate"}) as (caller, sandbox):
        named = caller.submit(prompt="a kite").data["id"]
        listed = [item["id"] for item in caller.history().data["items"]]
        assert named in listed
        assert len(listed) == 2
        assert sandbox.stats["inputs_created_more_than_once"] == 1


def test_late_creation() -> None:
    """A connection is reset and the prediction is created later all the same."""
    with _faulty({"on": "submit", "do": "late", "seconds": 0.01}) as (caller, sandbox):
        with pytest.raises(ConnectionResetError):
            _exchange(sandbox, _submission())
        while not caller.history().data["items"]:
            pass
        assert _created(sandbox) == 1


def test_failures_and_stuck_ones() -> None:
    """A script fails one prompt with a code and its words and lets another one hang for ever."""
    rules: list[dict[str, Any]] = [
        {"on": "submit", "do": "fail", "code": 1406, "error": "no luck", "prompt": "kite"},
        {"on": "submit", "do": "stuck", "prompt": "boat"},
    ]
    with _faulty(*rules) as (caller, sandbox):
        states = [caller.result(caller.submit(prompt=p).data["id"]).data for p in ("a kite", "a boat", "a car")]
        assert [state["status"] for state in states] == ["failed", "processing", "completed"]
        assert (states[0]["code"], states[0]["error"]) == (1406, "no luck")
        assert sandbox.stats["faults"] == [1, 1]


@pytest.mark.parametrize(
    ("patch", "seen"),
    [
        ({"data": {"status": "cancelled"}}, {"status": "cancelled"}),
        ({"data": {"outputs": None, "has_nsfw_contents": None}}, {"outputs": None, "has_nsfw_contents": None}),
        ({"data": {"status": "failed", "code": 5004}}, {"status": "failed", "code": 5004}),
        ({"drop": ["status", "timings"]}, {}),
    ],
)
def test_patched_answers(patch: dict[str, Any], seen: dict[str, Any]) -> None:
    """Any field of the right answer can be changed or left out."""
    with _faulty({"on": "result", "do": "patch", **patch}) as (caller, _):
        data = caller.result(caller.submit(prompt="a kite").data["id"]).data
        assert {name: data[name] for name in seen} == seen
        assert not set(patch.get("drop", ())) & set(data)


def test_patched_envelope() -> None:
    """A 200 whose envelope says otherwise."""
    with _faulty({"on": "submit", "do": "patch", "envelope": {"code": 500, "data": None}}) as (caller, sandbox):
        reply = caller.submit(prompt="a kite")
        assert (reply.status, reply.document["code"], reply.data) == (200, 500, None)
        assert _created(sandbox) == 1


def test_not_found_for_the_first_polls() -> None:
    """Each prediction is unknown to its first two polls and known to the third."""
    rule = {"on": "result", "do": "status", "status": 404, "first": 2, "per_prediction": True}
    with _faulty(rule) as (caller, _):
        for prompt in "ab":
            prediction_id = caller.submit(prompt=prompt).data["id"]
            assert [caller.result(prediction_id).status for _ in range(3)] == [404, 404, 200]


def test_outputs_that_go_wrong() -> None:
    """Downloads can be cut short, be no image, be corrupt or be missing, and then be right."""
    rules: list[dict[str, Any]] = [
        {"on": "output", "do": "truncate", "at": 1},
        {"on": "output", "do": "html", "at": 2},
        {"on": "output", "do": "status", "status": 404, "at": 3},
        {"on": "output", "do": "corrupt", "at": 4},
    ]
    with _faulty(*rules) as (caller, _):
        url = caller.result(caller.submit(prompt="a kite").data["id"]).data["outputs"][0]
        with pytest.raises(http.client.IncompleteRead):
            caller.output(url)
        page, missing, corrupt, right = (caller.output(url) for _ in range(4))
        assert page.body.startswith(b"<!doctype html>")
        assert missing.status == 404
        assert right.body.startswith(b"\x89PNG")
        assert corrupt.body != right.body
        assert len(corrupt.body) == len(right.body)


@pytest.mark.parametrize(
    ("endpoint", "method", "path", "body"),
    [
        ("history", "POST", "/api/v3/predictions", {"page": 1, "page_size": 1}),
        ("delete", "POST", "/api/v3/predictions/delete", {"ids": []}),
        ("billing", "POST", "/api/v3/billings/search", {"page": 1, "page_size": 1}),
        ("models", "GET", "/api/v3/models", None),
        ("balance", "GET", "/api/v3/balance", None),
        ("price", "POST", "/api/v3/model/price", {"model_id": MAX}),
    ],
)
def test_every_endpoint_can_fail(endpoint: str, method: str, path: str, body: Any) -> None:
    """Faults reach the account's endpoints too, and end when the script says so."""
    with _faulty({"on": endpoint, "do": "status", "status": 503, "times": 1}) as (caller, _):
        assert [caller.call(method, path, body).status for _ in range(2)] == [503, 200]


def test_a_hundred_clients_at_once() -> None:
    """Many submissions at the same time are each created once, with ids of their own."""
    with _faulty() as (caller, sandbox):
        ids: list[str] = []
        threads = [
            threading.Thread(target=lambda n=n: ids.append(caller.submit(prompt=f"kite {n}").data["id"]))
            for n in range(100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(ids)) == 100
        assert sandbox.stats["distinct_inputs"] == 100
