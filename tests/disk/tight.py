"""A job on a small file system of its own that is filled to the last byte while a run is at work.

`python -m tests.disk.tight FOLDER SERVICE` does that in FOLDER, the service's own memory being in SERVICE; the test
mounts the file system there, in a namespace where that is allowed to everyone. Prints how many runs met a full disk.
"""

import sys
import tempfile
from pathlib import Path

from batchflux.sandbox import FaultRule, FaultScript
from tests.disk.test_failing import check_refusal
from tests.kills.lives import Life, Plan
from tests.kills.points import Strike
from tests.kills.victim import Victims

__all__ = ["FULL_AT"]

# Where the disk becomes full: the table, the journal, an image, a new journal, a part, the manifest.
FULL_AT = (
    "open new prompts.parquet 1",
    "write journal 6",
    "write new image 2",
    "open new journal 3",
    "write new part 1",
    "publish results 1",
)


# Answers take a while, so that submissions are open when the disk becomes full.
SLOW = FaultScript(rules=(FaultRule(on="submit", do="delay", when="after", seconds=0.2),))


def main(folder: Path, service: Path) -> None:
    """Fill the disk at each point, make room again, and finish."""
    with tempfile.TemporaryDirectory() as scratch, Victims(Path(scratch)) as victims:
        for place in FULL_AT:
            *words, nth = place.split()
            name = "-".join(words)
            plan = Plan(rows=4, download=True, faults=SLOW)
            with Life.begun(folder / name, plan, victims, service_dir=service / name) as life:
                end = life.run(Strike(act="fill", point=" ".join(words), nth=int(nth)))
                check_refusal(end)
                assert "No space left on device" in end.err, end.err
                assert place == FULL_AT[0] or life.unanswered() == 0, f"{place}: answers are lost"
                (folder / name / "filler").unlink()
                end = life.finish()
                assert place != FULL_AT[-1] or "send submit" not in end.passages, "the state itself was unharmed"
    sys.stdout.write(f"{len(FULL_AT)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
