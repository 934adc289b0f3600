"""Which hosts are sent the account's key, and where that comes from."""

from collections.abc import Collection

from batchflux.core.spec import Api
from batchflux.io.client import ApiKey

__all__ = ["key_for"]


def key_for(api: Api, *, allow_hosts: Collection[str]) -> ApiKey:
    """Return the key for a host that may have it. Raises UsageError."""
    api.check_trusted(allow_hosts)
    return ApiKey.from_environment(api.key_env)
