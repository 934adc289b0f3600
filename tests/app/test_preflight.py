"""What the service's live word may add to a job's checks: refusals, and nothing else."""

from pathlib import Path

import pytest

import batchflux
from batchflux.app.preflight import refused_by
from batchflux.sandbox import Latency, SandboxConfig, SandboxThread
from tests.canary import CANARY

pytestmark = pytest.mark.usefixtures("key")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a key for the sandbox, which takes any."""
    monkeypatch.setenv("WAVESPEED_API_KEY", CANARY)


def run(folder: Path, base_url: str, spec: str) -> batchflux.Result:
    """Run a job of one prompt."""
    (folder / "p.csv").write_text("prompt\na fox\n")
    (folder / "job.yaml").write_text(f"prompts: {{path: p.csv}}\noutput: {{download: false}}\n{spec}\n")
    return batchflux.run(batchflux.load_job(folder / "job.yaml", {"api.base_url": base_url}))


def test_a_parameter_that_is_no_longer_listed_is_refused_where_it_matters(tmp_path: Path) -> None:
    """The service would drop it in silence; at its default it is a warning, and the spec's word sends it."""
    quick = SandboxConfig(latency=Latency(median_s=0, sigma=0), schema="today")
    with SandboxThread(quick) as sandbox:
        with pytest.raises(batchflux.JobSpecError, match="takes no parameter 'safety_tolerance' any more"):
            run(tmp_path, sandbox.base_url, 'params: {safety_tolerance: "4"}')
        assert not sandbox.behaviour.everything()
        assert run(tmp_path, sandbox.base_url, 'params: {safety_tolerance: "2"}').exit_status == 0
        forced = 'params: {safety_tolerance: "4"}\napi: {allow_unknown_params: true}'
        assert run(tmp_path, sandbox.base_url, forced).exit_status == 0


def test_a_live_bound_refuses_what_ships_here_allows(tmp_path: Path) -> None:
    """Today's schema takes nine ratios; one that only warns offline is refused before anything is spent."""
    quick = SandboxConfig(latency=Latency(median_s=0, sigma=0), schema="today")
    with SandboxThread(quick) as sandbox:
        with pytest.raises(batchflux.JobSpecError, match="does not take '5:4'; it takes"):
            run(tmp_path, sandbox.base_url, 'params: {aspect_ratio: "5:4"}')
        assert not sandbox.behaviour.everything()


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"minimum": 1, "maximum": 20}, 21, "20 at most"),
        ({"minimum": 1.5}, 1, "1.5 at least"),
        ({"minimum": 1, "maximum": 20}, 20.0, None),
        ({"enum": ["1:1", "3:2"]}, "2:3", "1:1, 3:2"),
        ({"enum": [1, 2]}, 2.0, None),
        ({"enum": []}, "x", None),
        ({"enum": [None, {"a": 1}]}, "x", "None, {'a': 1}"),
        ({"maximum": "much"}, 5, None),
        (["no", "schema"], 5, None),
        ({"maximum": 0}, True, None),
    ],
)
def test_only_plain_bounds_are_believed(schema: object, value: str | float, said: str | None) -> None:
    """A schema of another form refuses nothing."""
    assert refused_by(schema, value) == said
