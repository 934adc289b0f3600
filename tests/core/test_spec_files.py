"""Each fault of a spec as a tiny real file in tests/specs, named after the fault, its messages in its first lines.

`# expect:` is one line of the error, `# warns:` one warning, `# fine` neither; `...` at the end stands for the YAML
parser's own words, which differ between its two implementations.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from batchflux.core.errors import JobSpecError
from batchflux.core.spec import parse_job
from batchflux.io import yamltext
from batchflux.io.jobfile import read_job_file

_SPECS = Path(__file__).parents[1] / "specs"
_FILES = sorted(_SPECS.glob("*.yaml"))


def _said(file: Path) -> list[str]:
    """Return what reading and understanding a file says, in the form of its header."""
    try:
        document = read_job_file(file, cwd=_SPECS)
        job = parse_job(
            document.data,
            where=document.where,
            order=document.order,
            default_name=file.stem,
            default_dir=file.parent,
            faults=document.faults,
        )
    except JobSpecError as error:
        return [f"# expect: {line}" for line in str(error).split("\n")]
    return [f"# warns: {warning}" for warning in job.warnings] or ["# fine"]


def _assert_as_expected(said: Sequence[str], expected: Sequence[str]) -> None:
    cut = [
        line[: len(want) - 3] + "..." if want.endswith("...") else line
        for line, want in zip(said, expected, strict=False)
    ]
    assert [*cut, *said[len(expected) :]] == list(expected)


@pytest.mark.fault("I09", "I10")
@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("parser", [yamltext.PARSER, yaml.SafeLoader], ids=["usual", "pure"])
def test_a_spec_says_what_its_first_lines_say(file: Path, parser: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every problem at once, in the order of the file, with either of PyYAML's parsers."""
    monkeypatch.setattr(yamltext, "PARSER", parser)
    header = [
        line for line in file.read_text(encoding="utf-8").split("\n") if re.match("# (expect: |warns: |fine$)", line)
    ]
    _assert_as_expected(_said(file), header)


def test_there_is_a_file_for_every_fault() -> None:
    """The folder is found, and no file in it lacks a header."""
    assert len(_FILES) > 100
    assert all(re.match("# (expect: |warns: |fine$)", file.read_text(encoding="utf-8")) for file in _FILES)
