"""Turn a prompt table into a finished image dataset, at the full speed the account allows, paying for no cell twice.

Nothing heavy is imported until a name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchflux.app.job import Job, load_job
    from batchflux.app.plan import Plan
    from batchflux.app.plan import make_plan as plan
    from batchflux.app.run import RunOptions, run, run_async
    from batchflux.app.show import Shown, show
    from batchflux.app.summary import Result
    from batchflux.core.errors import (
        BatchfluxError,
        CheckpointDamaged,
        ForeignRunDir,
        JobSpecError,
        RunDirLocked,
        StorageError,
        UsageError,
    )
    from batchflux.io.checkpoint import read_checkpoint
    from batchflux.io.manifest import read_manifest

__version__ = "0.1.0"

_HOMES = {
    # a job, from file to result
    "Job": "batchflux.app.job",
    "Plan": "batchflux.app.plan",
    "Result": "batchflux.app.summary",
    "RunOptions": "batchflux.app.run",
    "load_job": "batchflux.app.job",
    "plan": "batchflux.app.plan:make_plan",
    "run": "batchflux.app.run",
    "run_async": "batchflux.app.run",
    # what a run left
    "read_checkpoint": "batchflux.io.checkpoint",
    "read_manifest": "batchflux.io.manifest",
    "Shown": "batchflux.app.show",
    "show": "batchflux.app.show",
    # what goes wrong
    "BatchfluxError": "batchflux.core.errors",
    "CheckpointDamaged": "batchflux.core.errors",
    "ForeignRunDir": "batchflux.core.errors",
    "JobSpecError": "batchflux.core.errors",
    "RunDirLocked": "batchflux.core.errors",
    "StorageError": "batchflux.core.errors",
    "UsageError": "batchflux.core.errors",
}

__all__ = [
    "BatchfluxError",
    "CheckpointDamaged",
    "ForeignRunDir",
    "Job",
    "JobSpecError",
    "Plan",
    "Result",
    "RunDirLocked",
    "RunOptions",
    "Shown",
    "StorageError",
    "UsageError",
    "__version__",
    "load_job",
    "plan",
    "read_checkpoint",
    "read_manifest",
    "run",
    "run_async",
    "show",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'batchflux' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
