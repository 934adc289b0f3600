"""Scripted faults: which request meets which one, decided by count, by seeded dice or by a word of the prompt.

Pure: it chooses a rule and knows nothing of sockets; `disruption` carries rules out. Scripts come from Python or
from a mapping (YAML or JSON), where every unknown key, word and misplaced option is refused by name.
"""

import difflib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from batchflux.core.errors import UsageError

__all__ = ["NO_FAULTS", "Endpoint", "FaultPlayer", "FaultRule", "FaultScript", "Moment", "parse_fault_script"]

Endpoint = Literal["submit", "result", "history", "delete", "billing", "models", "balance", "price", "output"]
Moment = Literal["before", "after"]
Deed = Literal[
    "status",  # answer with `status`, `body`, `headers`
    "html",  # a 200 page of HTML, as a maintenance page or a captive portal
    "bad_json",  # a 200 whose JSON ends too soon
    "redirect",  # `status` (307) to `location`
    "reset",  # the connection is reset
    "close",  # the connection is closed without an answer
    "hang",  # no answer for `seconds` (default: ever), then closed
    "raw",  # `body` goes out as it is, then the connection is closed
    "delay",  # the right answer, `seconds` later
    "truncate",  # the right answer cut after `keep_bytes` (default: half) of its body
    "trickle",  # the right answer one byte at a time, `seconds` apart
    "stale",  # the right answer, and once more unasked for on the idle connection, `seconds` later
    "patch",  # the right answer with `data`, `envelope` merged in and `drop` left out of its data
    "corrupt",  # the right body with bytes flipped in its middle
    "reuse_id",  # submit: the answer names the prediction created before this one
    "duplicate",  # submit: two predictions are created and one is named
    "late",  # submit: reset, and the prediction is created `seconds` later
    "fail",  # submit: the prediction fails with `code` and `error`
    "stuck",  # submit: the prediction is processed for ever
]

