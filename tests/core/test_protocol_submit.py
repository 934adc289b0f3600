"""What an answer to a submission means: the classification of money, row by row; ids name the fault list's rows."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    NotSent,
    Rejected,
    TransportFault,
    Unanswered,
    decipher_submit,
)
from tests.core.answers import ID, answer, prediction_data
from tests.faults.marking import fault_cases

HTML = b"<html><body>Down for maintenance</body></html>"


def refusal(status: int, message: str = "a reason", **envelope: Any) -> HttpAnswer:
    return answer(None, status=status, **{"message": message, **envelope})


def raw(status: int, body: bytes) -> HttpAnswer:
    return HttpAnswer(status=status, body=body)


ACCEPTED = {
    "H01 200": answer(prediction_data()),
    "H01 201": answer(prediction_data(), status=201, code=200),
    "H06 JSON whatever its type is called": answer(prediction_data()),
    "id of a UUID": answer(prediction_data(id="4d7e9c3a-7d1f-4e0e-9d0a-3f0b8f0c2f11")),
    "H07 BOM": raw(200, b"\xef\xbb\xbf" + answer(prediction_data()).body),
    "H07 NaN elsewhere": raw(200, answer(prediction_data()).body.replace(b'"inference": 0', b'"inference": NaN')),
}
UNANSWERED: Mapping[str, HttpAnswer | TransportFault] = {
    "no answer": TransportFault(sent=True, message="ServerDisconnectedError"),
    "H02 envelope 500": answer(prediction_data(), code=500),
    "H02 envelope 500 without an id": answer(None, code=500),
    "H02 envelope 5004": answer(None, code=5004),
    "H02 envelope 400 with an id": answer(prediction_data(), code=400),
    "H02 envelope 400 with an id that can't be used": answer(prediction_data(id="../../x"), code=400),
    "H02 envelope without a code": raw(200, json.dumps({"data": prediction_data()}).encode()),
    "H02 code as text": answer(prediction_data(), code="200"),
    "H03 no id": answer({"status": "created"}),
    "H03 id null": answer(prediction_data(id=None)),
    "H03 id a number": answer(prediction_data(id=7)),
    "H03 empty body": raw(200, b""),
    "H03 no data": answer(None),
    "H04 climbing": answer(prediction_data(id="../../x")),
    "H04 slash": answer(prediction_data(id="a/b")),
    "H04 10 kB": answer(prediction_data(id="a" * 10_000)),
    "H04 newline": answer(prediction_data(id=f"{ID}\n")),
    "H04 unicode": answer(prediction_data(id="ïd")),
    "H04 empty": answer(prediction_data(id="")),
    "H06 HTML": raw(200, HTML),
    "H07 5000 digits": raw(200, b'{"code":200,"data":{"id":' + b"1" * 5000 + b"}}"),
    "H07 nesting": raw(200, b'{"code":' + b"[" * 100_000),
    "H16 500": refusal(500),
    "H16 502 HTML": raw(502, HTML),
    "H16 503": refusal(503),
    "H16 504": raw(504, b""),
    "500 that speaks of credit": refusal(500, "Insufficient credits", code=1407),
    "408 that speaks of credit": refusal(408, code=402),
    "H19 408": refusal(408),
    "H19 409": refusal(409),
    "H19 425": refusal(425),
    "H19 499": refusal(499),
    "H19 520": raw(520, HTML),
    "H19 527": raw(527, b""),
    "H22 204": raw(204, b""),
    "H22 205": raw(205, b""),
    "H22 206": answer(prediction_data(), status=206, code=200),
    "400 of a gateway, not the service's words": raw(400, HTML),
    "429 of a gateway, not the service's words": raw(429, HTML),
    "400 that names a prediction all the same": answer(prediction_data(), status=400),
    "N11 cut JSON": raw(200, answer(prediction_data()).body[:-30]),
}
CELL = {
    "H08 400": refusal(400),
    "H08 422": refusal(422),
    "H13 413": refusal(413),
    "H13 414": refusal(414),
    "H13 415": refusal(415),
    "418": refusal(418),
    "H02 envelope 400": answer(None, code=400),
    "H02 envelope 400, empty data": answer({}, code=400),
}
MOMENT = {"H14 429": refusal(429), "H02 envelope 429": answer(None, code=429)}
AUTH = {"H10 401": refusal(401), "H10 403": refusal(403), "H02 envelope 401": answer(None, code=401)}
CREDIT = {
    "H11 402": refusal(402),
    "H11 400": refusal(400, "Insufficient credits. Please top up your account."),
    "H11 400, other words": refusal(400, "Your balance is not enough for this request"),
    "H11 400, and others": refusal(400, "Your credit balance is too low"),
    "H11 code 1407": refusal(400, code=1407),
    "H11 code 1407 in a 200": answer(None, code=1407),
    "H11 403": refusal(403, "insufficient balance"),
    "envelope 402": answer(None, code=402),
}
NOT_FOUND = {"H12 404": refusal(404), "H12 405": refusal(405)}


@fault_cases("got", ACCEPTED)
def test_accepted(got: HttpAnswer) -> None:
    """2xx, envelope code 200 and a usable id: the service made a prediction."""
    found = decipher_submit(got)
    assert isinstance(found, Accepted)
    assert found.prediction.id


@fault_cases("got", UNANSWERED)
def test_unanswered(got: HttpAnswer | TransportFault) -> None:
    """Whatever doesn't prove that nothing was made is unanswered, and nothing sends it again."""
    found = decipher_submit(got)
    assert isinstance(found, Unanswered)
    assert found.fault.kind == "unknown_outcome"
    assert found.redirected_to is None


