"""The sandbox's place in the house: what it may import, and which names it promises."""

import ast
from contextlib import closing
from pathlib import Path

import pytest

import batchflux.sandbox
from batchflux.sandbox.ledger import Ledger, StateInUse

_FOLDER = Path(batchflux.sandbox.__file__).parent


def test_it_is_an_independent_model_of_the_vendor() -> None:
    """From the rest of batchflux the sandbox imports the error tree alone, so that a shared mistake can't hide."""
    imported: set[str] = set()
    for path in _FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
                assert node.level == 0
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.split(".")[0] == "batchflux"}
    assert {name for name in ours if not name.startswith("batchflux.sandbox")} == {"batchflux.core.errors"}


def test_public_names() -> None:
    """The package's public names are these, and each of them is there."""
    assert set(batchflux.sandbox.__all__) == {
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
    }
    assert all(hasattr(batchflux.sandbox, name) for name in batchflux.sandbox.__all__)


def test_a_memory_has_one_owner(tmp_path: Path) -> None:
    """A second sandbox can't open a memory until the first lets go of it."""
    with closing(Ledger(tmp_path / "state")), pytest.raises(StateInUse):
        Ledger(tmp_path / "state")
    Ledger(tmp_path / "state").close()
