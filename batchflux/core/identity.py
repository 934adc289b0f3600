"""What a cell is: the canonical form of a request and its content hash, version 1.

A cell's key is 128 bits in two 64-bit lanes. Every parameter of the body that is not at its frozen default, the
model, and for equal bodies the ordinal, give one BLAKE2b hash each; the key is their sum, lane by lane modulo 2**64.
A sum has no order and needs no sorting, so it doesn't matter which part of a job said a parameter; and the sum over a
row and the sum over a combination of axis values are added when a cell is looked at: ten million cells cost ten
million additions, not ten million JSON texts. Nothing here may change without a new version: ids are persisted.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from json.encoder import encode_basestring_ascii as _quoted
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchflux.core.model import JsonValue, Params

__all__ = [
    "IDENTITY_VERSION",
    "MAX_SEED",
    "Key",
    "add_keys",
    "axis_seeds",
    "body_key",
    "canonical_json",
    "cell_id",
    "describe_identity",
    "drawn_seed",
    "model_key",
    "ordinal_key",
    "parameter_key",
    "prompt_keys",
    "redo_seed",
    "row_name",
    "row_seed",
    "selection_rank",
]

IDENTITY_VERSION = 1

MAX_SEED = 2147483647
_SEEDS = MAX_SEED + 1  # seeds are drawn from 0 .. 2**31 - 1; -1 means "random" to the service
_LANE = 2**64
_CELL = b"batchflux-cell-1"

# A parameter at its model's default is left out of the key, so that stating a default buys nothing. Frozen with the
# version: the catalogue may learn new defaults, this table may not.
_DEFAULTS_V1: Mapping[str, Mapping[str, str]] = {
    "wavespeed-ai/flux-kontext-max/text-to-image": {
        "aspect_ratio": '"1:1"',
        "num_images": "1",
        "guidance_scale": "3.5",
        "safety_tolerance": '"2"',
    },
}
_NO_DEFAULTS: Mapping[str, str] = {}


class Key(NamedTuple):
    """Two lanes of 64 bits; `Key(0, 0)` adds nothing."""

    lane0: int
    lane1: int


ZERO = Key(0, 0)

# Once and not for each value, as `json.dumps` would make it.
_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: JsonValue) -> str:
    """Return the one text of a JSON value: keys sorted, no spaces, 5 and 5.0 and 5.00 all "5", strings escaped ASCII.

    Floats that aren't whole use Python's shortest repr. Raises ValueError for NaN and the infinities.
    """
    return _ENCODE(_whole_floats_to_ints(value))


def _whole_floats_to_ints(value: JsonValue) -> JsonValue:
    if isinstance(value, str):  # as almost all are
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_whole_floats_to_ints(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_floats_to_ints(item) for name, item in value.items()}
    return value


def _hash(kind: str, name: str, text: str) -> Key:
    digest = blake2b(f"{kind}\0{name}\0{text}".encode(), digest_size=16, person=_CELL).digest()
    return Key(int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"))


def parameter_key(model: str, name: str, value: JsonValue) -> Key:
    """Return what one request parameter (the prompt is one) adds to a cell's key; a default of the model adds zero."""
    text = canonical_json(value)
    if _DEFAULTS_V1.get(model, _NO_DEFAULTS).get(name) == text:
        return ZERO
    return _hash("parameter", name, text)


