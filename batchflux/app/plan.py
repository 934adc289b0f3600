"""What `run` would do, and nothing more: cells, money, time, disk and the first requests. Writes and sends nothing."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from batchflux.app.job import Job, shown_path
from batchflux.app.outlook import Outlook, look_ahead
from batchflux.app.reading import read_known
from batchflux.app.replicate import to_replicate
from batchflux.app.resume import Known, PaceSeen
from batchflux.app.reuse import Reuse, find_reuse
from batchflux.app.rundir import RunIdentity
from batchflux.core.budget import usd
from batchflux.core.model import CellStatus, JsonValue
from batchflux.core.pricing import PriceList
from batchflux.core.progress import STATUS_CODES, count_codes
from batchflux.engine.observers import duration
from batchflux.io.limitsfile import read_limits

__all__ = ["LEVELS", "Plan", "make_plan", "price_of_cells"]

# Images a minute by account level. Source: the documentation's account levels, the newer of two copies.
LEVELS = {"bronze": 2, "silver": 500, "gold": 3000, "ultra": 5000}

# About what a 1-megapixel PNG takes; only until a run has shown its own.
_GUESSED_IMAGE_BYTES = 1_500_000
_RETENTION_H = 7 * 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of the job would do. Money in USD; `cost_usd` and `images` are of what is left to pay.

    `kept` cells are known to the run directory, `new` ones aren't, `retired` ones were run and have left the job;
    `done` are final. `cost_usd` is None where nothing tells a model's price; `prices_usd` are of an image, by model,
    the dearest where parameters change it, and `cheapest_usd` the least then. `reused` cells are taken over from
    earlier runs, of the new ones, and `saved_usd` is what they would have cost. `replicates` cells are submitted a
    second time; `to_pay`, `images` and `cost_usd` count those too, of which `replicates_usd` is the price. `limit` is
    the one that binds, as far as is known; `forecast` is None where nothing was measured, here or in a run named.
    """

    name: str
    run_dir: str
    rows: int
    axes: dict[str, int]
    cells: int
    kept: int
    new: int
    retired: int
    done: int
    to_pay: int
    images: int
    cost_usd: float | None
    prices_usd: dict[str, float | None]
    cheapest_usd: dict[str, float | None]
    hours: dict[str, float]
    disk_bytes: int
    repeated_cells: int
    repeated_usd: float | None
    first_requests: list[dict[str, JsonValue]]
    warnings: list[str] = field(default_factory=list)
    limit: str | None = None
    reused: int = 0
    saved_usd: float | None = 0.0
    replicates: int = 0
    replicates_usd: float | None = 0.0
    forecast: Outlook | None = None

    def as_json(self) -> str:
        """Return the plan as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def lines(self) -> list[tuple[str, str]]:
        """Return the plan as (what, how much) pairs for people."""
        axes = " × ".join([_counted(self.rows, "row"), *(_axis(name, size) for name, size in self.axes.items())])
        pairs = [
            ("cells", f"{self.cells:,}  ({axes})"),
            ("kept, new, retired", f"{self.kept:,} kept, {self.new:,} new, {self.retired:,} retired"),
            ("done already", f"{self.done:,}"),
            ("left to pay", f"{self.to_pay:,} cells, {self.images:,} images"),
            ("cost", f"{_money(self.cost_usd)}  ({self._prices()})"),
        ]
        if self.reused:
            pairs.insert(3, ("taken over", f"{self.reused:,} from earlier runs, which saves {_money(self.saved_usd)}"))
        if self.replicates:
            again = f"{self.replicates:,} of these cells are a second submission: {_money(self.replicates_usd)}"
            pairs.append(("submitted twice", again))
        if self.repeated_cells:
            pairs.append(
                ("repeated", f"{self.repeated_cells:,} cells repeat another's request: {_money(self.repeated_usd)}")
            )
        if self.images:
            times = "; ".join(f"{level} {duration(hours * 3600)}" for level, hours in self.hours.items())
            if self.limit is not None:
                pairs.append(("limit", self.limit))
            pairs += [("time at least", times), *self._forecast(), ("disk", f"about {_size(self.disk_bytes)}")]
        return [*pairs, ("run directory", shown_path(Path(self.run_dir)))]

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.lines())
        text = [f"{self.name}", *(f"  {what:<{width}}  {much}" for what, much in self.lines())]
        text += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(text)

    def _forecast(self) -> list[tuple[str, str]]:
        if self.forecast is not None:
            return self.forecast.lines(run_dir=self.run_dir)
        return [("forecast", "none: no run was measured yet; a run's first 20 cells tell")]

    def _prices(self) -> str:
        said = []
        for model, price in self.prices_usd.items():
            least = self.cheapest_usd[model]
            spread = f"{_money(least)} to {_money(price)}" if least != price else _money(price)
            said.append(f"{spread} an image" + (f" of {model}" if len(self.prices_usd) > 1 else ""))
        return ", ".join(said)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in self.lines())
        warnings = "".join(f"<p>⚠ {escape(warning)}</p>" for warning in self.warnings)
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>{warnings}"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _axis(name: str, size: int) -> str:
    return _counted(size, name if name in ("seed", "model") else f"{name} value")


def _money(amount: float | None) -> str:
    return "unknown: say run.price" if amount is None else usd(round(amount * 1_000_000))


def _size(n_bytes: int) -> str:
    size, unit = float(n_bytes), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


def make_plan(
    job: Job,
    *,
    prices: PriceList | None = None,
    known: Known | None = None,
    reuse: Reuse | None = None,
    against: Job | None = None,
) -> Plan:
    """Return what a run of the job would do.

    `prices` default to the spec's or the list price; `known` is what an earlier run
    left, read from the run directory where not given, `reuse` what is taken over. Where this run and those reused
    measured nothing, a run of `against` with the same service is asked. Raises UsageError, CheckpointDamaged.
    """
    grid, spec = job.grid, job.spec
    if known is None:
        identity = RunIdentity.read(job.run_dir)
        known = read_known(grid, job.run_dir, identity)
        reuse = find_reuse(job, known, origin=identity.origin if identity is not None else spec.api.origin)
        if spec.run.on_unknown == "resubmit":
            known = known.taking_up(CellStatus.UNKNOWN)
    if prices is None:
        listed = {model: spec.list_price_micro_usd(model) for model in spec.models}
        prices = PriceList(an_image={model: price for model, price in listed.items() if price is not None})
    counts = count_codes(known.statuses)
    saved = 0
    if reuse is not None:
        known = reuse.over(known)
        saved = sum(int(prices.of_many(np.flatnonzero(source.cells), job.shapes).sum()) for source in reuse.sources)
    to_pay, images, cost = price_of_cells(job, known, prices)
    again = to_replicate(job, known, prices)
    to_pay, images, cost = to_pay + again.cells, images + again.images, cost + again.cost_micro_usd
    paces = [(job.run_dir, known.pace), *(reuse.paces if reuse is not None else ())]
    ahead = look_ahead(job, paces, cells=to_pay, images=images)
    if ahead is None and against is not None:
        ahead = look_ahead(job, _paces_of(against, beside=job), cells=to_pay, images=images)
    limits = read_limits(job.run_dir)
    repeated = grid.repeated()
    costs_known = all(model in prices.an_image for model in spec.models)
    repeated_micro_usd = int(prices.of_many(repeated, job.shapes).sum())
    hours = {level: images / rate / 60 for level, rate in LEVELS.items()}
    if (measured := known.pace.measured) is not None:
        hours["as this run did"] = to_pay / measured.per_s / 3600
    if spec.run.rate_limit_per_s is not None:
        hours["your rate_limit"] = images / spec.run.rate_limit_per_s / 3600
    return Plan(
        name=job.name,
        run_dir=str(job.run_dir),
        rows=grid.rows.n_rows,
        axes={axis.name: len(axis.values) for axis in grid.axes},
        cells=grid.n_cells,
        kept=known.n_kept,
        new=grid.n_cells - known.n_kept,
        retired=known.n_retired,
        done=int(counts[STATUS_CODES[CellStatus.COMPLETED]] + counts[STATUS_CODES[CellStatus.FAILED]]),
        to_pay=to_pay,
        images=images,
        cost_usd=cost / 1e6 if costs_known else None,
        prices_usd={model: _usd(prices.an_image.get(model)) for model in spec.models},
        cheapest_usd={model: _usd(_cheapest(job, prices, model)) for model in spec.models},
        hours=hours,
        disk_bytes=images * (known.pace.image_bytes or _GUESSED_IMAGE_BYTES) if spec.output.download else 0,
        repeated_cells=len(repeated),
        repeated_usd=repeated_micro_usd / 1e6 if costs_known else None,
        first_requests=_first_requests(job, known),
        warnings=[*job.warnings, *_warnings(job, hours)],
        limit=ahead.limit if ahead is not None else limits.binds if limits is not None else None,
        reused=reuse.n_cells if reuse is not None else 0,
        saved_usd=saved / 1e6 if costs_known else None,
        replicates=again.cells,
        replicates_usd=again.cost_micro_usd / 1e6 if costs_known else None,
        forecast=ahead,
    )


def _paces_of(other: Job, *, beside: Job) -> list[tuple[Path, PaceSeen]]:
    """Return how fast another job's run was, where it was one of the same service."""
    identity, ours = RunIdentity.read(other.run_dir), RunIdentity.read(beside.run_dir)
    if identity is None or identity.origin != (ours.origin if ours is not None else beside.spec.api.origin):
        return []
    return [(other.run_dir, read_known(other.grid, other.run_dir, identity).pace)]


