"""A history that grows while it is listed tells all the same what became of a lost submission."""

from collections.abc import Mapping

import pytest

from batchflux.core.model import CellStatus, JsonValue
from batchflux.core.protocol import HttpAnswer, TransportFault
from tests.engine.small import SmallEngine, answer, now_ms, rfc3339, work
from tests.engine.virtual import run_virtually


@pytest.mark.fault("S17", "C06")
def test_another_job_at_work_on_the_account_hides_no_lost_submission() -> None:
    """Each listing holds one more prediction of somebody else's; ours is among them each time, and is adopted."""
    listed: list[dict[str, JsonValue]] = []

    def entry(name: str, body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        return {"id": name, "status": "completed", "created_at": rfc3339(now_ms()), "inputs": dict(body)}

    def submit(body: Mapping[str, JsonValue]) -> TransportFault:
        listed.append(entry("ours", body))
        return TransportFault(sent=True, message="reset")

    def history(query: Mapping[str, JsonValue]) -> HttpAnswer:
        if query["page"] == 1:
            listed.append(entry(f"other{len(listed)}", {"prompt": "somebody else's"}))
        return answer({"items": list(listed)})

    engine = SmallEngine(
        submit=submit,
        history=history,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
    )
    run_virtually(engine.run([work()]))
    assert len(engine.posts) == 1
    assert (engine.sink.all[-1].status, engine.sink.all[-1].prediction_id) == (CellStatus.COMPLETED, "ours")


@pytest.mark.fault("S17")
def test_a_history_that_gives_its_first_page_for_every_page() -> None:
    """A full page is not all there is: what stands behind it may be what was lost, and nothing is sent again."""

    def history(query: Mapping[str, JsonValue]) -> HttpAnswer:
        others = [{"id": f"other{number}", "inputs": {"prompt": "somebody else's"}} for number in range(100)]
        return answer({"items": others})

    engine = SmallEngine(
        submit=lambda body: TransportFault(sent=True, message="reset"),
        history=history,
        poll=lambda name: answer({"id": name, "status": "completed", "outputs": ["https://host/1.png"]}),
    )
    run_virtually(engine.run([work()]))
    assert len(engine.posts) == 1
    assert engine.sink.all[-1].status is CellStatus.UNKNOWN
