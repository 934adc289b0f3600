"""What an interrupted run left in a run directory, brought into order: each leftover journal becomes its part.

Under the run's lock only. A journal beside its part was about to be removed; one without is sealed, whole records
only. One that holds damage is sealed as far as it is whole and then lies aside, named at every start: cells whose
facts it lost must not be bought again on a guess. What has no place in the sequence is left as it is.

A torn end is what a power cut leaves of records that were not flushed, and no POST leaves before its intent is; but a
flushed record that went bad looks the same. So a torn journal lies aside too, until somebody has asked the service for
what it may have held (`TornJournal`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

import pyarrow.compute as pc

from batchflux.core.errors import CheckpointDamaged
from batchflux.io.facts import (
    DAMAGED_PREFIX,
    JOURNAL_DIR,
    TORN_PREFIX,
    journal_path,
    list_journals,
    list_parts,
    part_path,
)
from batchflux.io.journal import JournalHeader, JournalScan, scan_journal
from batchflux.io.parts import PartError, build_part, build_table, decipher_part, digest
from batchflux.io.storage import list_names, modified_ms, publish_bytes, read_bytes, remove, rename

__all__ = ["Recovered", "TornJournal", "list_torn", "publish_part", "recover"]

_LOOKED_UP_PREFIX: Final = "looked-up-"

_LOST: Final = (
    "holds facts that can't be read, so some cells may be in flight or paid without our knowing; "
    "moving the file out of the run directory accepts that they may be bought again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TornJournal:
    """A journal whose end can't be read, set aside: what it lost was written between two moments of our clock.

    `since_ms` is that of its last whole fact, or of the newest in the parts, None where there is none; `until_ms` that
    of the last write to the file.
    """

    path: Path
    since_ms: int | None
    until_ms: int

    def put_away(self) -> None:
        """Take it off the list: nothing that it may have held is in doubt any more. Raises StorageError."""
        rename(self.path, to=_free_name(self.path.with_name(_LOOKED_UP_PREFIX + self.path.name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The last part's number, 0 where there is none, its digest, and a line for each journal that was dealt with.

    `torn` are the journals set aside for their torn ends, now or earlier, and not yet looked into.
    """

    sequence: int
    digest: str | None
    notes: tuple[str, ...]
    torn: tuple[TornJournal, ...]


def publish_part(
    run_dir: Path, *, job_id: str, sequence: int, payloads: Sequence[bytes], predecessor: str | None
) -> str:
    """Write a part, durably and whole or not at all, and return its digest; raise StorageError, CheckpointDamaged."""
    try:
        facts = build_table(payloads)
    except PartError as error:
        raise CheckpointDamaged(run_dir, damage=[f"{_name(journal_path(run_dir, sequence))}: {error}"]) from error
    data = build_part(facts, job_id=job_id, sequence=sequence, predecessor=predecessor, created_at=datetime.now(UTC))
    publish_bytes(part_path(run_dir, sequence), data)
    return digest(data)


def recover(run_dir: Path, *, job_id: str, must_have_journal: bool = False) -> Recovered:
    """Seal the journals that an interrupted run left, oldest first.

    Where none is left of a run that must have had one, an empty one is set aside in its place: all that it held is in
    doubt. Safe to be interrupted and repeated. Raise CheckpointDamaged where a journal can't be believed or was set
    aside, now or earlier; StorageError.
    """
    parts, journals = list_parts(run_dir), list_journals(run_dir)
    last = max(parts, default=0)
    if must_have_journal and not journals:
        gone = journal_path(run_dir, last + 1)
        publish_bytes(_free_name(gone.with_name(TORN_PREFIX + gone.name)), b"")
    last_digest = digest(read_bytes(parts[last])) if parts else None
    notes: list[str] = []
    damage: list[str] = []
    for sequence, path in journals.items():
        if sequence in parts:
            damage.extend(_drop_sealed(path, part=parts[sequence]))
            continue
        scan = scan_journal(read_bytes(path))
        misplaced = _misplaced(path, scan, job_id=job_id, sequence=last + 1, predecessor=last_digest)
        if misplaced is not None:
            raise CheckpointDamaged(run_dir, damage=[*damage, f"{_name(path)}: {misplaced}"])
        if scan.damage:
            damage.append(f"{_name(_set_aside(path))}: {scan.damage}; {_LOST}")
        if not scan.payloads and not scan.damage and sequence == max(journals):
            _set_torn_aside(path, scan)
            continue  # the journal of a run that was closed, or had only just begun: the next one takes its place
        last_digest = publish_part(
            run_dir, job_id=job_id, sequence=sequence, payloads=scan.payloads, predecessor=last_digest
        )
        last = sequence
        notes.append(f"{_name(path)}: sealed {len(scan.payloads)} facts, {scan.torn_bytes} torn bytes at the end")
        if not scan.damage and not _set_torn_aside(path, scan):
            remove(path)
    if damage:
        raise CheckpointDamaged(run_dir, damage=damage)
    return Recovered(sequence=last, digest=last_digest, notes=tuple(notes), torn=list_torn(run_dir))


