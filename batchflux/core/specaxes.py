"""The axes of the grid: from the forms in which a spec may write them to values.

Decides which values an axis has and what kind it is: the model, a word of the template, a request parameter, or seeds
drawn for each row. Evenly spaced values are computed in decimal, so that 2.5 to 7.5 holds no 4.999999. Expands no
grid: an axis is a list of values, rows and products come later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

from batchflux.core import leaves
from batchflux.core.findings import BadValue, Findings, KeyPath, describe, did_you_mean, nearest
from batchflux.core.identity import MAX_SEED, axis_seeds, canonical_json
from batchflux.core.model import Axis, AxisKind, JsonValue
from batchflux.core.parameters import ValueFault, as_sent, check_name, check_value, known_parameters

__all__ = ["AxisRules", "as_sent_to", "as_word", "axis_as_written", "build_axes", "first_fault", "note_fault"]

# A job of more values on one axis is better said as a table; the bounds keep a slip of the pen from filling memory.
_MOST_SPACED = 10_000
_MOST_SEEDS = 1_000_000
_MOST_LISTED = 20  # seeds that are written out one by one; a longer row of them is written as it is made

# Wide enough that the last digit of a float is right whatever the step.
_DECIMAL = Context(prec=60)

_FORMS: Mapping[str, tuple[str, ...]] = {
    "num": ("start", "stop", "num"),
    "count": ("count", "start"),
    "random": ("random", "key", "per_row"),
}
_FORMS_HINT = "write a list, {start, stop, num}, or for seed {count, start} or {random, key, per_row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRules:
    """What axes are judged by: the template's words, the models of the job, and whether unknown parameters are sent.

    `words_known` is False where the template itself is wrong, so that no axis is blamed for that.
    """

    words: tuple[str, ...]
    models: tuple[str, ...]
    allow_unknown: bool
    words_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """An axis's values before they are judged.

    `is_listed` where each has a place in the file, `is_seeds` where they were counted or drawn, so in range.
    """

    values: tuple[JsonValue, ...]
    is_listed: bool = False
    is_seeds: bool = False
    is_per_row: bool = False
    key: int = 0


def build_axes(grid: Mapping[str, Any], *, rules: AxisRules, findings: Findings) -> tuple[Axis, ...]:
    """Return the axes of a spec's grid in the order written; one with a fault, which is noted, is left out."""
    axes = [_build_axis(name, written, rules=rules, findings=findings) for name, written in grid.items()]
    return tuple(axis for axis in axes if axis is not None)


def _build_axis(name: str, written: Any, *, rules: AxisRules, findings: Findings) -> Axis | None:
    path: KeyPath = ("grid", name)
    kind: AxisKind = "model" if name == "model" else "word" if name in rules.words else "parameter"
    if kind == "parameter" and not _is_known(name, rules=rules, findings=findings):
        return None
    try:
        found = _read_values(name, written)
        values = _judge(name, found, kind=kind, rules=rules, findings=findings)
        _refuse_repeated(found, values)
    except BadValue as fault:
        findings.refuse(path, fault)
        return None
    if kind == "word" and name in known_parameters(rules.models):
        findings.warn(path, f"the template names {name}, so it is a word of the prompt and not sent as a parameter")
    if found.is_per_row:
        if kind != "parameter":
            findings.error((*path, "per_row"), "only the parameter seed is drawn for each row", "leave per_row out")
            return None
        kind = "row_seed"
    return Axis(name=name, kind=kind, values=values, key=found.key)


def _is_known(name: str, *, rules: AxisRules, findings: Findings) -> bool:
    """Note an axis that is nothing known; return whether it is worth looking at its values."""
    faults = {model: check_name(name, model_id=model, allow_unknown=rules.allow_unknown) for model in rules.models}
    lacking = [model for model, fault in faults.items() if fault is not None]
    fault = faults[lacking[0]] if lacking else None
    if fault is None:
        return True
    if fault.is_warning:
        note_fault(findings, ("grid", name), fault)
        return True
    path: KeyPath = ("grid", name)
    if not rules.words_known:
        # It may be a word of the template that is wrong, unless it is a parameter's name but for a slip.
        near = nearest(name, ["model", *known_parameters(rules.models)], likeness=0.85)
        if near is not None:
            findings.error(path, f"is no parameter of {' or '.join(lacking)}", f"did you mean {near}?")
        return False
    if name == "prompt":
        findings.error(path, fault.what, fault.instead)
        return False
    among = ["model", *known_parameters(rules.models), *rules.words]
    hint = did_you_mean(name, among)
    findings.error(path, f"is no parameter of {' or '.join(lacking)}, and no template names {{{name}}}", hint)
    return False


