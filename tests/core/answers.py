"""Answers of the service, as the tests of the protocol, the flow and the engine give them."""

import json
from typing import Any

from batchflux.core.protocol import HttpAnswer

ID = "0123456789abcdef0123456789abcdef"


def prediction_data(**changes: Any) -> dict[str, Any]:
    """The `data` of an answer, with every field of the model page."""
    return {
        "id": ID,
        "model": "wavespeed-ai/flux-kontext-max/text-to-image",
        "status": "created",
        "outputs": [],
        "urls": {"get": f"https://api.wavespeed.ai/api/v3/predictions/{ID}/result"},
        "has_nsfw_contents": [],
        "created_at": "2026-11-22T10:00:00.684Z",
        "error": "",
        "timings": {"inference": 0},
        **changes,
    }


def completed_data(**changes: Any) -> dict[str, Any]:
    """The `data` of a prediction that is done."""
    done = {
        "status": "completed",
        "outputs": [f"https://host.example/{ID}/1.png"],
        "has_nsfw_contents": [False],
        "created_at": "2026-11-22T10:00:00.684123456Z",
        "timings": {"inference": 8123},
    }
    return prediction_data(**{**done, **changes})


def answer(data: Any = None, *, status: int = 200, **envelope: Any) -> HttpAnswer:
    """An answer in the service's envelope; the envelope's code is the HTTP status unless said otherwise."""
    whole = {"code": status, "message": "success" if status == 200 else "a reason", "data": data, **envelope}
    return HttpAnswer(status=status, body=json.dumps(whole).encode())
