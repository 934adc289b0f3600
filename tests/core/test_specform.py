"""The JSON Schema: committed, complete, and no stricter than the reader."""

import importlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from batchflux.core.catalog import DEFAULT_MODEL, known_model
from batchflux.core.specform import job_schema
from batchflux.io.jobfile import read_job_file

_SPECS = Path(__file__).parents[1] / "specs"


def test_the_committed_schema_is_the_one_that_the_types_give() -> None:
    """`job.schema.json` is `json.dumps(job_schema(), indent=2, ensure_ascii=False)` and a newline: write it anew."""
    committed = files("batchflux.core").joinpath("job.schema.json").read_text(encoding="utf-8")
    assert committed == json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


def _keys(schema: dict[str, Any], *, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key of the spec that the schema names, sections followed, with its own schema."""
    definitions = job_schema()["$defs"]
    for name, key in schema.get("properties", {}).items():
        forms = [key, *key.get("anyOf", [])]
        named = [definitions[form["$ref"].rsplit("/", 1)[1]] for form in forms if "$ref" in form]
        yield f"{path}{name}", {**key, **({"description": named[0]["description"]} if named else {})}
        for section in [*named, *forms]:
            yield from _keys(section, path=f"{path}{name}.")


def test_every_key_says_what_it_is_for() -> None:
    """Editors show a description for each key, those of the axis forms included."""
    keys = dict(_keys(job_schema()))
    assert [name for name, key in keys.items() if not key.get("description")] == []
    assert {
        "name",
        "extends", "model", "api.settle", "api.ca_file", "prompts.path", "prompts.sample.key", "grid", "exclude",
        "grid.seed.per_row", "grid.guidance_scale.num", "params.safety_tolerance", "run.max_failed", "output.download",
    } <= set(keys)  # fmt: skip


def test_the_schema_knows_the_models_parameters() -> None:
    """Ranges, choices and defaults of the model page reach the editor."""
    params = job_schema()["then"]["properties"]["params"]["properties"]
    model = known_model(DEFAULT_MODEL)
    assert model is not None
    assert set(params) == set(model.parameters) - {"prompt"}
    assert params["guidance_scale"]["maximum"] == 10
    assert params["safety_tolerance"]["enum"] == ["1", "2", "3", "4", "5"]


def _valid(data: Any) -> bool:
    validator = importlib.import_module("jsonschema").Draft202012Validator
    validator.check_schema(job_schema())
    return bool(validator(job_schema()).is_valid(data))


@pytest.mark.parametrize(
    "name",
    [
        file.stem
        for file in sorted(_SPECS.glob("*.yaml"))
        if not file.read_text(encoding="utf-8").startswith("# expect")
    ],
)
def test_the_schema_takes_what_the_reader_takes(name: str) -> None:
    """No editor paints a spec red that runs."""
    assert _valid(read_job_file(_SPECS / f"{name}.yaml").data)


def test_the_schema_leaves_other_models_their_ranges() -> None:
    """guidance_scale 20 is fine for a model that nothing ships for, and red for the default one."""
    prompts, params = {"path": "p.csv"}, {"guidance_scale": 20}
    assert not _valid({"prompts": prompts, "params": params})
    assert _valid({"prompts": prompts, "params": params, "model": "vendor/other"})
    assert _valid({"prompts": prompts, "params": params, "grid": {"model": ["vendor/other"]}})
    assert _valid({"extends": "base.yaml", "params": params})


@pytest.mark.parametrize(
    "name", ["misspelt-key", "duration-without-unit", "rate-without-unit", "choices", "out-of-range"]
)
def test_the_schema_finds_common_faults(name: str) -> None:
    """Editors show these before the spec is run."""
    assert not _valid(read_job_file(_SPECS / f"{name}.yaml").data)
