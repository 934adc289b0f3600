"""Flagged images left out: what stays keeps its order, and each output its own flag."""

from hypothesis import given
from hypothesis import strategies as st

from batchflux.core.flagged import drop_flagged, dropped_note, unflagged
from batchflux.core.model import Prediction

_FLAGS = st.lists(st.sampled_from([None, False, True]), max_size=6)


@given(flags=_FLAGS, unsaid=st.integers(0, 3))
def test_what_stays_is_in_line(flags: list[bool | None], unsaid: int) -> None:
    """Of any flags, some outputs without one: the flagged are gone, all others stay with what was said of them."""
    outputs = [f"u{number}" for number in range(len(flags) + unsaid)]
    said = dict(zip(outputs, flags, strict=False))
    found = drop_flagged(Prediction(id="x", status="completed", outputs=tuple(outputs), has_nsfw_contents=tuple(flags)))
    assert list(found.outputs) == [each for each in outputs if said.get(each) is not True]
    assert dict(zip(found.outputs, found.has_nsfw_contents, strict=False)) == {
        each: flag for each, flag in said.items() if flag is not True
    }
    assert unflagged(len(outputs), flags) == tuple(outputs.index(each) for each in found.outputs)
    dropped = flags.count(True)
    assert dropped_note(len(outputs), len(found.outputs)) == (
        (f"{dropped} of {len(outputs)} images flagged by the service and dropped",) if dropped else ()
    )
