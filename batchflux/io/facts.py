"""All durable facts of a run directory, in the order they were written: parts, then the journals not yet sealed.

Needs no lock and disturbs nobody: parts never change, and a journal that is sealed while it is being read is found
again as its part. Believes only what has its place: the right job, the right number, checksums that hold, and the
digest by which its successor names it. What fails that is named, never guessed at, and never touched.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, overload

import pyarrow as pa

from batchflux.core.errors import CheckpointDamaged, StorageError
from batchflux.core.ledger import FOLD_COLUMNS, compact, fold
from batchflux.io.joined import Joined
from batchflux.io.journal import JournalScan, scan_journal
from batchflux.io.parts import FACT_SCHEMA, PartError, build_table, decipher_part, digest, empty_table
from batchflux.io.storage import list_names, read_bytes

__all__ = [
    "CHECKPOINT_DIR",
    "DAMAGED_PREFIX",
    "JOURNAL_DIR",
    "TORN_PREFIX",
    "FactsFound",
    "journal_path",
    "list_journals",
    "list_parts",
    "part_path",
    "read_facts",
    "read_state",
    "review_facts",
    "stream_facts",
]

CHECKPOINT_DIR: Final = "checkpoint"
JOURNAL_DIR: Final = "journal"
DAMAGED_PREFIX: Final = "damaged-"  # before the name of a journal that was set aside
TORN_PREFIX: Final = "torn-"  # before that of one whose end may have held facts; its whole ones are in a part

_PART_NAME: Final = re.compile(r"part-(\d{8})\.parquet")
_JOURNAL_NAME: Final = re.compile(rf"(?:{DAMAGED_PREFIX})?(\d{{8}})\.journal")

# A read is begun anew when a file vanishes under it, which takes a seal each time; so many in a row are no accident.
_MAX_READS: Final = 50

# A millisecond for whoever looks at a table is the same for few rows and many.
_JOIN_BELOW_ROWS: Final = 8192

# Rows held before they are compacted, of 100 bytes (a few columns) to 400 (all); sooner costs more than it saves.
_COMPACT_ABOVE_ROWS: Final = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsFound:
    """What can be believed, and a line for each thing that can't, beginning with its path in the run directory."""

    facts: pa.Table
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """One part or journal as read: what it says of itself, and its facts, None where they can't be believed.

    `digest` is its own (parts only), `predecessor` the one by which it names the part before it.
    """

    name: str
    facts: pa.Table | None = None
    job_id: str | None = None
    sequence: int | None = None
    digest: str | None = None
    predecessor: str | None = None
    damage: tuple[str, ...] = ()


def part_path(run_dir: Path, sequence: int) -> Path:
    """Return where the part sealed from that journal lies."""
    return run_dir / CHECKPOINT_DIR / f"part-{sequence:08}.parquet"


def journal_path(run_dir: Path, sequence: int) -> Path:
    """Return where the journal of that number lies, counted from 1."""
    return run_dir / JOURNAL_DIR / f"{sequence:08}.journal"


def list_parts(run_dir: Path) -> dict[int, Path]:
    """Return the parts by sequence, ascending."""
    return _numbered(run_dir / CHECKPOINT_DIR, pattern=_PART_NAME)


def list_journals(run_dir: Path) -> dict[int, Path]:
    """Return the journals by sequence, ascending, those set aside among them."""
    return _numbered(run_dir / JOURNAL_DIR, pattern=_JOURNAL_NAME)


@overload
def read_facts(
    run_dir: Path, *, columns: Sequence[str] | None = ..., job_id: str | None = ..., tolerate: Literal[False] = ...
) -> pa.Table: ...


@overload
def read_facts(
    run_dir: Path, *, columns: Sequence[str] | None = ..., job_id: str | None = ..., tolerate: Literal[True]
) -> FactsFound: ...


def read_facts(
    run_dir: Path, *, columns: Sequence[str] | None = None, job_id: str | None = None, tolerate: bool = False
) -> pa.Table | FactsFound:
    """Return every durable fact in writing order, with the columns of FACT_SCHEMA or the given ones of them.

    Also beside a live run, whose journal is read to its last whole record. `job_id` is whose facts they must be;
    None: all of the same job. Raise CheckpointDamaged naming each thing that can't be believed, or with `tolerate`
    return it beside what can; raise StorageError where the disk can't read.
    """
    found = _retried(run_dir, columns=columns, job_id=job_id, is_compacted=False)
    return found if tolerate else _sound(run_dir, found)