@fault_cases("got", CELL)
def test_rejected_for_the_cells_own_reasons(got: HttpAnswer) -> None:
    """The service's parsed refusal of this request ends this cell and no other."""
    found = decipher_submit(got)
    assert isinstance(found, Rejected)
    assert (found.concerns, found.fault.kind) == ("cell", "invalid_request")


@fault_cases("got", MOMENT)
def test_rejected_for_the_moment(got: HttpAnswer) -> None:
    """429 is about now: the cell is sent again later."""
    found = decipher_submit(got)
    assert isinstance(found, Rejected)
    assert (found.concerns, found.fault.kind) == ("moment", "rate_limit")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 502])
def test_a_gateways_page_decides_nothing_but_the_pace(status: int) -> None:
    """Whether the service saw the request is unknown; a page that asks to be left alone is heeded all the same."""
    found = decipher_submit(HttpAnswer(status=status, body=HTML, retry_after="7"))
    assert isinstance(found, Unanswered)
    assert found.asks_to_wait == (status == 429)
    assert found.fault.retry_after_s == (7.0 if status == 429 else None)


JOB = {
    name: (kind, got)
    for kind, table in (("auth", AUTH), ("credit", CREDIT), ("not_found", NOT_FOUND))
    for name, got in table.items()
}


@fault_cases("case", JOB)
def test_rejected_for_the_whole_job(case: tuple[str, HttpAnswer]) -> None:
    """A refused key, no credit left (in each of its wordings) and a wrong model concern every cell alike."""
    kind, got = case
    found = decipher_submit(got)
    assert isinstance(found, Rejected)
    assert (found.concerns, found.fault.kind) == ("job", kind)


@pytest.mark.fault("H20")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status: int) -> None:
    """H20: a redirected submission is unanswered, and the place that it was sent to is named."""
    found = decipher_submit(HttpAnswer(status=status, body=b"", location="http://127.0.0.1:9/x"))
    assert isinstance(found, Unanswered)
    assert found.redirected_to == "http://127.0.0.1:9/x"
    nowhere = decipher_submit(HttpAnswer(status=status, body=answer(prediction_data()).body))
    assert isinstance(nowhere, Unanswered)
    assert nowhere.redirected_to is not None


def test_not_sent() -> None:
    """Only what certainly never left is told apart: it may be sent again freely."""
    found = decipher_submit(TransportFault(sent=False, message="refused"))
    assert isinstance(found, NotSent)
    assert found.fault.kind == "network"


@pytest.mark.fault("H05")
def test_an_id_already_known_is_no_answer_to_this_submission() -> None:
    """H05: an answer that names another cell's prediction was meant for that one."""
    found = decipher_submit(answer(prediction_data()), is_known_id=True)
    assert isinstance(found, Unanswered)
    assert "already known" in found.fault.message


@pytest.mark.fault("H08")
def test_a_refusal_keeps_the_services_words() -> None:
    """The message says status, words and the service's own name of the error, bounded and on one line."""
    found = decipher_submit(refusal(403, "No access\nfor this key", error_code="role_viewer"))
    assert isinstance(found, Rejected)
    assert found.fault.message == "HTTP 403: No access\\nfor this key (role_viewer)"
    long = decipher_submit(refusal(400, "x" * 100_000))
    assert isinstance(long, Rejected)
    assert len(long.fault.message) < 600


@pytest.mark.fault("H14")
def test_a_refusals_retry_after() -> None:
    """H14: seconds travel with the refusal, up to five minutes."""
    found = decipher_submit(HttpAnswer(status=429, body=b'{"code":429,"message":"m"}', retry_after="1000000000"))
    assert isinstance(found, Rejected)
    assert found.fault.retry_after_s == 300.0
