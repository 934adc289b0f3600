"""The engine in virtual time against a service by arithmetic: the window, the pace, the stops, and no cell twice."""

import asyncio

import pytest

from batchflux.core.limits import Window
from batchflux.core.model import FactKind
from batchflux.core.protocol import HttpAnswer, HttpRequest, TransportFault
from batchflux.core.steps import CellState
from batchflux.core.throttle import LEAST_OPEN_POSTS
from batchflux.engine.control import MAX_OPEN_POSTS
from tests.core.answers import answer, prediction_data
from tests.core.lives import PRICE
from tests.engine import virtual
from tests.engine.fakes import Scene, Service, gaps, times_submitted

LOST = TransportFault(sent=True, message="ServerDisconnectedError")
NOT_SENT = TransportFault(sent=False, message="refused")


def play(scene: Scene) -> Scene:
    return virtual.run(scene.play())


# ---------------------------------------------------------------------------------------------------- the whole


def test_every_cell_is_completed_once() -> None:
    """All cells are submitted once each, completed, and cost their price; nothing stops the run."""
    service = Service()
    scene = play(Scene(cells=200, transport=service))
    assert scene.statuses == {"completed": 200}
    assert set(times_submitted(service).values()) == {1}
    assert scene.stop is None
    assert scene.spent() == scene.budget.life_micro_usd == 200 * PRICE
    assert scene.progress.n_done == 200
    assert scene.notes.facts == [fact for fact in scene.sink.facts if fact.kind is not FactKind.INTENT]


def test_no_cells_no_requests() -> None:
    """A finished job ends at once."""
    service = Service()
    scene = play(Scene(cells=0, transport=service))
    assert (service.posts, scene.stop, scene.took_s) == ([], None, 0)


def test_an_intent_is_durable_before_its_post() -> None:
    """Each POST leaves only after its own intent would survive a power cut."""
    scene = Scene(cells=50)

    def check(number: int, request: HttpRequest) -> None:
        durable = scene.sink.facts[: scene.sink.durable]
        assert any(fact.kind is FactKind.INTENT and (fact.body or "").encode() == request.body for fact in durable)

    scene.transport = Service(reply=check)
    assert play(scene).statuses == {"completed": 50}


# ---------------------------------------------------------------------------------------------------- the window


@pytest.mark.parametrize("most", [1, 3, 10])
def test_a_stated_concurrency_is_never_passed(most: int) -> None:
    """The service never holds more predictions of ours than the spec says, and holds that many most of the time."""
    service = Service()
    scene = play(Scene(cells=60, transport=service, window=Window.capped(most), most_workers=most))
    assert service.peak == most
    assert scene.took_s < 1.6 * 60 / most + 3


def test_auto_grows_while_the_service_accepts() -> None:
    """Thirty-two in the first seconds, and as many as there are workers soon after the first ones are done."""
    service = Service(work_s=10.0)
    play(Scene(cells=300, transport=service))
    assert service.peak == 64
    assert service.posts[31][0] - service.posts[0][0] < 2.0
    assert service.posts[63][0] - service.posts[0][0] < 13.0


def test_open_posts_are_few() -> None:
    """Only an open POST can become unknown: however wide the window, few are open at once."""
    service = Service(post_s=5.0, work_s=1.0)
    play(Scene(cells=200, transport=service, window=Window.capped(64)))
    assert LEAST_OPEN_POSTS <= service.peak_open_posts <= MAX_OPEN_POSTS


def test_a_refusing_service_is_met_with_few_refusals() -> None:
    """A limit of ten is found, halved at once for a whole burst, and every cell completed without an attempt lost."""
    service = Service(most=10, work_s=2.0)
    scene = play(Scene(cells=300, transport=service))
    assert scene.statuses == {"completed": 300}
    assert service.peak == 10
    assert all(fact.attempts == 1 for fact in scene.sink.last().values())
    assert scene.spent() == scene.budget.life_micro_usd == 300 * PRICE
    assert service.refused < 60


