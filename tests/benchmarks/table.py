"""What a benchmark hands back: rows, each a figure beside the baseline that was measured in the same run."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Row", "compared", "lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `ratio` is value over baseline, `runs` of how many pairs; `target` says what it must reach."""

    name: str
    value: float
    unit: str
    baseline: str = ""
    baseline_value: float | None = None
    ratio: float | None = None
    target: str = ""
    runs: int = 1


def compared(
    name: str, values: Sequence[float], unit: str, *, baseline: str, against: Sequence[float], target: str = ""
) -> Row:
    """Return a row of interleaved runs: medians of both sides, and the median of the ratios of each pair."""
    return Row(
        name=name,
        value=median(values),
        unit=unit,
        baseline=baseline,
        baseline_value=median(against),
        ratio=median(one / other for one, other in zip(values, against, strict=True)),
        target=target,
        runs=len(values),
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """Return rows as lines of a table."""
    shown = [("", "", "baseline", "", "ratio", "target", "runs")]
    for row in rows:
        against = "" if row.baseline_value is None else f"{row.baseline_value:,.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        shown.append(
            (row.name, f"{row.value:,.4g} {row.unit}", row.baseline, against, ratio, row.target, str(row.runs))
        )
    widths = [max(len(line[column]) for line in shown) for column in range(7)]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in shown]