# What each deed may say beside when it happens; "when" where creating comes before or after it.
_OPTIONS: Mapping[str, frozenset[str]] = {
    "status": frozenset({"when", "status", "body", "headers"}),
    "html": frozenset({"when", "status", "body", "headers"}),
    "bad_json": frozenset({"when", "status", "body", "headers"}),
    "redirect": frozenset({"when", "status", "location", "headers"}),
    "reset": frozenset({"when"}),
    "close": frozenset({"when"}),
    "hang": frozenset({"when", "seconds"}),
    "raw": frozenset({"when", "body"}),
    "delay": frozenset({"when", "seconds"}),
    "truncate": frozenset({"keep_bytes", "with_length"}),
    "trickle": frozenset({"seconds"}),
    "stale": frozenset({"seconds"}),
    "patch": frozenset({"data", "envelope", "drop"}),
    "corrupt": frozenset(),
    "reuse_id": frozenset(),
    "duplicate": frozenset(),
    "late": frozenset({"seconds"}),
    "fail": frozenset({"code", "error"}),
    "stuck": frozenset(),
}
_SUBMIT_ONLY = frozenset({"reuse_id", "duplicate", "late", "fail", "stuck"})
_MATCHERS = frozenset({"on", "do", "at", "first", "every", "probability", "prompt", "per_prediction", "times"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One fault: `on` which endpoint, at which of its requests, and what it does there.

    A request must meet every matcher given: `at` (ordinals, from 1), `first` (the first so many), `every` (each n-th),
    `probability`, `prompt` (a substring). `per_prediction` counts requests for each prediction on its own.
    `times` ends the rule after so many hits. `when` says whether a submission's prediction is created before the fault
    ("after") or not at all ("before"). `seconds` and `keep_bytes` None are the deed's own default.
    """

    on: Endpoint
    do: Deed
    at: frozenset[int] = frozenset()
    first: int | None = None
    every: int | None = None
    probability: float | None = None
    prompt: str | None = None
    per_prediction: bool = False
    times: int | None = None
    when: Moment = "before"
    status: int | None = None
    body: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    location: str = "/elsewhere"
    seconds: float | None = None
    keep_bytes: int | None = None
    with_length: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)
    envelope: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    code: int = 5000
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultScript:
    """Rules in order (the first that matches a request is the one carried out) and the seed of their dice."""

    rules: tuple[FaultRule, ...] = ()
    seed: int = 0


NO_FAULTS = FaultScript()


class FaultPlayer:
    """Plays one script: counts requests, throws the dice, and names the rule that a request meets."""

    def __init__(self, script: FaultScript) -> None:
        self._rules = script.rules
        self._dice = [random.Random(f"{script.seed}:{index}") for index in range(len(script.rules))]
        self._seen: Counter[tuple[int, str]] = Counter()
        self._hits = [0] * len(script.rules)

    @property
    def hits(self) -> tuple[int, ...]:
        """How often each rule was carried out, in the script's order."""
        return tuple(self._hits)

    def has_rules_for(self, endpoint: Endpoint) -> bool:
        """Say whether any rule speaks of the endpoint, so that nobody looks up prompts for nothing."""
        return any(rule.on == endpoint for rule in self._rules)

    def choose(self, endpoint: Endpoint, *, prompt: str, prediction_id: str) -> FaultRule | None:
        """Return the rule that this request meets, and count it for all of them; None where it goes well."""
        chosen: FaultRule | None = None
        for index, rule in enumerate(self._rules):
            if rule.on != endpoint or (rule.prompt is not None and rule.prompt not in prompt):
                continue
            counter = (index, prediction_id if rule.per_prediction else "")
            self._seen[counter] += 1
            if chosen is None and self._is_met(index, ordinal=self._seen[counter]):
                self._hits[index] += 1
                chosen = rule
        return chosen

    def _is_met(self, index: int, *, ordinal: int) -> bool:
        rule = self._rules[index]
        # The dice fall for every request of the rule, so that one matcher doesn't shift another's luck.
        is_lucky = rule.probability is None or self._dice[index].random() < rule.probability
        return (
            is_lucky
            and (rule.times is None or self._hits[index] < rule.times)
            and (not rule.at or ordinal in rule.at)
            and (rule.first is None or ordinal <= rule.first)
            and (rule.every is None or ordinal % rule.every == 0)
        )


def parse_fault_script(document: Any) -> FaultScript:
    """Read a script from a mapping: `{seed: 0, rules: [{on: submit, at: [3], do: reset, when: after}, ...]}`.

    Raises UsageError that names the rule and the key for anything unknown, misplaced or of a wrong type.
    """
    if not isinstance(document, Mapping):
        raise UsageError("a fault script is a mapping with a list of rules")
    _refuse_unknown(document, known={"seed", "rules"}, where="fault script")
    rules = document.get("rules", [])
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise UsageError("fault script: rules must be a list")
    seed = document.get("seed", 0)
    if not _is_whole(seed):
        raise UsageError("fault script: seed must be a whole number")
    return FaultScript(rules=tuple(_parse_rule(rule, number=n) for n, rule in enumerate(rules, start=1)), seed=seed)


def _parse_rule(document: Any, *, number: int) -> FaultRule:
    where = f"fault rule {number}"
    if not isinstance(document, Mapping):
        raise UsageError(f"{where}: must be a mapping such as {{on: submit, at: [3], do: reset}}")
    _refuse_unknown(document, known={entry.name for entry in fields(FaultRule)}, where=where)
    on = _parse_word(document, "on", known=get_args(Endpoint), where=where)
    do = _parse_word(document, "do", known=get_args(Deed), where=where)
    for key in document:
        if key not in _MATCHERS and key not in _OPTIONS[do]:
            takes = ", ".join(sorted(_OPTIONS[do])) or "no options"
            raise UsageError(f"{where}: {key} means nothing to do: {do}, which takes {takes}")
    if do in _SUBMIT_ONLY and on != "submit":
        raise UsageError(f"{where}: do: {do} is for on: submit only, not for {on}")
    if "when" in document:
        _parse_word(document, "when", known=get_args(Moment), where=where)
    values = {key: _parse_option(key, value, where=where) for key, value in document.items()}
    return FaultRule(**values)


def _parse_option(key: str, value: Any, *, where: str) -> Any:
    if key == "at":
        ordinals = value if isinstance(value, list) else [value]
        if not ordinals or any(not _is_whole(ordinal) or ordinal < 1 for ordinal in ordinals):
            raise UsageError(f"{where}: at must be a count from 1, or a list of them")
        return frozenset(ordinals)
    if key == "drop":
        if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
            raise UsageError(f"{where}: drop must be a list of names")
        return tuple(value)
    if key == "headers" and isinstance(value, Mapping):
        return {str(name): str(text) for name, text in value.items()}
    is_right, wanted = _KINDS[key]
    if not is_right(value):
        raise UsageError(f"{where}: {key} must be {wanted}, not {value!r}")
    return value


def _parse_word(document: Mapping[str, Any], key: str, *, known: Sequence[str], where: str) -> str:
    word = document.get(key)
    if word in known:
        return str(word)
    if key not in document:
        raise UsageError(f"{where}: {key} is missing; it is one of {', '.join(known)}")
    raise UsageError(f"{where}: {key}: {word!r} is unknown{_nearest(str(word), known)}")


def _refuse_unknown(document: Mapping[Any, Any], *, known: set[str], where: str) -> None:
    for key in document:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{_nearest(str(key), sorted(known))}")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it is one of {', '.join(known)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


_KINDS: Mapping[str, Any] = {
    "on": (lambda v: isinstance(v, str), "a word"),
    "do": (lambda v: isinstance(v, str), "a word"),
    "when": (lambda v: isinstance(v, str), "a word"),
    "first": (_is_count, "a count"),
    "every": (lambda v: _is_whole(v) and v >= 1, "a count from 1"),
    "times": (_is_count, "a count"),
    "probability": (lambda v: _is_amount(v) and v <= 1, "between 0 and 1"),
    "prompt": (lambda v: isinstance(v, str), "text"),
    "per_prediction": (lambda v: isinstance(v, bool), "true or false"),
    "status": (lambda v: _is_whole(v) and 200 <= v <= 599, "an HTTP status"),
    "body": (lambda v: isinstance(v, str), "text"),
    "headers": (lambda v: isinstance(v, Mapping), "a mapping"),
    "location": (lambda v: isinstance(v, str), "a URL"),
    "seconds": (_is_amount, "a number of seconds"),
    "keep_bytes": (_is_count, "a count of bytes"),
    "with_length": (lambda v: isinstance(v, bool), "true or false"),
    "data": (lambda v: isinstance(v, Mapping), "a mapping"),
    "envelope": (lambda v: isinstance(v, Mapping), "a mapping"),
    "code": (_is_whole, "a whole number"),
    "error": (lambda v: isinstance(v, str), "text"),
}
