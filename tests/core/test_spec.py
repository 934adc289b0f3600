"""The spec as it is meant: defaults, rules between keys, and the whole spec written out again."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.catalog import DEFAULT_MODEL
from batchflux.core.errors import JobSpecError
from batchflux.core.findings import dotted
from batchflux.core.identity import axis_seeds
from batchflux.core.model import Axis
from batchflux.core.spec import Api, JobSpec, ParsedJob, Run, Sample, parse_job, resolved_mapping
from batchflux.io.jobfile import dump_job
from batchflux.io.yamltext import Position, read_yaml


def _parse(data: dict[str, Any]) -> ParsedJob:
    return parse_job(data, where=dotted, default_name="city", default_dir=Path("/jobs"))


def _spec(**data: Any) -> JobSpec:
    return _parse({"prompts": {"path": "/p.csv"}, **data}).spec


def _problems(**data: Any) -> list[str]:
    with pytest.raises(JobSpecError) as caught:
        _parse({"prompts": {"path": "/p.csv"}, **data})
    return str(caught.value).split("\n")


def test_everything_but_the_prompts_has_a_default() -> None:
    """The defaults are those that the interface promises."""
    spec = _spec()
    assert (spec.name, spec.model, spec.output.dir, spec.output.download) == (
        "city",
        DEFAULT_MODEL,
        Path("/jobs/runs/city"),
        True,
    )
    assert (spec.prompts.path, spec.prompts.columns) == (("/p.csv",), {"prompt": "prompt"})
    assert (spec.prompts.template, spec.prompts.limit, spec.prompts.sample) == (None, None, None)
    assert (spec.grid, spec.exclude, spec.params) == ((), (), {})
    api = spec.api
    assert (api.base_url, api.key_env, api.settle_s) == ("https://api.wavespeed.ai/api/v3", "WAVESPEED_API_KEY", 60.0)
    assert (api.allow_unknown_params, api.proxy, api.ca_file) == (False, None, None)
    run = spec.run
    assert (run.concurrency, run.rate_limit_per_s, run.max_attempts) == (None, None, 4)
    assert (run.timeout_s, run.patience_s, run.budget_micro_usd, run.price_micro_usd) == (1800.0, None, None, None)
    assert (run.max_failed, run.max_failed_share, run.on_unknown, run.order) == (0, None, "hold", "rows")


_WHOLE: dict[str, Any] = {
    "name": "city-guidance-sweep",
    "api": {
        "base_url": "http://127.0.0.1:8080/api/v3/",
        "key_env": "MY_KEY",
        "settle": "500ms",
        "allow_unknown_params": True,
        "proxy": "http://proxy:3128",
        "ca_file": "/ca.pem",
    },
    "prompts": {
        "path": ["/a.csv", "/b/*.jsonl"],
        "columns": {"id": "key", "aspect_ratio": "ratio"},
        "template": "{scene}, in the style of {style}",
        "sample": {"n": 100, "key": 3},
    },
    "grid": {
        "style": ["ukiyo-e", "film noir", 7],
        "guidance_scale": {"start": 2.5, "stop": 7.5, "num": 3},
        "seed": {"random": 4, "key": 7},
        "model": [DEFAULT_MODEL, "vendor/other"],
    },
    "exclude": [{"style": 7, "guidance_scale": 7.5}],
    "params": {"num_images": 2, "safety_tolerance": "5"},
    "run": {
        "concurrency": 16,
        "rate_limit": "500/min",
        "max_attempts": 2,
        "timeout": "10m",
        "patience": "2h",
        "budget": 25.00,
        "price": "0.08",
        "max_failed": "2%",
        "on_unknown": "resubmit",
        "order": "balanced",
    },
    "output": {"dir": "/runs/city", "download": False},
}


def test_a_spec_that_says_everything() -> None:
    """Every key arrives as the value that it says."""
    spec = _parse(_WHOLE).spec
    assert spec.name == "city-guidance-sweep"
    assert spec.api == Api.model_validate(_WHOLE["api"])
    assert (spec.api.base_url, spec.api.settle_s, spec.api.proxy) == (
        "http://127.0.0.1:8080/api/v3",
        0.5,
        "http://proxy:3128",
    )
    assert spec.prompts.path == ("/a.csv", "/b/*.jsonl")
    assert spec.prompts.columns == {"id": "key", "aspect_ratio": "ratio"}
    assert spec.template is not None
    assert spec.template.words == ("scene", "style")
    assert spec.prompts.sample == Sample(n=100, key=3)
    assert spec.grid == (
        Axis(name="style", kind="word", values=("ukiyo-e", "film noir", "7")),
        Axis(name="guidance_scale", kind="parameter", values=(2.5, 5.0, 7.5)),
        Axis(name="seed", kind="parameter", values=axis_seeds(4, 7), key=7),
        Axis(name="model", kind="model", values=(DEFAULT_MODEL, "vendor/other")),
    )
    assert (spec.model, spec.models) == (DEFAULT_MODEL, (DEFAULT_MODEL, "vendor/other"))
    assert spec.exclude == ({"style": "7", "guidance_scale": 7.5},)
    assert spec.params == {"num_images": 2, "safety_tolerance": "5"}
    run = spec.run
    assert (run.concurrency, run.rate_limit_per_s, run.timeout_s, run.patience_s) == (16, 500 / 60, 600.0, 7200.0)
    assert (run.budget_micro_usd, run.price_micro_usd) == (25_000_000, 80_000)
    assert (run.max_failed, run.max_failed_share) == (None, 0.02)
    assert (spec.output.dir, spec.output.download) == (Path("/runs/city"), False)


def test_the_resolved_spec_is_written_with_its_defaults() -> None:
    """The golden form of job.yaml: every default said, in the spec's own words."""
    assert resolved_mapping(_spec(grid={"seed": [1, 2, 3]}, params={"aspect_ratio": "1:1"})) == {
        "name": "city",
        "model": DEFAULT_MODEL,
        "api": {
            "base_url": "https://api.wavespeed.ai/api/v3",
            "key_env": "WAVESPEED_API_KEY",
            "settle": "1m",
            "allow_unknown_params": False,
        },
        "prompts": {"path": "/p.csv", "columns": {"prompt": "prompt"}},
        "grid": {"seed": [1, 2, 3]},
        "params": {"aspect_ratio": "1:1"},
        "run": {
            "concurrency": "auto",
            "max_attempts": 4,
            "timeout": "30m",
            "max_failed": 0,
            "on_unknown": "hold",
            "on_nsfw": "keep",
            "max_redo": 1,
            "replicate": 0,
            "order": "rows",
        },
        "output": {"dir": "/jobs/runs/city", "download": True, "embed_metadata": False, "report": True},
    }


