"""One real run for all tests of exports, which only read it."""

from pathlib import Path

import pytest

from tests.export.runs import real_run


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 48 cells with two images each."""
    return real_run(tmp_path_factory.mktemp("run"))
