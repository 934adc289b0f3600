"""The README is run: its session, its commands, its specs and its Python; and it leaves no key, option or path out."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops, ImageStat

import batchflux
from batchflux.app.advice import ADVICE
from batchflux.app.plan import make_plan
from batchflux.cli import _cli
from batchflux.io.manifest import STATE_FIELDS
from batchflux.sandbox.process import command as sandbox_command
from tests.docs.checkout import ROOT, Checkout, blocks
from tests.docs.picture import contact_sheet

README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = "notebooks/images/quickstart.png"

_NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")
_BAR = re.compile(r"█+")


def shape(text: str) -> list[str]:
    """Return the lines of a session without what differs from one run to the next: numbers, times, a bar's width."""
    return [_BAR.sub("█", _NUMBER.sub("0", line)).rstrip() for line in text.strip().splitlines()]


def section(title: str) -> str:
    """Return the part of the README under a heading, up to the next one of its level."""
    level, _, _ = title.partition(" ")
    found = re.search(rf"^{re.escape(title)}$(.*?)(?=^{level} |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def code_words(text: str) -> set[str]:
    """Return what a text sets as code, inline."""
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, list[tuple[str, str, str]]]:
    """Type the README's session on a terminal; returns the place, and (command, as printed, as it is) of each."""
    checkout = Checkout(tmp_path_factory.mktemp("readme"))
    (block,) = blocks(README, "console")
    steps = []
    for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, printed = step.partition("\n")
        steps.append((line, printed, checkout.terminal(line)))
    return checkout, steps


def test_the_session_is_real(session: tuple[Checkout, list[tuple[str, str, str]]]) -> None:
    """Typed again, the session's commands show the same lines, but for numbers that are the machine's."""
    _, steps = session
    assert len(steps) >= 3
    for line, printed, now in steps:
        # What a plan says follows from the job alone; a run's times are the machine's.
        is_plan = line.startswith("batchflux plan")
        if is_plan:
            assert now.strip() == printed.strip(), line
        else:
            assert shape(now) == shape(printed), line


def test_the_picture_is_of_that_session(session: tuple[Checkout, list[tuple[str, str, str]]]) -> None:
    """The README's picture is the contact sheet of the quickstart as the sandbox draws it, and it is small."""
    checkout, _ = session
    assert (ROOT / PICTURE).stat().st_size < 400_000
    made = contact_sheet(checkout.root / "jobs/runs/quickstart-sandbox")
    with Image.open(ROOT / PICTURE) as kept:
        assert kept.size == made.size
        difference = ImageStat.Stat(ImageChops.difference(kept.convert("RGB"), made)).mean
    assert max(difference) < 6, "make it anew: python -m tests.docs.picture RUN_DIR " + PICTURE


def test_the_two_commands() -> None:
    """Each of the two commands stands alone in a block, makes its own environment, and can be pasted as it is."""
    run, test = (block.strip() for block in blocks(section("## Two commands"), "sh"))
    for line in (run, test):
        assert "\n" not in line
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
    assert run.endswith("&& .venv/bin/batchflux run jobs/quickstart.yaml --sandbox")
    assert test.endswith("-e '.[dev]' && .venv/bin/python -m pytest")


def test_the_main_command_does_what_it_promises(tmp_path: Path) -> None:
    """Its last part ends with 24 images on disk, a manifest, and words that say where they are and what comes next."""
    checkout = Checkout(tmp_path)
    line = blocks(section("## Two commands"), "sh")[0].strip().rpartition("&& .venv/bin/")[2]
    done = checkout.shell(line)
    assert done.returncode == 0, done.stderr
    run_dir = checkout.root / "jobs/runs/quickstart-sandbox"
    assert len(list(run_dir.glob("images/*/*.png"))) == 24
    assert set(pq.read_table(run_dir / "manifest.parquet")["status"].to_pylist()) == {"completed"}
    assert "results: jobs/runs/quickstart-sandbox/manifest.parquet and images/ beside it" in done.stderr
    after = re.search(r"next: (.*)", done.stderr)
    assert after is not None
    assert checkout.shell(after[1]).returncode == 0
    assert (checkout.root / "quickstart-results.csv").exists()


def test_the_first_steps_work_as_written(tmp_path: Path) -> None:
    """The commands on the way to the first real image run, up to those that would spend."""
    checkout = Checkout(tmp_path)
    lines = [
        line.partition("  #")[0].strip() for line in blocks(section("## Your first real image"), "sh")[0].splitlines()
    ]
    free = [line for line in lines if line.split()[1] in ("init", "plan") or "--sandbox" in line]
    assert [shlex.split(line)[1] for line in free] == ["init", "plan", "run"]
    for line in free:
        done = checkout.shell(line)
        assert done.returncode == 0, done.stderr
    for line in lines[-2:]:
        done = checkout.shell(line)
        assert (done.returncode, "WAVESPEED_API_KEY is not set" in done.stderr) == (2, True)


