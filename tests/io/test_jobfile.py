"""Job files: what extends them, what --set sets, and where each key then stands."""

import os
from pathlib import Path
from typing import Any

import pytest

from batchflux.core.errors import JobSpecError
from batchflux.io.jobfile import Document, dump_job, parse_set_options, read_job_file
from batchflux.io.prompts import open_table


def _write(folder: Path, **files: str) -> Path:
    """Write files named by keyword (`job` is job.yaml) and return the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def _read(path: Path, *, overrides: dict[str, object] | None = None) -> Document:
    return read_job_file(path, overrides=overrides, cwd=path.parent)


def _refusal(path: Path, **options: Any) -> list[str]:
    with pytest.raises(JobSpecError) as caught:
        read_job_file(path, **{"cwd": path.parent, **options})
    return str(caught.value).split("\n")


def test_a_file_is_read_with_the_place_of_each_key(tmp_path: Path) -> None:
    """Messages begin with FILE:LINE:COLUMN: key.path; a key that isn't there stands where its parent does."""
    document = _read(_write(tmp_path, job="name: x\ngrid:\n  seed: [1,\n    2]\n"))
    assert document.data == {"name": "x", "grid": {"seed": [1, 2]}}
    assert document.where(("grid", "seed", 1)) == "job.yaml:4:5: grid.seed[1]"
    assert document.where(("grid", "seed", "key")) == "job.yaml:3:3: grid.seed.key"
    assert document.where(("prompts", "path")) == "job.yaml:1:1: prompts.path"
    assert (document.path, document.files) == (tmp_path / "job.yaml", ("job.yaml",))


def test_a_file_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    """Beneath the working directory names are short, elsewhere absolute."""
    path = _write(tmp_path / "jobs", job="name: x")
    assert read_job_file(path, cwd=tmp_path).where(("name",)) == "jobs/job.yaml:1:1: name"
    other = tmp_path / "other"
    assert read_job_file(path, cwd=other).where(("name",)) == f"{path}:1:1: name"
    assert read_job_file("job.yaml", cwd=tmp_path / "jobs").path == path


def test_a_file_wins_over_what_it_extends(tmp_path: Path) -> None:
    """Mappings are merged deeply, later files winning; lists and axes are replaced whole; order is kept."""
    path = _write(
        tmp_path,
        job="extends: [one.yaml, two.yaml]\nrun: {timeout: 3m}\ngrid: {seed: {count: 2}}\nexclude: [{seed: 1}]\n",
        one="run: {timeout: 1m, budget: 1, order: rows}\ngrid: {guidance_scale: [2], seed: {random: 3}}\nname: one\n",
        two="run: {budget: 2}\nexclude: [{seed: 7}, {seed: 8}]\nname: two\n",
    )
    document = _read(path)
    assert document.data == {
        "run": {"timeout": "3m", "budget": 2, "order": "rows"},
        "grid": {"guidance_scale": [2], "seed": {"count": 2}},
        "name": "two",
        "exclude": [{"seed": 1}],
    }
    assert list(document.data["grid"]) == ["guidance_scale", "seed"]
    assert document.where(("run", "budget")) == "two.yaml:1:7: run.budget"
    assert document.where(("run", "order")) == "one.yaml:1:31: run.order"
    assert document.files == ("job.yaml", "one.yaml", "two.yaml")
    places = [("run", "timeout"), ("run", "order"), ("run", "budget"), ("grid", "seed")]
    assert sorted(places, key=document.order) == [places[0], places[3], places[1], places[2]]


def test_extended_files_extend_others_and_may_be_shared(tmp_path: Path) -> None:
    """A file that two parents extend is no circle."""
    path = _write(
        tmp_path,
        job="extends: [left.yaml, right.yaml]\n",
        left="extends: base.yaml\nname: left\n",
        right="extends: base.yaml\nmodel: a/b\n",
        base="name: base\nrun: {budget: 1}\n",
    )
    assert _read(path).data == {"name": "base", "run": {"budget": 1}, "model": "a/b"}


def test_null_takes_away_and_nothing_says_nothing(tmp_path: Path) -> None:
    """An inherited key is taken away by null alone: a section whose lines are all comments keeps the budget."""
    path = _write(
        tmp_path,
        job="extends: base.yaml\nrun:\n  # timeout: 5m\ngrid: {seed: null, guidance_scale: }\nname: ~\noutput: null\n",
        base="run: {budget: 1}\ngrid: {seed: [1], guidance_scale: [2]}\nname: base\n",
    )
    assert _read(path).data == {"run": {"budget": 1}, "grid": {"guidance_scale": [2]}, "output": None}


