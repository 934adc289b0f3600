"""The job spec as it is written: its keys, their types, defaults and descriptions, and its JSON Schema from the same.

One key is read here by itself; what keys mean together is decided in `spec`. Every leaf has a reader that refuses with
`BadValue`, so that each fault has words of its own. An empty key (`run:` with everything commented out) counts as not
said. Reads no files.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from batchflux.core import leaves, units
from batchflux.core.catalog import DEFAULT_MODEL
from batchflux.core.origin import (
    DEFAULT_BASE_URL,
    DEFAULT_HOST,
    check_trusted,
    host_of,
    is_loopback_host,
    origin_of,
    parse_base_url,
    parse_proxy,
)
from batchflux.core.specschema import AXES_SCHEMA, EXCLUDE_SCHEMA, PARAMS_SCHEMA, RANGES_WHERE_MODEL_IS_KNOWN
from batchflux.core.units import SomeCells

__all__ = ["Api", "JobForm", "OutputForm", "Prompts", "Run", "Sample", "job_schema"]

Text: TypeAlias = Annotated[str, PlainValidator(leaves.parse_text), WithJsonSchema({"type": "string", "minLength": 1})]
Name: TypeAlias = Annotated[
    str, PlainValidator(leaves.parse_name), WithJsonSchema({"type": "string", "pattern": leaves.NAME_PATTERN})
]
ModelId: TypeAlias = Annotated[
    str, PlainValidator(leaves.parse_model), WithJsonSchema({"type": "string", "pattern": leaves.MODEL_PATTERN})
]
Column: TypeAlias = Annotated[
    str, PlainValidator(leaves.parse_column), WithJsonSchema({"type": "string", "minLength": 1})
]
Paths: TypeAlias = Annotated[
    tuple[str, ...],
    PlainValidator(leaves.parse_paths),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
BaseUrl: TypeAlias = Annotated[
    str, PlainValidator(parse_base_url), WithJsonSchema({"type": "string", "pattern": "^https?://[^\\s@?#]+$"})
]
Proxy: TypeAlias = Annotated[
    str, PlainValidator(parse_proxy), WithJsonSchema({"type": "string", "pattern": "^https?://[^\\s@?#/]+/?$"})
]
Variable: TypeAlias = Annotated[
    str, PlainValidator(leaves.parse_key_env), WithJsonSchema({"type": "string", "pattern": leaves.VARIABLE_PATTERN})
]
Flag: TypeAlias = Annotated[bool, PlainValidator(leaves.parse_flag), WithJsonSchema({"type": "boolean"})]
AtLeastOne: TypeAlias = Annotated[
    int,
    PlainValidator(leaves.whole_number(minimum=1, maximum=leaves.MOST)),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]
DrawKey: TypeAlias = Annotated[
    int,
    PlainValidator(leaves.whole_number(minimum=0, maximum=leaves.MOST)),
    WithJsonSchema({"type": "integer", "minimum": 0}),
]
Attempts: TypeAlias = Annotated[
    int,
    PlainValidator(leaves.whole_number(minimum=1, maximum=100)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 100}),
]
_DURATION_SCHEMA = {"type": "string", "pattern": units.DURATION_PATTERN, "examples": ["500ms", "30s", "10m", "2h"]}
Duration: TypeAlias = Annotated[float, PlainValidator(units.parse_duration_s), WithJsonSchema(_DURATION_SCHEMA)]
PositiveDuration: TypeAlias = Annotated[
    float, PlainValidator(units.parse_positive_duration_s), WithJsonSchema(_DURATION_SCHEMA)
]
Rate: TypeAlias = Annotated[
    float,
    PlainValidator(units.parse_rate_per_s),
    WithJsonSchema({"type": "string", "pattern": units.RATE_PATTERN, "examples": ["10/s", "500/min", "20000/h"]}),
]
Money: TypeAlias = Annotated[
    int,
    PlainValidator(units.parse_micro_usd),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": units.MONEY_PATTERN}]}),
]
CellsOrShare: TypeAlias = Annotated[
    SomeCells,
    PlainValidator(units.parse_some_cells),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": units.SHARE_PATTERN}]}),
]
Concurrency: TypeAlias = Annotated[
    int | None,
    PlainValidator(leaves.parse_concurrency),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 100_000}]}),
]
OnNsfw: TypeAlias = Annotated[
    Literal["keep", "drop", "reseed"],
    PlainValidator(leaves.choice("keep", "drop", "reseed")),
    WithJsonSchema({"enum": ["keep", "drop", "reseed"]}),
]
OnUnknown: TypeAlias = Annotated[
    Literal["hold", "resubmit"],
    PlainValidator(leaves.choice("hold", "resubmit")),
    WithJsonSchema({"enum": ["hold", "resubmit"]}),
]
Order: TypeAlias = Annotated[
    Literal["rows", "balanced"],
    PlainValidator(leaves.choice("rows", "balanced")),
    WithJsonSchema({"enum": ["rows", "balanced"]}),
]


def _key(default: Any, doc: str, *, key: str | None = None, said: Any = None) -> Any:
    """Return a field: its default or what makes it, its description, its key if another, its default as written."""

    def tidy(schema: dict[str, Any]) -> None:
        schema.pop("default", None)
        schema.pop("title", None)
        if said is not None:
            schema["default"] = said

    if callable(default):
        return Field(default_factory=default, alias=key, description=doc, json_schema_extra=tidy)
    return Field(default, alias=key, description=doc, json_schema_extra=tidy)


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in data.items() if value is not None or key not in known}


class Api(_Form):
    """Which service is spoken to, and how."""

    base_url: BaseUrl = _key(
        DEFAULT_BASE_URL,
        "The API's base URL. https, or plain http for loopback only; a host that is neither the default one nor "
        "loopback needs --allow-host on the command line.",
        said=DEFAULT_BASE_URL,
    )
    key_env: Variable = _key(
        "WAVESPEED_API_KEY",
        "The name of the environment variable that holds the key, never the key itself.",
        said="WAVESPEED_API_KEY",
    )
    settle_s: Duration = _key(
        60.0,
        "How long the service may still be at work on a submission whose answer was lost.",
        key="settle",
        said="60s",
    )
    allow_unknown_params: Flag = _key(False, "Send parameters that the model's schema doesn't list.", said=False)
    proxy: Proxy | None = _key(None, "An HTTP proxy; the environment's proxies and .netrc are not read.")
    ca_file: Text | None = _key(None, "A file of certificates to trust besides the system's, in PEM form.")

    @property
    def host(self) -> str:
        """The host that the key is sent to."""
        return host_of(self.base_url)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the API: what a run directory belongs to."""
        return origin_of(self.base_url)

    @property
    def is_default_host(self) -> bool:
        """Whether this is the service itself, over https on its standard port."""
        return self.origin == f"https://{DEFAULT_HOST}"

    @property
    def is_loopback(self) -> bool:
        """Whether the API runs on this machine."""
        return is_loopback_host(self.host)

    def check_trusted(self, allow_hosts: Collection[str]) -> None:
        """Raise UsageError where a host that the user didn't name could read the key."""
        check_trusted(self.base_url, proxy=self.proxy, ca_file=self.ca_file, allow_hosts=allow_hosts)


