"""The server of victims is started once a module."""

from collections.abc import Iterator

import pytest

from tests.kills.victim import Victims


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """A server that forks runs."""
    with Victims(tmp_path_factory.mktemp("victims")) as server:
        yield server