def prompt_keys(prompts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return the `parameter_key` of each prompt, as an array (n, 2): no model has a default for it."""
    digests = b"".join(
        blake2b(f"parameter\0prompt\0{_quoted(prompt)}".encode(), digest_size=16, person=_CELL).digest()
        for prompt in prompts
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def model_key(model: str) -> Key:
    """Return what the model's id adds to a cell's key."""
    return _hash("model", "", model)


def ordinal_key(ordinal: int) -> Key:
    """Return what the place among equal bodies adds, counted from 0; the first adds zero."""
    return ZERO if ordinal == 0 else _hash("ordinal", "", str(ordinal))


def add_keys(*keys: Key) -> Key:
    """Return the sum of keys, lane by lane modulo 2**64."""
    lane0 = lane1 = 0
    for key in keys:
        lane0 += key[0]
        lane1 += key[1]
    return Key(lane0 % _LANE, lane1 % _LANE)


def body_key(model: str, body: Params) -> Key:
    """Return the key of a whole request: the model and every parameter of the body."""
    return add_keys(model_key(model), *(parameter_key(model, name, value) for name, value in body.items()))


def cell_id(key: Key) -> str:
    """Return a key as 32 hexadecimal digits, the first lane first."""
    return f"{key[0]:016x}{key[1]:016x}"


def describe_identity() -> dict[str, JsonValue]:
    """Return how an id is made from a request, in words and tables, for whoever has the data and not this program."""
    return {
        "version": IDENTITY_VERSION,
        "steps": [
            "Write each parameter of the request (the prompt is one) as JSON with sorted keys, no spaces, ASCII "
            "escapes, whole floats as integers.",
            "Leave out parameters whose JSON equals the model's entry in `defaults`.",
            "Hash KIND, NAME and TEXT, joined by NUL bytes, for (parameter, its name, its JSON) of each that is left, "
            "for (model, empty, the model's id), and for (ordinal, empty, n) where n, counted from 0, is the place "
            "among equal requests and not 0.",
            "The hash is BLAKE2b with a digest of 16 bytes and the personalization batchflux-cell-1.",
            "Read each digest as two big-endian 64-bit numbers, and add them all up, each half alone, modulo 2**64.",
            "The id is the two sums as 32 hexadecimal digits.",
        ],
        "defaults": {model: dict(defaults) for model, defaults in _DEFAULTS_V1.items()},
    }


def _seed_walk(text: str, *, name: str, position: int) -> int:
    # An odd stride walks through all 2**31 seeds before it meets one again, so that positions never share a seed.
    start, stride = _hash("seed", name, text)
    return (start + position * (stride | 1)) % _SEEDS


def axis_seeds(count: int, key: int) -> tuple[int, ...]:
    """Return `count` distinct seeds drawn reproducibly from `key`; a larger count begins with the smaller one's."""
    return tuple(_seed_walk(str(key), name="axis", position=position) for position in range(count))


def row_seed(prompt: Key, *, key: int, position: int, ordinal: int) -> int:
    """Return one of a row's own seeds (`random` with `per_row`), from its prompt's key.

    It depends on the prompt alone, not on the row's place or the other axes, so that a row's cells can be compared
    across an axis; rows that ask for the very same bodies are told apart by their ordinal.
    """
    # Cantor's pairing gives every (position, ordinal) a place of its own, whichever of the two grows.
    diagonal = position + ordinal
    return _seed_walk(cell_id(prompt), name=f"row {key}", position=diagonal * (diagonal + 1) // 2 + ordinal)


def drawn_seed(seedless: Key, ordinal: int) -> int:
    """Return the seed of a cell whose job gives none, from the key of its body without a seed and its ordinal."""
    return _seed_walk(cell_id(seedless), name="cell", position=ordinal)


def redo_seed(cell: str, *, round_number: int, but: JsonValue) -> int:
    """Return the seed with which a cell is drawn anew, by its id and how often that was done before, never `but`."""
    seed = _seed_walk(cell, name="redo", position=round_number)
    return seed if seed != but else (seed + 1) % _SEEDS


def selection_rank(row_text: str, *, key: int, ordinal: int) -> bytes:
    """Return what rows are sorted by when a sample is taken: the lowest n are the sample, wherever they stand.

    `row_text` is the row's part of the prompt, `ordinal` its place among rows of equal text.
    """
    text = f"{key}\0{ordinal}\0{row_text}".encode()
    return blake2b(text, digest_size=16, person=b"batchflux-smpl-1").digest()


def row_name(row_text: str, params: Params) -> str:
    """Return the name of a row that has no id: 12 hexadecimal digits of its content's hash."""
    text = f"[{_quoted(row_text)},{canonical_json(dict(params)) if params else '{}'}]"
    return blake2b(text.encode(), digest_size=6, person=b"batchflux-row-1").hexdigest()
