"""A small job as plain values, written to files in many spellings, and what it naively asks for: the edits' oracle.

Shares no code with the package: bodies are expanded one by one here, defaults are written out again, and a seed that
the program draws is known only by what it is drawn from.
"""

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX = "wavespeed-ai/flux-kontext-max/text-to-image"
PRO = "wavespeed-ai/flux-kontext-pro/text-to-image"
PRICE_USD = Decimal("0.08")

# The model page's defaults: a request without one of these asks for the same as a request that states it.
_DEFAULTS: Mapping[str, Any] = {"aspect_ratio": "1:1", "num_images": 1, "guidance_scale": 3.5, "safety_tolerance": "2"}

_NUMERIC = {"seed", "guidance_scale", "num_images"}

Row = dict[str, str]
Ask = tuple[str, str, str]  # model, the body in canonical form without a drawn seed, what the seed is drawn from


@dataclass(kw_only=True)
class Draft:
    """One job. Rows hold text under `prompt`, `id`, `note` and parameters, "" where a row doesn't say.

    `axes` hold lists or forms as a spec has them. The last six say how and where it is written, which buys nothing.
    """

    rows: list[Row]
    axes: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    row_params: list[str] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    limit: int | None = None
    has_ids: bool = False
    template: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    form: str = "csv"
    columns_turned: int = 0
    keys_turned: int = 0
    is_long_spelling: bool = False
    is_extended: bool = False
    is_split: bool = False
    run: dict[str, Any] = field(default_factory=dict)
    spec_name: str = "job.yaml"
    table_name: str = "prompts"
    home: str = "."
    run_dir: str = "results"

    # ------------------------------------------------------------------------------------------ what it asks for

    def asks(self) -> Counter[Ask]:
        """Return every request of the job as a multiset."""
        asks: Counter[Ask] = Counter()
        drawn: Counter[tuple[str, str]] = Counter()
        by_row: Counter[tuple[str, str]] = Counter()
        axes = {name: _values(name, form) for name, form in self.axes.items()}
        for row in self.rows[: self.limit]:
            for values in product(*axes.values()):
                chosen = dict(zip(axes, values, strict=True))
                model = chosen.pop("model", MAX)
                own = {name: _typed(name, row[name]) for name in self.row_params if row.get(name)}
                if any(all(chosen.get(name) == wanted for name, wanted in rule.items()) for rule in self.exclude):
                    continue
                words = {name: chosen.pop(name) for name in list(chosen) if f"{{{name}}}" in (self.template or "")}
                prompt = row["prompt"] if self.template is None else self.template.format(**{**row, **words})
                body = without_defaults({"prompt": prompt, **self.params, **own, **chosen}, model=model)
                seed = body.get("seed")
                if seed is None or isinstance(seed, tuple):
                    body.pop("seed", None)
                source = ""
                if seed is None:
                    key = (model, canonical(body))
                    source = f"drawn {drawn[key]}"
                    drawn[key] += 1
                elif isinstance(seed, tuple) and seed[0] == "row":
                    place = (model + repr(seed), canonical(body))
                    source = f"{seed} {by_row[place]}"
                    by_row[place] += 1
                elif isinstance(seed, tuple):
                    source = repr(seed)
                asks[model, canonical(body), source] += 1
        return asks

    # ------------------------------------------------------------------------------------------ how it is written

    def write(self, root: Path) -> Path:
        """Write spec and tables beneath `root`; returns the spec's path."""
        folder = root / self.home
        folder.mkdir(parents=True, exist_ok=True)
        keys: dict[str, Any] = {
            "prompts": {"path": self._write_tables(folder), **self._how()},
            "grid": self.axes,
            "exclude": self.exclude,
            "params": self.params,
            "run": self.run,
            "output": {"dir": self.run_dir, "download": False},
        }
        keys = {key: value for key, value in keys.items() if value}
        if self.is_extended:
            lifted: dict[str, Any] = {key: keys.pop(key) for key in ("params", "output") if key in keys}
            _write_spec(folder / "base.yaml", lifted, long=self.is_long_spelling)
            keys = {"extends": "base.yaml", **keys}
        turned = list(keys)[self.keys_turned % len(keys) :] + list(keys)[: self.keys_turned % len(keys)]
        path = folder / self.spec_name
        _write_spec(path, {key: keys[key] for key in turned}, long=self.is_long_spelling)
        return path

    def _how(self) -> dict[str, Any]:
        columns: dict[str, str] = {}
        if self.template is None:
            columns["prompt"] = self._name("prompt")
        if self.has_ids:
            columns["id"] = self._name("id")
        columns |= {name: self._name(name) for name in self.row_params}
        how: dict[str, Any] = {"columns": columns, "template": self.template, "limit": self.limit}
        return {key: value for key, value in how.items() if value}

    def _name(self, column: str) -> str:
        return self.names.get(column, column)

    def _write_tables(self, folder: Path) -> list[str] | str:
        wanted = ["prompt", *(["id"] if self.has_ids else []), *self.row_params, "note"]
        turn = self.columns_turned % len(wanted)
        wanted = wanted[turn:] + wanted[:turn]
        half = len(self.rows) // 2
        groups = [self.rows[:half], self.rows[half:]] if self.is_split and half else [self.rows]
        written = []
        for number, rows in enumerate(groups):
            path = folder / f"{self.table_name}{number}.{self.form}"
            _write_table(path, {self._name(name): [row.get(name, "") for row in rows] for name in wanted})
            written.append(path.name)
        return written if len(written) > 1 else written[0]