def review_facts(
    run_dir: Path,
    *,
    columns: Sequence[str],
    watched: Sequence[str],
    begin: Callable[[], Callable[[pa.Table], None]],
    job_id: str | None = None,
) -> FactsFound:
    """Return the state that the believed facts fold to, `columns` and those that a fold needs, beside the damage.

    On the way each table of facts goes, in writing order, to what `begin` returned, with the columns `watched`;
    `begin` is called anew where a live run makes the reading begin anew. In the memory of the cells and not of all
    facts. Raise StorageError where the disk can't read.
    """
    kept = list(dict.fromkeys([*FOLD_COLUMNS, *columns]))
    found = _retried(run_dir, columns=kept, job_id=job_id, is_compacted=True, begin=begin, watched=watched)
    return replace(found, facts=fold(found.facts))


def read_state(run_dir: Path, *, columns: Sequence[str] | None = None, job_id: str | None = None) -> pa.Table:
    """Return `fold(read_facts(run_dir))`, in the memory of the cells and not of all facts.

    With `columns` those alone, and the six that a fold needs. Raises what `read_facts` does.
    """
    wanted = None if columns is None else list(dict.fromkeys([*FOLD_COLUMNS, *columns]))
    return fold(_sound(run_dir, _retried(run_dir, columns=wanted, job_id=job_id, is_compacted=True)))


def stream_facts(
    run_dir: Path,
    *,
    columns: Sequence[str],
    begin: Callable[[], Callable[[pa.Table], None]],
    job_id: str | None = None,
) -> tuple[str, ...]:
    """Hand every durable fact, in writing order and some thousand at a time, to what `begin` returns; keep none.

    `begin` is called anew where a live run makes the reading begin anew. Return the damage, a line for each thing
    that can't be believed; raise StorageError where the disk can't read.
    """
    found = _retried(run_dir, columns=(), job_id=job_id, is_compacted=False, begin=begin, watched=columns)
    return found.damage


def _sound(run_dir: Path, found: FactsFound) -> pa.Table:
    if found.damage:
        raise CheckpointDamaged(run_dir, damage=found.damage)
    return found.facts


def _retried(
    run_dir: Path,
    *,
    columns: Sequence[str] | None,
    job_id: str | None,
    is_compacted: bool,
    begin: Callable[[], Callable[[pa.Table], None]] | None = None,
    watched: Sequence[str] = (),
) -> FactsFound:
    names = FACT_SCHEMA.names if columns is None else list(columns)
    for _ in range(_MAX_READS):
        tap = None if begin is None else begin()
        try:
            return _read_once(run_dir, names=names, job_id=job_id, is_compacted=is_compacted, tap=tap, watched=watched)
        except FileNotFoundError as error:  # sealed between listing and opening: it is to be found as a part now
            vanished = error
    raise StorageError(run_dir, doing="read the checkpoint, whose files keep vanishing", cause=vanished)


def _read_once(
    run_dir: Path,
    *,
    names: list[str],
    job_id: str | None,
    is_compacted: bool,
    tap: Callable[[pa.Table], None] | None,
    watched: Sequence[str],
) -> FactsFound:
    damage = _strays(run_dir)
    tables = [empty_table(names)]
    rows_after_compacting = 0
    wanted = list(dict.fromkeys([*names, *watched]))
    believed = _believed(_pieces(run_dir, names=wanted, job_id=job_id), damage=damage)
    for table in believed if names else _joined(believed):
        if tap is not None:
            tap(table.select(watched))
        if not names:
            continue
        tables.append(table.select(names))
        rows = sum(table.num_rows for table in tables)
        if is_compacted and rows > 2 * rows_after_compacting + _COMPACT_ABOVE_ROWS:
            tables = [compact(pa.concat_tables(tables))]
            rows_after_compacting = tables[0].num_rows
    return FactsFound(facts=pa.concat_tables(tables), damage=tuple(damage))


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables that follow each other."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(each.num_rows for each in held) >= _JOIN_BELOW_ROWS:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _believed(pieces: Iterator[_Piece], *, damage: list[str]) -> Iterator[pa.Table]:
    """Pass on the facts of sound pieces, each once its successor has confirmed it, and collect the damage."""
    held = _Piece(name="")
    for piece in pieces:
        if held.digest and piece.predecessor and held.digest != piece.predecessor:
            damage.append(f"{held.name}: is not the file that {piece.name} was built on")
        elif held.facts is not None:
            yield held.facts
        damage.extend(piece.damage)
        held = piece
    if held.facts is not None:
        yield held.facts