def test_a_burst_of_refusals_is_one_event() -> None:
    """Sixteen submissions refused together, at a service that held none of them, leave it wide open again."""
    scene = Scene(cells=40, window=Window.capped(16), most_workers=16)
    scene.transport = service = Service(
        reply=lambda number, request: answer(None, status=429) if number <= 16 else None
    )
    play(scene)
    assert scene.statuses == {"completed": 40}
    assert service.refused + len(service.posts) < 16 + 40 + 8
    assert scene.took_s < 20


@pytest.mark.fault("H15")
def test_an_hour_of_429() -> None:
    """H15: nothing fails, no attempt is burned, the service is left nearly alone, and speed is back in minutes."""
    scene = Scene(cells=100)
    scene.transport = service = Service(
        reply=lambda number, request: answer(None, status=429) if asyncio.get_running_loop().time() < 4600 else None
    )
    play(scene)
    assert scene.statuses == {"completed": 100}
    assert sum(at_s < 4600 for at_s, _ in service.posts) < 200
    assert scene.took_s < 3600 + 180


@pytest.mark.fault("H14")
def test_retry_after_is_honoured_by_all_workers() -> None:
    """After "wait 30 s" no submission leaves for thirty seconds, whoever's it is."""
    wait = HttpAnswer(status=429, body=b'{"code":429,"message":"slow"}', retry_after="30")
    service = Service(reply=lambda number, request: wait if number <= 4 else None)
    scene = play(Scene(cells=20, transport=service))
    assert scene.statuses == {"completed": 20}
    assert service.posts[4][0] - service.posts[3][0] >= 30


# ---------------------------------------------------------------------------------------------------- the pace


@pytest.mark.parametrize("images", [1, 4])
def test_images_are_evenly_paced(images: int) -> None:
    """`rate_limit` counts images: submissions leave one by one at even distances, and no slower."""
    service = Service()
    scene = play(Scene(cells=120, transport=service, rate_per_s=5.0, images_each=images))
    assert scene.statuses == {"completed": 120}
    distances = gaps(at_s for at_s, _ in service.posts)
    assert min(distances) >= images / 5 - 1e-6
    assert max(distances) <= images / 5 + 0.02


# ---------------------------------------------------------------------------------------------------- the limits


@pytest.mark.parametrize("limit", [1, 5, 8, 20])
def test_limit(limit: int) -> None:
    """`--limit N` starts N cells, finishes them, and says that it stopped as asked, unless there were no more."""
    scene = play(Scene(cells=8, max_cells=limit))
    assert scene.statuses["completed"] == min(limit, 8)
    assert (scene.stop.kind if scene.stop else None) == ("asked" if limit < 8 else None)


@pytest.mark.parametrize("trouble", [answer(None, status=429), NOT_SENT], ids=["429", "not sent"])
def test_limit_counts_cells_and_not_tries(trouble: HttpAnswer | TransportFault) -> None:
    """A cell of the limit that was refused for the moment, or not sent, is still brought to its end."""
    service = Service(reply=lambda number, request: trouble if number <= 3 else None)
    scene = play(Scene(cells=8, transport=service, max_cells=2))
    assert scene.statuses["completed"] == 2


def test_limit_counts_cells_and_not_attempts() -> None:
    """A refunded failure's next attempt belongs to its cell, not to the limit."""
    service = Service(code_of=lambda number: 5000 if number <= 2 else 0)
    scene = play(Scene(cells=8, transport=service, max_cells=2))
    assert scene.statuses["completed"] == 2


@pytest.mark.parametrize("concurrency", [1, 4, 64])
@pytest.mark.parametrize("images", [1, 3])
def test_budget_is_never_passed(concurrency: int, images: int) -> None:
    """At any concurrency the service has accepted just what the budget buys, and nothing was in flight at the stop."""
    service = Service(work_s=5.0)
    scene = Scene(
        cells=100,
        transport=service,
        window=Window.capped(concurrency),
        images_each=images,
        budget_micro_usd=2_000_000,
        spent_micro_usd=40_000,
    )
    play(scene)
    bought = (2_000_000 - 40_000) // (PRICE * images)
    assert len(service.done_at_s) == bought
    assert scene.statuses == {"completed": bought, "pending": 100 - bought}
    assert scene.stop is not None
    assert (scene.stop.kind, scene.admission.window.in_flight) == ("asked", 0)
    assert "budget" in scene.stop.message