def _values(name: str, form: Any) -> list[Any]:
    match form:
        case {"count": count}:
            return [form.get("start", 0) + step for step in range(count)]
        case {"random": count, "per_row": True}:
            return [("row", form.get("key", 0), place) for place in range(count)]
        case {"random": count}:
            return [("axis", form.get("key", 0), place) for place in range(count)]
        case {"start": start, "stop": stop, "num": num}:
            low, step = Decimal(str(start)), (Decimal(str(stop)) - Decimal(str(start))) / (num - 1)
            return [float(low + place * step) for place in range(num)]
        case list():
            return form
    raise AssertionError(f"no such form of {name}: {form}")


def _typed(name: str, text: str) -> Any:
    return float(text) if name in _NUMERIC else text


def without_defaults(body: Mapping[str, Any], *, model: str) -> dict[str, Any]:
    """Return a body without what is at the model's default; of a model that nothing ships for, all of it."""
    defaults = _DEFAULTS if model == MAX else {}
    return {name: value for name, value in body.items() if name not in defaults or value != defaults[name]}


def canonical(body: Mapping[str, Any]) -> str:
    """Return the one text of a body, 5 and 5.0 alike."""
    plain = {k: float(v) if isinstance(v, int | float) else v for k, v in body.items()}
    return json.dumps(plain, sort_keys=True)


# ---------------------------------------------------------------------------------------------------- files


def _write_spec(path: Path, keys: Mapping[str, Any], *, long: bool) -> None:
    path.write_text("".join(f"{key}: {_flow(value, long=long)}\n" for key, value in keys.items()), encoding="utf-8")


def _flow(value: Any, *, long: bool) -> str:
    """Return a value in YAML's flow style; the long spelling writes 3.5 as 3.500 and 5 as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_flow(v, long=long)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item, long=long) for item in value) + "]"
    if isinstance(value, float) and long:
        return f"{value!r}00"
    return json.dumps(value)


def _write_table(path: Path, columns: Mapping[str, list[str]]) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({key: pa.array(values, pa.string()) for key, values in columns.items()}), path)
    elif name.endswith(".jsonl"):
        # Numbers as numbers and null where a row doesn't say, as whoever writes JSON would.
        typed = [{key: _json_value(key, text) for key, text in row.items()} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in typed), encoding="utf-8")
    else:
        tab = ".tsv" in name
        lines = [list(columns), *[list(row.values()) for row in rows]]
        joined = ["\t".join(line) if tab else ",".join(_quoted(text) for text in line) for line in lines]
        data = ("\n".join(joined) + "\n").encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def _json_value(key: str, text: str) -> Any:
    return (float(text) if key in _NUMERIC else text) if text else None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in '",\n') else text
