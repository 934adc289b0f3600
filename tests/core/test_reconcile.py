"""What a listing proves about lost submissions, and what it never proves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.history import HistoryItem, HistoryPage, build_history, decipher_history
from batchflux.core.model import Fault, Params, Prediction
from batchflux.core.protocol import HttpAnswer, TransportFault
from batchflux.core.reconcile import LostSubmission, judge

MODEL = "wavespeed-ai/flux-kontext-max/text-to-image"


def lost(cell: str, body: Params, *, sent: int = 0) -> LostSubmission:
    """Return a submission without an answer."""
    return LostSubmission(cell_id=cell, index=0, model=MODEL, body=body, sent_at_ms=sent, seen_at_ms=sent)


def listed(prediction_id: str, inputs: Params | None, *, model: str | None = MODEL) -> HistoryItem:
    """Return a prediction of the history."""
    prediction = Prediction(id=prediction_id, status="completed", model=model, created_at_ms=1)
    return HistoryItem(prediction=prediction, inputs=inputs)


bodies = st.fixed_dictionaries({"prompt": st.sampled_from("abc"), "seed": st.integers(0, 2)})


@pytest.mark.fault("H16", "H17")
@given(st.lists(bodies, max_size=8), st.lists(bodies, max_size=8), st.sets(st.integers(0, 7)))
def test_with_inputs_equal_bodies_match_one_to_one_and_the_rest_is_proven_absent(
    sent: list[Params], made: list[Params], known: set[int]
) -> None:
    """Every lost submission gets a prediction of its own body, or none is left unknown that has it; nothing is held."""
    submissions = [lost(f"c{place}", body, sent=place) for place, body in enumerate(sent)]
    listing = [listed(f"p{place}", body) for place, body in enumerate(made)]
    known_ids = {f"p{place}" for place in known}
    verdicts = judge(submissions, listing, known_ids=known_ids)
    assert verdicts.held == ()
    assert len(verdicts.adopted) + len(verdicts.absent) == len(sent)
    used = [each.item.prediction.id for each in verdicts.adopted]
    assert len(set(used)) == len(used)
    assert not set(used) & known_ids
    assert all(each.item.inputs == each.lost.body for each in verdicts.adopted)
    left = [item.inputs for item in listing if item.prediction.id not in {*used, *known_ids}]
    assert all(each.body not in left for each in verdicts.absent)


@pytest.mark.fault("S17", "C06")
def test_without_inputs_nothing_is_adopted_however_likely() -> None:
    """One submission, one unknown prediction: still held; nothing unknown listed: proven absent."""
    alone = [lost("c", {"prompt": "a"})]
    held = judge(alone, [listed("p1", None)], known_ids=())
    assert [(each.lost.cell_id, each.candidates) for each in held.held] == [("c", ("p1",))]
    assert judge(alone, [listed("p1", None)], known_ids={"p1"}).absent == tuple(alone)
    assert judge(alone, [], known_ids=()).absent == tuple(alone)
    assert judge(alone, [listed("p1", None, model="another/model")], known_ids=()).absent == tuple(alone)


def test_defaults_and_parameters_that_the_service_drops_make_no_difference() -> None:
    """The history may leave defaults out or fill them in, and holds nothing of what the service dropped."""
    said = [lost("c", {"prompt": "a", "guidance_scale": 3.5, "safety_tolerance": "4"})]
    kept = {MODEL: frozenset({"prompt", "guidance_scale", "seed"})}
    bare = [listed("p", {"prompt": "a"})]
    assert judge(said, bare, known_ids=(), listed_params=kept).adopted
    assert judge(said, bare, known_ids=()).held
    filled = [listed("p", {"prompt": "a", "aspect_ratio": "1:1", "enable_sync_mode": False, "safety_tolerance": "4"})]
    assert judge(said, filled, known_ids=()).adopted


def test_a_prediction_that_differs_in_anything_known_is_another_request() -> None:
    """A different value, or a known parameter that we didn't send, is no match and no candidate."""
    said = [lost("c", {"prompt": "a", "seed": 1})]
    others: list[Params] = [
        {"prompt": "a", "seed": 2},
        {"prompt": "b", "seed": 1},
        {"prompt": "a", "seed": 1, "num_images": 2},
    ]
    for inputs in others:
        assert judge(said, [listed("p", inputs)], known_ids=()).absent == tuple(said)


def test_of_a_model_that_nothing_ships_for_an_addition_leaves_it_unclear() -> None:
    """What an unknown model's history adds could be the difference between two requests."""
    other = LostSubmission(cell_id="c", index=0, model="m", body={"prompt": "a"}, sent_at_ms=0, seen_at_ms=0)
    assert judge([other], [listed("p", {"prompt": "a", "steps": 9}, model="m")], known_ids=()).held
    assert judge([other], [listed("p", {"prompt": "a"}, model=None)], known_ids=()).adopted


def test_a_listing_asks_for_its_span_and_tells_what_is_odd() -> None:
    """The request is the documented one with inputs asked for; a page with entries that are none is odd."""
    request = build_history("http://x/api/v3", page=2, after_ms=0, before_ms=1500, model=None)
    assert request.url == "http://x/api/v3/predictions"
    assert request.body == (
        b'{"page":2,"page_size":100,"created_after":"1970-01-01T00:00:00.000Z",'
        b'"created_before":"1970-01-01T00:00:01.500Z","include_inputs":true}'
    )
    body = b'{"code":200,"data":{"items":[{"id":"a","status":"created","input":{"prompt":"x"}},7]}}'
    page = decipher_history(HttpAnswer(status=200, body=body))
    assert isinstance(page, HistoryPage)
    assert page.is_odd
    assert page.items[0].inputs == {"prompt": "x"}
    for answer in (HttpAnswer(status=404, body=b"{}"), HttpAnswer(status=200, body=b'{"code":200,"data":{}}')):
        assert isinstance(decipher_history(answer), Fault)
    assert isinstance(decipher_history(TransportFault(sent=True, message="reset")), Fault)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "A kite over the old harbour of the town, at dawn."},
        {"prompt": " A kite  over the old harbour of the town,\nat dawn. "},
        {"prompt": "A kite over the old harbour of the town, a..."},
        {"seed": "7"},
        {"guidance_scale": 2.700000047683716},
        {"guidance_scale": "2.70"},
        {"safety_tolerance": 2},
        {"num_images": "1"},
    ],
)
def test_another_spelling_proves_nothing(change: Params) -> None:
    """A history that trims, cuts or rounds what it was sent: not proven absent, so not sent again, and not adopted."""
    ours: Params = {"prompt": "A kite over the old harbour of the town, at dawn. ", "seed": 7, "guidance_scale": 2.7}
    verdicts = judge([lost("c", ours)], [listed("p1", {**ours, **change})], known_ids=())
    assert [each.candidates for each in verdicts.held] == [("p1",)]


@pytest.mark.parametrize(
    "change", [{"prompt": "A kit"}, {"seed": 2147483646}, {"guidance_scale": 2.71}, {"safety_tolerance": 3}]
)
def test_another_value_is_another_request(change: Params) -> None:
    """Next to ours is not nearly ours."""
    ours: Params = {"prompt": "A kite over the old harbour", "seed": 2147483647, "guidance_scale": 2.7}
    assert judge([lost("c", ours)], [listed("p1", {**ours, **change})], known_ids=()).held == ()