def price_of_cells(job: Job, known: Known, prices: PriceList) -> tuple[int, int, int]:
    """Return (cells, images, micro-USD) of what is left to pay, by arithmetic on slices of the grid."""
    cells = images = cost = 0
    for indexes in job.grid.in_order("rows"):
        left = indexes[known.statuses[indexes] == STATUS_CODES[CellStatus.PENDING]]
        if len(left):
            cells += len(left)
            images += int(job.grid.images_of(left).sum())
            cost += int(prices.of_many(left, job.shapes).sum())
    return cells, images, cost


def _cheapest(job: Job, prices: PriceList, model: str) -> int | None:
    """Return the least that an image of a model is known to cost, in micro-USD."""
    told = ((job.shapes.shape(number), price) for number, price in prices.of_shape.items())
    quoted = [price // max(1, shape.images) for shape, price in told if shape.model == model]
    dearest = prices.an_image.get(model)
    return dearest if dearest is None else min([dearest, *quoted])


def _usd(micro_usd: int | None) -> float | None:
    return None if micro_usd is None else micro_usd / 1e6


def _first_requests(job: Job, known: Known, *, n: int = 3) -> list[dict[str, JsonValue]]:
    requests: list[dict[str, JsonValue]] = []
    for index in known.pending(job.grid, job.spec.run.order):
        cell = job.grid.cell(index, job.rows.part(index // job.grid.n_combinations))
        requests.append(
            {"cell_id": cell.cell_id, "prompt_id": cell.prompt_id, "model": cell.model, "body": dict(cell.body)}
        )
        if len(requests) == n:
            break
    return requests


def _warnings(job: Job, hours: Mapping[str, float]) -> list[str]:
    warnings = []
    slowest = hours.get("your rate_limit", hours.get("as this run did"))
    late = [level for level, needed in hours.items() if needed > _RETENTION_H]
    if late and not job.spec.output.download:
        warnings.append(
            f"at the rate of {', '.join(late)} this outlasts the 7 days after which the service deletes results; "
            "with output.download: false the first images are gone before the last are made"
        )
    elif slowest is not None and slowest > _RETENTION_H:
        warnings.append(
            "this runs longer than the 7 days for which the service keeps results; images are saved as it runs"
        )
    if job.spec.run.on_nsfw == "reseed":
        warnings.append(
            f"cells with flagged images are drawn anew, each up to {job.spec.run.max_redo} times, at a price on top of "
            "this, in a run directory beside this one"
        )
    if job.seedless_rows == job.grid.rows.n_rows:
        warnings.append("no seed is given, so each cell sends one drawn from its content")
    elif job.seedless_rows:
        warnings.append(f"rows without a seed: {job.seedless_rows:,}; their cells send one drawn from their content")
    return warnings
