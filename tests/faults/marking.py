"""Marks the cases of a table whose names begin with a fault's id, such as "H02 envelope 500"."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

__all__ = ["fault_cases"]

_ID = re.compile(r"[A-Z]\d\d(?= )")


def fault_cases(argument: str, table: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Parametrise a test by a table: each case carries its name, and the id that the name begins with, if one does."""
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(value, id=name, marks=[pytest.mark.fault(found.group())] if (found := _ID.match(name)) else [])
            for name, value in table.items()
        ],
    )
