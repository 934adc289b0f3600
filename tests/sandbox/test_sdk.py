"""The vendor's official Python SDK against the sandbox: proof of the service's wire, and not of our idea of it."""

from typing import Any

import pytest
import wavespeed

from batchflux.sandbox import FaultRule, FaultScript, Latency, SandboxConfig, SandboxThread
from tests.sandbox.caller import MAX, Caller

INPUTS = {"prompt": "a red kite over dunes", "seed": 7, "guidance_scale": 4.5, "num_images": 2}


def _client(origin: str) -> Any:
    return wavespeed.Client(api_key="sandbox", base_url=origin, max_connection_retries=1, retry_interval=0.001)


def _config(**knobs: Any) -> SandboxConfig:
    return SandboxConfig(**{"latency": Latency(median_s=0), "image_size": 64, **knobs})


def test_a_generation() -> None:
    """The SDK submits, polls to the end and hands over output URLs that hold images."""
    with SandboxThread(_config(latency=Latency(median_s=0.05, sigma=0))) as sandbox:
        result = _client(sandbox.origin).run(MAX, INPUTS, poll_interval=0.01, timeout=20)
        assert len(result["outputs"]) == 2
        for url in result["outputs"]:
            assert Caller(sandbox.origin, key=None).output(url).body.startswith(b"\x89PNG")
        assert sandbox.stats["submissions_accepted"] == 1
        assert sandbox.behaviour.everything()[0].parsed_inputs() == INPUTS


def test_synchronous_mode() -> None:
    """The SDK's synchronous mode gets the outputs in the one answer."""
    with SandboxThread(_config(schema="today")) as sandbox:
        result = _client(sandbox.origin).run(MAX, {"prompt": "a kite"}, enable_sync_mode=True, timeout=20)
        assert len(result["outputs"]) == 1
        assert sandbox.stats["polls"] == 0


def test_failures_read_as_the_sdk_expects() -> None:
    """A failed prediction, a refused key and a lost answer are each what the SDK takes them for."""
    script = FaultScript(rules=(FaultRule(on="submit", do="reset", when="after", prompt="lost"),))
    with SandboxThread(_config(require_key="sandbox", faults=script)) as sandbox:
        client = _client(sandbox.origin)
        failed = client.run_no_throw(MAX, {"prompt": "sandbox:refuse"}, timeout=20)
        assert (failed["status"], failed["outputs"]) == ("failed", None)
        assert "sensitive" in failed["error"]
        assert failed["task_id"] == sandbox.behaviour.everything()[0].id
        with pytest.raises(RuntimeError, match="may already"):
            client.run(MAX, {"prompt": "lost"}, timeout=20)
        assert sandbox.stats["submissions_accepted"] == 2
        stranger = wavespeed.Client(api_key="other", base_url=sandbox.origin)
        with pytest.raises(RuntimeError, match="HTTP 401"):
            stranger.run(MAX, {"prompt": "a kite"}, timeout=20)
