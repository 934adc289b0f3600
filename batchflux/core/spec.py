"""The job spec as it is meant: from a mapping to a `JobSpec` that can't be wrong, or every problem at once.

`specform` reads each key by itself; here is decided what keys mean together: models, axes, words, parameters,
exclusions, defaults that hang on others. Pure: where a key stands in which file is a question asked of the caller.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchflux.core import leaves, units
from batchflux.core.catalog import KnownModel, known_model
from batchflux.core.findings import BadValue, Findings, KeyedProblem, KeyPath, file_order
from batchflux.core.model import Axis, JsonValue, Params
from batchflux.core.specaxes import AxisRules, axis_as_written, build_axes
from batchflux.core.specchecks import check_columns, check_exclude, check_params
from batchflux.core.specfaults import note_invalid
from batchflux.core.specform import Api, JobForm, Prompts, Run, Sample
from batchflux.core.template import Template

__all__ = ["Api", "JobSpec", "Output", "ParsedJob", "Prompts", "Run", "Sample", "parse_job", "resolved_mapping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where the run directory lies; whether images are saved into it, with words of their own, and the run's page."""

    dir: Path
    download: bool
    embed_metadata: bool = False
    report: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job as it will run. `grid` is in the order written; `exclude` and `params` hold values as they are sent.

    `model` is the first one where the model is an axis. Times are in seconds, money in micro-dollars.
    """

    name: str
    model: str
    api: Api
    prompts: Prompts
    grid: tuple[Axis, ...]
    exclude: tuple[Params, ...]
    params: Params
    run: Run
    output: Output
    reuse: tuple[Path, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the job uses."""
        axis = next((axis for axis in self.grid if axis.kind == "model"), None)
        return tuple(str(value) for value in axis.values) if axis is not None else (self.model,)

    @property
    def template(self) -> Template | None:
        """The parsed template, or None where a column holds the whole prompt."""
        return Template.parse(self.prompts.template) if self.prompts.template is not None else None

    @property
    def price_known(self) -> bool:
        """Whether a price an image is known without asking the service: the spec's own, or every model's list price."""
        return self.run.price_micro_usd is not None or all(known_model(model) is not None for model in self.models)

    def list_price_micro_usd(self, model: str) -> int | None:
        """Return what an image of a model costs by the spec, else by its list price; None where neither tells."""
        if self.run.price_micro_usd is not None:
            return self.run.price_micro_usd
        known: KnownModel | None = known_model(model)
        return known.price_micro_usd if known is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedJob:
    """A spec that was understood, and what is worth a look in it, each warning a printable line."""

    spec: JobSpec
    warnings: tuple[str, ...]


def parse_job(
    data: Mapping[str, Any],
    *,
    where: Callable[[KeyPath], str],
    default_name: str,
    default_dir: Path,
    order: Callable[[KeyPath], tuple[int, ...]] | None = None,
    faults: Sequence[KeyedProblem] = (),
) -> ParsedJob:
    """Return the job that a merged mapping says; raises JobSpecError with every problem, in the order of the file.

    `where` tells the place of a key as it is printed, `order` its rank among the keys (default: as `data` has them).
    `default_name` is the job's name where it says none, `default_dir` the folder beneath which `runs/<name>` lies.
    Paths stay as they are: whoever read the files has made them absolute. `faults` are problems that their texts had,
    to be told with those found here.
    """
    order = order if order is not None else file_order(data)
    findings = Findings(faults)
    spec = _understand(data, findings=findings, default_name=default_name, default_dir=default_dir)
    findings.raise_errors(where=where, order=order)
    return ParsedJob(spec=spec, warnings=findings.warnings(where=where, order=order))


def _understand(data: Mapping[str, Any], *, findings: Findings, default_name: str, default_dir: Path) -> JobSpec:
    form = _read_form(data, findings=findings)
    name = _name(form, default_name=default_name, findings=findings)
    template = _template(form, findings=findings)
    models = _models(form, findings=findings)
    rules = AxisRules(
        words=template.words if template is not None else (),
        models=() if findings.has_errors("model") else models,
        allow_unknown=form.api.allow_unknown_params or findings.has_errors("api"),
        words_known=not findings.has_errors("prompts"),
    )
    axes = build_axes(form.grid, rules=rules, findings=findings)
    columns = check_columns(form.prompts, grid=form.grid, rules=rules, findings=findings)
    prompts = form.prompts.model_copy(update={"columns": columns})
    params = check_params(form.params, axes=form.grid, rules=rules, findings=findings)
    exclude = check_exclude(
        form.exclude, axes=axes, grid=form.grid, params=params, columns=columns, rules=rules, findings=findings
    )
    _warn_unchecked(form, models=models, findings=findings)
    if form.run.replicate.is_asked and not form.output.download:
        findings.error(
            ("run", "replicate"),
            "images are to be compared, and output.download is false",
            "set output.download: true, or leave replicate out",
        )
    directory = Path(form.output.dir) if form.output.dir is not None else default_dir / "runs" / name
    return JobSpec(
        name=name,
        model=models[0],
        api=form.api,
        prompts=prompts,
        grid=axes,
        exclude=exclude,
        params=params,
        run=form.run,
        output=Output(
            dir=directory,
            download=form.output.download,
            embed_metadata=form.output.embed_metadata,
            report=form.output.report,
        ),
        reuse=tuple(map(Path, form.reuse)),
    )


