"""The sweep's figures: what each axis does to times and rates, and how the run went over its time. Pure arithmetic.

An axis is said to show an effect only where a test says so after correction for all the tests of the page (Holm, at
5 %), so that a page on which nothing is the matter says otherwise in one case of twenty.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from batchflux.core.model import CellStatus
from batchflux.core.progress import STATUS_CODES
from batchflux.report.cells import Cells, axis_words
from batchflux.report.sentences import tell
from batchflux.report.statistics import Interval, Test, compare, holm, median_interval, wilson

__all__ = ["Axis", "Effect", "Metric", "Rate", "Spread", "Sweep", "Timeline", "Value", "build_sweep"]

Metric = Literal["inference_ms", "latency_ms", "failed", "nsfw"]
METRICS: tuple[Metric, ...] = ("inference_ms", "latency_ms", "failed", "nsfw")

_ALPHA = 0.05
_SLOWEST = 20
_BINS = 120

# An axis of more values than this is a list of samples rather than a scale: its chart shows the first ones.
MOST_VALUES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How times are distributed, in ms; the median with its interval, None where too few cells give one."""

    n: int
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of cells, 0 to 1, with Wilson's interval."""

    hits: int
    n: int
    share: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """The cells with one value of an axis: None where none has told."""

    value: str
    cells: int
    inference_ms: Spread | None
    latency_ms: Spread | None
    failed: Rate | None
    nsfw: Rate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an axis does to one metric: `p` after correction, None where there is too little to tell by."""

    metric: Metric
    is_effect: bool | None
    p: float | None
    test: Test | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis with its values in their order, and what it does."""

    name: str
    values: list[Value]
    n_values: int
    effects: list[Effect]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The run over its time, in bins of equal length; `in_flight` is a mean, `spent_usd` a sum so far."""

    begin_at_ms: int
    bin_ms: float
    completed_per_min: list[float]
    in_flight: list[float]
    spent_usd: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All figures of a run's sweep; `slowest` and `failed` are grid indexes."""

    cells: int
    by_status: dict[str, int]
    errors: dict[str, int]
    inference_ms: Spread | None
    latency_ms: Spread | None
    failed: Rate | None
    nsfw: Rate | None
    cost_usd: float
    axes: list[Axis]
    timeline: Timeline | None
    slowest: list[int]
    failed_cells: list[int]

    def as_mapping(self) -> dict[str, Any]:
        """Return it as values that JSON has a form for."""
        return asdict(self)


def build_sweep(cells: Cells) -> Sweep:
    """Return a run's figures. About a second for 100,000 cells and four axes."""
    everything = cells.status != 255
    counts = np.bincount(cells.status, minlength=256)
    metrics = {metric: _known(cells, metric) for metric in METRICS}
    # A failed prediction's time is how long failing took: it says nothing about how long images take.
    is_slow = np.where(cells.with_status(CellStatus.COMPLETED), cells.inference_ms, -1)
    if is_slow.max(initial=-1) < 0:
        is_slow = np.where(cells.with_status(CellStatus.COMPLETED), cells.latency_ms, -1)
    slowest = np.argsort(-is_slow, kind="stable")[:_SLOWEST]
    failed = np.flatnonzero(cells.with_status(CellStatus.FAILED))
    kinds = np.bincount(cells.kind, minlength=len(cells.kinds.texts)).tolist()
    return Sweep(
        cells=int(everything.sum()),
        by_status={str(status): int(counts[code]) for status, code in STATUS_CODES.items()},
        errors={text: count for text, count in zip(cells.kinds.texts, kinds, strict=True) if text and count},
        inference_ms=_spread(*metrics["inference_ms"]),
        latency_ms=_spread(*metrics["latency_ms"]),
        failed=_rate(*metrics["failed"]),
        nsfw=_rate(*metrics["nsfw"]),
        cost_usd=int(cells.cost_micro_usd.sum()) / 1e6,
        axes=_axes(cells, metrics),
        timeline=_timeline(cells),
        slowest=[int(index) for index in slowest if is_slow[index] >= 0],
        failed_cells=failed.tolist(),
    )


_Known = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def _known(cells: Cells, metric: Metric) -> _Known:
    """Return a metric's values over the grid's indexes, and where they are known."""
    completed = cells.with_status(CellStatus.COMPLETED)
    match metric:
        case "inference_ms":
            return cells.inference_ms.astype(np.float64), completed & (cells.inference_ms >= 0)
        case "latency_ms":
            return cells.latency_ms.astype(np.float64), completed & (cells.latency_ms >= 0)
        case "failed":
            failed = cells.with_status(CellStatus.FAILED)
            return failed.astype(np.float64), failed | completed
        case "nsfw":
            return (cells.nsfw == 1).astype(np.float64), completed & (cells.nsfw >= 0)


