"""Which of a prediction's images the service flagged, and which stay where the job drops flagged ones. Pure.

What was dropped stands in no list: outputs, flags, files and hashes of a cell go on speaking of the same images.
"""

from collections.abc import Sequence
from dataclasses import replace

from batchflux.core.model import Prediction

__all__ = ["drop_flagged", "dropped_note", "unflagged"]


def unflagged(n_outputs: int, flags: Sequence[bool | None]) -> tuple[int, ...]:
    """Return the places of the outputs that are not flagged; one of which nothing is said is none."""
    return tuple(place for place in range(n_outputs) if place >= len(flags) or not flags[place])


def drop_flagged(prediction: Prediction) -> Prediction:
    """Return a prediction without its flagged outputs."""
    outputs, flags = prediction.outputs, prediction.has_nsfw_contents
    kept = unflagged(len(outputs), flags)
    if len(kept) == len(outputs):
        return prediction
    return replace(
        prediction,
        outputs=tuple(outputs[place] for place in kept),
        has_nsfw_contents=tuple(flags[place] for place in kept if place < len(flags)),
    )


def dropped_note(n_outputs: int, n_kept: int) -> tuple[str, ...]:
    """Return the warning that a cell gets for images that were dropped, if any."""
    n_dropped = n_outputs - n_kept
    return (f"{n_dropped} of {n_outputs} images flagged by the service and dropped",) if n_dropped else ()