def _read_form(data: Mapping[str, Any], *, findings: Findings) -> JobForm:
    """Return the spec's keys, each read by itself; a section with a fault, which is noted, stands at its default."""
    try:
        return JobForm.model_validate(dict(data))
    except ValidationError as error:
        broken = note_invalid(error, data=data, findings=findings)
    sound = {key: value for key, value in data.items() if key not in broken}
    if "prompts" in broken:
        sound["prompts"] = {"path": "."}
    return JobForm.model_validate(sound)


def _name(form: JobForm, *, default_name: str, findings: Findings) -> str:
    if form.name is not None:
        return form.name
    try:
        return leaves.parse_name(default_name)
    except BadValue as fault:
        if not findings.has_errors("name"):
            findings.error(("name",), f"the file's name can't name the job: {fault.what}", "give the job a name")
        return "job"


def _template(form: JobForm, *, findings: Findings) -> Template | None:
    if form.prompts.template is None:
        return None
    path: KeyPath = ("prompts", "template")
    try:
        template = Template.parse(form.prompts.template)
    except BadValue as fault:
        findings.refuse(path, fault)
        return None
    if not template.words:
        findings.warn(path, "the template names no column and no axis, so every row gets the same prompt")
    return template


def _models(form: JobForm, *, findings: Findings) -> tuple[str, ...]:
    """Return the models of the job; the axis's own faults are noted where axes are built."""
    listed = form.grid.get("model")
    if "model" not in form.grid:
        return (form.model,)
    if "model" in form.model_fields_set:
        findings.error(("model",), "the model is an axis already", "take away one of model and grid.model")
    named = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    return tuple(dict.fromkeys(named)) or (form.model,)


def _warn_unchecked(form: JobForm, *, models: tuple[str, ...], findings: Findings) -> None:
    path: KeyPath = ("grid", "model") if "model" in form.grid else ("model",)
    for model in models:
        if known_model(model) is None:
            findings.warn(
                path,
                f"nothing ships for {model}: the names, types and ranges of its parameters are not checked here, "
                "only against the service's live schema where that can be reached",
            )


def resolved_mapping(spec: JobSpec) -> dict[str, JsonValue]:
    """Return the whole spec in the form that a spec file has, defaults included; parsing it gives the equal spec."""
    mapping: dict[str, JsonValue] = {"name": spec.name}
    if not any(axis.kind == "model" for axis in spec.grid):
        mapping["model"] = spec.model
    mapping["api"] = _api_as_written(spec.api)
    mapping["prompts"] = _prompts_as_written(spec.prompts)
    if spec.grid:
        mapping["grid"] = {axis.name: axis_as_written(axis) for axis in spec.grid}
    if spec.exclude:
        mapping["exclude"] = [dict(rule) for rule in spec.exclude]
    if spec.params:
        mapping["params"] = dict(spec.params)
    if spec.reuse:
        mapping["reuse"] = [str(path) for path in spec.reuse]
    mapping["run"] = _run_as_written(spec.run)
    mapping["output"] = {
        "dir": str(spec.output.dir),
        "download": spec.output.download,
        "embed_metadata": spec.output.embed_metadata,
        "report": spec.output.report,
    }
    return mapping


def _said(mapping: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: value for key, value in mapping.items() if value is not None}


def _api_as_written(api: Api) -> dict[str, JsonValue]:
    return _said(
        {
            "base_url": api.base_url,
            "key_env": api.key_env,
            "settle": units.format_duration(api.settle_s),
            "allow_unknown_params": api.allow_unknown_params,
            "proxy": api.proxy,
            "ca_file": api.ca_file,
        }
    )


def _prompts_as_written(prompts: Prompts) -> dict[str, JsonValue]:
    sample: JsonValue = {"n": prompts.sample.n, "key": prompts.sample.key} if prompts.sample is not None else None
    return _said(
        {
            "path": prompts.path[0] if len(prompts.path) == 1 else list(prompts.path),
            "columns": dict(prompts.columns) or None,
            "template": prompts.template,
            "limit": prompts.limit,
            "sample": sample,
        }
    )


def _run_as_written(run: Run) -> dict[str, JsonValue]:
    return _said(
        {
            "concurrency": run.concurrency if run.concurrency is not None else "auto",
            "rate_limit": units.format_rate(run.rate_limit_per_s) if run.rate_limit_per_s is not None else None,
            "max_attempts": run.max_attempts,
            "timeout": units.format_duration(run.timeout_s),
            "patience": units.format_duration(run.patience_s) if run.patience_s is not None else None,
            "budget": units.format_usd(run.budget_micro_usd) if run.budget_micro_usd is not None else None,
            "price": units.format_usd(run.price_micro_usd) if run.price_micro_usd is not None else None,
            "max_failed": units.format_some_cells(run.failures_allowed),
            "on_unknown": run.on_unknown,
            "on_nsfw": run.on_nsfw,
            "max_redo": run.max_redo,
            "replicate": units.format_some_cells(run.replicate),
            "order": run.order,
        }
    )
