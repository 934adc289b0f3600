"""Faults of a spec's form, from pydantic's words to ours: unknown, missing and mistyped keys.

Decides what a person most likely meant: the nearest real key, the section that a key belongs to, that a key of the
account has no place in a file. Values beneath unknown keys are never repeated, since they may be a secret.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from batchflux.core.catalog import DEFAULT_MODEL
from batchflux.core.findings import BadValue, Findings, KeyPath, describe, did_you_mean, dotted, nearest
from batchflux.core.parameters import known_parameters
from batchflux.core.specform import Api, JobForm, OutputForm, Prompts, Run, Sample

__all__ = ["note_invalid"]

_SECRET = re.compile(r"(?i)(.*[_-])?(api[_-]?key|key|token|secret|password|passwd|bearer|authorization)")


def _keys(form: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in form.model_fields.items())


_FORMS: Mapping[KeyPath, type[BaseModel]] = {
    (): JobForm,
    ("api",): Api,
    ("prompts",): Prompts,
    ("prompts", "sample"): Sample,
    ("run",): Run,
    ("output",): OutputForm,
}


def note_invalid(error: ValidationError, *, data: Mapping[str, Any], findings: Findings) -> frozenset[str]:
    """Note every fault that pydantic found; return the top-level keys that can't be used."""
    faults = error.errors(include_url=False)
    unknown = [fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"]
    for fault in faults:
        path: KeyPath = fault["loc"]
        match fault["type"]:
            case "extra_forbidden":
                _note_unknown(path, findings=findings)
            case "missing":
                if not any(nearest(str(key[-1]), [str(path[-1])]) for key in unknown if key[:-1] == path[:-1]):
                    findings.error(path, "is missing", _missing_hint(path))
            case "value_error":
                cause = fault["ctx"]["error"]
                findings.refuse(path, cause if isinstance(cause, BadValue) else BadValue(str(cause)))
            case _:
                what = f"must be a mapping of keys to values, is {describe(fault['input'])}"
                findings.error(path, what, "write KEY: VALUE lines under it")
    return frozenset(str(fault["loc"][0]) for fault in faults)


def _missing_hint(path: KeyPath) -> str:
    if path in {("prompts",), ("prompts", "path")}:
        return "say where the prompt table is, for example prompts: {path: prompts.csv}"
    return f"give {dotted(path)} a value"


def _note_unknown(path: KeyPath, *, findings: Findings) -> None:
    key, section = str(path[-1]), path[:-1]
    known = _keys(_FORMS[section])
    if _SECRET.fullmatch(key):
        findings.error(
            path,
            "a key has no place in a spec, which is shared and copied",
            "keep it in the environment variable WAVESPEED_API_KEY, or in the one that api.key_env names",
        )
        return
    elsewhere = [dotted((*place, key)) for place, form in _FORMS.items() if place != section and key in _keys(form)]
    if key in known_parameters([DEFAULT_MODEL]):
        elsewhere = [f"grid.{key} (an axis)", f"params.{key} (for every request)"]
    if elsewhere:
        findings.error(path, "unknown key here", f"it belongs to {' or '.join(elsewhere)}")
        return
    findings.error(path, "unknown key", did_you_mean(key, known))
