"""Run directories that belong together: a run, those that draw its cells anew beside it, its replicates inside it.

They share one budget, and a run and its replicates ask for the very same requests: what the service gave to one of
these is no lost submission of another. Reads their papers and facts; writes nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batchflux.app.job import JOB_FILE, load_job, shown_path
from batchflux.app.reading import read_known
from batchflux.app.rundir import RunIdentity
from batchflux.core.errors import UsageError
from batchflux.io.storage import list_names

__all__ = [
    "REDO_PAPER",
    "REPLICATES_DIR",
    "REPLICATE_PAPER",
    "RedoPaper",
    "kin_of",
    "main_of",
    "read_redo_paper",
    "relatives_of",
    "replicates_of",
    "run_command",
    "spent_beside",
    "spent_of",
    "spent_within",
]

REDO_PAPER: Final = "redo.json"
REPLICATE_PAPER: Final = "replicate.json"
REPLICATES_DIR: Final = "replicates"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedoPaper:
    """Whose cells a directory draws anew: the first run's id and name, and what that had cost by then."""

    run_id: str
    name: str
    spent_micro_usd: int


def read_redo_paper(run_dir: Path) -> RedoPaper | None:
    """Return what a directory says of whose cells it draws anew; None where it draws none. Raises UsageError."""
    path = run_dir / REDO_PAPER
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return RedoPaper(
            run_id=str(said["run_id"]), name=str(said["name"]), spent_micro_usd=int(said["spent_micro_usd"])
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{shown_path(path)}: can't be read; put back the one that was there") from None


def main_of(run_dir: Path) -> Path | None:
    """Return the run whose replicates a directory holds; None where it holds a run of its own."""
    return run_dir.absolute().parent.parent if (run_dir / REPLICATE_PAPER).exists() else None


def run_command(run_dir: Path) -> str:
    """Return the command that goes on with a run directory: with the whole run, where it holds replicates of one."""
    return f"batchflux run {shown_path(main_of(run_dir) or run_dir)}"


def replicates_of(run_dir: Path) -> list[Path]:
    """Return the directories of a run's replicates, a model each; those that were begun."""
    home = run_dir / REPLICATES_DIR
    begun = (home / name for name in sorted(list_names(home)) if (home / name / REPLICATE_PAPER).exists())
    return [place for place in begun if (place / JOB_FILE).exists()]


def kin_of(run_dir: Path) -> list[Path]:
    """Return all directories, this one too, whose predictions may be of the same requests as this one's."""
    main = main_of(run_dir)
    if main is None:
        return [run_dir, *replicates_of(run_dir)]
    return [run_dir, main, *(place for place in replicates_of(main) if place != run_dir.absolute())]


def relatives_of(run_dir: Path) -> list[Path]:
    """Return the other directories that share a run's budget and, but for a rehearsal's, its account."""
    main = main_of(run_dir) or run_dir
    paper = read_redo_paper(main)
    name = main.name if paper is None else paper.name
    firsts = [main.parent / name, *_redos(main.parent, name)]
    everyone = [place for first in firsts for place in (first, *replicates_of(first)) if (place / JOB_FILE).exists()]
    return [place for place in everyone if place.absolute() != run_dir.absolute()]


def spent_of(run_dir: Path) -> int:
    """Return what the cells of one directory have cost, in micro-USD, by its facts."""
    identity = RunIdentity.read(run_dir)
    if identity is None or not (run_dir / JOB_FILE).exists():
        return 0
    return read_known(load_job(run_dir).grid, run_dir, identity).spent_micro_usd


def spent_within(run_dir: Path) -> int:
    """Return the micro-USD that a run and its replicates have cost, without this directory of them."""
    return sum(spent_of(place) for place in kin_of(run_dir)[1:])


def spent_beside(run_dir: Path) -> int:
    """Return the micro-USD that a run's budget has borne elsewhere: its replicates, what drew its cells anew, or the
    run that these are of.

    Reads the facts of those directories. Of a first run that isn't beside it any more, what it had cost is on record.
    """
    main = main_of(run_dir)
    if main is not None:
        return spent_of(main) + spent_beside(main) - spent_of(run_dir)
    paper, identity = read_redo_paper(run_dir), RunIdentity.read(run_dir)
    root = paper.run_id if paper is not None else identity.run_id if identity is not None else None
    home = run_dir.parent
    if paper is None:
        spent = spent_within(run_dir)
    else:
        first = home / paper.name
        found = RunIdentity.read(first) if first.is_dir() else None
        is_first = found is not None and found.run_id == paper.run_id
        spent = max(paper.spent_micro_usd, spent_of(first) + spent_within(first) if is_first else 0)
    for other in _redos(home, paper.name if paper is not None else run_dir.name):
        its = read_redo_paper(other)
        if other != run_dir and its is not None and its.run_id == root:
            spent += spent_of(other)
    return spent


def _redos(home: Path, name: str) -> Iterator[Path]:
    for each in list_names(home):
        if each.startswith(f"{name}-redo") and (home / each / REDO_PAPER).is_file():
            yield home / each