@pytest.mark.parametrize("spec", blocks(section("## The job spec, by example"), "yaml"))
def test_the_specs_plan(spec: str, tmp_path: Path) -> None:
    """Each spec of the README is one: it loads and plans, and warns only of the model that nothing ships for."""
    checkout = Checkout(tmp_path)
    prompts = checkout.root / "jobs/prompts"
    (prompts / "more").mkdir()
    for name in ("city.csv", "more/a.csv"):
        rows = "".join(f"{name}-{n},a street corner at hour {n} of {name},4:3\n" for n in range(24))
        (prompts / name).write_text(f"key,caption,ratio\n{rows}")
    path = checkout.root / "jobs/readme.yaml"
    path.write_text(spec)
    job = batchflux.load_job(path)
    assert make_plan(job).cells > 0
    assert all("flux-kontext-pro" in warning for warning in job.warnings), job.warnings


def _keys(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    for name, value in schema.get("properties", {}).items():
        yield name
        yield from _keys(value, definitions)
    for part in [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        yield from _keys(part, definitions)
    if "$ref" in schema:
        yield from _keys(definitions[schema["$ref"].rpartition("/")[2]], definitions)


def test_every_key_of_the_spec_is_shown() -> None:
    """Every key that the JSON Schema knows, at any depth, stands in one of the README's specs."""
    schema = json.loads((ROOT / "batchflux/core/job.schema.json").read_text(encoding="utf-8"))
    keys = set(_keys(schema, schema["$defs"]))
    assert {"settle", "per_row", "on_unknown", "n"} <= keys
    shown = section("## The job spec, by example")
    assert {key for key in keys if not re.search(rf"(?<![\w-]){re.escape(key)}:", shown)} == set()


def test_every_command_and_option_is_named() -> None:
    """Every command has its row, and every option stands where its command is told of."""
    said = section("## Commands")
    sandbox = section("### The sandbox")
    for name, command in _cli.commands.items():
        assert f"| `batchflux {name}" in said, name
        for option in (sandbox_command if name == "sandbox" else command).params:
            if isinstance(option, click.Option):
                words = code_words(sandbox if name == "sandbox" else said.replace(sandbox, ""))
                for spelling in option.opts:
                    assert any(re.search(rf"(^| ){re.escape(spelling)}( |$)", word) for word in words), (name, spelling)


def test_it_names_no_option_that_is_not_there() -> None:
    """Every option that the README sets as code exists somewhere on the command line, or is pip's or pytest's."""
    there = {"--help", "--version", "-h", "-m", "-q", "-e"}
    for command in (*_cli.commands.values(), sandbox_command):
        there |= {spelling for option in command.params for spelling in option.opts}
    code = " ".join([*code_words(README), *blocks(README, "sh"), *blocks(README, "console")])
    named = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)(?![\w-])", code))
    assert {"--sandbox", "--set", "-j"} <= named
    assert named - there - {"-exec"} <= {"-9"}


def test_exit_statuses_are_told() -> None:
    """The table of exit statuses has every one that `run` ends with."""
    assert {"0", "1", "2", "3", "4", "130, 143, 129"} <= set(
        re.findall(r"^\| ([\d, ]+) \|", section("## Commands"), re.MULTILINE)
    )


def test_the_run_directory_is_as_drawn(session: tuple[Checkout, list[tuple[str, str, str]]]) -> None:
    """What is drawn is what lies there after a rehearsal, but for what only some runs have."""
    checkout, _ = session
    (drawn,) = blocks(section("## The run directory"), "text")
    told = {line.split()[0].rstrip("/") for line in drawn.splitlines()[1:]}
    there = {path.name for path in (checkout.root / "jobs/runs/quickstart-sandbox").iterdir()}
    assert there <= told
    rare = {"retired.parquet", "agreed.json", "redo.json", "replicates", "replicates.parquet", ".joined"}
    assert told - there == rare


def test_the_manifest_is_as_told(session: tuple[Checkout, list[tuple[str, str, str]]]) -> None:
    """The table of columns names every column of the manifest in the manifest's own order, and every error kind."""
    checkout, _ = session
    text = section("## The manifest")
    firsts = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    told = [word for cell in firsts for word in re.findall(r"`(\w+)`", cell)]
    columns = list(batchflux.read_manifest(checkout.root / "jobs/runs/quickstart-sandbox").columns)
    parameters = ["seed", "guidance_scale", "aspect_ratio"]
    assert told == ["cell_id", "prompt_id", "prompt", "model", *parameters, *STATE_FIELDS.names]
    assert [name for name in columns if name not in parameters] == [name for name in told if name not in parameters]
    assert set(ADVICE) <= code_words(text)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python runs as it stands, on the sandbox, and prints a plan and a timing for each guidance."""
    checkout = Checkout(tmp_path)
    monkeypatch.chdir(checkout.root)
    (code,) = blocks(section("## From Python"), "python")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the README is ours
    printed = capsys.readouterr().out
    assert "24 cells, 24 images" in printed
    assert all(f"\n{guidance}" in printed for guidance in ("2.5", "5.0", "7.5"))


def test_links_and_places_lead_somewhere() -> None:
    """Every relative link of the README leads to something, and "Where is it?" answers with files."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(targets) > 15
    assert [target for target in targets if not (ROOT / target).exists()] == []
    rows = section("## Where is it?").strip().splitlines()[2:]
    assert all(re.search(r"\]\([^)]+\.py\) \|$", row) for row in rows)


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry of the changelog is the version that the package says it is."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == batchflux.__version__
