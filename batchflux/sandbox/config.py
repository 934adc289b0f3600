"""Every knob of the sandbox as one frozen value, and the short texts that its options are written in.

Decides what is a possible sandbox: a wrong knob raises `UsageError` here, before anything listens. It touches no
file and no network, and imports nothing heavy, since the command line's `--help` passes through it.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from batchflux.core.errors import UsageError
from batchflux.sandbox.faults import NO_FAULTS, FaultScript
from batchflux.sandbox.vendor import SchemaAge

__all__ = [
    "HistoryInputs",
    "ImageFormat",
    "Latency",
    "OverLimit",
    "Rate",
    "SandboxConfig",
    "parse_latency",
    "parse_rate",
]

OverLimit = Literal["queue", "refuse"]
HistoryInputs = Literal["on", "off", "absent"]
ImageFormat = Literal["png", "jpeg"]

LOOPBACK = "127.0.0.1"

_WINDOWS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long one prediction is worked on, in seconds: lognormal; fixed with sigma 0; none with median 0.

    `per_guidance` is the relative growth of the median for each unit of guidance above 1 (0.05: 45 % more at 10).
    """

    median_s: float = 0.8
    sigma: float = 0.35
    per_guidance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("median_s", "sigma", "per_guidance"):
            _check_finite(f"latency {name}", getattr(self, name))

    def draw(self, rng: random.Random, *, guidance: float) -> float:
        """Return one service time in seconds."""
        median_s = self.median_s * (1 + self.per_guidance * max(0.0, guidance - 1))
        if median_s == 0 or self.sigma == 0:
            return median_s
        return median_s * math.exp(rng.gauss(0.0, self.sigma))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `images` started in each window; windows are aligned to the clock, as the service's "per minute" is."""

    images: int
    window_s: float = 60.0

    def __post_init__(self) -> None:
        if self.images < 1 or not (math.isfinite(self.window_s) and self.window_s > 0):
            raise UsageError("a rate needs at least one image and a window longer than nothing, such as 500/min")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """What the sandbox is like. `require_key` stands in no repr; `price_usd` None means each model's list price.

    `dear` maps a parameter's value, as "aspect_ratio=16:9", to how many times the price a request with it costs.
    `concurrency` None is no limit. `failures` maps a `data.code` to its share of the predictions. `history_inputs`:
    "on" gives inputs to a listing that asks for them, "off" gives null for them, "absent" leaves the field out.
    `nsfw_share` is the share of images that it flags, `drift_share` that of predictions with another image than their
    seed's. `state_dir` keeps the memory across restarts. Raises UsageError
    for what can't be.
    """

    host: str = LOOPBACK
    port: int = 0
    state_dir: Path | None = None
    latency: Latency = field(default_factory=Latency)
    concurrency: int | None = 64
    rate: Rate | None = None
    over_limit: OverLimit = "queue"
    retry_after: bool = False
    failures: Mapping[int, float] = field(default_factory=dict)
    nsfw_share: float = 0.0
    drift_share: float = 0.0
    moderation_word: str = "sandbox:refuse"  # no prompt holds it by accident
    refund_after_s: float = 5.0  # the service says "within 3 hours"
    refund_moderation: bool = False
    history_inputs: HistoryInputs = "on"
    history_lag_s: float = 0.0
    schema: SchemaAge = "page"
    balance_usd: float = 1_000_000.0  # a rehearsal of a million cells should end for a better reason than play money
    price_usd: float | None = None
    dear: Mapping[str, float] = field(default_factory=dict)
    require_key: str | None = field(default=None, repr=False)
    image_size: int = 384
    image_format: ImageFormat = "png"
    faults: FaultScript = NO_FAULTS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.host != LOOPBACK:
            raise UsageError(f"the sandbox listens on {LOOPBACK} only, not on {self.host!r}: it has no security at all")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is none; 0 takes a free one")
        if self.concurrency is not None and self.concurrency < 1:
            raise UsageError("the sandbox's concurrency must be at least 1")
        if not 64 <= self.image_size <= 4096:
            raise UsageError("the sandbox's images have a long side of 64 to 4096 pixels")
        for name in ("refund_after_s", "history_lag_s", "balance_usd"):
            _check_finite(name, getattr(self, name))
        _check_finite("price_usd", self.price_usd or 0.0)
        for named, times in self.dear.items():
            _check_finite(named, times)
        shares = self.failures.values()
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1:
            raise UsageError("the sandbox's failure rates must be between 0 and 1, and so must their sum")
        if not 0 <= self.nsfw_share <= 1 or not 0 <= self.drift_share <= 1:
            raise UsageError("the sandbox's shares of flagged images and of drifting seeds must be between 0 and 1")


def parse_latency(text: str) -> Latency:
    """Read "MEDIAN" or "MEDIAN,SIGMA" in seconds, such as "0.8,0.35"; a median alone is fixed. Raises UsageError."""
    median, _, sigma = text.partition(",")
    try:
        return Latency(median_s=float(median), sigma=float(sigma or 0))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no latency; write MEDIAN or MEDIAN,SIGMA in seconds, such as 0.8,0.35"
        ) from error


def parse_rate(text: str) -> Rate:
    """Read "N/s", "N/min" or "N/h" images. Raises UsageError."""
    number, _, unit = text.partition("/")
    if not (number.isascii() and number.isdigit() and unit in _WINDOWS_S):
        raise UsageError(f"{text!r} is no rate; write N/s, N/min or N/h, such as 500/min")
    return Rate(images=int(number), window_s=_WINDOWS_S[unit])


def _check_finite(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"the sandbox's {name} must be a number of at least 0, not {value}")
