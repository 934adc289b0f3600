"""A plain HTTP caller for the sandbox's tests: one connection a call, nothing retried, nothing believed."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX = "wavespeed-ai/flux-kontext-max/text-to-image"
PRO = "wavespeed-ai/flux-kontext-pro/text-to-image"

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """The envelope's payload."""
        return self.document["data"]


class Caller:
    """Calls one sandbox with one key; None sends no Authorization header."""

    def __init__(self, origin: str, *, key: str | None = "any") -> None:
        self._host = origin.removeprefix("http://")
        self._key = key

    def call(self, method: str, path: str, body: Any = None) -> Reply:
        """Send a request; a body that isn't bytes goes out as JSON."""
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            return Reply(status=response.status, headers=dict(response.headers), body=response.read())
        finally:
            connection.close()

    def submit(self, model: str = MAX, **inputs: Any) -> Reply:
        """Submit a generation."""
        return self.call("POST", f"/api/v3/{model}", inputs)

    def result(self, prediction_id: str) -> Reply:
        """Ask for a prediction."""
        return self.call("GET", f"/api/v3/predictions/{prediction_id}/result")

    def history(self, **query: Any) -> Reply:
        """Ask for a page of the history, the first hundred unless said otherwise."""
        return self.call("POST", "/api/v3/predictions", {"page": 1, "page_size": 100, **query})

    def output(self, url: str) -> Reply:
        """Fetch an output by its URL."""
        return self.call("GET", "/" + url.split("/", 3)[3])


class Clock:
    """A clock that stands still until it is told otherwise, in seconds since the epoch."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
