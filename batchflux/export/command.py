"""The options of `batchflux export`, and how they become one value.

Loads nothing heavy, since `--help` passes through here; what the options mean is decided in `options`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from batchflux.core.errors import UsageError
from batchflux.export.options import FORMATS, ExportOptions, parse_size, parse_splits

__all__ = ["build_options", "export_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="Of the dataset or table."),
    click.option("--split", metavar="NAME=SHARE,...", help="Share out the prompts, such as train=0.9,test=0.1."),
    click.option("--where", metavar="CONDITION", help='Only cells for which this holds, such as "seed in (1, 2)".'),
    click.option("--only", type=click.Path(path_type=Path), metavar="PICKS.CSV", help="Only the cells picked there."),
    click.option("--nsfw", type=click.Choice(["keep", "drop"]), default="keep", help="Flagged images [keep]."),
    click.option("--max-shard-size", "shard_size", metavar="SIZE", help="Bytes a shard at most [500MB]."),
    click.option("--copy", is_flag=True, help="Copy image files: the default."),
    click.option("--link", is_flag=True, help="Give image files a second name instead of copying them."),
    click.option("--out", type=click.Path(path_type=Path), metavar="DEST", help="The same as DEST."),
)


def export_options(function: _F) -> _F:
    """Give a command the options of an export."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def build_options(dest: Path | None, asked: dict[str, Any]) -> tuple[Path, ExportOptions]:
    """Return where to and what to export. Raises UsageError."""
    out = asked["out"]
    if (dest is None) == (out is None):
        raise UsageError("export needs one destination: DEST, or --out DEST")
    if asked["copy"] and asked["link"]:
        raise UsageError("files are copied or linked: name one of --copy and --link")
    size, split = asked["shard_size"], asked["split"]
    return dest or out, ExportOptions(
        form=asked["form"],
        splits=None if split is None else parse_splits(split),
        where=asked["where"],
        nsfw=asked["nsfw"],
        only=asked["only"],
        shard_bytes=None if size is None else parse_size(size),
        link=asked["link"] if asked["copy"] or asked["link"] else None,
    )