def _pieces(run_dir: Path, *, names: list[str], job_id: str | None) -> Iterator[_Piece]:
    """Read every part and journal in sequence, a gap as a piece of its own.

    The order of looking matters beside a live run. Journals are listed before parts, so that one which is gone by
    then has its part in the list; and read newest first, so that none holds facts later than its predecessor's end.
    """
    journals = {
        sequence: (path, scan_journal(read_bytes(path))) for sequence, path in reversed(list_journals(run_dir).items())
    }
    parts, joined = list_parts(run_dir), Joined(run_dir, columns=names)
    expected = 1
    for sequence in sorted(parts.keys() | journals.keys()):
        if sequence > expected:
            missing = f"{CHECKPOINT_DIR}/{part_path(run_dir, expected).name}"
            until = "" if sequence == expected + 1 else f" to {part_path(run_dir, sequence - 1).name}"
            yield _Piece(name=missing, damage=(f"{missing}{until}: missing",))
        expected = sequence + 1
        piece = _read_piece(sequence, parts.get(sequence), journals.get(sequence), joined=joined, names=names)
        if piece.facts is not None:
            job_id = job_id or piece.job_id
            piece = _in_place(piece, job_id=job_id, sequence=sequence)
        yield piece


def _read_piece(
    sequence: int, part: Path | None, journal: tuple[Path, JournalScan] | None, *, joined: Joined, names: list[str]
) -> _Piece:
    if part is None:
        return _Piece(name="") if journal is None else _journal_piece(*journal, names=names)
    piece = _part_piece(part, sequence, joined=joined, names=names)
    if journal is not None and journal[0].name.startswith(DAMAGED_PREFIX):
        return replace(piece, damage=(*piece.damage, *_journal_damage(*journal)))
    return piece


def _part_piece(path: Path, sequence: int, *, joined: Joined, names: list[str]) -> _Piece:
    name = f"{CHECKPOINT_DIR}/{path.name}"
    data = read_bytes(path)
    own_digest = digest(data)
    try:
        part = joined.find(sequence, own_digest) or decipher_part(data, columns=names)
    except PartError as error:
        return _Piece(name=name, facts=None, damage=(f"{name}: {error}",))
    return _Piece(
        name=name,
        facts=part.facts,
        job_id=part.job_id,
        sequence=part.sequence,
        digest=own_digest,
        predecessor=part.predecessor,
    )


def _journal_piece(path: Path, scan: JournalScan, *, names: list[str]) -> _Piece:
    name = f"{JOURNAL_DIR}/{path.name}"
    damage = _journal_damage(path, scan)
    if scan.header is None:
        return _Piece(name=name, damage=damage)
    try:
        facts = build_table(scan.payloads).select(names)
    except PartError as error:
        return _Piece(name=name, damage=(*damage, f"{name}: {error}"))
    header = scan.header
    return _Piece(
        name=name,
        facts=facts,
        job_id=header.job_id,
        sequence=header.sequence,
        predecessor=header.predecessor,
        damage=damage,
    )


def _journal_damage(path: Path, scan: JournalScan) -> tuple[str, ...]:
    if scan.damage is None:
        return ()
    return (f"{JOURNAL_DIR}/{path.name}: {scan.damage}; {len(scan.payloads)} facts before it are whole",)


def _in_place(piece: _Piece, *, job_id: str | None, sequence: int) -> _Piece:
    """Believe a piece only where it says that it belongs: what it holds is otherwise somebody else's."""
    if piece.job_id != job_id:
        foreign = f"{piece.name}: belongs to another job ({piece.job_id}, not {job_id})"
    elif piece.sequence != sequence:
        foreign = f"{piece.name}: is number {piece.sequence} under another's name"
    else:
        return piece
    return _Piece(name=piece.name, damage=(*piece.damage, foreign))


def _strays(run_dir: Path) -> list[str]:
    """Name what pandas would read as a part, or stumble over, although it is none."""
    names = list_names(run_dir / CHECKPOINT_DIR)
    return [f"{CHECKPOINT_DIR}/{name}: is no part; move it out" for name in names if not _PART_NAME.fullmatch(name)]


def _numbered(folder: Path, *, pattern: re.Pattern[str]) -> dict[int, Path]:
    matches = ((pattern.fullmatch(name), folder / name) for name in list_names(folder))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))
