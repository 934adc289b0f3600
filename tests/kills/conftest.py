"""The server of victims is started once a session."""

import os
from collections.abc import Iterator

import pytest

from tests.kills.victim import Victims


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """A server that forks runs."""
    if not hasattr(os, "fdatasync"):
        pytest.skip("macOS flushes by other calls than those that are struck here")
    with Victims(tmp_path_factory.mktemp("victims")) as server:
        yield server