def test_a_refund_is_spent_again() -> None:
    """Money that a failed prediction gives back buys further cells: the budget stops only when nothing may come."""
    service = Service(work_s=20.0, code_of=lambda number: 5000 if number % 2 else 0)
    scene = play(Scene(cells=30, transport=service, budget_micro_usd=10 * PRICE, max_attempts=1))
    assert scene.statuses["completed"] == 10
    assert scene.budget.life_micro_usd == scene.spent() == 10 * PRICE


def test_a_session_budget_is_not_raised_by_an_earlier_sessions_refund() -> None:
    """`--budget` of this time buys what it says, though an old prediction's price comes back meanwhile."""
    service = Service(done_at_s={"old": 0.0}, codes={"old": 5000})
    old = CellState(attempts=1, cost_micro_usd=PRICE, prediction_id="old", price_micro_usd=PRICE)
    scene = play(
        Scene(
            cells=20,
            transport=service,
            resumed={3: old},
            spent_micro_usd=PRICE,
            session_micro_usd=5 * PRICE,
            max_attempts=1,
        )
    )
    assert len(service.posts) == 5
    assert scene.budget.life_micro_usd == scene.spent() == 5 * PRICE


def test_unknown_cells_stay_in_the_budget() -> None:
    """A lost answer holds its price: what it may have cost is not spent again."""
    service = Service(reply=lambda number, request: LOST if number == 1 else None)
    scene = play(Scene(cells=20, transport=service, budget_micro_usd=5 * PRICE))
    assert scene.statuses == {"unknown": 1, "completed": 4, "pending": 15}
    assert scene.spent() == scene.budget.life_micro_usd == 5 * PRICE


def test_until() -> None:
    """`--until` submits nothing that wouldn't be done by then, and lets what is under way be done."""
    service = Service(work_s=10.0)
    scene = play(Scene(cells=5000, transport=service, until_s=120.0))
    assert scene.stop is not None
    assert scene.stop.kind == "asked"
    assert max(at_s for at_s, _ in service.posts) <= 1000 + 120 - 10
    assert scene.took_s < 125
    assert set(scene.statuses) == {"completed", "pending"}


# ---------------------------------------------------------------------------------------------------- the stops


@pytest.mark.fault("H09")
def test_twenty_alike_rejections_stop() -> None:
    """H09: twenty refusals alike in a row mean that the job is wrong: the rest stays pending."""
    service = Service(reply=lambda number, request: answer(None, status=400, message="prompt is too long"))
    scene = play(Scene(cells=500, transport=service))
    assert scene.stop is not None
    assert (scene.stop.kind, scene.statuses["failed"]) == ("trouble", len(service.posts))
    assert 20 <= len(service.posts) <= 20 + MAX_OPEN_POSTS
    assert "alike" in scene.stop.message


@pytest.mark.fault("H08", "H13")
def test_rejections_of_some_cells_do_not_stop() -> None:
    """Bad cells among good ones fail, however many they are."""
    service = Service(reply=lambda number, request: answer(None, status=400, message="no") if number % 3 else None)
    scene = play(Scene(cells=200, transport=service))
    assert scene.stop is None
    assert scene.statuses["failed"] + scene.statuses["completed"] == 200