def test_a_template_may_stand_for_an_inherited_column(tmp_path: Path) -> None:
    """null reaches into a mapping, so one inherited column can go and the others stay."""
    path = _write(
        tmp_path,
        job="extends: base.yaml\nprompts: {columns: {prompt: null}, template: '{scene}'}\n",
        base="prompts: {columns: {prompt: caption, id: key}}\n",
    )
    assert _read(path).data == {"prompts": {"columns": {"id": "key"}, "template": "{scene}"}}


def test_relative_paths_belong_to_the_file_that_says_them(tmp_path: Path) -> None:
    """Tables, run directory and certificates are found from wherever the command is run; --set's from there."""
    path = _write(
        tmp_path / "jobs", job="extends: ../configs/base.yaml\nprompts: {path: [p.csv, '../data/*.csv', /abs/x.csv]}\n"
    )
    _write(tmp_path / "configs", base="output: {dir: ../runs/x}\napi: {ca_file: ca.pem}\nprompts: {path: never.csv}\n")
    document = read_job_file(path, cwd=tmp_path / "elsewhere")
    assert document.data["prompts"]["path"] == [f"{tmp_path}/jobs/p.csv", f"{tmp_path}/data/*.csv", "/abs/x.csv"]
    assert document.data["output"]["dir"] == f"{tmp_path}/runs/x"
    assert document.data["api"]["ca_file"] == f"{tmp_path}/configs/ca.pem"
    moved = read_job_file(
        path, cwd=tmp_path / "elsewhere", overrides={"output.dir": "out", "prompts.path": Path("q.csv")}
    )
    assert moved.data["output"]["dir"] == f"{tmp_path}/elsewhere/out"
    assert moved.data["prompts"]["path"] == f"{tmp_path}/elsewhere/q.csv"


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    """Beneath a glob the folder's own brackets are escaped; a plain path and other keys stay as they are."""
    path = _write(tmp_path / "a[1]", job="prompts: {path: ['*.csv', p.csv]}\noutput: {dir: 'out[*]'}\n")
    data = _read(path).data
    assert data["prompts"]["path"] == [f"{tmp_path}/a[[]1]/*.csv", f"{tmp_path}/a[1]/p.csv"]
    assert data["output"]["dir"] == f"{tmp_path}/a[1]/out[*]"


