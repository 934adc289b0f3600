"""WaveSpeed's v3 API without IO: build a request, decipher an answer; every vendor fact with its source.

The one pure place that says what an answer to a submission means: not sent, accepted, rejected or unanswered. It sends
nothing, retries nothing and keeps no state. The service's own words (`created`, `processing`, ...) stay in this file.

Sources: [page] the model page; [docs] WaveSpeed's documentation; [SDK] its official clients' code; [seen] others' logs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from batchflux.core.fields import (
    as_code,
    as_inference_ms,
    as_list,
    as_moment_ms,
    clip,
    parse_object,
    retry_after_s,
)
from batchflux.core.model import ErrorKind, Fault, Params, Prediction

__all__ = [
    "MAX_ANSWER_BYTES",
    "Accepted",
    "HttpAnswer",
    "HttpRequest",
    "NotSent",
    "Rejected",
    "SubmitAnswer",
    "TransportFault",
    "Unanswered",
    "build_result",
    "build_submit",
    "decipher_list",
    "decipher_prediction",
    "decipher_result",
    "decipher_submit",
    "encode_body",
    "encode_json",
    "final_fault",
    "is_final",
    "is_prediction_id",
    "is_refunded",
    "ok_data",
]

MAX_ANSWER_BYTES = 1 << 20  # a prediction's answer is about a kilobyte; the models list about half a megabyte [SDK]
_MAX_URL_CHARS = 4096

# [page] 32 hex digits are seen; anything that could change a URL's or a file's meaning is no id.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

# Once and not for each cell, as `json.dumps` would make it.
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

_COMPLETED = "completed"
# Statuses of a success that carry no whole answer: no content, reset, partial content [RFC 9110, 15.3].
_WITHOUT_ANSWER = frozenset({204, 205, 206})
# 4xx that don't say that nothing was made: it may have been done already, or be done yet.
_UNDECIDED = frozenset({408, 409, 425, 499})

# [page] completed, failed; [SDK] cancelled, timeout and deleted are final too. Any other word means: not yet.
_FINAL = frozenset({_COMPLETED, "failed", "cancelled", "timeout", "deleted"})

# [docs] error-codes: transient failures of the service itself, which it refunds.
_REFUNDED_CODES = frozenset({1406, 5000, 5003})

# [seen] HTTP 400 with "Insufficient credits. ... top up"; 402 elsewhere; [docs] code 1407.
_CREDIT_WORDS = re.compile(
    r"insufficient|not (enough|sufficient)|too low|credits?\b.*(exhausted|used up)|top[ -]?up", re.IGNORECASE
)
_CREDIT_SUBJECT = re.compile(r"credit|balance|fund|top[ -]?up", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request to the service, without its key. `body` is None for a GET."""

    method: Literal["GET", "POST"]
    url: str
    body: bytes | None = None
    max_answer_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A whole HTTP answer: the body read to its end, within the request's bound."""

    status: int
    body: bytes
    retry_after: str | None = None
    date: str | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFault:
    """No whole answer. `sent` is False only where it is certain that no byte of the request left."""

    sent: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """No connection was made: nothing can have been accepted."""

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The service made a prediction and will charge for it."""

    prediction: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The service refused, and made nothing. `concerns`: the cell, this moment (429), or the whole job."""

    fault: Fault
    concerns: Literal["cell", "moment", "job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """It can't be known whether the service accepted. `redirected_to` names where a redirect pointed.

    `asks_to_wait` is a gateway's 429: no proof that nothing was made, but all submissions are to slow down.
    """

    fault: Fault
    redirected_to: str | None = None
    asks_to_wait: bool = False


SubmitAnswer: TypeAlias = NotSent | Accepted | Rejected | Unanswered


# ---------------------------------------------------------------------------------------------------- requests


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return a mapping as compact JSON. Raises ValueError for NaN and infinities."""
    return _ENCODE(value).encode()


def encode_body(body: Params) -> bytes:
    """Return a request body as it goes over the wire. Raises ValueError for NaN and infinities."""
    return encode_json(body)


def build_submit(base_url: str, model: str, body: bytes) -> HttpRequest:
    """Return the POST that creates a prediction [page: Submit Task], from an encoded body."""
    return HttpRequest(method="POST", url=f"{base_url}/{quote(model)}", body=body)


def build_result(base_url: str, prediction_id: str) -> HttpRequest:
    """Return the GET that asks for a prediction [page: Query Result]; built by us, never taken from an answer."""
    return HttpRequest(method="GET", url=f"{base_url}/predictions/{quote(prediction_id, safe='')}/result")


# ---------------------------------------------------------------------------------------------------- answers


def decipher_submit(answer: HttpAnswer | TransportFault, *, is_known_id: bool = False) -> SubmitAnswer:
    """Say which of the four answers to a submission this is.

    `is_known_id` is whether the id in it was given to us before: such an answer was meant for another submission.
    """
    if isinstance(answer, TransportFault):
        if not answer.sent:
            return NotSent(fault=Fault(kind="network", message=clip(answer.message)))
        return Unanswered(fault=_unknown(answer.message))
    if 300 <= answer.status < 400:
        where = clip(answer.location or "nowhere")
        return Unanswered(fault=_unknown(f"redirected (HTTP {answer.status}) to {where}"), redirected_to=where)
    envelope = parse_object(answer.body)
    if 200 <= answer.status < 300 and answer.status not in _WITHOUT_ANSWER:
        return _decipher_ok(envelope, answer, is_known_id=is_known_id)
    if envelope is None:
        fault = _unknown(f"HTTP {answer.status} without the service's own words")
        if answer.status != 429:
            return Unanswered(fault=fault)
        wait_s = retry_after_s(answer.retry_after, date=answer.date)
        return Unanswered(fault=replace(fault, retry_after_s=wait_s), asks_to_wait=True)
    return _refusal(answer.status, envelope, answer)


def _decipher_ok(
    envelope: Mapping[str, Any] | None, answer: HttpAnswer, *, is_known_id: bool
) -> Accepted | Rejected | Unanswered:
    if envelope is None:
        return Unanswered(fault=_unknown(f"HTTP {answer.status} with a body that is not the service's JSON"))
    data = envelope.get("data")
    prediction = _prediction(data) if isinstance(data, dict) else None
    code = envelope.get("code")
    if code == 200 and prediction is not None and not is_known_id:
        return Accepted(prediction=prediction)
    if isinstance(code, int) and (400 <= code < 500 or code == 1407):
        return _refusal(400 if code == 1407 else code, envelope, answer)
    what = "with an id already known" if is_known_id else f"with code {clip(str(code))} and no usable id"
    return Unanswered(fault=_unknown(f"HTTP {answer.status} {what}"))


def _refusal(status: int, envelope: Mapping[str, Any], answer: HttpAnswer) -> Rejected | Unanswered:
    """Sort a parsed refusal. A 4xx says that nothing was made, unless it names a prediction; a 5xx never does."""
    message = _message(envelope, status)
    code, data = envelope.get("code"), envelope.get("data")
    if not 400 <= status < 500 or status in _UNDECIDED or (isinstance(data, dict) and data.get("id")):
        return Unanswered(fault=_unknown(message))
    if status == 402 or code in (402, 1407) or _speaks_of_credit(status, message):
        return Rejected(fault=Fault(kind="credit", message=message, code=as_code(code)), concerns="job")
    match status:
        case 429:
            wait_s = retry_after_s(answer.retry_after, date=answer.date)
            fault = Fault(kind="rate_limit", message=message, code=as_code(code), retry_after_s=wait_s)
            return Rejected(fault=fault, concerns="moment")
        case 401 | 403:
            return Rejected(fault=Fault(kind="auth", message=message, code=as_code(code)), concerns="job")
        case 404 | 405:
            return Rejected(fault=Fault(kind="not_found", message=message, code=as_code(code)), concerns="job")
        case _:
            return Rejected(fault=Fault(kind="invalid_request", message=message, code=as_code(code)), concerns="cell")


def decipher_list(answer: HttpAnswer | TransportFault, name: str) -> list[Any] | Fault:
    """Return the list that an answer's `data` holds under a name, or why there is none."""
    if isinstance(answer, TransportFault):
        return Fault(kind="network", message=clip(answer.message))
    envelope = parse_object(answer.body)
    fault = _query_fault(answer, envelope)
    if fault is not None:
        return fault
    data = ok_data(answer)
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, list):
        return Fault(kind="bad_response", message=f"HTTP 200 with a body that holds no {name}")
    return found