@pytest.mark.fault("H10", "H11", "H12")
@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [(401, "bad key", "auth"), (403, "no role", "auth"), (402, "pay", "credit"), (404, "no such model", "not_found")],
)
def test_what_concerns_the_job_stops_at_once(status: int, message: str, kind: str) -> None:
    """H10 to H12: within one request per open POST; nothing failed, nothing spent, what is in flight is completed."""
    service = Service(
        reply=lambda number, request: answer(None, status=status, message=message) if number > 10 else None
    )
    scene = play(Scene(cells=500, transport=service))
    assert scene.stop is not None
    assert scene.stop.fault is not None
    assert (scene.stop.kind, scene.stop.fault.kind) == ("trouble", kind)
    assert len(service.posts) <= 11 + MAX_OPEN_POSTS
    assert scene.statuses == {"completed": 10, "pending": 490}
    assert scene.spent() == scene.budget.life_micro_usd == 10 * PRICE


@pytest.mark.fault("H11")
def test_a_prediction_that_failed_for_want_of_credit_stops() -> None:
    """H11: a failed prediction's code 1407 means that every next one would fail as well."""
    service = Service(code_of=lambda number: 1407 if number > 5 else 0)
    scene = play(Scene(cells=500, transport=service))
    assert scene.stop is not None
    assert scene.stop.fault is not None
    assert (scene.stop.kind, scene.stop.fault.kind) == ("trouble", "credit")
    assert len(service.posts) < 100


@pytest.mark.fault("H20", "N19")
def test_a_redirect_stops_and_names_both_places() -> None:
    """H20: a moved endpoint or a captive portal: nothing is sent elsewhere, the cell is unknown."""
    moved = HttpAnswer(status=307, body=b"", location="http://portal.example/")
    scene = play(Scene(cells=100, transport=Service(reply=lambda number, request: moved)))
    assert scene.stop is not None
    assert scene.stop.kind == "trouble"
    assert "http://portal.example/" in scene.stop.message
    assert "http://127.0.0.1:9/api/v3" in scene.stop.message
    assert scene.statuses["unknown"] <= MAX_OPEN_POSTS


@pytest.mark.fault("H10")
def test_a_key_refused_by_a_query_stops_at_once() -> None:
    """A key that is taken away mid-run: queries can't go on, predictions stay submitted with their ids."""
    service = Service(work_s=5.0, look=lambda prediction_id: answer(None, status=401))
    scene = play(Scene(cells=50, transport=service))
    assert scene.stop is not None
    assert scene.stop.kind == "trouble"
    assert set(scene.statuses) <= {"submitted", "pending", "unknown"}
    assert scene.took_s < 15


@pytest.mark.fault("N01")
def test_a_service_that_never_answers_is_gone_in_a_minute() -> None:
    """A wrong address costs a minute, no unknown cell and no money."""
    scene = play(Scene(cells=100, transport=Service(reply=lambda number, request: NOT_SENT)))
    assert scene.stop is not None
    assert scene.stop.kind == "trouble"
    assert "gone" in scene.stop.message
    assert 60 <= scene.took_s <= 120
    assert scene.statuses == {"pending": 100}
    assert scene.budget.life_micro_usd == 0


@pytest.mark.parametrize(("patience_s", "most_s"), [(1.0, 2.0), (20.0, 26.0)])
def test_a_short_patience_is_kept(patience_s: float, most_s: float) -> None:
    """Backing off doesn't outlast what the user said is borne."""
    service = Service(post_s=0.0, reply=lambda number, request: NOT_SENT)
    scene = play(Scene(cells=100, transport=service, patience_s=patience_s))
    assert scene.stop is not None
    assert "gone" in scene.stop.message
    assert patience_s <= scene.took_s <= most_s


@pytest.mark.fault("N01")
def test_an_outage_of_hours_is_waited_out() -> None:
    """N01: a service that has answered before is waited for; it goes on by itself, nothing failed."""

    def down(number: int, request: HttpRequest) -> TransportFault | None:
        return NOT_SENT if 1010 < asyncio.get_running_loop().time() < 1010 + 6 * 3600 else None

    def deaf(prediction_id: str) -> TransportFault | None:
        return LOST if 1010 < asyncio.get_running_loop().time() < 1010 + 6 * 3600 else None

    service = Service(reply=down, look=deaf, work_s=5.0)
    scene = play(Scene(cells=300, transport=service, timeout_s=12 * 3600.0))
    assert scene.statuses == {"completed": 300}
    assert scene.took_s < 6 * 3600 + 300
    assert len(service.posts) < 300 + 6 * 3600 / 25


