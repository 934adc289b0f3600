"""What an export is asked for, as one frozen value, and the short texts that its options are written in.

Decides what is a possible split and a possible size, and on which side of a split a prompt stands. Reads nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, get_args

from batchflux.core.errors import UsageError

__all__ = [
    "DEFAULT_SHARD_BYTES",
    "FORMATS",
    "ExportOptions",
    "Format",
    "Nsfw",
    "Splits",
    "check_options",
    "parse_size",
    "parse_splits",
]

Format = Literal["imagefolder", "webdataset", "parquet", "csv", "jsonl"]
Nsfw = Literal["keep", "drop"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SHARDED: Final[frozenset[Format]] = frozenset({"webdataset", "parquet"})

# What the `datasets` library writes by default: large enough for few requests, small enough to spread over workers.
DEFAULT_SHARD_BYTES: Final = 500_000_000

# A split's name becomes a file name and a name in `datasets`, which knows letters, digits, underscores and dots.
_SPLIT: Final = re.compile(r"([A-Za-z0-9_]{1,40})=((?:0|[1-9][0-9]{0,3})?(?:\.[0-9]{1,20})?)")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,14})\s*([KMGT]?)(i?)B", re.IGNORECASE)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_WHOLE: Final = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Names with the share of the prompts that each gets; a prompt's side depends on its text alone."""

    shares: Mapping[str, Fraction]

    def of(self, prompt: str) -> str:
        """Return the split of a prompt: whatever else is exported, today or later, it stays there."""
        digest = blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8, person=b"batchflux-split").digest()
        place = int.from_bytes(digest, "big")
        for name, bound in zip(self.shares, accumulate(self.shares.values()), strict=True):
            if place < bound * _WHOLE:
                return name
        raise AssertionError("the shares are one in all, so every place lies below the last bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is exported and how. `where` is a condition on the manifest's columns, `only` a table of picked cells."""

    form: Format
    splits: Splits | None = None
    where: str | None = None
    nsfw: Nsfw = "keep"
    only: Path | None = None
    shard_bytes: int | None = None
    link: bool | None = None


def check_options(options: ExportOptions) -> None:
    """Raise UsageError for options that mean nothing to the format."""
    if options.shard_bytes is not None and options.form not in SHARDED:
        raise UsageError(f"--max-shard-size is for {' and '.join(sorted(SHARDED))}; {options.form} has no shards")
    if options.link is not None and options.form != "imagefolder":
        raise UsageError(f"--copy and --link are for imagefolder; {options.form} holds no files of their own")


def parse_splits(text: str) -> Splits:
    """Return the splits that a text like train=0.9,test=0.1 says. Raises UsageError."""
    shares: dict[str, Fraction] = {}
    for part in text.split(","):
        found = _SPLIT.fullmatch(part.strip())
        if found is None or not found[2]:
            raise UsageError(f"--split: {part.strip()!r} is no split; write NAME=SHARE, such as train=0.9,test=0.1")
        name, share = found[1], Fraction(found[2])
        if name in shares:
            raise UsageError(f"--split: {name} is said twice")
        if share <= 0:
            raise UsageError(f"--split: {name} gets nothing; leave it out, or give it a share")
        shares[name] = share
    if sum(shares.values()) != 1:
        total = float(sum(shares.values()))
        raise UsageError(f"--split: the shares are {total:g} in all, not 1")
    return Splits(shares=shares)


def parse_size(text: str) -> int:
    """Return the bytes that a text like 500MB or 1GiB says. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"--max-shard-size: {text!r} is no size; write one like 500MB or 1GiB")
    unit: int = (1024 if found[3] else 1000) ** _POWERS[found[2].upper()]
    return int(found[1]) * unit
