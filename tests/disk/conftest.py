"""The server of victims, as for kills."""

from tests.kills.conftest import victims

__all__ = ["victims"]
