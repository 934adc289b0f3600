"""For all tests: one key, which nothing that they write may hold; real signals; the user's own state untouched."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.canary import CANARY, find_in, is_in
from tests.faults.collecting import CARRIED, carried_by

# Whoever runs the tests may have a key of their own, which no test must ever see.
os.environ["WAVESPEED_API_KEY"] = CANARY


# A deadline would be a timed assert: it fails where the machine is busy.
settings.register_profile("batchflux", deadline=None)
settings.load_profile("batchflux")

# A runner under nohup or in the background hands ignored signals on to every child, which then ignores them too.
for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="batchflux-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

_SEARCHED = pytest.StashKey[set[Path]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Search what a test wrote and said, once all of its processes and servers are gone; a find fails the test."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    yield
    if isinstance(folder, Path):
        item.config.stash.setdefault(_SEARCHED, set()).add(folder)
        if found := [str(path) for path in find_in(folder)]:
            pytest.fail(f"the key was written to {', '.join(found)}", pytrace=False)
    said = [f"{when} {what}" for when, what, text in item._report_sections if is_in(text)]
    if said:
        pytest.fail(f"the key was said in {', '.join(said)}", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search what fixtures of whole modules wrote; a find fails the session. Workers' folders lie in the session's."""
    if hasattr(session.config, "workerinput"):
        return
    factory = getattr(session.config, "_tmp_path_factory", None)
    base = getattr(factory, "_basetemp", None)
    if not isinstance(base, Path):
        return  # nobody asked for a folder
    done = session.config.stash.get(_SEARCHED, set())
    folders = [path for path in base.iterdir() if path not in done and not path.is_symlink()]
    found = [str(path) for folder in folders for path in find_in(folder)]
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"the key was written to {', '.join(found)}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep which tests carry which faults' ids, before any is deselected: the table of faults is held against it."""
    config.stash[CARRIED] = carried_by(items, config)