class Sample(_Form):
    """A reproducible sample of the table's rows."""

    n: AtLeastOne = Field(description="How many rows.")
    key: DrawKey = _key(0, "Which sample: another key draws other rows; a larger n keeps what was there.", said=0)


class Prompts(_Form):
    """Where the prompts come from."""

    path: Paths = Field(
        description="The prompt table: .csv .tsv .jsonl .parquet (text forms also .gz, .zst); a path, a glob or a "
        "list of them, relative to the file that says it."
    )
    columns: dict[str, Column] = _key(
        dict,
        "What the table's columns are: prompt (the prompt text), id (optional unique row names), or any request "
        "parameter that a row brings itself; an empty field means not from this row.",
        said={"prompt": "prompt"},
    )
    template: Text | None = _key(
        None,
        "Instead of columns.prompt: the prompt's text with {name} for a column or an axis of that name; {{ and }} "
        "for the braces themselves.",
    )
    limit: AtLeastOne | None = _key(None, "The first rows only.")
    sample: Sample | None = _key(None, "A reproducible sample of the rows, instead of limit.")


class Run(_Form):
    """How the job is run; none of it changes what a cell is."""

    concurrency: Concurrency = _key(
        None,
        "Predictions in flight (submitted, not yet final): auto learns it from the service, a number is a cap on it.",
        said="auto",
    )
    rate_limit_per_s: Rate | None = _key(
        None,
        "Images started at most, evenly paced: N/s, N/min or N/h. Default: none but what the service teaches.",
        key="rate_limit",
    )
    max_attempts: Attempts = _key(
        4,
        "Accepted submissions of one cell at most; another one is made only where the service failed the last for "
        "reasons of its own, which it refunds.",
        said=4,
    )
    timeout_s: PositiveDuration = _key(1800.0, "How long a prediction is waited for.", key="timeout", said="30m")
    patience_s: Duration | None = _key(
        None,
        "How long a service that is gone is waited for. Default: 12h where it has answered before, 1m where it never "
        "has.",
        key="patience",
    )
    budget_micro_usd: Money | None = _key(
        None,
        "US dollars for the run's whole life; no submission is made that could take it past this.",
        key="budget",
    )
    price_micro_usd: Money | None = _key(
        None,
        "US dollars an image. Default: the service's quote, else the model's known list price.",
        key="price",
    )
    failures_allowed: CellsOrShare = _key(
        SomeCells,
        "Up to this many failed cells, or this share of them like 2%, still count as success.",
        key="max_failed",
        said=0,
    )
    on_unknown: OnUnknown = _key(
        "hold", "What becomes of a submission whose outcome can't be known: hold it or resubmit.", said="hold"
    )
    on_nsfw: OnNsfw = _key(
        "keep",
        "What becomes of images that the service flags: keep them, drop them (neither saved nor exported), or reseed: "
        "keep them, and draw their cells anew with other seeds in a run directory beside this one.",
        said="keep",
    )
    max_redo: Attempts = _key(1, "How often on_nsfw: reseed draws a flagged cell anew at most.", said=1)
    replicate: CellsOrShare = _key(
        SomeCells,
        "So many of the completed cells, or this share of all cells like 1%, are submitted a second time at the same "
        "price, to see whether the same seed gives the same image.",
        said=0,
    )
    order: Order = _key(
        "rows",
        "rows (a row's cells together) or balanced (any prefix is spread evenly over rows and axes).",
        said="rows",
    )

    @property
    def max_failed(self) -> int | None:
        """How many failed cells still count as success; None where a share of them is said."""
        return self.failures_allowed.cells

    @property
    def max_failed_share(self) -> float | None:
        """Which share (0 to 1) of failed cells still counts as success; None where a number of them is said."""
        return self.failures_allowed.share


