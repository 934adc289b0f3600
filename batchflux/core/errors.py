"""The whole error tree. Whoever raises gives fields; the class formats them; `cli` prints them.

BatchfluxError                what reaches a user, always with what to do next
├── JobSpecError              the spec or the prompt table is wrong: every problem at once        exit 2
├── UsageError                an option or the environment is wrong                               exit 2
│   ├── RunDirLocked          another run is at work in the run directory
│   └── ForeignRunDir         the run directory was begun with another API origin, or is another job's
├── StorageError              the disk said no (full, read-only, failed flush): spending stops    exit 4
├── CheckpointDamaged         durable facts can't be believed: spending stops                     exit 4
└── RunInterrupted            a second signal ended the run at once                       exit 130, 143, 129

What befalls one cell is a value (`model.Fault`, `model.Outcome`), never an exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BatchfluxError",
    "CheckpointDamaged",
    "ForeignRunDir",
    "JobSpecError",
    "Problem",
    "RunDirLocked",
    "RunInterrupted",
    "StorageError",
    "UsageError",
]


class BatchfluxError(Exception):
    """The root: every error that batchflux raises on purpose. `exit_status` is what the command line ends with."""

    exit_status = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong in a spec or a prompt table, as one printable line.

    `where` is "FILE:LINE:COLUMN: key.path" for a spec and "FILE:LINE: row N" for a table; `what` says what is
    wrong, `instead` what would be right (empty where the fault says it itself).
    """

    where: str
    what: str
    instead: str = ""

    def __str__(self) -> str:
        tail = f"; {self.instead}" if self.instead else ""
        return f"{self.where}: {self.what}{tail}"


class JobSpecError(BatchfluxError):
    """The job can't be run as written. `problems` holds all that was found, in the order of the file."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class UsageError(BatchfluxError):
    """An option, the environment or a path given on the command line is wrong; nothing was submitted."""

    exit_status = 2


class RunDirLocked(UsageError):
    """Another process runs this run directory."""

    def __init__(self, run_dir: Path, *, holder: str) -> None:
        super().__init__(run_dir, holder)
        self.run_dir, self.holder = run_dir, holder

    def __str__(self) -> str:
        return f"{self.run_dir}: another run is at work here ({self.holder}); wait for it or stop it first"


class ForeignRunDir(UsageError):
    """The run directory belongs to another API origin."""

    def __init__(self, run_dir: Path, *, begun_with: str, asked_for: str) -> None:
        super().__init__(run_dir, begun_with, asked_for)
        self.run_dir, self.begun_with, self.asked_for = run_dir, begun_with, asked_for

    def __str__(self) -> str:
        return (
            f"{self.run_dir}: this run was begun with {self.begun_with}, the job now says {self.asked_for}; "
            "its results and ids mean nothing to another service: give the job another directory with --out DIR"
        )


class StorageError(BatchfluxError):
    """The disk refused a write or a flush. Nothing more is spent; what was durable stays durable."""

    def __init__(self, path: Path, *, doing: str, cause: OSError) -> None:
        super().__init__(path, doing, cause)
        self.path, self.doing, self.cause = path, doing, cause

    def __str__(self) -> str:
        reason = self.cause.strerror or str(self.cause)
        return f"{self.path}: {doing_failed(self.doing)}: {reason}; free space or mend the disk, then run again"


def doing_failed(doing: str) -> str:
    """Return the phrase for an action that failed, for example "could not flush the journal"."""
    return f"could not {doing}"


class CheckpointDamaged(BatchfluxError):
    """A checkpoint part or journal can't be believed. It was set aside, never deleted; nothing is spent on a guess."""

    def __init__(self, run_dir: Path, *, damage: Sequence[str]) -> None:
        super().__init__(run_dir, tuple(damage))
        self.run_dir, self.damage = run_dir, tuple(damage)

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.damage)
        return f"{self.run_dir}: the checkpoint is damaged, so nothing is submitted:\n{lines}"


class RunInterrupted(BatchfluxError):
    """A second signal ended the run at once, before the predictions in flight were heard of and results published."""

    def __init__(self, *, name: str, number: int) -> None:
        super().__init__(name, number)
        self.name, self.exit_status = name, 128 + number

    def __str__(self) -> str:
        return f"stopped at once by {self.name}; what was durable is safe, and the same command goes on"
