"""The dataset card: README.md with the header that the Hugging Face Hub reads, and words for people.

Says what is known and leaves the licence to the user. Whatever comes from the job is escaped: the header is written by
a YAML library, the text shows it as code.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import yaml

from batchflux.export.dataset import DatasetWriter, SplitTotal
from batchflux.export.options import Format

__all__ = ["CardFacts", "build_card"]

_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LOADS: Final[Mapping[Format, str]] = {
    "imagefolder": 'load_dataset("imagefolder", data_dir="path/to/this/folder")',
    "webdataset": 'load_dataset("path/to/this/folder", streaming=True)',
    "parquet": 'load_dataset("path/to/this/folder")',
}
_MEANINGS: Final[Mapping[str, str]] = {
    "cell_id": "the request's content hash; `provenance.json` says how it is made",
    "prompt_id": "the name of the prompt table's row",
    "prompt": "the text that was sent",
    "model": "the model's id at the service",
    "image_number": "which of the request's images this is, from 1",
    "has_nsfw_content": "the service's flag; null where it gave none",
    "sha256": "of the image file as the run saved it",
    "inference_ms": "the service's own timing; null where it gave none",
    "created_at": "when the service took the request, by its clock",
    "warnings": "what was noticed about the request",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card tells. `job` is the spec as it ran."""

    form: Format
    job: Mapping[str, Any]
    models: list[str]
    schema: pa.Schema
    totals: Mapping[str, SplitTotal]
    is_sandbox: bool
    left_out: int
    flagged: int


def build_card(facts: CardFacts, writer: DatasetWriter) -> str:
    """Return the text of README.md."""
    return f"---\n{_header(facts, writer)}---\n\n{_body(facts)}"


def _header(facts: CardFacts, writer: DatasetWriter) -> str:
    n_images = sum(total.images for total in facts.totals.values())
    features = writer.features()
    splits = [
        {"name": split, "num_bytes": total.size_bytes, "num_examples": total.images}
        for split, total in facts.totals.items()
    ]
    header: dict[str, Any] = {
        "pretty_name": _line(str(facts.job.get("name", "dataset"))),
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "batchflux", *(["sandbox"] if facts.is_sandbox else [])],
        "size_categories": [next((name for most, name in _SIZES if n_images < most), "10M<n<100M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": writer.pattern(split)} for split in facts.totals],
            }
        ],
        "dataset_info": {**({"features": features} if features is not None else {}), "splits": splits},
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"# license: yours to state, for example cc-by-4.0; the model's own terms apply to its images\n{text}"


def _body(facts: CardFacts) -> str:
    name = _line(str(facts.job.get("name", "dataset")))
    images = sum(total.images for total in facts.totals.values())
    parts = [
        f"# {_escaped(name)}",
        f"{images:,} images from text prompts, each beside its prompt and every parameter that it was made with.",
    ]
    if facts.is_sandbox:
        parts.append("**A rehearsal: a sandbox drew these images, not the model named below.**")
    parts += [
        "| split | images |\n| --- | --- |\n"
        + "\n".join(f"| {split} | {total.images:,} |" for split, total in facts.totals.items()),
        f"```python\nfrom datasets import load_dataset\n\ndataset = {_LOADS[facts.form]}\n```",
        "## How it was made",
        f"batchflux sent each row of a prompt table with each combination of "
        f"the parameters below to {', '.join(_code(model) for model in facts.models)}, and kept what came back"
        f"{_left_out(facts)}. `job.yaml` is the job as it ran; `provenance.json` holds the digests of its table, the "
        "versions, and how a `cell_id` is computed from a request.",
        _fenced(_recipe(facts.job)),
        "## Columns",
        "| column | type | |\n| --- | --- | --- |\n"
        + "\n".join(
            f"| {_code(field.name)} | {_code(str(field.type))} | {_MEANINGS.get(field.name, '')} |"
            for field in facts.schema
        ),
        "## Licence",
        "Yours to state, here and in the header above. The terms of the model and of the service apply to the images, "
        "those of its source to the prompt table.",
    ]
    return "\n\n".join(parts) + "\n"


def _left_out(facts: CardFacts) -> str:
    said = []
    if facts.flagged:
        said.append(f"{facts.flagged:,} images that the service flagged were dropped")
    if facts.left_out:
        said.append(f"{facts.left_out:,} completed requests have no image on disk and are not here")
    return f"; {' and '.join(said)}" if said else ""


def _recipe(job: Mapping[str, Any]) -> str:
    """Return the parts of a spec that say what was asked for, as YAML."""
    kept = {key: job[key] for key in ("model", "grid", "exclude", "params") if job.get(key)}
    prompts = job.get("prompts")
    if isinstance(prompts, Mapping) and prompts.get("template"):
        kept["template"] = prompts["template"]
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _fenced(text: str) -> str:
    """Return a text as a block of code that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}{fence}"


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _code(text: str) -> str:
    """Return a text as code in a table's cell: HTML, which, unlike Markdown's own, can hold every character."""
    escaped = html.escape(_line(text)).replace("|", "&#124;")
    return f"<code>{re.sub(_MARKS, lambda found: f'&#{ord(found[0])};', escaped)}</code>"


def _escaped(text: str) -> str:
    return re.sub(_MARKS, lambda found: f"&#{ord(found[0])};", html.escape(text))


_MARKS: Final = r"[`*_\[\]\\~]"
