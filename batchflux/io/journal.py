"""The newest facts: one framed, checksummed, append-only file. One writer, group commit; readers need no lock.

A record is its payload's length and CRC-32, each a little-endian u32, then the payload: compact JSON. The first record
is the header. CRC-32 is there to find torn writes and flipped bits, not enemies: it is in the standard library, costs
less than the write, and finds every burst of up to 32 bits. After a failed write or flush the journal is poisoned:
nothing is retried, since a kernel may forget what it failed to flush and then call the next flush a success. Only a
full disk was foreseen: what was held free for it takes the answers that are still to come, and no further intent.
"""

import asyncio
import errno
import json
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from json.encoder import encode_basestring
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self

from batchflux.core.errors import StorageError
from batchflux.core.model import CellStatus, Fact, FactKind
from batchflux.io.storage import flush_to_disk, hold_space, publish_bytes, read_bytes, write_all

__all__ = [
    "JOURNAL_FORMAT",
    "Journal",
    "JournalContents",
    "JournalHeader",
    "JournalScan",
    "decode_fact",
    "encode_fact",
    "read_journal",
    "scan_journal",
]

# Readers refuse a greater number. Fields and records that are new within a format are passed over by older readers.
JOURNAL_FORMAT: Final = 1

_FRAME: Final = struct.Struct("<II")
_FACT_MARK: Final = b'{"cell_id":'  # `cell_id` is written first, so facts are told from other records unparsed
_FIELDS: Final = tuple(field.name for field in fields(Fact))
_VALUES: Final = attrgetter(*_FIELDS)
_TUPLES: Final = frozenset(field.name for field in fields(Fact) if field.default == ())
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_ENCODE_ASCII: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False).encode
# The fields' names and the words of closed sets as they stand in the payload: three facts a cell are encoded.
_LABELS: Final = tuple(f'{"," if place else "{"}"{name}":' for place, name in enumerate(_FIELDS))
_WORDS: Final = {word: f'"{word}"' for word in (*FactKind, *CellStatus)}
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

# Held free for the answers that are due when the disk is full: an accepted one takes half a kilobyte, a final one with
# four URLs of the greatest length 20, and some dozens may be due.
_HELD_BYTES: Final = 256 << 10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHeader:
    """Whose journal it is. `predecessor` is the SHA-256 of the part before it, in hex.

    None for the first one, and for a journal begun while the part before it was still being written: there the
    digest follows as a record of its own, which readers put here.
    """

    job_id: str
    sequence: int
    predecessor: str | None = None
    format: int = JOURNAL_FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalScan:
    """A journal's whole records, not yet parsed: one JSON payload a fact, in writing order.

    `header` is None where it can't be read, and `damage` then says why. `torn_bytes` is what an interrupted write
    left at the end, which is normal after a crash; `damage` is a record that fails although others follow it.
    """

    header: JournalHeader | None
    payloads: tuple[bytes, ...]
    torn_bytes: int = 0
    damage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalContents:
    """A journal's whole facts up to its first bad record; the other fields are as in `JournalScan`."""

    header: JournalHeader | None
    facts: tuple[Fact, ...]
    torn_bytes: int = 0
    damage: str | None = None


def encode_fact(fact: Fact) -> bytes:
    """Return a fact as compact UTF-8 JSON, None and empty tuples left out.

    Lone surrogates, which UTF-8 has no bytes for, go out as JSON escapes. Raise OverflowError for a number that
    int64 can't hold: refused here, it can't make a journal that can't be sealed.
    """
    pieces: list[str] = []
    for label, value in zip(_LABELS, _VALUES(fact), strict=True):
        if value is None or value == ():
            continue
        kind = type(value)
        if kind is int:
            if not _INT64_MIN <= value <= _INT64_MAX:
                raise OverflowError(f"{value} in a fact of cell {fact.cell_id} is beyond int64")
            pieces.append(f"{label}{value}")
        elif kind is str:
            pieces.append(label + encode_basestring(value))
        else:
            pieces.append(label + (_WORDS.get(value) or _ENCODE(value)))
    text = "".join(pieces) + "}"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _ENCODE_ASCII(json.loads(text)).encode()


