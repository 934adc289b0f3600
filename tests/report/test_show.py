"""`batchflux.show`: which cell stands where, what is drawn of each end, and that data stay data."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import batchflux
from tests.report.conftest import HOSTILE
from tests.report.made import Drawn, lognormal, made_job, made_run

_PROMPTS = ["a kite over a harbour", "a crow at a window", "a kite in the rain", "an orchard in fog"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 cells, all kinds of ends among them: four prompts, three guidances, two seeds."""
    grid = {"guidance_scale": [2.5, 5, 7.5], "seed": [1, 2]}
    job = made_job(
        tmp_path_factory.mktemp("show"),
        prompts=_PROMPTS,
        grid=grid,
        columns={"kind": ["bird", "bird", "bird", "tree"]},
    )
    return made_run(
        job,
        Drawn(
            inference_ms=lognormal(24, 1),
            status={2: "failed", 8: "unknown", 12: "pending", 18: "submitted"},
            error={
                2: ("content_policy", "flagged by <b>the</b> checker"),
                8: ("unknown_outcome", "the answer was lost"),
            },
        ),
    )


class _Table(HTMLParser):
    """The texts of a table's rows, an image as its alternative text, and every tag that was begun."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "img":
            self.rows[-1][-1] += f"[{dict(attrs)['alt']}]"

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1][-1] += data


def test_prompts_down_and_an_axis_across(run_dir: Path) -> None:
    """The first axis of several values goes across, the other is held at its first, which the note tells."""
    shown = batchflux.show(run_dir)
    rows = _Table(shown.html).rows
    assert rows[0] == ["prompt", "guidance_scale 2.5", "guidance_scale 5", "guidance_scale 7.5"]
    assert [row[0] for row in rows[1:]] == [f"p0000{place}{prompt}" for place, prompt in enumerate(_PROMPTS)]
    assert rows[1][1] == "[p00000; completed; a kite over a harbour]"
    assert rows[1][2] == "failedcontent_policy: flagged by <b>the</b> checker"
    assert rows[2][2] == "outcome unknownunknown_outcome: the answer was lost"
    assert (rows[3][1], rows[4][1]) == ("not sent yet", "in flight")
    assert "held: seed 1 (of 2; others by where={'seed': ...})" in shown.html.replace("&#x27;", "'")
    assert repr(shown).startswith("4 × 3 grid of 12 cells, to be seen in a notebook\nheld: seed 1")


def test_images_are_small_and_inside(run_dir: Path) -> None:
    """Each is WebP of at most the asked size, and nothing is loaded from anywhere."""
    html = batchflux.show(run_dir, size=40).html
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 8
    for source in sources:
        head, data = source.split(",")
        assert head == "data:image/webp;base64"
        with Image.open(BytesIO(b64decode(data))) as image:
            assert (image.format, max(image.size)) == ("WEBP", 40)
    assert "http" not in html
    assert _Table(html).tags <= {"div", "table", "thead", "tr", "th", "td", "bdi", "small", "br", "img", "p"}


@pytest.mark.parametrize(
    ("asked", "head", "firsts"),
    [
        ({"rows": "seed"}, ["seed", *(f"guidance_scale {each}" for each in ("2.5", "5", "7.5"))], ["seed 1", "seed 2"]),
        (
            {"rows": "guidance_scale", "cols": "prompt_id", "where": {"seed": 2}},
            ["guidance_scale", "p00000", "p00001"],
            [],
        ),
        ({"rows": "seed", "cols": "guidance_scale", "where": {"prompt_id": "p00002"}}, ["seed"], ["seed 1"]),
        ({"rows": "kind", "cols": "seed"}, ["kind", "seed 1", "seed 2"], ["kind bird", "kind tree"]),
        ({"cols": "status", "where": {"guidance_scale": "5"}}, ["prompt", "status failed"], []),
    ],
)
def test_any_column_goes_anywhere(run_dir: Path, asked: dict[str, Any], head: list[str], firsts: list[str]) -> None:
    """Axes, prompts and the table's own columns; several cells in one place are counted."""
    shown = batchflux.show(run_dir, **asked)
    rows = _Table(shown.html).rows
    assert rows[0][: len(head)] == head
    assert [row[0] for row in rows[1:]][: len(firsts)] == firsts
    if asked.get("rows") == "kind":
        assert "and 2 more" in rows[1][1]
    if asked.get("where") == {"prompt_id": "p00002"}:
        assert all("p00002" in cell or cell == "not sent yet" for row in rows[1:] for cell in row[1:])


