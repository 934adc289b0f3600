"""An embedded server that speaks the service's wire on loopback and draws real images. It is not the model.

Importing this loads no web framework and no imaging: those come with the first sandbox that is started.
"""

from batchflux.sandbox.config import Latency, Rate, SandboxConfig, parse_latency, parse_rate
from batchflux.sandbox.faults import FaultRule, FaultScript, parse_fault_script
from batchflux.sandbox.running import RunningSandbox, SandboxProcess, SandboxThread, serve

__all__ = [
    "FaultRule",
    "FaultScript",
    "Latency",
    "Rate",
    "RunningSandbox",
    "SandboxConfig",
    "SandboxProcess",
    "SandboxThread",
    "parse_fault_script",
    "parse_latency",
    "parse_rate",
    "serve",
]