def _set_torn_aside(path: Path, scan: JournalScan) -> bool:
    """Set a journal aside for its torn end; returns False for one that has none."""
    if scan.torn_bytes:
        rename(path, to=_free_name(path.with_name(TORN_PREFIX + path.name)))
    return bool(scan.torn_bytes)


def _free_name(path: Path) -> Path:
    """Return a path that nothing has: a journal's number comes again where the one before held no facts."""
    if not path.exists():
        return path
    return next(free for number in count(2) if not (free := path.with_stem(f"{path.stem}-{number}")).exists())


def list_torn(run_dir: Path) -> tuple[TornJournal, ...]:
    """Return the journals set aside for their torn ends and not yet looked into. Raises StorageError."""
    folder = run_dir / JOURNAL_DIR
    paths = [folder / name for name in sorted(list_names(folder)) if name.startswith(TORN_PREFIX)]
    found = []
    for path in paths:
        payloads = scan_journal(read_bytes(path)).payloads
        since_ms = int(json.loads(payloads[-1])["at_ms"]) if payloads else _newest_sealed_ms(run_dir)
        found.append(TornJournal(path=path, since_ms=since_ms, until_ms=modified_ms(path)))
    return tuple(found)


def _newest_sealed_ms(run_dir: Path) -> int | None:
    """Return the moment of the last part's newest fact, None where there is no part."""
    parts = list_parts(run_dir)
    if not parts:
        return None
    newest = pc.max(decipher_part(read_bytes(parts[max(parts)]), columns=["at"]).facts["at"]).as_py()
    return None if newest is None else round(newest.timestamp() * 1000)


def _drop_sealed(path: Path, *, part: Path) -> list[str]:
    """Remove a journal that its part replaces, once the part has proved to hold as much; return what forbids it."""
    if path.name.startswith(DAMAGED_PREFIX):
        return [f"{_name(path)}: {_LOST}"]
    try:
        held = decipher_part(read_bytes(part), columns=["cell_id"]).facts.num_rows
    except PartError as error:
        return [f"{_name(part)}: {error}; its journal {_name(path)} is still there"]
    scan = scan_journal(read_bytes(path))
    if held < len(scan.payloads):
        return [f"{_name(part)}: holds less than its journal {_name(path)}"]
    if not _set_torn_aside(path, scan):
        remove(path)
    return []


def _misplaced(path: Path, scan: JournalScan, *, job_id: str, sequence: int, predecessor: str | None) -> str | None:
    """Tell why a journal can't follow the last part; None where it can."""
    match scan.header:
        case None:
            return scan.damage
        case JournalHeader(job_id=other) if other != job_id:
            return f"belongs to another job ({other}, not {job_id})"
        case JournalHeader(sequence=other) if other != sequence or not path.name.endswith(
            journal_path(path, other).name
        ):
            return f"is number {other}, where {sequence} comes next: parts or journals are missing"
        case JournalHeader(predecessor=other) if other not in (None, predecessor):
            return "was begun after another part than the one before it: a part is missing or was replaced"
        case _:
            return None


def _set_aside(path: Path) -> Path:
    if path.name.startswith(DAMAGED_PREFIX):
        return path
    aside = path.with_name(DAMAGED_PREFIX + path.name)
    rename(path, to=aside)
    return aside


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
