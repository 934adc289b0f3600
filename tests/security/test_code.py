"""What the code may hold, read as a tree: one reader of the key, no way to turn checks off, no code from data."""

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import batchflux

PACKAGE = Path(batchflux.__file__).parent
ROOT = PACKAGE.parent
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
NODES = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yield (file, node) for every node of these kinds."""
    return ((name, node) for name, node in NODES if isinstance(node, kinds))


def files_with(*wanted: str) -> set[str]:
    """Return the files that use one of these words as a name, an attribute, a keyword or an import."""
    found = set()
    for name, node in nodes(ast.Name, ast.Attribute, ast.keyword, ast.alias):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.keyword(arg=word) | ast.alias(name=word):
                if word in wanted:
                    found.add(name)
    return found


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield (file, what is called, the call) for every call."""
    for name, node in nodes(ast.Call):
        assert isinstance(node, ast.Call)
        yield name, ast.unparse(node.func), node


@pytest.mark.security(1)
@pytest.mark.security(2)
@pytest.mark.security(35)
def test_one_reader_of_the_key() -> None:
    """One place reads a variable that a spec names, one module holds its value, one call sends it as a header."""
    assert files_with("_value", "Authorization", "_Bearer") == {"io/client.py"}
    assert [(name, call) for name, call, _ in calls() if call.endswith(".header")] == [
        ("io/client.py", "self._key.header")
    ]
    reads = {ast.unparse(node) for _, call, node in calls() if call in ("os.environ.get", "os.getenv")}
    assert reads == {
        "os.environ.get(name, '')",
        "os.environ.get('BATCHFLUX_LOG', '')",
        "os.environ.get('BATCHFLUX_LOG', 'info')",
        "os.environ.get('PYTHONPATH', '')",
    }
    # The sandbox's process gets the environment whole; nothing of it is looked at. A command that is to be told of a
    # run's end gets it without the key; and the user's state folder is found by it.
    assert files_with("environ") == {
        "app/limits.py",
        "io/notify.py",
        "cli.py",
        "io/client.py",
        "io/runlog.py",
        "sandbox/running.py",
    }


@pytest.mark.security(10)
@pytest.mark.security(11)
def test_no_switch_turns_a_check_off() -> None:
    """Certificates and host names are always verified, and nothing of the environment says where a request goes."""
    off = ("verify_mode", "check_hostname", "CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context", "verify_ssl")
    assert files_with(*off, "fingerprint", "minimum_version", "set_ciphers") == set()
    said = {
        (node.arg, ast.unparse(node.value))
        for _, node in nodes(ast.keyword)
        if isinstance(node, ast.keyword) and node.arg in ("ssl", "trust_env", "cookie_jar")
    }
    assert said == {
        ("ssl", "tls"),
        ("ssl", "self._tls"),
        ("trust_env", "False"),
        ("cookie_jar", "aiohttp.DummyCookieJar()"),
    }
    sessions = [node for _, call, node in calls() if call.endswith("ClientSession")]
    assert [{"trust_env", "cookie_jar"} <= {word.arg for word in node.keywords} for node in sessions] == [True]


@pytest.mark.security(13)
@pytest.mark.security(22)
@pytest.mark.security(34)
def test_no_code_comes_from_data() -> None:
    """Nothing evaluates, unpickles or imports what a file says, and no format string is anybody's but ours."""
    own_texts = {"app/starter.py", "app/review.py", "core/sanity.py"}
    for name, call, node in calls():
        assert call not in ("eval", "exec", "compile", "__import__", "breakpoint", "os.system", "os.popen"), name
        assert not call.endswith((".format", ".format_map")) or name in own_texts, name
        is_users_own = name == "io/notify.py"  # a command that the command line gave
        assert is_users_own or not any(word.arg == "shell" for word in node.keywords), name
    modules = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "ctypes")
    assert files_with(*modules, "allow_pickle", "read_pickle", "full_load", "unsafe_load") == set()
    loaders = {ast.unparse(node) for _, node in nodes(ast.Attribute) if ast.unparse(node).startswith("yaml.")}
    assert {name for name in loaders if "oad" in name} <= {"yaml.SafeLoader", "yaml.safe_load"}


@pytest.mark.security(16)
@pytest.mark.security(35)
def test_one_place_publishes_files() -> None:
    """Renaming into place stands in one module, so that nothing is published that was not flushed."""
    renames = {name for name, call, _ in calls() if call in ("os.replace", "os.rename") or call.startswith("shutil.")}
    others = {"io/neighbours.py", "io/takeover.py"}  # a live run's own note; images linked or copied beside their place
    others |= {"export/provenance.py", "export/parquet.py", "export/staging.py"}  # a dataset, built beside its place
    assert renames - others == {"io/storage.py"}


@pytest.mark.security(24)
@pytest.mark.security(33)
def test_the_floors_of_dependencies() -> None:
    """What is known to be broken can't be installed with it: the floors stand, and what is here is above them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {need.name.lower(): need for need in map(Requirement, project["dependencies"])}
    for name, broken in {"aiohttp": "3.14.2", "pyarrow": "23.0.0", "pyyaml": "5.4.1", "tqdm": "4.66.2"}.items():
        assert not wanted[name].specifier.contains(broken), name
        assert wanted[name].specifier.contains(version(name)), name
    assert all(need.url is None for need in wanted.values())