class OutputForm(_Form):
    """What is kept, and where."""

    dir: Text | None = _key(
        None, "The run directory, relative to the file that says it. Default: runs/<name> beside the spec."
    )
    download: Flag = _key(
        True,
        "Save the images (the service deletes them after 7 days); false keeps their URLs only.",
        said=True,
    )
    embed_metadata: Flag = _key(
        False,
        "Write prompt, parameters and cell id into each saved image's own metadata (PNG text, Exif); pixels stay.",
        said=False,
    )
    report: Flag = _key(True, "Write report.html at the run's end, up to 10,000 cells.", said=True)


class JobForm(_Form):
    """One job: a prompt table, the axes of its grid, and how to run it."""

    name: Name | None = _key(None, "The job's name; it also names the run directory. Default: the file's stem.")
    extends: Paths | None = _key(
        None,
        "A spec, or a list of them, to start from, relative to this file; merged deeply, later ones and this file "
        "winning. Lists and axes are replaced whole; null takes away what was inherited.",
    )
    model: ModelId = _key(DEFAULT_MODEL, "The model's id at the service.", said=DEFAULT_MODEL)
    api: Api = _key(Api, Api.__doc__ or "")
    prompts: Prompts = Field(description="Where the prompts come from.")
    grid: Annotated[dict[str, Any], PlainValidator(leaves.parse_mapping), WithJsonSchema(AXES_SCHEMA)] = _key(
        dict,
        "The axes: the job is rows x every axis. An axis is a request parameter, a word of the template, or the model.",
    )
    exclude: Annotated[list[Any], PlainValidator(leaves.parse_list), WithJsonSchema(EXCLUDE_SCHEMA)] = _key(
        list, "Cells to leave out, by partial match of axes, parameters and words of the template."
    )
    params: Annotated[dict[str, Any], PlainValidator(leaves.parse_mapping), WithJsonSchema(PARAMS_SCHEMA)] = _key(
        dict, "The request parameters that are the same for every request."
    )
    reuse: Paths = _key(
        tuple,
        "Run directories, or a list of them, whose completed cells are taken over at no cost; relative to the file "
        "that says it.",
    )
    run: Run = _key(Run, Run.__doc__ or "")
    output: OutputForm = _key(OutputForm, OutputForm.__doc__ or "")


def job_schema() -> dict[str, Any]:
    """Return the spec's JSON Schema (draft 2020-12): every key with its description, default and form.

    Nothing is required in it, since any key may be in a file that is extended.
    """
    schema = JobForm.model_json_schema(by_alias=True)
    for form in (schema, *schema["$defs"].values()):
        form.pop("title", None)
        required = form.pop("required", ())
        for name, key in form["properties"].items():
            key.pop("title", None)
            if name not in required:
                _allow_empty(key)
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A batchflux job"}
    return title | schema | RANGES_WHERE_MODEL_IS_KNOWN


def _allow_empty(key: dict[str, Any]) -> None:
    # An empty key counts as not said, so an editor must not paint it red.
    if "$ref" in key:
        key["anyOf"] = [{"$ref": key.pop("$ref")}]
    if "anyOf" in key:
        if {"type": "null"} not in key["anyOf"]:
            key["anyOf"].append({"type": "null"})
    elif "enum" in key:
        key["enum"] = [*key["enum"], None]
    else:
        key["type"] = [key["type"], "null"]
