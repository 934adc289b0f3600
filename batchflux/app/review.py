"""Every believed fact of a run held against itself: states, costs, names. In the memory of some cells, 16 bytes each.

Needs no grid, so that a directory whose spec is lost can be checked too: cells are taken by their ids' first digits.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchflux.app.manifestcheck import COMPARED_COLUMNS
from batchflux.app.rundir import RunIdentity
from batchflux.core.arrow import Ints, as_ints, equals, from_flags, list_lengths, numbered
from batchflux.core.books import BOOK_COLUMNS, Books
from batchflux.core.budget import usd
from batchflux.core.ledger import FOLD_COLUMNS, cell_keys, fold
from batchflux.core.model import CellStatus
from batchflux.io.facts import list_parts, stream_facts
from batchflux.io.filecheck import hashes_of
from batchflux.io.spill import Piles

__all__ = ["Named", "Review", "review_run"]

_COLUMNS: Final = tuple(dict.fromkeys([*FOLD_COLUMNS, *COMPARED_COLUMNS, *BOOK_COLUMNS, "file_bytes"]))
_MOST_NAMED: Final = 1000
_PILE_BYTES: Final = 1 << 20  # of parts: some fifty thousand facts
_MOST_PILES: Final = 1 << 10


@dataclass(slots=True)
class Named:
    """Things of a kind: the first thousand by name, and how many there are."""

    names: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, rows: pa.Table, text: str) -> None:
        """Take in rows, each told by a format of its columns."""
        self.count += rows.num_rows
        for row in rows.slice(0, max(0, _MOST_NAMED - len(self.names))).to_pylist():
            self.names.append(text.format(**row))


@dataclass(kw_only=True)
class Review:
    """What a look at all facts found. `books` are of all facts where predictions are kept, else empty."""

    run_dir: Path
    damage: tuple[str, ...]
    books: Books
    piles: Piles
    n_piles: int
    cost_micro_usd: int = 0
    files: int = 0
    unknown_cells: int = 0
    nameless: Named = field(default_factory=Named)
    strange: Named = field(default_factory=Named)
    uneven: Named = field(default_factory=Named)
    shared: Named = field(default_factory=Named)
    wrong_costs: Named = field(default_factory=Named)
    named_files: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def is_whole(self) -> bool:
        """Whether all facts that there ever were can be believed."""
        return not self.damage

    def states(self) -> Iterator[pa.Table]:
        """Yield the folded states of all cells, some at a time."""
        for number in range(self.n_piles):
            facts = self.piles.of(number)
            if facts is not None:
                yield fold(facts)


@contextmanager
def review_run(run_dir: Path, identity: RunIdentity | None, *, keeps_predictions: bool) -> Iterator[Review]:
    """Read all facts once and look at every cell; the piles last as long as the `with`. Raise StorageError."""
    size_bytes = 0
    for path in list_parts(run_dir).values():
        with suppress(FileNotFoundError):  # merged by a run that began meanwhile
            size_bytes += path.stat().st_size
    bits = min(_MOST_PILES, max(1, size_bytes // _PILE_BYTES)).bit_length() - 1
    with ExitStack() as stack:
        books, piles = Books(), stack.enter_context(_piles(run_dir, bits))

        def begin() -> Callable[[pa.Table], None]:
            nonlocal books, piles
            books, piles = Books(keeps_predictions=True), stack.enter_context(_piles(run_dir, bits))
            return add

        def add(facts: pa.Table) -> None:
            piles.add(facts)
            if keeps_predictions:
                books.add(facts)

        job_id = identity.run_id if identity is not None else None
        damage = stream_facts(run_dir, columns=_COLUMNS, begin=begin, job_id=job_id)
        review = Review(run_dir=run_dir, damage=damage, books=books, piles=piles, n_piles=1 << bits)
        pa.default_memory_pool().release_unused()
        _look(review)
        pa.default_memory_pool().release_unused()  # what looks at the files and the manifest needs as much again
        yield review


def _piles(run_dir: Path, bits: int) -> Piles:
    shift = np.uint64(64 - bits) if bits else np.uint64(0)

    def number_of(facts: pa.Table) -> Ints:
        return (cell_keys(facts["cell_id"])[:, 0] >> shift).astype(np.int64)

    return Piles(run_dir, 1 << bits, number_of=number_of)


def _look(review: Review) -> None:
    predictions, files = [np.empty(0, dtype=np.int64)], [review.named_files]
    for number in range(review.n_piles):
        facts = review.piles.of(number)
        if facts is None:
            continue
        state = fold(facts)
        review.cost_micro_usd += int(as_ints(state["cost_micro_usd"]).sum())
        _look_at_states(review, state)
        predictions.append(hashes_of(pc.drop_null(state["prediction_id"]).to_pylist()))
        files.append(hashes_of(pc.list_flatten(state["files"]).to_pylist()))
        if review.is_whole:
            books = Books()
            books.add(facts)
            _look_at_costs(review, books)
    review.named_files = np.sort(np.concatenate(files))
    review.files = len(review.named_files)
    _look_for_shared(review, np.sort(np.concatenate(predictions)))


def _look_at_states(review: Review, state: pa.Table) -> None:
    is_completed = equals(state["status"], str(CellStatus.COMPLETED))
    nameless = state.filter(pc.and_(is_completed, pc.is_null(state["prediction_id"])))
    review.nameless.add(nameless, "cell {cell_id}")
    known = [str(status) for status in CellStatus]
    codes = numbered(state["status"], known, other=-1)
    review.strange.add(state.filter(from_flags(codes < 0)), "cell {cell_id}: {status}")
    review.unknown_cells += int((codes == known.index(CellStatus.UNKNOWN)).sum())
    lengths = [list_lengths(state[name]) for name in ("files", "sha256", "file_bytes")]
    is_uneven = (lengths[0] != lengths[1]) | (lengths[0] != lengths[2])
    review.uneven.add(state.filter(from_flags(is_uneven)), "cell {cell_id}")


def _look_at_costs(review: Review, books: Books) -> None:
    wrong = books.wrong_costs()
    review.wrong_costs.count += wrong.num_rows
    for row in wrong.slice(0, max(0, _MOST_NAMED - len(review.wrong_costs.names))).to_pylist():
        review.wrong_costs.names.append(
            f"cell {row['cell_id']}: the checkpoint says {usd(row['stated'])}, its facts come to {usd(row['replayed'])}"
        )


def _look_for_shared(review: Review, hashes: Ints) -> None:
    """Name the predictions of several cells: numbers that stand twice are looked up by their names."""
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(twice) == 0:
        return
    counts: dict[str, int] = {}
    for state in review.states():
        for name in pc.drop_null(state["prediction_id"]).to_pylist():
            place = int(np.searchsorted(twice, hash(name)))
            if place < len(twice) and twice[place] == hash(name):
                counts[name] = counts.get(name, 0) + 1
    shared = [name for name, count in counts.items() if count > 1]
    review.shared.names += shared[:_MOST_NAMED]
    review.shared.count += len(shared)
