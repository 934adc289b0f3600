"""Which tests carry which faults' ids. As a plugin of pytest, loaded by name, it prints that as one line of JSON."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pytest

__all__ = ["CARRIED", "MARK_LINE", "Carried", "carried_by", "pytest_collection_modifyitems"]

Carried = Mapping[str, list[str]]

CARRIED = pytest.StashKey[Carried]()
MARK_LINE = "faults carried: "


def carried_by(items: Iterable[pytest.Item], config: pytest.Config) -> Carried:
    """Return for each id the files, below tests/, of the tests that carry it."""
    files: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for mark in item.iter_markers("fault"):
            for name in mark.args:
                files[str(name)].add(item.path.relative_to(config.rootpath / "tests").as_posix())
    return {name: sorted(found) for name, found in sorted(files.items())}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Print what the collected tests carry, before any is deselected."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    assert reporter is not None
    reporter.write_line(MARK_LINE + json.dumps(carried_by(items, config)))
