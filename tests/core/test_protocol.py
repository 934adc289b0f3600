"""The wire without IO: requests as the model page gives them, and what each answer to a query means."""

import json
from typing import Any

import pytest

from batchflux.core.model import Fault, Params, Prediction
from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    HttpRequest,
    TransportFault,
    build_result,
    build_submit,
    decipher_result,
    decipher_submit,
    encode_body,
    final_fault,
    is_final,
    is_refunded,
)
from batchflux.core.quotes import (
    build_balance,
    build_models,
    build_price,
    decipher_balance,
    decipher_models,
    decipher_price,
)
from tests.core.answers import ID, answer, completed_data, prediction_data

BASE = "https://api.wavespeed.ai/api/v3"
MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"

# The example body of the model page's "Submit Task", as text: the values must go out as they stand there.
PAGE_BODY = (
    '{"prompt":"A bustling cyberpunk cityscape at night, with neon lights reflecting off skyscrapers, flying cars '
    "zipping through the air, and holographic advertisements illuminating the streets. The scene is filled with "
    "diverse futuristic architecture, blending sleek metal and glass with glowing neon elements. The atmosphere is "
    'vibrant and chaotic, with a slight haze adding depth to the scene","aspect_ratio":"1:1","num_images":1,'
    '"guidance_scale":3.5,"safety_tolerance":"2"}'
)
REQUEST_FIELDS: Params = {
    "prompt": "An owl",
    "aspect_ratio": "1:1",
    "num_images": 4,
    "seed": 2147483647,
    "guidance_scale": 10.0,
    "safety_tolerance": "5",
}


def result(data: Any, **envelope: Any) -> Prediction | Fault:
    return decipher_result(answer(data, **envelope), ID)


def prediction(data: Any) -> Prediction:
    found = result(data)
    assert isinstance(found, Prediction)
    return found


# ---------------------------------------------------------------------------------------------------- requests


def test_the_pages_example_goes_through_verbatim() -> None:
    """The body of the model page's own example is sent byte for byte: no value changes its type or digits."""
    request = build_submit(BASE, MODEL, encode_body(json.loads(PAGE_BODY)))
    assert request == HttpRequest(method="POST", url=f"{BASE}/{MODEL}", body=PAGE_BODY.encode())


def test_every_request_field_of_the_page() -> None:
    """All six request parameters of the model page go out under their names, with their JSON types."""
    body = encode_body(REQUEST_FIELDS)
    assert body == (
        b'{"prompt":"An owl","aspect_ratio":"1:1","num_images":4,"seed":2147483647,'
        b'"guidance_scale":10.0,"safety_tolerance":"5"}'
    )


def test_text_goes_out_as_utf8_and_nan_not_at_all() -> None:
    """A prompt's letters aren't escaped away; what JSON has no word for is refused before anything is sent."""
    assert encode_body({"prompt": "Übergröße \u202e 🦉\n"}) == '{"prompt":"Übergröße \u202e 🦉\\n"}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        encode_body({"guidance_scale": float("nan")})


@pytest.mark.security(14)
def test_the_other_requests() -> None:
    """Each query has its method and place; a prediction id can't climb out of its place in the path."""
    assert build_result(BASE, ID) == HttpRequest(method="GET", url=f"{BASE}/predictions/{ID}/result")
    assert build_result(BASE, "../../x").url == f"{BASE}/predictions/..%2F..%2Fx/result"
    assert build_balance(BASE) == HttpRequest(method="GET", url=f"{BASE}/balance")
    assert (build_models(BASE).method, build_models(BASE).url) == ("GET", f"{BASE}/models")
    price = build_price(BASE, MODEL, {"num_images": 2})
    assert (price.method, price.url) == ("POST", f"{BASE}/model/price")
    assert json.loads(price.body or b"") == {"model_id": MODEL, "inputs": {"num_images": 2}}


# ---------------------------------------------------------------------------------------------------- results


def test_every_response_field_of_the_page() -> None:
    """All response fields of the model page are read: code, message and every one of `data`."""
    found = prediction(completed_data(error="", code=0))
    assert found == Prediction(
        id=ID,
        status="completed",
        outputs=(f"https://host.example/{ID}/1.png",),
        has_nsfw_contents=(False,),
        created_at_ms=1_795_341_600_684,
        inference_ms=8123,
        error="",
        code=0,
        model=MODEL,
    )


@pytest.mark.security(14)
def test_urls_get_is_never_followed() -> None:
    """`data.urls.get` could point anywhere with our key: nothing of it is kept."""
    evil = prediction_data(urls={"get": "https://evil.example/steal"})
    assert "evil" not in repr(decipher_submit(answer(evil)))