def is_prediction_id(value: Any) -> bool:
    """Return whether a value of an answer can be a prediction's id."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def decipher_prediction(data: Any) -> Prediction | None:
    """Return a prediction from one entry of a listing, or None where it has no usable id."""
    return _prediction(data) if isinstance(data, dict) else None


def decipher_result(answer: HttpAnswer | TransportFault, prediction_id: str) -> Prediction | Fault:
    """Return the prediction asked for, or why this answer doesn't tell of it; a Fault here ends no cell by itself."""
    if isinstance(answer, TransportFault):
        return Fault(kind="network", message=clip(answer.message))
    envelope = parse_object(answer.body)
    fault = _query_fault(answer, envelope)
    if fault is not None:
        return fault
    data = envelope.get("data") if envelope is not None else None
    prediction = _prediction(data) if isinstance(data, dict) else None
    if prediction is None:
        return Fault(kind="bad_response", message="HTTP 200 with a body that holds no prediction")
    if prediction.id != prediction_id:
        return Fault(kind="bad_response", message=f"asked for {prediction_id}, was told of {prediction.id}")
    return prediction


def _query_fault(answer: HttpAnswer, envelope: Mapping[str, Any] | None) -> Fault | None:
    """Return why an answer to a query tells nothing, by HTTP status and by the envelope's code; None where it may.

    A page that refuses the key or knows no prediction is a gateway's: only the service's own words end a run or a cell.
    """
    code = envelope.get("code") if envelope is not None else None
    status = answer.status if answer.status != 200 or not isinstance(code, int) else code
    if status != 200:
        kind: ErrorKind = "server"
        if status in (401, 403) and envelope is not None:
            kind = "auth"
        elif status == 404:
            kind = "not_found" if envelope is not None else "bad_response"
        elif status == 429:
            kind = "rate_limit"
        elif envelope is not None and 400 <= status < 500:
            kind = "bad_response"
        message = _message(envelope or {}, status)
        return Fault(
            kind=kind, message=message, code=status, retry_after_s=retry_after_s(answer.retry_after, date=answer.date)
        )
    return None


