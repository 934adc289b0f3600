"""The house: who may import whom, where the one POST is, who may catch everything, and what a quick command loads."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchflux

PACKAGE = Path(batchflux.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each room with the rooms below it. Siblings are not below each other; `sandbox` knows the error tree alone.
BELOW = {
    "core": set(),
    "io": {"core"},
    "engine": {"core"},
    "sandbox": {"core"},
    "export": {"core", "io"},
    "report": {"core", "io"},
    "app": {"core", "io", "engine", "sandbox", "export", "report"},
    "screen": {"core", "engine", "app"},
    "cli": {"core", "io", "engine", "sandbox", "export", "report", "app", "screen"},
    "__main__": {"cli"},
    "__init__": {"core", "io", "app"},
}

# What decides may count and compare. The clock, the dice, files and the network are given to it.
CORE_MAY_IMPORT = {
    "bisect", "collections", "dataclasses", "datetime", "decimal", "difflib", "email", "enum", "fractions",
    "functools", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator", "pathlib", "re", "string",
    "types", "typing", "unicodedata", "urllib", "numpy", "pyarrow", "pydantic",
}  # fmt: skip
TOUCHES_THE_WORLD = {
    "absolute", "cwd", "exists", "expanduser", "glob", "home", "is_dir", "is_file", "iterdir", "lstat", "mkdir",
    "monotonic", "now", "open", "perf_counter", "random", "read_bytes", "read_text", "resolve", "rglob", "rmdir",
    "stat", "time_ns", "today", "touch", "unlink", "urlopen", "utcnow", "write_bytes", "write_text",
}  # fmt: skip


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports anywhere in it, types included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out"
            # `from batchflux import core` imports batchflux.core; deeper names don't matter here.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls(path: Path) -> Iterator[tuple[ast.expr, str]]:
    """Yield (what it is called on, name) of every call of a method or a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.value, node.func.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func, node.func.id


def _named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_imports_run_downward() -> None:
    """No module imports from a room that isn't below its own, or names a room that the house doesn't have."""
    wrong = []
    for path in MODULES:
        room = _room(path)
        for name in _imports(path):
            first, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if first != "batchflux" or other in ("", "__version__"):
                continue
            if other != room and other not in BELOW[room]:
                wrong.append(f"{_named(path)} imports {name}")
    assert wrong == []


def test_the_sandbox_shares_nothing_with_the_client_but_errors() -> None:
    """The sandbox is a second reading of the service's documents: a shared mistake would hide from every test."""
    ours = {name for path in MODULES if _room(path) == "sandbox" for name in _imports(path)}
    shared = {name for name in ours if name.startswith("batchflux.") and not name.startswith("batchflux.sandbox")}
    assert {name.rpartition(".")[0] for name in shared} == {"batchflux.core.errors"}


