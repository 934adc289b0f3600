"""Rows that ask for equal requests: each one's ordinal among them, and the templates that must be refused.

Pure arithmetic on the rows' keys. What is rare (rows that exclude differently, rows that state a seed which an equal
row would draw) is found once and kept in small mappings, so that the common case costs one sort.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from batchflux.core.identity import parameter_key
from batchflux.core.rows import NO_SEED, KeyArray, RowArrays, RowRecipe

__all__ = ["Groups", "clashing_rows", "group_rows"]

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Each row's ordinal among rows of equal requests, and what must be looked at combination by combination."""

    """Rows that ask for equal bodies: each row's ordinal, and what must be looked at combination by combination."""

    ordinals: npt.NDArray[np.int32]
    uneven: Mapping[int, npt.NDArray[np.int64]]  # row -> ordinal by combination, where equal rows exclude differently
    taken: Mapping[int, frozenset[int]]  # row without a seed -> the seeds that rows of the same body state

    def ordinal(self, row: int, combination: int) -> int:
        """Return a cell's place among the cells of equal requests, from 0."""
        by_combination = self.uneven.get(row)
        return int(self.ordinals[row] if by_combination is None else by_combination[combination])

    def ordinals_of(self, row: int, n_combinations: int) -> npt.NDArray[np.integer]:
        """Return the ordinals of all cells of a row, (combinations,)."""
        return self.uneven.get(row, np.full(n_combinations, self.ordinals[row]))

    def is_uneven(self, rows: Indexes) -> npt.NDArray[np.bool_]:
        """Return of which rows the ordinals differ by combination, (n,)."""
        return np.isin(rows, list(self.uneven)) if self.uneven else np.zeros(len(rows), dtype=np.bool_)

    def repeated_within(self, first: int, last: int) -> list[int]:
        """Return the rows of a range that may have an ordinal above 0, ascending."""
        rows: list[int] = (np.flatnonzero(self.ordinals[first:last]) + first).tolist()
        return sorted({*rows, *(row for row in self.uneven if first <= row < last)})


def _equal_runs(keys: KeyArray) -> Iterator[Indexes]:
    """Yield the rows, ascending, of each set of two or more equal keys."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(order)))
    for start, length in zip(starts[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
        yield np.sort(order[start : start + length])


def group_rows(rows: RowArrays, *, allowed: npt.NDArray[np.bool_], find_taken: bool) -> Groups:
    """Find the rows of equal requests.

    `allowed` (rule sets, combinations) says which cells there are; `find_taken` whether seeds are drawn, so that
    those which equal rows state must be known.
    """
    ordinals = np.zeros(rows.n_rows, dtype=np.int32)
    uneven: dict[int, npt.NDArray[np.int64]] = {}
    # Every variant of two rows is equal or none is: clashing_rows has refused what else a template could make.
    for members in _equal_runs(rows.keys[0]):
        ordinals[members] = np.arange(len(members))
        if len(set(rows.signature[members].tolist())) > 1:
            stays = allowed[rows.signature[members]].astype(np.int64)
            before = np.cumsum(stays, axis=0) - stays
            uneven.update(zip(members.tolist(), before, strict=True))
    taken: dict[int, frozenset[int]] = {}
    if find_taken and (rows.own_seed != NO_SEED).any() and (rows.own_seed == NO_SEED).any():
        taken = _taken_seeds(rows)
    return Groups(ordinals, uneven, taken)


def _taken_seeds(rows: RowArrays) -> dict[int, frozenset[int]]:
    """Return, for rows without a seed, the seeds that rows equal but for their seed state."""
    seeded = np.flatnonzero(rows.own_seed != NO_SEED)
    seeds = rows.own_seed[seeded]
    values, places = np.unique(seeds, return_inverse=True)
    # No model has a default seed, so a seed's key is the same for all of them.
    seed_keys = np.array([parameter_key("", "seed", value) for value in values.tolist()], dtype=np.uint64)
    bases = rows.keys[0][seeded] - seed_keys[places]
    stated: dict[tuple[int, ...], set[int]] = {}
    for base, seed in zip(map(tuple, bases.tolist()), seeds.tolist(), strict=True):
        stated.setdefault(base, set()).add(seed)
    bare = np.flatnonzero(rows.own_seed == NO_SEED)
    found = zip(bare.tolist(), (stated.get(tuple(key)) for key in rows.keys[0][bare].tolist()), strict=True)
    return {row: frozenset(owned) for row, owned in found if owned}


def clashing_rows(rows: RowArrays, recipe: RowRecipe) -> list[tuple[int, int]]:
    """Return pairs of rows, from 0, of which a template's axes make equal requests; such a job is refused.

    Rows that are equal through and through don't clash: they are ordinals of each other. A row can clash with
    itself, where two combinations of words give it the same prompt.
    """
    n_words = prod(len(axis.values) for axis in recipe.word_axes)
    if n_words == 1:
        return []
    per_model = rows.keys[:n_words]
    first_of = np.arange(rows.n_rows)
    for members in _equal_runs(per_model[0]):
        same = (per_model[:, members] == per_model[:, members[:1]]).all(axis=(0, 2))
        first_of[members[same]] = members[0]
    unique = np.flatnonzero(first_of == np.arange(rows.n_rows))
    flat = per_model[:, unique].reshape(-1, 2)
    pairs = []
    for places in _equal_runs(flat):
        clash = unique[places % len(unique)]
        pairs.append((int(clash.min()), int(clash.max())))
    return sorted(set(pairs))