@pytest.mark.parametrize("folder", ["plain", "a[1]"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path, folder: str) -> None:
    """Brackets in the name of a table that is there make no glob of it, wherever it lies; else they do."""
    home = tmp_path / folder
    home.mkdir()
    for name in ("p[x].csv", "px.csv", "py.csv"):
        (home / name).write_text("prompt\nan owl\n")
    for said, found in (("p[x].csv", ["p[x].csv"]), ("p[xy].csv", ["px.csv", "py.csv"])):
        path = _write(home, job=f"prompts: {{path: '{said}'}}\n")
        table = open_table([_read(path).data["prompts"]["path"]])
        assert [file.name for file in table.paths] == found


@pytest.mark.security(23)
def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/ is the home folder, as in a shell; variables are never expanded."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = _write(tmp_path, job="prompts: {path: ~/p.csv}\noutput: {dir: $HOME/x}\n")
    assert _read(path).data == {
        "prompts": {"path": f"{tmp_path}/home/p.csv"},
        "output": {"dir": f"{tmp_path}/$HOME/x"},
    }


def test_overrides_are_merged_last(tmp_path: Path) -> None:
    """They win over every file, reach any depth, and say so in messages; mappings are merged, None takes away."""
    path = _write(tmp_path, job="run: {budget: 1, timeout: 5m}\ngrid: {seed: [1], guidance_scale: [2]}\nname: x\n")
    document = _read(
        path,
        overrides={
            "run.budget": 2,
            "run": {"order": "balanced"},
            "grid.seed": {"count": 2},
            "name": None,
            "api.settle": "1s",
        },
    )
    assert document.data == {
        "run": {"budget": 2, "timeout": "5m", "order": "balanced"},
        "grid": {"seed": {"count": 2}, "guidance_scale": [2]},
        "api": {"settle": "1s"},
    }
    assert document.where(("run", "budget")) == "--set run.budget"
    assert document.where(("run", "timeout")) == "job.yaml:1:18: run.timeout"
    assert {("run", "budget"), ("grid", "seed"), ("api", "settle")} <= document.values_from_set
    assert ("run", "timeout") not in document.values_from_set


def test_an_override_may_extend(tmp_path: Path) -> None:
    """`extends` is a key like any other: set, it stands for the file's own, relative to the working directory."""
    path = _write(tmp_path / "jobs", job="extends: nowhere.yaml\nname: x\n")
    _write(tmp_path, gold="run: {budget: 1}\nname: gold\n")
    document = read_job_file(path, cwd=tmp_path, overrides={"extends": "gold.yaml"})
    assert document.data == {"run": {"budget": 1}, "name": "x"}


def test_set_options_are_typed_like_a_file() -> None:
    """Values are YAML, base 60 alone is text; the last one of a key counts, an empty one takes away."""
    assert parse_set_options(
        [
            "run.concurrency=8",
            "params.aspect_ratio=16:9",
            "grid.aspect_ratio=[16:9, 1:1]",
            "grid.seed={count: 4}",
            "name='007'",
            "output.download=false",
            "run.budget=",
            "run.timeout=5m",
            "run.timeout=6m",
            "prompts.template=a=b {x}",
        ]
    ) == {
        "run.concurrency": 8,
        "params.aspect_ratio": "16:9",
        "grid.aspect_ratio": ["16:9", "1:1"],
        "grid.seed": {"count": 4},
        "name": "007",
        "output.download": False,
        "run.budget": None,
        "run.timeout": "6m",
        "prompts.template": "a=b {x}",
    }


def test_bad_set_options_are_named_all() -> None:
    """Each problem names the option's key."""
    with pytest.raises(JobSpecError) as caught:
        parse_set_options(["run.timeout", "=5", "grid.seed=[010, 1_0]", "name={a", "params.x=*y"])
    lines = str(caught.value).split("\n")
    assert lines[:4] == [
        "--set: the text 'run.timeout' is not KEY=VALUE; write it like --set run.timeout=10m",
        "--set: the text '=5' is not KEY=VALUE; write it like --set run.timeout=10m",
        "--set grid.seed[0]: 010 with a zero in front is another number to YAML 1.1; write 10, or quote it: '010'",
        "--set grid.seed[1]: 1_0 is a number to YAML 1.1; write 10, or quote it: '1_0'",
    ]
    assert lines[4].startswith("--set name: not YAML: ")
    assert lines[5] == "--set params.x: *y names no anchor before it; quote it if it is text: '*y'"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"run..timeout": 5}, "--set run..timeout: the text 'run..timeout' is no key"),
        ({"": 5}, "--set: the text '' is no key"),
        ({"params.x": float("nan")}, "--set params.x: nan is not a number to reckon with"),
        ({"params.x": object()}, "--set params.x: can't hold a object"),
        ({"params.x": {1: 2}}, "--set params.x: a key must be text, is the number 1"),
        ({"params.x": "\ud800"}, "--set params.x: half a character"),
        ({".".join("abcdefghijklmnopqrstuvwxyz"): 1}, "--set a.b"),
    ],
)
def test_overrides_that_no_spec_can_hold_are_refused(tmp_path: Path, overrides: dict[str, object], said: str) -> None:
    """Python's values are checked as strictly as a file's."""
    assert _refusal(_write(tmp_path, job="name: x"), overrides=overrides)[0].startswith(said)


def test_an_endless_value_is_refused(tmp_path: Path) -> None:
    """A list that holds itself ends in a message."""
    endless: list[object] = []
    endless.append(endless)
    assert "nested deeper" in _refusal(_write(tmp_path, job="name: x"), overrides={"params.x": endless})[0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "job.yaml: the file says nothing; a job needs at least prompts: {path: ...}"),
        (b"# nothing\n", "job.yaml: the file says nothing; a job needs at least prompts: {path: ...}"),
        (b"\xef\xbb\xbf", "job.yaml: the file says nothing; a job needs at least prompts: {path: ...}"),
        (b"name: x\nmodel: a\xe9b\n", "job.yaml:2:9: the byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("name: x".encode("utf-16"), "job.yaml: is written in UTF-16; save it as UTF-8"),
        (b"#" * (1 << 20) + b"\n", "job.yaml: is larger than 1024 KiB; put long lists into the prompt table"),
    ],
    ids=["empty", "comments", "mark-only", "latin-1", "utf-16", "too-large"],
)
def test_a_file_that_is_no_text_of_ours_is_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    """Encoding, size and emptiness each have their own words."""
    (tmp_path / "job.yaml").write_bytes(raw)
    assert _refusal(tmp_path / "job.yaml") == [said]


