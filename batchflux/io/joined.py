"""Small parts once more, 128 to a file, since opening a part costs a millisecond and a week of minutes makes 10,000.

Derived from the parts and never instead of them: a part's facts are taken from here only where the part itself lies in
its place and its bytes have the digest that they were read from. So nothing is merged, removed or trusted; what is
lost, foreign or bad here costs time alone. Made under the run's lock, read without.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from batchflux.io.parts import Part, PartError, build_joined, decipher_joined, decipher_part, digest
from batchflux.io.storage import list_names, make_dir, read_bytes, replace_bytes, sweep_temporaries

__all__ = ["JOINED_DIR", "Joined", "join_next"]

JOINED_DIR: Final = ".joined"

_PARTS_A_FILE: Final = 128
# Of larger parts the millisecond isn't worth a second copy; all columns of so many take some 50 MB when they are read.
_MOST_BYTES: Final = 8 << 20

# Its own digest is in its name: a footer has no checksum.
_NAME: Final = re.compile(r"(\d{6})-([0-9a-f]{64})\.parquet")


class Joined:
    """The parts of a run directory that were joined, found by number and digest; one file is in memory at a time."""

    def __init__(self, run_dir: Path, *, columns: Sequence[str]) -> None:
        self._folder, self._columns = run_dir / JOINED_DIR, columns
        self._names = _names(run_dir)
        self._number = -1
        self._parts: Mapping[str, Part] = {}

    def find(self, sequence: int, part_digest: str) -> Part | None:
        """Return the part of that number whose file has this digest; None where it isn't here.

        Asked in ascending order each file is read once.
        """
        number = _number_of(sequence)
        if number != self._number:
            self._number, self._parts = number, self._read(number)
        return self._parts.get(part_digest)

    def _read(self, number: int) -> Mapping[str, Part]:
        name = self._names.get(number)
        if name is None:
            return {}
        data = read_bytes(self._folder / name)
        if digest(data) not in name:
            return {}
        try:
            return decipher_joined(data, columns=self._columns)
        except PartError:
            return {}


def join_next(run_dir: Path, parts: Mapping[int, Path]) -> None:
    """Join the newest parts that can be joined and aren't yet; under the run's lock. Raise StorageError.

    `parts` are all, by number. Takes a quarter of a second where there is something to join.
    """
    names = _names(run_dir)
    for number in range(max(parts, default=0) // _PARTS_A_FILE - 1, -1, -1):
        sequences = range(number * _PARTS_A_FILE + 1, (number + 1) * _PARTS_A_FILE + 1)
        if number in names or not parts.keys() >= set(sequences):
            continue
        data = _joined([parts[sequence] for sequence in sequences])
        if data is not None:
            folder = run_dir / JOINED_DIR
            make_dir(folder)
            sweep_temporaries(folder)
            replace_bytes(folder / f"{number:06}-{digest(data)}.parquet", data)
            return


def _joined(paths: Sequence[Path]) -> bytes | None:
    """Return the bytes of a file of these parts; None of large ones, and of such as whoever reads them will name."""
    try:
        if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
            return None
        read = [read_bytes(path) for path in paths]
        return build_joined({digest(data): decipher_part(data) for data in read})
    except (FileNotFoundError, PartError):
        return None


def _number_of(sequence: int) -> int:
    """Return the number of the file that a part's number belongs in."""
    return (sequence - 1) // _PARTS_A_FILE


def _names(run_dir: Path) -> dict[int, str]:
    matches = (_NAME.fullmatch(name) for name in list_names(run_dir / JOINED_DIR))
    return {int(match[1]): match[0] for match in matches if match}
