"""What the parts of a spec must agree on: columns, `params` and `exclude` with the axes, the template and the models.

Each check notes what it finds and returns the values as they will be used. Cells are never looked at here: a rule
that leaves out nothing is found by the values of the axes alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batchflux.core.findings import BadValue, Findings, KeyPath, describe, did_you_mean
from batchflux.core.identity import canonical_json
from batchflux.core.model import Axis, JsonValue, Params
from batchflux.core.parameters import PARAMETERS_ELSEWHERE, check_name, check_value, known_parameters
from batchflux.core.specaxes import AxisRules, as_sent_to, as_word, note_fault
from batchflux.core.specform import Prompts

__all__ = ["check_columns", "check_exclude", "check_params"]

_NOT_PARAMETERS = ("prompt", "id")  # what a column may be besides a request parameter


def check_columns(prompts: Prompts, *, grid: Mapping[str, Any], rules: AxisRules, findings: Findings) -> dict[str, str]:
    """Return what the table's columns are; where nothing says the prompt, it is the column of that name."""
    path: KeyPath = ("prompts", "columns")
    columns = dict(prompts.columns)
    if prompts.template is not None and "prompt" in columns:
        hint = "take one away: a template is instead of the column"
        findings.error((*path, "prompt"), "both columns.prompt and template say the prompt", hint)
    if prompts.limit is not None and prompts.sample is not None:
        findings.error(("prompts", "sample"), "both limit and sample choose the rows", "take one away")
    for name in columns:
        if name in _NOT_PARAMETERS:
            continue
        if name in grid and name not in rules.words:
            findings.warn((*path, name), f"the axis grid.{name} gives {name} to every cell, so no row's own counts")
        for model in rules.models:
            fault = check_name(name, model_id=model, allow_unknown=rules.allow_unknown)
            if fault is not None and not fault.is_warning:
                among = [*_NOT_PARAMETERS, *known_parameters(rules.models)]
                hint = PARAMETERS_ELSEWHERE.get(name) or did_you_mean(name, among)
                findings.error((*path, name), "is neither prompt, id nor a parameter of the model", hint)
                break
    if prompts.template is None and "prompt" not in columns:
        columns = {"prompt": "prompt", **columns}
    return columns


def check_params(params: Mapping[str, Any], *, axes: Iterable[str], rules: AxisRules, findings: Findings) -> Params:
    """Return the parameters that are the same for every request, as they are sent."""
    taken = set(axes)
    sent: dict[str, JsonValue] = {}
    for name, value in params.items():
        path: KeyPath = ("params", name)
        if name in taken and name not in rules.words:
            findings.error(path, "is an axis already", f"take away one of params.{name} and grid.{name}")
            continue
        for model in rules.models:
            fault = check_value(name, value, model_id=model, allow_unknown=rules.allow_unknown)
            if fault is not None:
                note_fault(findings, path, fault)
                break
        else:
            if value is None:
                findings.error(path, "is empty", "leave the key out, or give it a value")
        sent[name] = as_sent_to(name, value, models=rules.models)
    return sent


def check_exclude(
    written: Sequence[Any],
    *,
    axes: Sequence[Axis],
    grid: Mapping[str, Any],
    params: Params,
    columns: Mapping[str, str],
    rules: AxisRules,
    findings: Findings,
) -> tuple[Params, ...]:
    """Return the rules that leave cells out, their values as cells have them. `grid` names axes that are wrong too."""
    given = {*grid, *params, *(name for name in columns if name not in _NOT_PARAMETERS), *rules.words, "model"}
    judge = _Exclusions(axes={axis.name: axis for axis in axes}, grid=grid, params=params, given=given, rules=rules)
    rules_read: list[Params] = []
    for place, rule in enumerate(written):
        path: KeyPath = ("exclude", place)
        if not isinstance(rule, dict):
            findings.error(path, f"must be a mapping, is {describe(rule)}", "write it like {seed: 3}")
        elif not rule:
            findings.error(path, "an empty rule would leave out every cell", "say which cells, for example {seed: 3}")
        else:
            rules_read.append({key: judge.value(key, value, (*path, key), findings) for key, value in rule.items()})
    return tuple(rules_read)


class _Exclusions:
    """What the rules of `exclude` are judged by; `given` are the names that anything in the job gives a value."""

    def __init__(
        self,
        *,
        axes: Mapping[str, Axis],
        grid: Mapping[str, Any],
        params: Params,
        given: set[str],
        rules: AxisRules,
    ) -> None:
        self._axes, self._grid, self._params, self._given, self._rules = axes, grid, params, given, rules

    def value(self, name: str, value: JsonValue, path: KeyPath, findings: Findings) -> JsonValue:
        """Return a rule's value as cells have it; note a name that is nothing and a value that no cell can have."""
        if name not in self._given:
            self._note_not_given(name, path, findings)
            return value
        if name in self._rules.words:
            try:
                value = as_word(value)
            except BadValue as fault:
                findings.refuse(path, fault)
                return value
        elif name != "model":
            if self._note_bad_value(name, value, path, findings):
                return value
            value = as_sent_to(name, value, models=self._rules.models)
        self._warn_if_absent(name, value, path, findings)
        return value

    def _note_not_given(self, name: str, path: KeyPath, findings: Findings) -> None:
        if not self._rules.words_known:
            return
        if name in known_parameters(self._rules.models):
            findings.warn(path, f"nothing in the job gives {name}, so the rule leaves out no cell")
            return
        what = "is no axis, no parameter and no word of the template"
        findings.error(path, what, did_you_mean(name, sorted(self._given)))

    def _note_bad_value(self, name: str, value: JsonValue, path: KeyPath, findings: Findings) -> bool:
        for model in self._rules.models:
            fault = check_value(name, value, model_id=model, allow_unknown=True)
            if fault is not None and not fault.is_warning:
                note_fault(findings, path, fault)
                return True
        return False

    def _warn_if_absent(self, name: str, value: JsonValue, path: KeyPath, findings: Findings) -> None:
        axis = self._axes.get(name)
        text = canonical_json(value)
        if axis is not None:
            is_there = axis.kind == "row_seed" or text in {canonical_json(item) for item in axis.values}
        elif name in self._grid:
            return  # the axis is wrong itself
        elif name == "model":
            is_there = value in self._rules.models
        elif name in self._params:
            is_there = text == canonical_json(self._params[name])
        else:
            return
        if not is_there:
            findings.warn(path, f"no cell has {name} {describe(value)}, so the rule leaves out no cell")