def is_final(prediction: Prediction) -> bool:
    """Return whether a prediction will not change any more; an unknown status word means that it may."""
    return prediction.status in _FINAL


def final_fault(prediction: Prediction) -> Fault | None:
    """Return why a final prediction gave no image, or None where it did.

    [docs] error-codes: 1200 moderation, 1400 to 1402 the request, 1407 credit.
    """
    if prediction.status == _COMPLETED:
        if prediction.outputs:
            return None
        return Fault(kind="bad_response", message="completed without outputs", code=prediction.code)
    message = prediction.error or f"the service says '{prediction.status}' and no reason"
    kind: ErrorKind = "generation_failed"
    match prediction.code:
        case 1200:
            kind = "content_policy"
        case 1400 | 1401 | 1402:
            kind = "invalid_request"
        case 1407:
            kind = "credit"
        case _ if prediction.status == "deleted":
            kind = "not_found"
    return Fault(kind=kind, message=message, code=prediction.code)


def is_refunded(fault: Fault) -> bool:
    """Return whether the service failed for reasons of its own and gives the money back: another attempt is fair."""
    return fault.kind == "generation_failed" and fault.code in _REFUNDED_CODES


def ok_data(answer: HttpAnswer | TransportFault) -> Any:
    """Return the `data` of a query that went well by HTTP and by envelope, else None."""
    if isinstance(answer, TransportFault) or answer.status != 200:
        return None
    envelope = parse_object(answer.body)
    return envelope.get("data") if envelope is not None and envelope.get("code") == 200 else None


def _prediction(data: Mapping[str, Any]) -> Prediction | None:
    """Return a prediction from the `data` of an answer, or None where it has no usable id."""
    prediction_id = data.get("id")
    if not isinstance(prediction_id, str) or not _ID.fullmatch(prediction_id):
        return None
    notes: list[str] = []
    outputs = tuple(url for item in as_list(data.get("outputs")) if (url := _output_url(item, notes)) is not None)
    flags = tuple(flag if isinstance(flag, bool) else None for flag in as_list(data.get("has_nsfw_contents")))
    timings = data.get("timings")
    inference = timings.get("inference") if isinstance(timings, dict) else None
    status = data.get("status")
    return Prediction(
        id=prediction_id,
        status=clip(status).lower() if isinstance(status, str) else "",
        outputs=outputs,
        has_nsfw_contents=flags,
        created_at_ms=as_moment_ms(data.get("created_at")),
        inference_ms=as_inference_ms(inference),
        error=clip(data["error"]) if isinstance(data.get("error"), str) else "",
        code=as_code(data.get("code")),
        model=clip(data["model"]) if isinstance(data.get("model"), str) else None,
        notes=tuple(notes),
    )


def _output_url(item: Any, notes: list[str]) -> str | None:
    """[SDK] outputs are URL strings, for some models objects with `url`; anything but a plain http(s) URL is noted."""
    url = item.get("url") if isinstance(item, dict) else item
    if isinstance(url, str) and len(url) <= _MAX_URL_CHARS and url.isprintable() and " " not in url:
        try:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0:
                return url
        except ValueError:  # a host or a port that can't be one
            pass
    shown = clip(url, 80) if isinstance(url, str) else type(item).__name__
    notes.append(f"an output is no http(s) URL: {shown}")
    return None


def _message(envelope: Mapping[str, Any], status: int) -> str:
    """[SDK] refusals carry `message` and sometimes a string `error_code`."""
    text = next((envelope[name] for name in ("message", "error") if isinstance(envelope.get(name), str)), "")
    name = envelope.get("error_code")
    suffix = f" ({name})" if isinstance(name, str) else ""
    return clip(f"HTTP {status}: {text or 'no message'}{suffix}")


def _speaks_of_credit(status: int, message: str) -> bool:
    return status in (400, 403) and bool(_CREDIT_WORDS.search(message) and _CREDIT_SUBJECT.search(message))


def _unknown(message: str) -> Fault:
    return Fault(kind="unknown_outcome", message=clip(message))