@pytest.mark.parametrize("null", ["outputs", "has_nsfw_contents", "timings", "created_at", "error", "model", "urls"])
def test_null_and_absent_fields(null: str) -> None:
    """A field that is null or left out is empty, and the rest is still read."""
    whole = completed_data()
    for data in ({**whole, null: None}, {name: value for name, value in whole.items() if name != null}):
        found = prediction(data)
        assert (found.id, found.status) == (ID, "completed")
        empty = {
            "outputs": (),
            "has_nsfw_contents": (),
            "created_at": None,
            "timings": None,
            "error": "",
            "model": None,
        }
        named = {"created_at": "created_at_ms", "timings": "inference_ms"}.get(null, null)
        if null != "urls":
            assert getattr(found, named) == empty[null]


@pytest.mark.fault("S05")
@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("created", False),
        ("processing", False),
        ("pending", False),
        ("queued-by-a-later-version", False),
        ("", False),
        (None, False),
        (7, False),
        ("completed", True),
        ("COMPLETED", True),
        ("failed", True),
        ("cancelled", True),
        ("timeout", True),
        ("deleted", True),
    ],
)
def test_every_status(status: Any, *, final: bool) -> None:
    """S05: the known final words are final in any case; any other word, or none, means that it may still change."""
    assert is_final(prediction(completed_data(status=status))) is final


@pytest.mark.fault("S09")
@pytest.mark.parametrize(
    ("status", "code", "kind", "refunded"),
    [
        ("failed", 1200, "content_policy", False),
        ("failed", 1400, "invalid_request", False),
        ("failed", 1401, "invalid_request", False),
        ("failed", 1402, "invalid_request", False),
        ("failed", 1403, "generation_failed", False),
        ("failed", 1405, "generation_failed", False),
        ("failed", 1406, "generation_failed", True),
        ("failed", 1407, "credit", False),
        ("failed", 5000, "generation_failed", True),
        ("failed", 5003, "generation_failed", True),
        ("failed", 5004, "generation_failed", False),
        ("failed", 9999, "generation_failed", False),
        ("failed", 0, "generation_failed", False),
        ("failed", None, "generation_failed", False),
        ("failed", "5000", "generation_failed", False),
        ("cancelled", None, "generation_failed", False),
        ("timeout", 5004, "generation_failed", False),
        ("deleted", None, "not_found", False),
    ],
)
def test_error_kinds_of_failed_predictions(status: str, code: Any, kind: str, *, refunded: bool) -> None:
    """interface.md section 4: each code has its kind, and 1406, 5000 and 5003 alone are worth another attempt."""
    fault = final_fault(prediction(completed_data(status=status, code=code, outputs=[], error="a reason")))
    assert fault is not None
    assert (fault.kind, fault.message, is_refunded(fault)) == (kind, "a reason", refunded)


def test_completed_with_and_without_outputs() -> None:
    """Images make a prediction good, whatever its code; none at all is a bad response."""
    assert final_fault(prediction(completed_data())) is None
    empty = final_fault(prediction(completed_data(outputs=[])))
    assert empty is not None
    assert empty.kind == "bad_response"


@pytest.mark.fault("S09")
def test_a_failure_without_a_reason_still_says_something() -> None:
    """The service's status word stands where it gave no reason; a reason of megabytes is cut."""
    silent = final_fault(prediction(completed_data(status="cancelled", outputs=[], error=None)))
    assert silent is not None
    assert "cancelled" in silent.message
    long = final_fault(prediction(completed_data(status="failed", outputs=[], error="x" * 5_000_000)))
    assert long is not None
    assert len(long.message) <= 513


@pytest.mark.fault("S08")
@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("https://host.example/a.png?sig=x%2By&n=1", True),
        ("http://host.example/a.png", True),
        ({"url": "https://host.example/a.png"}, True),
        ("https://host.example/" + "a" * 4000, True),
        ("https://host.example/" + "a" * 4096, False),
        ("data:image/png;base64,iVBORw0KGgo=", False),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False),
        ("/relative.png", False),
        ("https://user:secret@host.example/a.png", False),
        ("https://[::1", False),
        ("https:///a.png", False),
        ("https://host.example:99999/a.png", False),
        ("https://host.example/a b.png", False),
        ("https://host.example/a\n.png", False),
        ("https://host.example/\ud800", False),
        ({"href": "https://host.example/a.png"}, False),
        (None, False),
        (7, False),
    ],
)
def test_outputs(output: Any, *, kept: bool) -> None:
    """S08: plain http(s) URLs are kept as they are; anything else is told and never fetched."""
    found = prediction(completed_data(outputs=[output]))
    url = output["url"] if isinstance(output, dict) and "url" in output else output
    assert found.outputs == ((url,) if kept else ())
    assert len(found.notes) == (0 if kept else 1)