def test_the_core_is_pure() -> None:
    """The core imports nothing that reads a clock, rolls dice, waits, or touches files and networks, and calls none."""
    core = [path for path in MODULES if _room(path) == "core"]
    imported = {name.partition(".")[0] for path in core for name in _imports(path)} - {"batchflux"}
    assert imported <= CORE_MAY_IMPORT
    assert [(_named(path), name) for path in core for _, name in _calls(path) if name in TOUCHES_THE_WORLD] == []
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not any(
        isinstance(node, waits) for path in core for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


@pytest.mark.security(35)
def test_one_place_sends_requests_and_one_fetches_files() -> None:
    """Only the client sends requests, in one call, and only the downloader gets files: so one place alone can POST."""
    others = {path for path in MODULES if _room(path) != "sandbox"}
    network = {"aiohappyeyeballs", "aiohttp", "http", "httpx", "requests", "socket", "urllib3", "wavespeed"}
    speaks = {_named(path) for path in others for name in _imports(path) if name.partition(".")[0] in network}
    # The lock says the host's name; a live page is served, and asks nobody.
    assert speaks - {"io/lock.py", "report/serving.py"} == {"io/connection.py", "io/downloads.py"}
    serving = next(path for path in others if _named(path) == "report/serving.py")
    assert "from aiohttp import web\n" in serving.read_text(encoding="utf-8")
    # Where the user wants to be told of a run's end is no service of ours: no key goes there.
    by_hand = {_named(path) for path in others for name in _imports(path) if name.startswith(("urllib.req", "http.cl"))}
    assert by_hand == {"io/notify.py"}
    verbs = {"request", "post", "patch", "ws_connect", "round_trip", "create_connection", "open_connection"}
    assert [(_named(path), name) for path in sorted(others) for _, name in _calls(path) if name in verbs] == [
        ("io/client.py", "round_trip"),
        ("io/connection.py", "create_connection"),
        ("io/connection.py", "round_trip"),  # a proxy is asked for a tunnel
    ]
    gets = {
        _named(path)
        for path in others
        for on, name in _calls(path)
        if name == "get" and ast.unparse(on).endswith("session")
    }
    assert gets == {"io/downloads.py"}


@pytest.mark.security(35)
def test_nothing_around_the_post_tries_again() -> None:
    """No call that sends stands in a loop: one request built is one request sent."""
    trees = [ast.parse((PACKAGE / f"io/{name}.py").read_text(encoding="utf-8")) for name in ("client", "connection")]
    names = ("send", "_ask_again", "_exchange", "round_trip")
    sends = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    sends = [node for node in sends if node.name in names]
    assert {node.name for node in sends} == set(names)
    assert not any(isinstance(node, ast.For | ast.While | ast.AsyncFor) for send in sends for node in ast.walk(send))


def test_nobody_swallows() -> None:
    """Everything is caught at the command line's edge alone; who catches BaseException hands it on."""
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = "BaseException" if node.type is None else ast.unparse(node.type)
            if "BaseException" in names or "Exception" in names.replace("(", " ").replace(",", " ").split():
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                found.add((_named(path), names, raises))
    assert {place for place, name, _ in found if name == "Exception"} == {"cli.py"}
    # `run` hands what was raised in its thread to the thread that waits for it.
    assert {place for place, name, raises in found if not (name == "Exception" or raises)} <= {"app/run.py"}


def test_tasks_end_before_their_block() -> None:
    """Tasks are started in task groups alone: nothing runs on behind the run that began it."""
    loose = {"gather", "ensure_future", "create_task"}
    for path in MODULES:
        for on, name in _calls(path):
            assert not (name in loose and ast.unparse(on) in ("asyncio", "loop", "self._loop")), _named(path)


def test_public_names() -> None:
    """The package's public names are these, each is there, and each is listed for who asks."""
    assert batchflux.__all__ == [
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
    assert all(getattr(batchflux, name) is not None for name in batchflux.__all__)
    assert dir(batchflux) == batchflux.__all__
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = batchflux.rum


@pytest.mark.parametrize("line", ["--help", "--version", "schema", "run --help", "export --help", "init --help"])
def test_quick_commands_load_nothing_heavy(line: str) -> None:
    """What answers at once loads no table, network or imaging library, nor the spec's own types."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "batchflux", *line.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {entry.rpartition("|")[2].strip().partition(".")[0] for entry in done.stderr.splitlines()}
    assert "click" in loaded
    heavy = {"pandas", "pyarrow", "aiohttp", "numpy", "PIL", "pydantic", "yaml", "tqdm", "asyncio"}
    assert loaded & heavy == set()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import batchflux` is free; a name loads what it needs when it is used."""
    script = "import sys, batchflux; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "batchflux" in done.stdout.split()
    assert {"pandas", "pyarrow", "aiohttp", "numpy", "click", "pydantic"} & set(done.stdout.split()) == set()


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """The wheel has every module, the typing marker, the schema and the licence, and nothing of the tests."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    data = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in data:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    subprocess.run([*command, str(source)], check=True, timeout=170, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path.relative_to(ROOT).as_posix() for path in data} <= names
    assert "batchflux/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"batchflux"}