def _spread(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> Spread | None:
    ordered = np.sort(values[known])
    if len(ordered) == 0:
        return None
    p5, p25, median, p75, p95 = np.quantile(ordered, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    interval = median_interval(ordered)
    return Spread(n=len(ordered), p5=p5, p25=p25, median=median, p75=p75, p95=p95, interval=interval)


def _rate(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> Rate | None:
    n, hits = int(known.sum()), int(values[known].sum())
    interval = wilson(hits, n)
    return None if interval is None else Rate(hits=hits, n=n, share=hits / n, interval=interval)


def _axes(cells: Cells, metrics: dict[Metric, _Known]) -> list[Axis]:
    found = []
    for axis in cells.grid.axes:
        places = cells.axis_places(axis.name)
        words = axis_words(cells.grid, axis.name)
        blocks = _blocks(cells, axis.name)
        # A seed that is drawn anew for each row is no value that rows share: nothing can hang on its number.
        tests = {metric: _test(metric, metrics[metric], places, blocks, len(words)) for metric in METRICS}
        found.append((axis.name, words, _values(cells, metrics, places, words), tests))
    flat = [(name, metric) for name, _, _, tests in found for metric, test in tests.items() if test is not None]
    told = {(name, metric): test for name, _, _, tests in found for metric, test in tests.items() if test is not None}
    corrected = dict(zip(flat, holm([told[key].p for key in flat]), strict=True))
    return [
        Axis(
            name=name,
            values=values,
            n_values=len(words),
            effects=[_effect(metric, values, tests[metric], corrected.get((name, metric))) for metric in METRICS],
        )
        for name, words, values, tests in found
    ]


def _test(
    metric: Metric, known: _Known, places: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], n_values: int
) -> Test | None:
    values, is_known = known
    # What never happens, or always does, differs between no values.
    if n_values < 2 or not is_known.any() or np.ptp(values[is_known]) == 0:
        return None
    is_share = metric in ("failed", "nsfw")
    return compare(values[is_known], places[is_known], blocks[is_known], n_values, is_share=is_share)


def _values(
    cells: Cells, metrics: dict[Metric, _Known], places: npt.NDArray[np.int64], words: list[str]
) -> list[Value]:
    values = []
    for place, word in enumerate(words[:MOST_VALUES]):
        here = (places == place) & (cells.status != 255)
        inference, latency, failed, nsfw = ((metrics[metric][0], metrics[metric][1] & here) for metric in METRICS)
        values.append(
            Value(
                value=word,
                cells=int(here.sum()),
                inference_ms=_spread(*inference),
                latency_ms=_spread(*latency),
                failed=_rate(*failed),
                nsfw=_rate(*nsfw),
            )
        )
    return values


def _blocks(cells: Cells, name: str) -> npt.NDArray[np.int64]:
    """Return, for every index, the number of its row and all its other axes' values."""
    grid = cells.grid
    combinations = np.arange(grid.n_combinations, dtype=np.int64).reshape(grid.shape)
    place = next(place for place, axis in enumerate(grid.axes) if axis.name == name)
    others = np.broadcast_to(np.take(combinations, [0], axis=place), grid.shape).reshape(-1)
    rows = np.repeat(np.arange(grid.rows.n_rows, dtype=np.int64), grid.n_combinations)
    blocks: npt.NDArray[np.int64] = rows * grid.n_combinations + np.tile(others, grid.rows.n_rows)
    return blocks


def _effect(metric: Metric, values: list[Value], test: Test | None, p: float | None) -> Effect:
    is_effect = None if p is None else p <= _ALPHA
    return Effect(
        metric=metric,
        is_effect=is_effect,
        p=p,
        test=test,
        sentence=tell(
            metric,
            [(value.value, _middle(value, metric), _count(value, metric)) for value in values],
            is_effect=is_effect,
            p=p,
        ),
    )


def _middle(value: Value, metric: Metric) -> float | None:
    match getattr(value, metric):
        case Spread() as spread:
            return spread.median
        case Rate() as rate:
            return rate.share
        case _:
            return None


def _count(value: Value, metric: Metric) -> int:
    told = getattr(value, metric)
    return 0 if told is None else int(told.n)


def _timeline(cells: Cells) -> Timeline | None:
    sent = cells.submitted_at_ms[cells.submitted_at_ms >= 0]
    is_done = (cells.submitted_at_ms >= 0) & (cells.completed_at_ms >= 0)
    done = cells.completed_at_ms[is_done]
    if len(sent) == 0 or len(done) == 0:
        return None
    begin = int(sent.min())
    end = max(int(done.max()), begin + 1)
    n_bins = int(np.clip(len(done) // 4, 1, _BINS))
    bin_ms = (end - begin) / n_bins
    edges = begin + bin_ms * np.arange(n_bins + 1)
    completed, _ = np.histogram(done, bins=edges)
    spent, _ = np.histogram(done, bins=edges, weights=cells.cost_micro_usd[is_done] / 1e6)
    begun = np.sort(cells.submitted_at_ms[is_done])
    # How many were open at an edge, and how long they were within a bin: the mean is that time over the bin's length.
    open_ms = np.array([np.clip(edge - begun, 0, None).sum() - np.clip(edge - done, 0, None).sum() for edge in edges])
    return Timeline(
        begin_at_ms=begin,
        bin_ms=bin_ms,
        completed_per_min=(completed / (bin_ms / 60_000)).tolist(),
        in_flight=(np.diff(open_ms) / bin_ms).tolist(),
        spent_usd=np.cumsum(spent).tolist(),
    )