_SEED_AXES = st.one_of(
    st.lists(st.integers(-1, 2147483647), min_size=1, max_size=4, unique=True),
    st.fixed_dictionaries({"count": st.integers(1, 9), "start": st.integers(0, 9)}),
    st.fixed_dictionaries({"random": st.integers(1, 9), "key": st.integers(0, 9), "per_row": st.booleans()}),
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(
    seed=_SEED_AXES,
    style=st.lists(_TEXTS, min_size=1, max_size=4, unique=True),
    path=st.one_of(_TEXTS, st.lists(_TEXTS, min_size=1, max_size=3)),
    column=_TEXTS,
    budget=st.integers(0, 10**12),
    failures=st.one_of(st.integers(0, 99), st.integers(0, 100).map(lambda share: f"{share}%")),
    extra=st.recursive(
        st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
        max_leaves=5,
    ),
)
def test_the_resolved_spec_parses_back_equal(
    *, seed: Any, style: list[str], path: Any, column: str, budget: int, failures: Any, extra: Any
) -> None:
    """Whatever a job is, its job.yaml is the same job: through the mapping, and through the file's text."""
    data = {
        "model": "vendor/other",
        "prompts": {"path": path, "columns": {"id": column}, "template": "{scene} {style}"},
        "grid": {"style": style, "seed": seed},
        "params": {"extra": extra},
        "run": {"budget": budget / 1_000_000, "max_failed": failures},
    }
    spec = _parse(data).spec
    mapping = resolved_mapping(spec)
    assert _parse(mapping).spec == spec
    node = read_yaml(dump_job(mapping), at=Position(file="job.yaml", line=1, column=1))
    assert node is not None
    assert _plain(node) == mapping


def test_the_whole_spec_parses_back_equal() -> None:
    """Also where every key is said and the model is an axis."""
    spec = _parse(_WHOLE).spec
    assert _parse(resolved_mapping(spec)).spec == spec
    assert "model" not in resolved_mapping(spec)


def _plain(node: Any) -> Any:
    match node.value:
        case dict():
            return {key: _plain(item) for key, item in node.value.items()}
        case list():
            return [_plain(item) for item in node.value]
    return node.value


def test_an_empty_key_counts_as_not_said() -> None:
    """`run:` with every line under it commented out is the default run."""
    spec = _spec(run=None, api={"settle": None}, output=None, grid=None, exclude=None, params=None, name=None)
    assert spec == _spec()


def test_the_prompt_column_is_prompt_where_only_others_are_said() -> None:
    """Naming the id column doesn't take the prompt away."""
    assert _parse({"prompts": {"path": "/p", "columns": {"id": "key"}}}).spec.prompts.columns == {
        "prompt": "prompt",
        "id": "key",
    }


def test_a_word_may_have_the_name_of_a_parameter() -> None:
    """The axis then fills the template, and `params` may still say what is sent."""
    job = _parse(
        {"prompts": {"path": "/p", "template": "{a} no. {seed}"}, "grid": {"seed": [1, 2]}, "params": {"seed": 7}}
    )
    assert job.spec.grid == (Axis(name="seed", kind="word", values=("1", "2")),)
    assert job.spec.params == {"seed": 7}
    assert len(job.warnings) == 1


def test_where_the_api_is() -> None:
    """What the command line asks before it lets the key go to a host."""
    assert _spec().api.is_default_host
    assert not _spec().api.is_loopback
    other = _spec(api={"base_url": "https://example.com/api/v3"}).api
    assert (other.is_default_host, other.is_loopback, other.origin) == (False, False, "https://example.com")
    for url in ("http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"):
        assert _spec(api={"base_url": url}).api.is_loopback
    assert not _spec(api={"base_url": "https://api.wavespeed.ai:8443/api/v3"}).api.is_default_host
    assert not _spec(api={"base_url": "https://api.wavespeed.ai.example.com"}).api.is_default_host


def test_which_price_is_known() -> None:
    """A model that nothing ships for asks for run.price or for the service's quote."""
    assert _spec().price_known
    assert _spec().list_price_micro_usd(DEFAULT_MODEL) == 80_000
    other = _spec(model="vendor/other")
    assert not other.price_known
    assert other.list_price_micro_usd("vendor/other") is None
    assert not _spec(grid={"model": [DEFAULT_MODEL, "vendor/other"]}).price_known
    priced = _spec(model="vendor/other", run={"price": 0.05})
    assert priced.price_known
    assert priced.list_price_micro_usd("vendor/other") == 50_000


def test_problems_of_all_sections_come_together_in_the_order_of_the_file() -> None:
    """A fault in one section hides none in another."""
    said = _problems(run={"timeout": 5}, grid={"seed": [-5]}, output={"download": "NO"}, api={"key_evn": "X"})
    assert [line.split(":")[0] for line in said] == ["run.timeout", "grid.seed[0]", "output.download", "api.key_evn"]


def test_a_fault_blames_nothing_that_only_follows_from_it() -> None:
    """A misspelt template doesn't make its words unknown, a misspelt model no parameter."""
    prompts = {"path": "/p.csv", "templat": "{style}"}
    assert _problems(prompts=prompts, grid={"style": ["a"]}, exclude=[{"style": "a"}]) == [
        "prompts.templat: unknown key; did you mean template?"
    ]
    assert len(_problems(model="no model", params={"steps": 5}, grid={"cfg": [1]})) == 1
    assert len(_problems(api={"allow_unknown_parms": True}, params={"steps": 5})) == 1


def test_a_misspelt_axis_is_told_though_the_template_is_unknown() -> None:
    """One that is a parameter's name but for a slip is no word of a template that can't be read, whatever it says."""
    prompts = {"path": "/p.csv", "templat": "{style}"}
    grid = {"guidance_scle": [1], "seeds": [1], "style": ["a"], "scene": ["b"], "mood": ["c"], "images": ["d"]}
    assert _problems(prompts=prompts, grid=grid) == [
        "prompts.templat: unknown key; did you mean template?",
        "grid.guidance_scle: is no parameter of wavespeed-ai/flux-kontext-max/text-to-image; "
        "did you mean guidance_scale?",
        "grid.seeds: is no parameter of wavespeed-ai/flux-kontext-max/text-to-image; did you mean seed?",
    ]


def test_many_problems_are_cut_with_their_number() -> None:
    """A thousand bad values don't hide the first one."""
    said = _problems(grid={"seed": list(range(-1000, -1))})
    assert len(said) == 51
    assert said[-1].endswith("949 more problems; mend these first")


@pytest.mark.security(1)
def test_no_message_repeats_a_secret() -> None:
    """A key in the wrong place never reaches the terminal or a log."""
    secret = "0123456789abcdef" * 2
    said = _problems(
        api={
            "key": secret,
            "key_env": secret,
            "api-key": secret,
            "base_url": f"https://{secret}@x.com",
            "token": {"a": secret},
        },
        WAVESPEED_API_KEY=secret,
    )
    said += _problems(params={"api_key": secret})
    assert len(said) == 7
    assert secret not in "\n".join(said)


def test_an_exclusion_names_what_the_job_gives() -> None:
    """Axes, params, columns, words and the model can be excluded by; values are compared as they are sent."""
    job = _parse(
        {
            "prompts": {"path": "/p", "columns": {"num_images": "n"}, "template": "{scene} {style}"},
            "grid": {"style": [1, 2], "seed": {"random": 2, "per_row": True}, "guidance_scale": [5]},
            "params": {"aspect_ratio": "1:1"},
            "exclude": [
                {"style": 1, "seed": 5.0, "guidance_scale": 5.0, "num_images": 3},
                {"scene": "a cat", "aspect_ratio": "1:1", "model": DEFAULT_MODEL},
            ],
        }
    )
    assert job.warnings == ()
    assert job.spec.exclude[0] == {"style": "1", "seed": 5, "guidance_scale": 5.0, "num_images": 3}


def test_a_rule_that_leaves_out_nothing_warns() -> None:
    """A value that no cell can have is most likely a slip."""
    job = _parse(
        {
            "prompts": {"path": "/p"},
            "grid": {"guidance_scale": [5]},
            "params": {"aspect_ratio": "1:1"},
            "exclude": [{"guidance_scale": 6}, {"aspect_ratio": "3:2"}, {"model": "vendor/other"}],
        }
    )
    assert len(job.warnings) == 3
    assert all(warning.endswith("so the rule leaves out no cell") for warning in job.warnings)


_ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["path", "n", "key", "columns", "template", "seed", "timeout", "budget", "dir", "zzz", "num"]
            ),
            inner,
        ),
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "model", "api", "prompts", "grid", "exclude", "params", "run", "output", "zzz"]), _ANY
    )
)
def test_any_mapping_is_a_job_or_problems(data: dict[str, Any]) -> None:
    """Nothing that YAML can say makes the parser fail in another way than by naming the keys."""
    try:
        job = _parse(data)
    except JobSpecError:
        return
    assert _parse(resolved_mapping(job.spec)).spec == job.spec


def test_the_spec_loads_neither_pandas_nor_pyarrow() -> None:
    """`schema` and `--help` stay quick."""
    code = "import sys, batchflux.core.spec, batchflux.io.jobfile; print({'pandas', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_sections_are_frozen() -> None:
    """A spec doesn't change while a job runs."""
    with pytest.raises(ValueError, match="frozen"):
        Run().max_attempts = 5