def test_a_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    """Files written on other systems read the same."""
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\nrun:\r\n  budget: 5\r\n")
    document = _read(tmp_path / "job.yaml")
    assert document.data == {"name": "x", "run": {"budget": 5}}
    assert document.where(("run", "budget")) == "job.yaml:3:3: run.budget"


def test_a_larger_file_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    """A run directory's own job.yaml may be larger than what a person writes."""
    (tmp_path / "job.yaml").write_bytes(b"name: x\n" + b"#" * (1 << 20))
    assert read_job_file(tmp_path / "job.yaml", most_bytes=2 << 20).data == {"name": "x"}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """The job's own name is in the message."""
    assert _refusal(tmp_path / "job.yaml") == ["job.yaml: there is no such file; check the name"]
    (tmp_path / "run").mkdir()
    assert _refusal(tmp_path / "run") == ["run: is a folder, not a file; name the job file in it"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """The system's own reason is in the message."""
    path = _write(tmp_path, job="name: x")
    path.chmod(0)
    assert _refusal(path) == ["job.yaml: can't be read: Permission denied; check the file"]


def test_every_file_of_a_chain_says_what_is_wrong(tmp_path: Path) -> None:
    """A fault in one file hides none in another, and a shared file is told off once."""
    path = _write(
        tmp_path,
        job="extends: [one.yaml, two.yaml, '']\nname: 1:30\n",
        one="extends: base.yaml\nmodel: 010\n",
        two="extends: base.yaml\n",
        base="run: {budget: 1_0}\n",
    )
    assert [line.split(" ")[0] for line in _refusal(path)] == ["job.yaml:2:7:", "job.yaml:1:1:"]
    path.write_text("extends: [one.yaml, two.yaml, gone.yaml]\n", encoding="utf-8")
    assert _refusal(path) == [
        "one.yaml:2:8: model: 010 with a zero in front is another number to YAML 1.1; write 10, or quote it: '010'",
        "base.yaml:1:15: run.budget: 1_0 is a number to YAML 1.1; write 10, or quote it: '1_0'",
        "job.yaml:1:31: extends[2]: gone.yaml: there is no such file (job.yaml -> gone.yaml); check the name; "
        "it is relative to this file",
    ]


def test_what_an_option_extends_is_looked_for_where_the_command_is_run(tmp_path: Path) -> None:
    """The message names that folder, and what a found file extends in turn is relative to it as ever."""
    path = _write(tmp_path, job="name: x\n", base="extends: gone.yaml\n")
    assert _refusal(path, overrides={"extends": "missing.yaml"}) == [
        f"--set extends: missing.yaml: there is no such file; check the name; it is looked for in {tmp_path}"
    ]
    (said,) = _refusal(path, overrides={"extends": "base.yaml"})
    assert said.startswith("base.yaml:1:1: extends: gone.yaml: there is no such file (job.yaml -> base.yaml -> gone")
    assert said.endswith("it is relative to this file")


def test_a_circle_through_links_is_seen(tmp_path: Path) -> None:
    """A file is the same under another name."""
    path = _write(tmp_path, job="extends: other.yaml\n")
    (tmp_path / "other.yaml").symlink_to(path)
    assert "in a circle: job.yaml -> other.yaml" in _refusal(path)[0]


def test_a_long_chain_ends(tmp_path: Path) -> None:
    """Files that extend one another without end are no job."""
    files = {f"f{i}": f"extends: f{i + 1}.yaml\n" for i in range(40)}
    assert "too many files: f0.yaml -> f1.yaml" in _refusal(_write(tmp_path, **files))[0]


def test_a_dumped_job_is_pleasant_to_read() -> None:
    """Sections in blocks, short lists on one line, quotes only where they are needed."""
    mapping: dict[str, Any] = {
        "name": "city sweep",
        "grid": {"seed": [1, 2], "aspect_ratio": ["16:9", "1:1"]},
        "exclude": [{"seed": 1, "style": "no"}],
        "run": {"budget": 25.0, "timeout": "30m", "download": True, "limit": None},
    }
    assert dump_job(mapping) == (
        "name: city sweep\n"
        "grid:\n"
        "  seed: [1, 2]\n"
        '  aspect_ratio: ["16:9", "1:1"]\n'
        "exclude:\n"
        "- seed: 1\n"
        '  style: "no"\n'
        "run:\n"
        "  budget: 25.0\n"
        '  timeout: "30m"\n'
        "  download: true\n"
        "  limit: null\n"
    )
