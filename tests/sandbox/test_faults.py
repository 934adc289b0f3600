"""Fault scripts: what is refused by name, and which requests meet which rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.errors import UsageError
from batchflux.sandbox.faults import FaultPlayer, FaultRule, FaultScript, parse_fault_script


def _hits(player: FaultPlayer, count: int, *, prompt: str = "", prediction_id: str = "") -> list[int]:
    return [
        n
        for n in range(1, count + 1)
        if player.choose("submit", prompt=prompt, prediction_id=prediction_id) is not None
    ]


def _player(**rule: Any) -> FaultPlayer:
    return FaultPlayer(parse_fault_script({"rules": [{"on": "submit", "do": "reset", **rule}]}))


@pytest.mark.parametrize(
    ("matcher", "hits"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"at": [2, 5]}, [2, 5]),
        ({"at": 3}, [3]),
        ({"first": 2}, [1, 2]),
        ({"every": 3}, [3, 6]),
        ({"times": 1}, [1]),
        ({"every": 2, "times": 2}, [2, 4]),
        ({"probability": 0}, []),
        ({"prompt": "kite"}, [1, 2, 3, 4, 5, 6]),
        ({"prompt": "boat"}, []),
    ],
)
def test_matchers(matcher: dict[str, Any], hits: list[int]) -> None:
    """Each matcher picks the requests that it says, and all of those given must agree."""
    assert _hits(_player(**matcher), 6, prompt="a red kite") == hits


def test_probability_is_seeded() -> None:
    """The dice fall about as often as asked, and the same way for the same seed only."""
    rule = FaultRule(on="submit", do="reset", probability=0.2)
    one, same, other = (FaultPlayer(FaultScript(rules=(rule,), seed=seed)) for seed in (1, 1, 2))
    hits = _hits(one, 1000)
    assert 150 < len(hits) < 250
    assert _hits(same, 1000) == hits
    assert _hits(other, 1000) != hits


def test_counting_for_each_prediction() -> None:
    """per_prediction gives every prediction its own first requests."""
    player = _player(first=2, per_prediction=True)
    assert _hits(player, 4, prediction_id="a") == [1, 2]
    assert _hits(player, 4, prediction_id="b") == [1, 2]
    assert player.hits == (4,)


def test_other_endpoints_are_left_alone() -> None:
    """A rule for submissions neither meets nor counts polls."""
    player = _player(at=1)
    assert player.choose("result", prompt="", prediction_id="a") is None
    assert not player.has_rules_for("result")
    assert _hits(player, 2) == [1]


def test_the_first_rule_that_matches_wins() -> None:
    """One request meets one rule, and the later rules still count it."""
    rules = [{"on": "submit", "do": "reset", "at": 1}, {"on": "submit", "do": "html", "at": [1, 2]}]
    player = FaultPlayer(parse_fault_script({"rules": rules}))
    met = [player.choose("submit", prompt="", prediction_id="") for _ in range(3)]
    assert [rule.do if rule else None for rule in met] == ["reset", "html", None]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "a fault script is a mapping"),
        ({"ruls": []}, "fault script: unknown key 'ruls'; did you mean 'rules'?"),
        ({"rules": {}}, "rules must be a list"),
        ({"rules": [], "seed": "x"}, "seed must be a whole number"),
        ({"rules": ["reset"]}, "fault rule 1: must be a mapping"),
        ({"rules": [{"do": "reset"}]}, "fault rule 1: on is missing; it is one of submit, result"),
        ({"rules": [{"on": "submit"}]}, "fault rule 1: do is missing"),
        ({"rules": [{"on": "submitt", "do": "reset"}]}, "'submitt' is unknown; did you mean 'submit'?"),
        ({"rules": [{"on": "submit", "do": "rest"}]}, "'rest' is unknown; did you mean 'reset'?"),
        ({"rules": [{"on": "submit", "do": "reset", "tims": 2}]}, "unknown key 'tims'; did you mean 'times'?"),
        ({"rules": [{"on": "submit", "do": "reset", "status": 500}]}, "status means nothing to do: reset"),
        ({"rules": [{"on": "result", "do": "duplicate"}]}, "duplicate is for on: submit only"),
        ({"rules": [{"on": "submit", "do": "reset", "when": "soon"}]}, "when: 'soon' is unknown"),
        ({"rules": [{"on": "submit", "do": "reset", "at": [0]}]}, "at must be a count from 1"),
        ({"rules": [{"on": "submit", "do": "reset", "probability": 2}]}, "probability must be between 0 and 1"),
        ({"rules": [{"on": "submit", "do": "status", "status": "x"}]}, "status must be an HTTP status, not 'x'"),
        ({"rules": [{"on": "submit", "do": "patch", "drop": "id"}]}, "drop must be a list of names"),
        ({"rules": [{"on": "submit", "do": "delay", "seconds": -1}]}, "seconds must be a number of seconds"),
    ],
)
def test_wrong_scripts_are_refused(document: Any, message: str) -> None:
    """Every fault of a script is named with its rule and what would be right."""
    with pytest.raises(UsageError) as caught:
        parse_fault_script(document)
    assert message in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 600) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(sorted(FaultRule.__dataclass_fields__))


@given(st.dictionaries(_KEYS, _JSON, max_size=5), st.sampled_from(["status", "patch", "delay", "reset"]))
def test_no_script_breaks_the_parser(rule: dict[str, Any], deed: str) -> None:
    """Whatever a rule holds, it is read whole or refused with words; it never fails in another way."""
    words = ""
    try:
        words = parse_fault_script({"rules": [{**rule, "on": "submit", "do": deed}]}).rules[0].do
    except UsageError as error:
        words = str(error)
    assert words == deed or words.startswith("fault rule 1: ")
