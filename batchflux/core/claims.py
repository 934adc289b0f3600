"""Predictions of the history that a run has no record of, laid against its open cells: whose could they be? Pure.

Asked where facts may be lost: a cell that looks pending, or failed, may have been submitted. A cell's key is a sum
over its body, so a prediction's inputs give the key of the cells that it could be of, and millions of cells are
searched at once.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batchflux.core.catalog import KNOWN_MODELS, known_model
from batchflux.core.grid import Grid
from batchflux.core.history import HistoryItem
from batchflux.core.identity import Key, add_keys, body_key, ordinal_key
from batchflux.core.model import Cell, CellStatus, Params
from batchflux.core.progress import STATUS_CODES, StatusArray

__all__ = ["Claims", "claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """`found`: (grid index, prediction) of pending or failed cells that ask for just that, each once. `unclear`:
    predictions that could be of any cell. The others are nobody's here: of other programs on the account, or of cells
    that are neither."""

    found: tuple[tuple[int, HistoryItem], ...]
    unclear: tuple[HistoryItem, ...]


def claim(
    strangers: Sequence[HistoryItem],
    grid: Grid,
    statuses: StatusArray,
    *,
    listed_params: Mapping[str, Collection[str]],
    ours: Iterable[tuple[Cell, HistoryItem]] = (),
) -> Claims:
    """Give each prediction to the first pending cell, else the first failed one, that asks for what it was made from.

    `listed_params` are each model's parameters as the service lists them, where known. A model that the catalogue
    doesn't know may have defaults that nobody can tell from what was asked, and a parameter that the service doesn't
    list stands in no history: then nothing is clear. Nor is it where the history keeps one of `ours`, cells and their
    own predictions, otherwise than it was sent: trimmed, rounded, or short of a parameter.
    """
    is_blurred = _is_blurred(grid, listed_params) or any(not _is_kept(cell, item) for cell, item in ours)
    keys: dict[Key, list[HistoryItem]] = {}
    unclear: list[HistoryItem] = []
    for item in strangers:
        model = item.prediction.model
        if model is not None and model not in grid.recipe.models:
            continue
        if item.inputs is None or is_blurred:
            unclear.append(item)
            continue
        for name in grid.recipe.models if model is None else [model]:
            keys.setdefault(_inputs_key(name, item.inputs), []).append(item)
    found: list[tuple[int, HistoryItem]] = []
    claimed: set[str] = set()
    places = list(_search(grid, keys))
    # A failed cell may have been taken up again, but a pending one is bought without being asked for.
    for status in (CellStatus.PENDING, CellStatus.FAILED):
        for key, index in places:
            left = [item for item in keys[key] if item.prediction.id not in claimed]
            if left and statuses[index] == STATUS_CODES[status]:
                claimed.add(left[0].prediction.id)
                found.append((index, left[0]))
    return Claims(found=tuple(found), unclear=tuple(unclear))


def _inputs_key(model: str, inputs: Params) -> Key:
    """Return the key of what the history says that a known model was asked for."""
    parameters = KNOWN_MODELS[model].parameters
    return body_key(model, {name: value for name, value in inputs.items() if name in parameters})


def _is_kept(cell: Cell, item: HistoryItem) -> bool:
    """Return whether the history tells what a cell of a known model asked for."""
    if cell.model not in KNOWN_MODELS or item.inputs is None:
        return False
    return _inputs_key(cell.model, item.inputs) == body_key(cell.model, cell.body)


def _search(grid: Grid, keys: Iterable[Key]) -> Iterator[tuple[Key, int]]:
    """Yield (key of a body, grid index) of every cell with one of these bodies, the first of equal ones first."""
    left = set(keys)
    ordinal = 0
    while left:
        wanted = {add_keys(key, ordinal_key(ordinal)): key for key in left}
        lanes = np.array([key.lane0 for key in wanted], dtype=np.uint64)
        left = set()
        for piece in grid.slices():
            for place in np.flatnonzero(np.isin(piece.keys[:, 0], lanes)).tolist():
                key = wanted.get(Key(*piece.keys[place].tolist()))
                if key is not None:
                    left.add(key)
                    yield key, int(piece.indexes[place])
        ordinal += 1


def _is_blurred(grid: Grid, listed_params: Mapping[str, Collection[str]]) -> bool:
    """Return whether a request may look otherwise in the history than it was sent."""
    recipe = grid.recipe
    names = {"prompt", *recipe.params, *recipe.row_params}
    names |= {axis.name for axis in grid.axes if axis.kind == "parameter"}
    for model in recipe.models:
        known, listed = known_model(model), listed_params.get(model)
        if known is None or not names <= known.parameters.keys() or (listed is not None and not names <= set(listed)):
            return True
    return False