def note_fault(findings: Findings, path: KeyPath, fault: ValueFault) -> None:
    """Note what the parameters' judge found, as a problem or as a warning."""
    if fault.is_warning:
        findings.warn(path, f"{fault.what}; {fault.instead}")
    else:
        findings.error(path, fault.what, fault.instead)


def _read_values(name: str, written: Any) -> _Values:
    if isinstance(written, list):
        if not written:
            raise BadValue("the axis is empty", "give it values, or leave the axis out")
        return _Values(values=tuple(written), is_listed=True)
    if isinstance(written, dict):
        return _read_form(name, written)
    if written is None:
        raise BadValue("the axis is empty", f"give it values, for example {name}: [1, 2], or leave the axis out")
    hint = f"write {name}: [{written}] for one value" if isinstance(written, int | float) else _FORMS_HINT
    raise BadValue(f"an axis is a list of values, this is {describe(written)}", hint)


def _read_form(name: str, written: dict[str, Any]) -> _Values:
    form = next((key for key in _FORMS if key in written), "num" if "stop" in written else None)
    if form is None:
        raise BadValue(f"an axis of the keys {', '.join(written) or '(none)'} says no values", _FORMS_HINT)
    for key in written:
        if key not in _FORMS[form]:
            raise BadValue(f"unknown key beside {form}", did_you_mean(key, _FORMS[form]), at=(key,))
    if form != "num" and name != "seed":
        raise BadValue(f"{form} is for seed alone", f"write {name} as a list or as {{start, stop, num}}", at=(form,))
    if form == "num":
        return _Values(values=_spaced(written))
    if form == "count":
        count = _whole(written, "count", minimum=1, maximum=_MOST_SEEDS)
        start = _whole(written, "start", minimum=0, maximum=MAX_SEED, default=0)
        if start + count - 1 > MAX_SEED:
            raise BadValue(f"the last seed would be {start + count - 1}", f"seeds go up to {MAX_SEED}")
        return _Values(values=tuple(range(start, start + count)), is_seeds=True)
    count = _whole(written, "random", minimum=1, maximum=_MOST_SEEDS)
    draw_key = _whole(written, "key", minimum=0, maximum=leaves.MOST, default=0)
    if _flag(written, "per_row"):
        return _Values(values=tuple(range(count)), is_seeds=True, is_per_row=True, key=draw_key)
    return _Values(values=axis_seeds(count, draw_key), is_seeds=True, key=draw_key)


def _whole(written: dict[str, Any], key: str, *, minimum: int, maximum: int, default: int | None = None) -> int:
    value = written.get(key)
    if value is None and default is not None:
        return default
    try:
        return leaves.whole_number(minimum=minimum, maximum=maximum)(value)
    except BadValue as fault:
        raise BadValue(fault.what, fault.instead, at=(key,)) from fault


def _flag(written: dict[str, Any], key: str) -> bool:
    value = written.get(key)
    try:
        return leaves.parse_flag(False if value is None else value)
    except BadValue as fault:
        raise BadValue(fault.what, fault.instead, at=(key,)) from fault


def _spaced(written: dict[str, Any]) -> tuple[JsonValue, ...]:
    """Return evenly spaced values, ends included: ints where all are whole and so were the ends."""
    ends = {}
    for key in ("start", "stop"):
        value = written.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "write start, stop and num"
            raise BadValue(f"must be a number, is {describe(value)}", hint, at=(key,) if key in written else ())
        ends[key] = Decimal(str(value))
    num = _whole(written, "num", minimum=1, maximum=_MOST_SPACED) if "num" in written else 0
    if num == 0:
        raise BadValue("num is missing", "say how many values: write start, stop and num")
    start, stop = ends["start"], ends["stop"]
    if num == 1:
        if start != stop:
            raise BadValue("one value can't be both ends", "write num: 2 or more, or start and stop alike", at=("num",))
        return (written["start"],)
    exact = _steps(start, stop, num=num)
    if isinstance(written["start"], int) and isinstance(written["stop"], int) and all(v == int(v) for v in exact):
        return tuple(int(value) for value in exact)
    return tuple(float(value) for value in exact)


