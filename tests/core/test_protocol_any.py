"""Deciphering holds for any bytes whatever: nothing raises, and what is accepted can be asked for again."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.model import Prediction
from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    NotSent,
    Rejected,
    Unanswered,
    decipher_result,
    decipher_submit,
    final_fault,
    is_final,
)
from batchflux.core.quotes import decipher_balance, decipher_models, decipher_price
from tests.core.answers import ID, completed_data
from tests.core.test_fields import json_values

SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
NAMES = [*completed_data(), "code", "balance", "price", "discounted_price", "model_id", "api_schema"]

deciphers: list[Callable[[HttpAnswer], Any]] = [
    decipher_submit,
    lambda got: decipher_result(got, ID),
    decipher_balance,
    decipher_models,
    decipher_price,
]
# Mostly right answers with some field replaced: pure noise never gets past the first check.
envelopes = st.builds(
    lambda data, changes, envelope: {"code": 200, "message": "m", "data": {**data, **changes}, **envelope},
    st.just(completed_data()),
    st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4),
    st.dictionaries(st.sampled_from(["code", "message", "data", "error", "error_code"]), json_values, max_size=2),
)
bodies = st.binary(max_size=60) | envelopes.map(lambda envelope: json.dumps(envelope).encode())
answers = st.builds(
    HttpAnswer,
    status=st.sampled_from([200, 200, 201, 204, 302, 400, 402, 403, 408, 429, 500, 503]) | st.integers(100, 599),
    body=bodies,
    retry_after=st.none() | st.text(max_size=70),
    date=st.none() | st.text(max_size=70),
    location=st.none() | st.text(max_size=70),
)


@pytest.mark.fault("H07")
@given(answers)
def test_nothing_raises(got: HttpAnswer) -> None:
    """Every decipher function has an answer to every answer, made of text that can be stored."""
    for decipher in deciphers:
        repr(decipher(got)).encode()


@pytest.mark.fault("H07")
@pytest.mark.parametrize("depth", [*range(900, 1000, 5), 5000])
@pytest.mark.parametrize("name", ["code", "message", "data"])
def test_nesting_at_the_edge_of_the_stack(depth: int, name: str) -> None:
    """H07: nesting that the parser just bears doesn't break those who look at what it gave."""
    body = f'{{"{name}": {"[" * depth}{"]" * depth}}}'.encode()
    for status in (200, 400):
        for decipher in deciphers:
            decipher(HttpAnswer(status=status, body=body))


@pytest.mark.security(14)
@given(answers)
def test_accepted_has_a_usable_id(got: HttpAnswer) -> None:
    """An accepted prediction's id is safe in a path, and comes from a 2xx whose envelope says 200."""
    found = decipher_submit(got)
    assert isinstance(found, Accepted | Rejected | Unanswered | NotSent)
    if isinstance(found, Accepted):
        assert SAFE_ID.fullmatch(found.prediction.id)
        assert 200 <= got.status < 300
        assert json.loads(got.body)["code"] == 200


@given(answers)
def test_rejected_never_where_something_may_have_been_made(got: HttpAnswer) -> None:
    """Only a parsed 4xx, HTTP's or the envelope's, that names no prediction proves that nothing was made."""
    found = decipher_submit(got)
    if isinstance(found, Rejected):
        envelope = json.loads(got.body)
        data = envelope.get("data")
        assert not (isinstance(data, dict) and data.get("id"))
        assert 400 <= got.status < 500 or 200 <= got.status < 300
        assert got.status not in (408, 409, 425, 499)
        assert got.status >= 400 or 400 <= envelope["code"] < 500 or envelope["code"] == 1407


@given(envelopes)
def test_known_ids_are_never_accepted(envelope: Any) -> None:
    """No answer makes an id that is known already a fresh one."""
    got = HttpAnswer(status=200, body=json.dumps(envelope).encode())
    assert not isinstance(decipher_submit(got, is_known_id=True), Accepted)


@given(envelopes)
def test_final_predictions_are_explained(envelope: Any) -> None:
    """A final prediction either has outputs or a fault with words; codes and times fit a journal."""
    found = decipher_result(HttpAnswer(status=200, body=json.dumps(envelope).encode()), ID)
    if not isinstance(found, Prediction) or not is_final(found):
        return
    fault = final_fault(found)
    assert (fault is None) == (found.status == "completed" and bool(found.outputs))
    assert fault is None or fault.message
    for number in (found.created_at_ms, found.inference_ms, found.code):
        assert number is None or abs(number) < 2**63
