"""The checklist of what an attacker, a leak or a careless file could do: each number has its tests, or a reason.

A test says which numbers it proves with `@pytest.mark.security(number)`; `python -m pytest -m security` runs them all.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

ITEMS = {
    1: "the key comes from the environment; it is no option, no key of a spec, on no command line",
    2: "the object that holds it shows nothing: repr, str, format, JSON, pickle, copy, vars",
    3: "nothing of the HTTP library carries it out: exceptions, their arguments, tracebacks with variables",
    4: "logs, warnings, the event loop's handler and the hooks of threads tell nothing of it",
    5: "no file, table, log or output of a run holds it, in any form",
    6: "a service that repeats it in its answers is blotted out; what is stored of its words is short",
    7: "a crash writes no memory to the disk",
    8: "a spec alone makes no other host get it",
    9: "redirects of API calls aren't followed",
    10: "certificates and host names are verified, no switch turns that off",
    11: "the environment's proxies and .netrc aren't read",
    12: "answers, headers and files are read up to bounds",
    13: "cookies aren't kept",
    14: "ids are checked and quoted, the address to poll is ours",
    15: "outputs are fetched from public addresses alone, at every hop and look",
    16: "a download is believed when it is a whole image, and is published whole",
    17: "names of files are ours and stay inside",
    18: "a report makes no elements or scripts of data",
    19: "nothing from data steers a terminal",
    20: "a spreadsheet runs no formula of an export",
    21: "notebooks show data as text, and are kept without outputs",
    22: "YAML makes no objects, and is bounded in size, depth and aliases",
    23: "variables of the environment aren't put into anything",
    24: "Parquet runs nothing and is read with versions without known holes",
    25: "what is packed is bounded in what it unpacks to",
    26: "the sandbox is heard on loopback alone and keeps no key",
    27: "files and folders are for whom the user's umask says",
    28: "temporary files lie in the run directory and go",
    29: "prompts and URLs of images stand in the results and not in the log",
    30: "no data forges a line of the log",
    31: "calls from the service prove who they are",
    32: "money is spent after a yes or within a bound",
    33: "what is installed has no known holes",
    34: "no code comes from data",
    35: "one place submits, one publishes files, one reads the key",
}

LEFT_OUT = {
    31: "nothing listens for calls from the service yet",
}


def is_mark(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.security"


def numbers(node: ast.expr) -> set[int]:
    """Return the numbers that an expression of marks names."""
    return {
        argument.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call) and is_mark(inner)
        for argument in inner.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


def proofs() -> Iterator[tuple[int, str]]:
    """Yield (number, test) for every test that runs by default, in a file that pytest collects."""
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_all: set[int] = set()
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id="pytestmark")], value=value):
                    of_all = numbers(value)
                case ast.FunctionDef(name=name, decorator_list=marks) if name.startswith("test_"):
                    said = of_all.union(*map(numbers, marks))
                    if not any("mark.slow" in ast.unparse(mark) or "mark.skip" in ast.unparse(mark) for mark in marks):
                        yield from ((number, f"{path.relative_to(TESTS)}::{name}") for number in said)


def test_every_number_has_its_test_or_its_reason() -> None:
    """No number of the list is forgotten, none is both proven and left out, and no test names one that isn't there."""
    proven = dict(proofs())
    assert set(ITEMS) == set(range(1, 36))
    assert set(proven) | set(LEFT_OUT) == set(ITEMS)
    assert set(proven) & set(LEFT_OUT) == set()


@pytest.mark.security(5)
def test_the_suite_has_one_key() -> None:
    """No test gives the program another key than the one that is searched for."""
    others = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="ApiKey"), args=[ast.Constant(value=str(key))]) if key != "sandbox":
                    others.append(f"{path.relative_to(TESTS)}: ApiKey({key!r})")
                case ast.Call(
                    func=ast.Attribute(attr="setenv"),
                    args=[ast.Constant(value="WAVESPEED_API_KEY"), ast.Constant(value=str(key))],
                ) if key:
                    others.append(f"{path.relative_to(TESTS)}: setenv({key!r})")
    assert others == []
