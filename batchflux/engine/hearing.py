"""What an answer means for the whole run: for its limits and the service's health, and as a reason to stop.

Keeps the newest prediction ids, since an answer that brings one again was meant for another submission. What an answer
means for its cell is the flow's.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from batchflux.core.model import Fault, Prediction
from batchflux.core.protocol import (
    Accepted,
    HttpAnswer,
    NotSent,
    Rejected,
    SubmitAnswer,
    TransportFault,
    Unanswered,
    decipher_submit,
)
from batchflux.engine.control import Admission
from batchflux.engine.ports import Observer, StopReason, Work
from batchflux.engine.resolving import Resolver

__all__ = ["KNOWN_IDS", "Hearing"]

# Rejections alike in a row: then the job is wrong and not the cells.
_SAME_FAILURES = 20
# Ids that answers are held against: what passes for another's answer is young, and ten million ids would be a gigabyte.
KNOWN_IDS = 65536


@dataclass(kw_only=True)
class Hearing:
    """Takes in every answer of the service once."""

    admission: Admission
    resolver: Resolver
    observer: Observer
    base_url: str
    wall_ms: Callable[[], int]
    _known_ids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _alike: tuple[str, int] = ("", 0)

    def remember(self, prediction_id: str) -> None:
        """Keep the newest ids: an answer that brings one again was meant for another submission."""
        self._known_ids[prediction_id] = None
        if len(self._known_ids) > KNOWN_IDS:
            self._known_ids.popitem(last=False)  # a plain dict walks past all that it has let go of

    def submitted(
        self, item: Work, raw: HttpAnswer | TransportFault, *, sent_at_ms: int, sent_at_s: float, now_s: float
    ) -> SubmitAnswer:
        """Take in what came of a submission; returns what it is."""
        answer = decipher_submit(raw, is_known_id=False)
        if isinstance(answer, Accepted):
            self.resolver.saw_named(self.wall_ms())
        if isinstance(answer, Accepted) and answer.prediction.id in self._known_ids:
            known_id = answer.prediction.id
            answer = decipher_submit(raw, is_known_id=True)
            # Something between us and the service mixes answers up: to be told apart from a line that drops them.
            self.observer.note("mixed_up", cell_id=item.cell.cell_id, prediction_id=known_id)
        self._tell_limits(answer, item, sent_at_ms=sent_at_ms, sent_at_s=sent_at_s, now_s=now_s)
        if not isinstance(answer, Accepted):
            self._note_answer(item, answer, raw)
        return answer

    def queried(self, prediction_id: str, result: Prediction | Fault, *, now_s: float) -> None:
        """Take in what a query brought."""
        if not isinstance(result, Fault):
            self.admission.health.heard(now_s)
            return
        self.observer.note("query", prediction_id=prediction_id, error_kind=result.kind, error=result.message)
        if result.kind == "auth":
            self.admission.switch.stop(StopReason(kind="trouble", message=result.message, fault=result), abandon=True)
        elif result.kind in ("network", "server"):
            self._silent(result, now_s)
        elif result.kind != "bad_response":  # which any page of a gateway is
            self.admission.health.heard(now_s)

    def _tell_limits(
        self, answer: SubmitAnswer, item: Work, *, sent_at_ms: int, sent_at_s: float, now_s: float
    ) -> None:
        gate = self.admission
        match answer:
            case Accepted(prediction=prediction):
                self.remember(prediction.id)
                self.resolver.learn_clock(prediction.created_at_ms, sent_at_ms=sent_at_ms, heard_at_ms=self.wall_ms())
                self._alike = ("", 0)
                gate.throttle.accepted(item.cell.images, sent_at_s=sent_at_s, now_s=now_s)
                gate.breaker.answered()
                gate.health.heard(now_s)
            case Rejected(fault=fault, concerns=concerns):
                gate.breaker.answered()
                gate.health.heard(now_s)
                if concerns == "moment":
                    gate.throttle.refused(fault, sent_at_s=sent_at_s, now_s=now_s)
                elif concerns == "job":
                    gate.switch.stop(StopReason(kind="trouble", message=fault.message, fault=fault))
                else:
                    self._count_alike(fault)
            case NotSent(fault=fault):
                gate.breaker.not_sent()
                self._silent(fault, now_s)
            case Unanswered(fault=fault, redirected_to=redirected_to, asks_to_wait=asks_to_wait):
                gate.breaker.unanswered(sent_at_s=sent_at_s, now_s=now_s)
                if asks_to_wait:
                    gate.throttle.refused(fault, sent_at_s=sent_at_s, now_s=now_s)
                if redirected_to is not None:
                    message = f"{self.base_url} redirects to {redirected_to}; submissions are not sent elsewhere"
                    gate.switch.stop(StopReason(kind="trouble", message=message, fault=fault))
                else:
                    self._silent(fault, now_s)  # a page for every answer is no service either
            case _:
                assert_never(answer)

    def _count_alike(self, fault: Fault) -> None:
        same = self._alike[1] + 1 if self._alike[0] == fault.message else 1
        self._alike = (fault.message, same)
        if same >= _SAME_FAILURES:
            message = f"the last {same} submissions were all refused alike: {fault.message}"
            self.admission.switch.stop(StopReason(kind="trouble", message=message, fault=fault))

    def _silent(self, fault: Fault, now_s: float) -> None:
        """Hold submissions back while the service can't be reached, and stop when it has been gone for too long."""
        gate = self.admission
        wait_s, patience_s = gate.health.silent(now_s), gate.health.patience_s
        if patience_s is not None:
            wait_s = min(wait_s, patience_s / 4)  # only another try tells that patience is at its end
        gate.pace.paused_until_s = max(gate.pace.paused_until_s, now_s + wait_s)
        if gate.health.is_gone(now_s):
            message = f"the service is gone: {fault.message}"
            gate.switch.stop(StopReason(kind="trouble", message=message, fault=fault), abandon=True)

    def _note_answer(self, item: Work, answer: SubmitAnswer, raw: HttpAnswer | TransportFault) -> None:
        """Keep an odd answer's words in the log; bodies are cut and free of control characters."""
        details = {"cell_id": item.cell.cell_id, "answer": type(answer).__name__}
        if isinstance(raw, HttpAnswer):
            body = json.dumps(raw.body[:300].decode("utf-8", "replace"))
            self.observer.note("submission", **details, http_status=raw.status, body=body)
        else:
            self.observer.note("submission", **details, sent=raw.sent, error=raw.message)