def test_a_bound_on_what_is_drawn(run_dir: Path) -> None:
    """Later rows are left out and counted; where nothing is like that, it says so."""
    shown = batchflux.show(run_dir, most=7)
    assert len(_Table(shown.html).rows) == 1 + 2
    assert "the first 2 of 4 rows; more with most=28" in repr(shown)
    assert "no cell is like that" in repr(batchflux.show(run_dir, where={"status": "odd"}))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rows": "promt"}, "rows: this run has no 'promt'; did you mean prompt?"),
        ({"cols": "guidance"}, "cols: this run has no 'guidance'; did you mean guidance_scale?"),
        ({"where": {"sed": 1}}, "where: this run has no 'sed'; did you mean seed?"),
        ({"where": {"seed": 9}}, "where: the axis seed has no value 9; it has 1, 2"),
        ({"where": {"prompt_id": "p00000x"}}, "where: this run has no prompt_id p00000x; did you mean p00000?"),
        ({"where": {"prompt_id": "kite"}}, "where: this run has no prompt_id kite; it has 4 prompts"),
        ({"rows": "seed", "cols": "seed"}, "rows and cols are both 'seed'; take another for one of them"),
        ({"size": 3}, "size must be 16 to 1024 pixels and most at least 1; they are 3, 200"),
    ],
)
def test_what_cannot_be_shown_is_said(run_dir: Path, asked: dict[str, Any], words: str) -> None:
    """Every name and value that isn't there, with the nearest that is."""
    with pytest.raises(batchflux.UsageError) as refused:
        batchflux.show(run_dir, **asked)
    assert str(refused.value) == words


def test_a_run_is_named_in_any_way(run_dir: Path, tmp_path: Path) -> None:
    """A directory as path or text, its job file, a job; what isn't there is said."""
    job_file = run_dir.parent / "job.yaml"
    wanted = batchflux.show(run_dir).html
    for run in (str(run_dir), job_file, batchflux.load_job(job_file)):
        assert batchflux.show(run).html == wanted
    with pytest.raises(batchflux.UsageError, match="no such run directory"):
        batchflux.show(tmp_path / "nowhere")
    with pytest.raises(batchflux.UsageError, match="no run directory"):
        batchflux.show(tmp_path)
    with pytest.raises(batchflux.UsageError, match="there is no run of the job made yet; begin it first"):
        batchflux.show(batchflux.load_job(job_file).at(tmp_path / "nowhere"))


def test_words_stay_words(tmp_path: Path) -> None:
    """Prompts, values and errors that would be markup are text; images that are gone are told."""
    job = made_job(
        tmp_path,
        prompts=HOSTILE,
        grid={"style": HOSTILE[:3], "seed": [1]},
        prompts_section={"columns": {"id": "id"}, "template": "{prompt} {style}"},
    )
    drawn = Drawn(inference_ms=lognormal(24, 2), status={0: "failed"}, error={0: ("generation_failed", HOSTILE[1])})
    run_dir = made_run(job, drawn)
    for image in (run_dir / "images").glob("*/*"):
        image.write_bytes(b"no image")
    html = batchflux.show(run_dir, cols="style").html
    table = _Table(html)
    assert table.tags <= {"div", "table", "thead", "tr", "th", "td", "bdi", "small", "br", "img", "p"}
    assert HOSTILE[0] in table.rows[0][1]
    assert "<img" not in html
    assert html.count("no image on disk") == len(HOSTILE) * 3 - 1
    assert table.rows[1][0] == f"p00000{HOSTILE[0]} {{style}}"  # a word that is another one in each column


def test_what_is_long_is_cut(tmp_path: Path) -> None:
    """A prompt, a value or an error of a page's length doesn't stand in every cell of the grid."""
    long = "a kite over a harbour " * 500
    job = made_job(
        tmp_path,
        prompts=[long],
        grid={"style": [long, "oil"], "seed": [1]},
        prompts_section={"columns": {"id": "id"}, "template": "{prompt} {style}"},
    )
    drawn = Drawn(inference_ms=lognormal(2, 1), status={1: "failed"}, error={1: ("generation_failed", long)})
    html = batchflux.show(made_run(job, drawn), cols="style", size=16).html
    assert len(html) < 6_000


def test_cells_of_one_place_are_counted_whatever_became_of_them(tmp_path: Path) -> None:
    """A box that stands for several cells says so, as an image does; a finished cell's box says that it is finished."""
    job = made_job(tmp_path, prompts=_PROMPTS, grid={"seed": [1, 2]})
    run_dir = made_run(job, Drawn(inference_ms=lognormal(8, 1)), has_images=False)
    rows = _Table(batchflux.show(run_dir, rows="status").html).rows
    assert rows[1:] == [["status completed", *["completed, no image on diskand 3 more"] * 2]]


def test_nothing_steers_the_terminal(tmp_path: Path) -> None:
    """What a held axis is called is printed without its control characters."""
    job = made_job(
        tmp_path,
        prompts=["a kite"],
        grid={"style": [HOSTILE[4], "oil"], "seed": [1, 2]},
        prompts_section={"columns": {"id": "id"}, "template": "{prompt} {style}"},
    )
    said = repr(batchflux.show(made_run(job, Drawn(inference_ms=lognormal(4, 1))), cols="seed"))
    assert "held: style \N{REPLACEMENT CHARACTER}[31mred" in said
    assert all(line.isprintable() for line in said.splitlines())