def decode_fact(payload: bytes) -> Fact:
    """Return the fact of a payload; fields that a newer version added are passed over. Raise ValueError."""
    values: dict[str, Any] = json.loads(payload)
    known: dict[str, Any] = {name: value for name, value in values.items() if name in _FIELDS}
    try:
        known |= {name: tuple(known[name]) for name in _TUPLES & known.keys()}
        known |= {"kind": FactKind(known["kind"]), "status": CellStatus(known["status"])}
        return Fact(**known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no fact: {error}") from error


def scan_journal(data: bytes) -> JournalScan:
    """Split a journal's bytes into records and check each; never raises for what the bytes are."""
    records: list[bytes] = []
    offset = 0
    for record in _records(data):
        records.append(record)
        offset += _FRAME.size + len(record)
    header = _decipher_header(records)
    if header is None:
        return JournalScan(header=None, payloads=(), damage="its header can't be read")
    if header.format > JOURNAL_FORMAT:
        newer = f"its format {header.format} is a newer batchflux's: update batchflux to read it"
        return JournalScan(header=None, payloads=(), damage=newer)
    payloads = tuple(record for record in records[1:] if record.startswith(_FACT_MARK))
    rest = len(data) - offset
    if rest and _has_record_after(data, offset):
        return JournalScan(header=header, payloads=payloads, damage=f"the record at byte {offset} fails its check")
    return JournalScan(header=header, payloads=payloads, torn_bytes=rest)


def read_journal(path: Path) -> JournalContents:
    """Read a journal, also beside its live writer; raise FileNotFoundError or StorageError."""
    scan = scan_journal(read_bytes(path))
    facts: list[Fact] = []
    damage = scan.damage
    for payload in scan.payloads:
        try:
            facts.append(decode_fact(payload))
        except ValueError as error:
            damage = f"fact {len(facts) + 1} can't be read: {error}"
            break
    return JournalContents(header=scan.header, facts=tuple(facts), torn_bytes=scan.torn_bytes, damage=damage)


class Journal:
    """The writing end of one journal file; belongs to one event loop.

    `append` writes at once, so that a killed process loses nothing; `flushed` waits until a power cut loses nothing
    either. One worker thread flushes; whatever is appended while it does goes out with the next flush, which all
    who wait share. `facts` counts what was appended, `size_bytes` is the file's size. `held_fd` holds room on the disk
    for the last answers.
    """

    def __init__(self, path: Path, *, fd: int, size_bytes: int, held_fd: int | None = None) -> None:
        self.path = path
        self.facts = 0
        self.size_bytes = size_bytes
        self._fd = fd
        self._held_fd = held_fd
        self._full: OSError | None = None
        self._appended = 0
        self._durable = 0
        self._failure: tuple[str, OSError] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()  # for how many appended, and who
        self._is_flushing = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batchflux-flush")

    @classmethod
    def create(cls, path: Path, *, header: JournalHeader) -> Self:
        """Begin a journal, durably and with a whole header or not at all; raise StorageError.

        An older one at `path` is replaced: only an empty one may lie there.
        """
        start = _frame(_encode_header(header))
        publish_bytes(path, start)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(path, doing="open the journal", cause=error) from error
        try:
            held_fd = hold_space(path.parent, _HELD_BYTES)
        except OSError as error:
            os.close(fd)
            raise StorageError(path, doing="hold room for the last answers", cause=error) from error
        return cls(path, fd=fd, size_bytes=len(start), held_fd=held_fd)

    @property
    def has_failed(self) -> bool:
        """Whether a write or a flush has failed: nothing more is taken, and nothing unflushed is to be believed."""
        return self._failure is not None

    def append(self, fact: Fact) -> None:
        """Write one fact, in one system call; raise StorageError, then and ever after a failure.

        On a full disk intents are refused, and all other facts taken for as long as the room held for them lasts.
        """
        is_intent = fact.kind is FactKind.INTENT
        if is_intent and self._full is not None:
            raise StorageError(self.path, doing="write to the journal", cause=self._full) from self._full
        self._write(encode_fact(fact), may_use_held=not is_intent)
        self.facts += 1

    def append_predecessor(self, digest: str) -> None:
        """Write the digest of the part before this journal, where the header was begun without it."""
        self._write(_ENCODE({"predecessor": digest}).encode())

    async def flushed(self) -> None:
        """Wait until everything appended so far would survive a power cut; raise StorageError."""
        self.raise_failure()
        if self._durable < self._appended:
            durable = asyncio.get_running_loop().create_future()
            self._waiting.append((self._appended, durable))
            if not self._is_flushing:
                self._is_flushing = True
                asyncio.get_running_loop().call_soon(self._serve_waiting)  # so that all who come now share a flush
            await durable
            self.raise_failure()

    def _serve_waiting(self) -> None:
        """Wake all at once who need not wait: their facts are durable, or never will be. Flush for the others."""
        while self._waiting:
            appended, durable = self._waiting[0]
            if durable.done():  # its task was cancelled
                pass
            elif self._failure is not None or appended <= self._durable:
                durable.set_result(None)
            else:
                break
            self._waiting.popleft()
        self._is_flushing = bool(self._waiting)
        if self._is_flushing:
            asyncio.get_running_loop().run_in_executor(self._worker, self.sync).add_done_callback(self._end_flush)

    def _end_flush(self, flush: asyncio.Future[None]) -> None:
        error = flush.exception()
        while self._waiting and error is not None:  # a fault of ours: the disk's are kept, not raised
            _, durable = self._waiting.popleft()
            if not durable.done():
                durable.set_exception(error)
        self._serve_waiting()

    def sync(self) -> None:
        """Flush in the calling thread, whichever it is; a failure is kept and raised by whoever waits or appends.

        Kept rather than raised: a waiter may have been cancelled meanwhile, and nobody would hear of it.
        """
        if self._failure is None and self._durable < (upto := self._appended):
            try:
                flush_to_disk(self._fd, data_only=True)
            except OSError as error:
                self._failure = ("flush the journal", error)
            else:
                self._durable = upto

    def poison(self, failure: "Journal") -> None:
        """Take over the failure of the journal before this one: its facts may be gone, so no more may follow."""
        self._failure = self._failure or failure._failure

    def raise_failure(self) -> None:
        """Raise StorageError where a write or flush has failed."""
        if self._failure is not None:
            doing, cause = self._failure
            raise StorageError(self.path, doing=doing, cause=cause) from cause

    def close(self) -> None:
        """Let go of the file, after a flush that may be under way; never flushes, blocks or raises."""
        fd, self._fd = self._fd, -1  # a later append fails with EBADF instead of writing into another file
        if fd >= 0:
            self._worker.submit(os.close, fd)
            self._worker.shutdown(wait=False)
            self._let_go_of_held()

    def _write(self, payload: bytes, *, may_use_held: bool = True) -> None:
        self.raise_failure()
        data = _frame(payload)
        try:
            try:
                write_all(self._fd, data)
            except OSError as error:
                if error.errno not in _FULL or self._held_fd is None:
                    raise
                # Nothing was flushed, so nothing is in doubt: the torn tail goes, and there is room again.
                os.ftruncate(self._fd, self.size_bytes)
                self._let_go_of_held()
                self._full = error
                if not may_use_held:
                    raise StorageError(self.path, doing="write to the journal", cause=error) from error
                write_all(self._fd, data)
        except OSError as error:
            self._failure = ("write to the journal", error)
            self.raise_failure()
        self._appended += 1
        self.size_bytes += len(data)

    def _let_go_of_held(self) -> None:
        held_fd, self._held_fd = self._held_fd, None
        if held_fd is not None:
            os.close(held_fd)


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _record_at(data: bytes, offset: int) -> bytes | None:
    """Return the payload of a whole, sound record, else None. An empty one is none: zeros would pass for it."""
    start = offset + _FRAME.size
    if start > len(data):
        return None
    length, checksum = _FRAME.unpack_from(data, offset)
    if not 0 < length <= len(data) - start:
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def _records(data: bytes) -> Iterator[bytes]:
    offset = 0
    while (record := _record_at(data, offset)) is not None:
        yield record
        offset += _FRAME.size + len(record)


def _has_record_after(data: bytes, offset: int) -> bool:
    """Look for a sound record anywhere behind a bad one, whose length can't be believed; payloads begin with `{"`."""
    at = data.find(b'{"', offset + _FRAME.size + 1)
    while at >= 0:
        if _record_at(data, at - _FRAME.size) is not None:
            return True
        at = data.find(b'{"', at + 1)
    return False


def _encode_header(header: JournalHeader) -> bytes:
    start: dict[str, str | int | None] = {"journal": header.format, "job_id": header.job_id}
    return _ENCODE_ASCII(start | {"sequence": header.sequence, "predecessor": header.predecessor}).encode()


def _decipher_header(records: list[bytes]) -> JournalHeader | None:
    predecessor = None
    for record in records[1:]:
        if record.startswith(b'{"predecessor":'):
            predecessor = json.loads(record)["predecessor"]
    try:
        start = json.loads(records[0])
        return JournalHeader(
            format=int(start["journal"]),
            job_id=str(start["job_id"]),
            sequence=int(start["sequence"]),
            predecessor=start["predecessor"] or predecessor,
        )
    except (IndexError, ValueError, TypeError, KeyError):
        return None