def _steps(start: Decimal, stop: Decimal, *, num: int) -> list[Decimal]:
    span = _DECIMAL.subtract(stop, start)
    parts = (_DECIMAL.divide(_DECIMAL.multiply(span, Decimal(step)), Decimal(num - 1)) for step in range(num))
    return [_DECIMAL.add(start, part) for part in parts]


def _judge(name: str, found: _Values, *, kind: AxisKind, rules: AxisRules, findings: Findings) -> tuple[JsonValue, ...]:
    """Return the values as they are used; problems of single values are noted each at its place."""
    if kind == "model":
        return tuple(_each(name, found, read=leaves.parse_model, findings=findings))
    if kind == "word":
        return tuple(_each(name, found, read=as_word, findings=findings))
    if found.is_seeds:
        return found.values
    for place, value in enumerate(found.values):
        fault = first_fault(name, value, rules=rules)
        if fault is not None:
            note_fault(findings, ("grid", name, place) if found.is_listed else ("grid", name), fault)
            if not found.is_listed:
                break
    return tuple(as_sent_to(name, value, models=rules.models) for value in found.values)


def _each(name: str, found: _Values, *, read: Any, findings: Findings) -> list[JsonValue]:
    values: list[JsonValue] = []
    for place, value in enumerate(found.values):
        try:
            values.append(read(value))
        except BadValue as fault:
            findings.refuse(("grid", name, place) if found.is_listed else ("grid", name), fault)
    return values


def as_word(value: JsonValue) -> str:
    """Return a word of the template as the text that it is; a number only where it can't look otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return leaves.parse_text(value)


def first_fault(name: str, value: JsonValue, *, rules: AxisRules) -> ValueFault | None:
    """Return the first fault of a value for any model; that the name is unknown was said once, at the axis."""
    if value is None:
        return ValueFault(what="is empty", instead="give every item a value")
    for model in rules.models:
        if check_name(name, model_id=model) is None:
            fault = check_value(name, value, model_id=model)
            if fault is not None:
                return fault
    return None


def as_sent_to(name: str, value: JsonValue, *, models: Sequence[str]) -> JsonValue:
    """Return a value as it goes into a request, for models of which at most one kind takes it."""
    for model in models:
        fault = check_value(name, value, model_id=model)
        if fault is None or fault.is_warning:
            value = as_sent(name, value, model_id=model)
    return value


def _refuse_repeated(found: _Values, values: Sequence[JsonValue]) -> None:
    if found.is_seeds or len(values) != len(found.values):
        return  # seeds are distinct as they are made; where some values were refused, places no longer match
    seen: dict[str, int] = {}
    for place, value in enumerate(values):
        text = canonical_json(value)
        first = seen.setdefault(text, place)
        if first != place:
            what = f"{describe(value)} stands on the axis twice" if found.is_listed else "two values are the same"
            hint = "take one away" if found.is_listed else "choose a smaller num, or ends further apart"
            raise BadValue(what, hint, at=(place,) if found.is_listed else ())


def axis_as_written(axis: Axis) -> JsonValue:
    """Return an axis in a form that a spec may write and that gives the equal axis; long rows of seeds stay short."""
    values = axis.values
    count = len(values)
    if axis.kind == "row_seed":
        return {"random": count, "key": axis.key, "per_row": True}
    if axis.name == "seed" and axis.kind == "parameter" and (count > _MOST_LISTED or axis.key != 0):
        first = values[0]
        if axis.key == 0 and isinstance(first, int) and first >= 0 and values == tuple(range(first, first + count)):
            return {"count": count, "start": first}
        if first == axis_seeds(1, axis.key)[0] and values == axis_seeds(count, axis.key):
            return {"random": count, "key": axis.key}
    return list(values)