@pytest.mark.fault("N19")
def test_a_page_for_every_answer_does_not_go_on_for_ever() -> None:
    """N19: a captive portal's page for everything costs a few unknown cells and ends with the patience."""
    page = HttpAnswer(status=200, body=b"<html>Please log in</html>")
    service = Service(reply=lambda number, request: page, look=lambda prediction_id: page)
    scene = play(Scene(cells=1000, transport=service))
    assert scene.stop is not None
    assert scene.stop.kind == "trouble"
    assert scene.statuses["unknown"] <= 20


@pytest.mark.fault("H18")
def test_half_an_hour_of_502_after_create() -> None:
    """H18: answers lost for half an hour cost a dozen and what was open, and then the run goes on."""

    def lose(number: int, request: HttpRequest) -> HttpAnswer | None:
        return HttpAnswer(status=502, body=b"") if 1010 < asyncio.get_running_loop().time() < 2810 else None

    service = Service(reply=lose, work_s=0.5)
    scene = play(Scene(cells=3000, transport=service, window=Window.capped(64)))
    assert set(scene.statuses) == {"completed", "unknown"}
    assert scene.statuses["unknown"] <= MAX_OPEN_POSTS + 13
    assert set(times_submitted(service).values()) == {1}


@pytest.mark.fault("H05")
def test_an_id_given_twice_is_never_believed_twice() -> None:
    """H05: an answer that names another cell's prediction leaves its own cell unknown, the other untouched."""
    twice = answer(prediction_data(id="prediction-1"))
    service = Service(reply=lambda number, request: twice if number == 3 else None)
    scene = play(Scene(cells=6, transport=service))
    assert scene.statuses == {"completed": 5, "unknown": 1}
    ids = [fact.prediction_id for fact in scene.sink.of(FactKind.ACCEPTED)]
    assert len(set(ids)) == len(ids)


@pytest.mark.fault("H05")
def test_an_id_that_an_earlier_run_was_given_is_known() -> None:
    """H05: ids of predictions that were in flight when a run stopped are another cell's too."""
    old = CellState(attempts=1, cost_micro_usd=PRICE, prediction_id="old", price_micro_usd=PRICE)
    service = Service(
        done_at_s={"old": 1100.0},
        codes={"old": 0},
        reply=lambda number, request: answer(prediction_data(id="old")) if number == 1 else None,
    )
    scene = play(Scene(cells=4, transport=service, resumed={0: old}))
    assert scene.statuses == {"completed": 3, "unknown": 1}


def test_resumed_predictions_come_first_and_are_not_submitted() -> None:
    """What is in flight from an earlier run is asked for before anything new is bought."""
    resumed = {
        index: CellState(attempts=1, cost_micro_usd=PRICE, prediction_id=f"old-{index}", price_micro_usd=PRICE)
        for index in (1, 4)
    }
    service = Service(done_at_s={"old-1": 0.0, "old-4": 0.0}, codes={"old-1": 0, "old-4": 0})
    scene = play(Scene(cells=6, transport=service, resumed=resumed, spent_micro_usd=2 * PRICE))
    assert scene.statuses == {"completed": 6}
    assert len(service.posts) == 4
    assert not {f"An owl, the {index}th" for index in resumed} & set(times_submitted(service))


def test_odd_answers_are_noted() -> None:
    """Whatever isn't a plain acceptance is kept in the log, cut and harmless."""
    odd = HttpAnswer(status=503, body=b"\x1b[2J\xff" + b"x" * 5000)
    scene = play(Scene(cells=3, transport=Service(reply=lambda number, request: odd if number == 1 else None)))
    submissions = [details for event, details in scene.notes.notes if event == "submission"]
    assert len(submissions) == 1
    assert submissions[0]["http_status"] == 503
    body = str(submissions[0]["body"])
    assert body.isprintable()
    assert len(body) < 2000
