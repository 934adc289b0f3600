"""The durable state of every cell: facts are appended to a journal, and journals sealed into immutable Parquet parts.

Sealing never holds up an append. The next journal is made ready, the writer turns to it in one step, and only then is
the old one flushed, written as a part, published, and removed. Killed between any two steps, what lies there folds to
the same state: an old journal beside its part is passed over, one without is read, and a start seals it. Opening and
writing need the run's lock (`lock`), reading doesn't (`facts`).
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from batchflux.core.errors import StorageError, UsageError
from batchflux.core.model import Fact
from batchflux.io.facts import CHECKPOINT_DIR, JOURNAL_DIR, FactsFound, journal_path, list_parts, read_facts, read_state
from batchflux.io.joined import join_next
from batchflux.io.journal import Journal, JournalHeader, scan_journal
from batchflux.io.parts import FACT_SCHEMA
from batchflux.io.recovery import Recovered, publish_part, recover
from batchflux.io.storage import make_dir, read_bytes, remove, sweep_temporaries

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FACT_SCHEMA", "CheckpointWriter", "FactsFound", "read_checkpoint", "read_facts", "read_state"]

_T = TypeVar("_T")

SEAL_AFTER_S: Final = 60.0  # what pandas, which sees parts only, may lag behind; a part a minute is 500 a night
SEAL_AFTER_FACTS: Final = 20_000  # sealed in a tenth of a second
SEAL_AFTER_BYTES: Final = 64 * 2**20  # with prompts of a megabyte the facts' number would bound nothing

# Facts are durable within 0.3 s (design, section 4) even if nobody waits: this, and a flush that may be under way.
_FLUSH_AFTER_S: Final = 0.2


class CheckpointWriter:
    """The one writer of a run's facts, under the run's lock; `open` makes it, `async with` closes it.

    Belongs to one event loop. Whoever owns a TaskGroup runs `run()` in it, and calls `seal_if_due` now and then.
    `has_recorded` tells whether any fact was added. Every method raises StorageError from the first failed write or
    flush on: nothing is retried, what was durable stays, and the next `open` seals the whole records.
    """

    def __init__(
        self, run_dir: Path, *, job_id: str, journal: Journal, recovered: Recovered, is_ours: Callable[[], bool]
    ) -> None:
        self.recovered, self.torn = recovered.notes, recovered.torn
        self._is_ours = is_ours
        self.has_recorded = False
        self._run_dir, self._job_id = run_dir, job_id
        self._journal, self._sequence = journal, recovered.sequence + 1  # the one that takes appends, and its number
        self._ready: Journal | None = None  # the next one, made but not yet turned to
        self._old: Journal | None = None  # the one before it, until it is sealed
        self._sealed: list[Journal] = []  # sealed, to be let go of by the event loop
        self._digest = recovered.digest  # of the last part
        self._is_digest_named = True  # in the journal after it
        self._seal_failure: StorageError | None = None
        self._since_s: float | None = None
        self._has_news = asyncio.Event()
        self._sealing = asyncio.Lock()
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batchflux-seal")

    @classmethod
    def open(
        cls, run_dir: Path, job_id: str, *, was_left: bool = False, is_ours: Callable[[], bool] = lambda: True
    ) -> Self:
        """Bring what an earlier run left into order and begin a new journal; blocks, a second for a few journals.

        `was_left`: an earlier run died here, so that its journal must be there. `is_ours` says whether the run's lock
        still guards the directory; without it no intent is durable any more.
        `recovered` then holds a line for each journal that had to be sealed or set aside, and `torn` the journals
        whose ends may have held facts: nothing may be spent before those are looked up. Raise CheckpointDamaged
        where a journal holds damage, has no place in the sequence or is another job's, and again at every later
        open while a damaged one lies there; StorageError.
        """
        must_have_journal = was_left and (run_dir / CHECKPOINT_DIR).is_dir()
        for folder in (CHECKPOINT_DIR, JOURNAL_DIR):
            make_dir(run_dir / folder)
            sweep_temporaries(run_dir / folder)
        recovered = recover(run_dir, job_id=job_id, must_have_journal=must_have_journal)
        sequence = recovered.sequence + 1
        header = JournalHeader(job_id=job_id, sequence=sequence, predecessor=recovered.digest)
        journal = Journal.create(journal_path(run_dir, sequence), header=header)
        return cls(run_dir, job_id=job_id, journal=journal, recovered=recovered, is_ours=is_ours)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def record(self, fact: Fact) -> None:
        """Append a fact: at once proof against the death of the process, and within 0.3 s against a power cut."""
        self.has_recorded = True
        self._journal.append(fact)
        self._has_news.set()

    async def intent(self, fact: Fact) -> None:
        """Append a fact and wait until it is flushed to the disk: what must be so before a POST leaves."""
        self.has_recorded = True
        self._journal.append(fact)
        await self._journal.flushed()
        # Asked only now: whoever takes the directory over from here on finds this intent in it.
        if not self._is_ours():
            cause = OSError(
                errno.ESTALE, "its lock is gone: the directory was removed or moved, or another run took it"
            )
            raise StorageError(self._run_dir, doing="go on with the run directory", cause=cause)

    async def flushed(self) -> None:
        """Wait until every fact recorded so far would survive a power cut."""
        old, journal = self._old, self._journal
        if old is not None:
            await old.flushed()
        await journal.flushed()

    async def run(self) -> None:
        """Flush what nobody waits for, until cancelled. Ends only by StorageError, which ends the run."""
        while True:
            await self._has_news.wait()
            await asyncio.sleep(_FLUSH_AFTER_S)
            self._has_news.clear()
            await self.flushed()

    async def seal_if_due(self, now_s: float) -> bool:
        """Seal where the journal is old or long enough, and tell whether it was; `now_s` is any steady clock's."""
        if self._since_s is None:
            self._since_s = now_s
        journal = self._journal
        is_due = journal.facts > 0 and now_s - self._since_s >= SEAL_AFTER_S
        if is_due or journal.facts >= SEAL_AFTER_FACTS or journal.size_bytes >= SEAL_AFTER_BYTES:
            self._since_s = now_s
            await self.seal()
            return True
        return False

    async def seal(self) -> None:
        """Publish the journal so far as a part; facts may be recorded meanwhile. Nothing to seal makes no part.

        Cancelled, it stays whole: what has begun is finished by its thread or by the next seal.
        """
        async with self._sealing:
            if self._seal_failure is not None:
                failed = self._seal_failure
                raise StorageError(failed.path, doing=failed.doing, cause=failed.cause) from failed
            self._journal.raise_failure()
            try:
                await self._in_sealer(self._publish_old)  # of a seal that was cancelled
                self._let_go()
                if self._journal.facts:
                    await self._in_sealer(self._make_ready)
                    self._turn()
                    await self._in_sealer(self._publish_old)
                    self._let_go()
            except StorageError as error:
                self._seal_failure = error
                if self._old is not None and self._old.has_failed:
                    self._journal.poison(self._old)
                raise

    async def close(self) -> None:
        """Seal, flush and let go of the files. They are let go of whatever happens; raise StorageError."""
        try:
            try:
                await self.seal()
            finally:
                await self.flushed()
        finally:
            self._sealer.shutdown(wait=True)  # the lock may go next, and nobody may then be at work here
            for journal in (self._journal, self._ready, self._old, *self._sealed):
                if journal is not None:
                    journal.close()

    async def _in_sealer(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._sealer, step)

    def _make_ready(self) -> None:
        if self._ready is None:
            header = JournalHeader(job_id=self._job_id, sequence=self._sequence + 1)
            self._ready = Journal.create(journal_path(self._run_dir, self._sequence + 1), header=header)

    def _turn(self) -> None:
        """Turn to the next journal: one step without await, so that no fact falls between the two."""
        if self._ready is not None:
            self._old, self._journal, self._ready = self._journal, self._ready, None
            self._sequence += 1

    def _publish_old(self) -> None:
        """Seal the journal before the current one. In the sealer's thread; does nothing where that is done."""
        old = self._old
        if old is None:
            return
        old.sync()
        old.raise_failure()
        try:
            scan = scan_journal(read_bytes(old.path))
        except FileNotFoundError as error:  # somebody removed it; its flushed facts are gone with it
            raise StorageError(old.path, doing="seal the journal", cause=error) from error
        if len(scan.payloads) != old.facts:
            cause = OSError(errno.EIO, "it does not read back as it was written")
            raise StorageError(old.path, doing="seal the journal", cause=cause)
        self._digest = publish_part(
            self._run_dir,
            job_id=self._job_id,
            sequence=self._sequence - 1,
            payloads=scan.payloads,
            predecessor=self._digest,
        )
        self._is_digest_named = False
        self._sealed.append(old)
        self._old = None
        remove(old.path)
        join_next(self._run_dir, list_parts(self._run_dir))

    def _let_go(self) -> None:
        """Close what is sealed, and let the current journal name the last part. In the event loop's thread."""
        while self._sealed:
            self._sealed.pop().close()
        if self._digest is not None and not self._is_digest_named:
            self._journal.append_predecessor(self._digest)
            self._is_digest_named = True
            self._has_news.set()


def read_checkpoint(run_dir: str | Path) -> "pd.DataFrame":
    """Return the state of every cell that was ever touched, one row a cell, as a pandas DataFrame.

    Columns are those of FACT_SCHEMA, with money in USD (`cost_usd`, `price_usd`). Works at any moment, also beside a
    run; facts of the last second may be missing then. Raise UsageError where there is no checkpoint,
    CheckpointDamaged where it can't be believed.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CHECKPOINT_DIR).is_dir():
        raise UsageError(f"{run_dir}: no run directory, since it has no {CHECKPOINT_DIR}/ in it")
    frame: pd.DataFrame = read_state(run_dir).to_pandas()
    for name in ("cost", "price"):
        frame[f"{name}_micro_usd"] = frame[f"{name}_micro_usd"] / 1_000_000
    return frame.rename(columns={"cost_micro_usd": "cost_usd", "price_micro_usd": "price_usd"})
