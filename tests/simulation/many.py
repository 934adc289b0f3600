"""Runs as many seeds as asked for: `python -m tests.simulation.many 10000 [first seed]`; ends with a line of totals."""

import sys
import time
import traceback
from collections import Counter

from tests.simulation.plans import draw_plan
from tests.simulation.world import Story, live


def main(arguments: list[str]) -> int:
    """Run the seeds; returns 1 where one of them failed."""
    count = int(arguments[0]) if arguments else 1000
    first = int(arguments[1]) if len(arguments) > 1 else 0
    began_s = time.monotonic()
    stories: list[Story] = []
    failures: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            stories.append(live(draw_plan(seed)))
        except Exception as error:  # noqa: BLE001 - one seed's failure is told, and the next seed runs
            words = f"{type(error).__name__}: {str(error)[:200]}"
            failures[words[:60]] += 1
            sys.stdout.write(f"seed {seed}: {words}\n")
            if count == 1:
                traceback.print_exc()
    sys.stdout.write(closing_line(stories, failed=sum(failures.values()), took_s=time.monotonic() - began_s) + "\n")
    for words, times in failures.most_common():
        sys.stdout.write(f"  {times} x {words}\n")
    return 1 if failures else 0


def closing_line(stories: list[Story], *, failed: int, took_s: float) -> str:
    """Return the totals in one line."""
    cells, sessions = sum(each.cells for each in stories), sum(each.sessions for each in stories)
    crashes, posts = sum(each.crashes for each in stories), sum(each.submissions for each in stories)
    created, adopted = sum(each.created for each in stories), sum(each.adopted for each in stories)
    unknown, hours = sum(each.unknown for each in stories), sum(each.virtual_s for each in stories) / 3600
    return (
        f"{len(stories)} seeds passed, {failed} failed: {cells} cells, {sessions} sessions, {crashes} crashes, "
        f"{posts} submissions, {created} created, {adopted} adopted, {unknown} held unknown, "
        f"{hours:.0f} virtual hours in {took_s:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