@pytest.mark.fault("S07")
def test_partial_flags() -> None:
    """S07: flags stay as delivered, in their places; what is no flag is null."""
    found = prediction(completed_data(has_nsfw_contents=[True, None, "no", False]))
    assert found.has_nsfw_contents == (True, None, None, False)


@pytest.mark.fault("S10")
@pytest.mark.parametrize(
    ("got", "kind"),
    [
        (TransportFault(sent=True, message="reset"), "network"),
        (TransportFault(sent=False, message="refused"), "network"),
        (answer(None, status=401), "auth"),
        (answer(None, status=403), "auth"),
        (answer(None, status=404), "not_found"),
        (answer(None, status=429), "rate_limit"),
        (answer(None, status=400), "bad_response"),
        (answer(None, status=500), "server"),
        (answer(None, status=503), "server"),
        (HttpAnswer(status=502, body=b"<html>"), "server"),
        (HttpAnswer(status=302, body=b"", location="/login"), "server"),
        (HttpAnswer(status=401, body=b"<html>"), "server"),
        (HttpAnswer(status=403, body=b"<html>"), "server"),
        (HttpAnswer(status=404, body=b"<html>"), "bad_response"),
        (HttpAnswer(status=429, body=b"<html>"), "rate_limit"),
        (HttpAnswer(status=204, body=b""), "server"),
        (HttpAnswer(status=200, body=b""), "bad_response"),
        (HttpAnswer(status=200, body=b"<html>"), "bad_response"),
        (HttpAnswer(status=200, body=json.dumps({"code": 404, "message": "gone"}).encode()), "not_found"),
        (HttpAnswer(status=200, body=json.dumps({"code": 429, "message": "slow"}).encode()), "rate_limit"),
        (answer(None), "bad_response"),
        (answer([]), "bad_response"),
        (answer(completed_data(id="another")), "bad_response"),
        (answer(completed_data(id="../x")), "bad_response"),
    ],
)
def test_queries_that_tell_nothing(got: HttpAnswer | TransportFault, kind: str) -> None:
    """A query's answer that brings no prediction, or another one (S10), is a fault of its kind; HTTP or envelope."""
    found = decipher_result(got, ID)
    assert isinstance(found, Fault)
    assert found.kind == kind


def test_a_querys_retry_after_is_carried() -> None:
    """What the service asks to be left alone for travels with the fault."""
    got = HttpAnswer(status=429, body=b"{}", retry_after="7")
    found = decipher_result(got, ID)
    assert isinstance(found, Fault)
    assert found.retry_after_s == 7.0


# ---------------------------------------------------------------------------------------------------- the others


def test_balance_and_price() -> None:
    """Money is read in micro-dollars, the discounted price before the plain one; what isn't told is None."""
    assert decipher_balance(answer({"balance": 12.34})) == 12_340_000
    assert decipher_balance(answer({"balance": None})) is None
    assert decipher_balance(answer(None, status=403)) is None
    assert decipher_balance(TransportFault(sent=True, message="reset")) is None
    assert decipher_price(answer({"price": 0.08, "discounted_price": 0.072})) == 72_000
    assert decipher_price(answer({"price": 0.08, "discounted_price": None})) == 80_000
    assert decipher_price(answer({"price": 0.08, "discounted_price": 0})) == 80_000
    assert decipher_price(answer({"price": 0, "discounted_price": 1e-9})) is None
    assert decipher_price(answer({})) is None
    assert decipher_price(answer({"price": 0.08}, code=500)) is None


def test_models() -> None:
    """Each model's request schema is found by its id; entries of other shapes are passed over."""
    schema = {"type": "object", "properties": {"prompt": {"type": "string"}}}
    run = {"type": "model_run", "request_schema": schema}
    good = {"model_id": MODEL, "api_schema": {"api_schemas": [{"type": "other", "request_schema": {}}, run]}}
    odd = [None, 7, {}, {"model_id": 7}, {"model_id": "a/b"}, {"model_id": "a/c", "api_schema": {"api_schemas": [7]}}]
    assert decipher_models(answer([*odd, good])) == {MODEL: schema}
    assert decipher_models(answer({"items": []})) is None
    assert decipher_models(HttpAnswer(status=200, body=b"<html>")) is None


@pytest.mark.fault("S05")
def test_a_submission_may_be_answered_with_any_status_word() -> None:
    """Accepted is told by the id: some samples say `processing` or `pending` at once, and one may be done already."""
    for status in ("created", "processing", "pending", "completed", "failed", None):
        assert isinstance(decipher_submit(answer(prediction_data(status=status))), Accepted)
