"""One browser for all tests of the page, and the runs that they look at."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from batchflux.app.reporting import write_report
from tests.cli.conftest import command
from tests.report.browser import Page, browsing
from tests.report.made import Drawn, lognormal, made_job, made_run

__all__ = ["HOSTILE", "command"]

HOSTILE = [
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror="document.title = \'taken\'">',
    "</script><script>document.title = 'taken'</script>",
    "an override \u202e and an isolate \u2066 that never ends",
    "\x1b[31mred\x1b[0m and a bell \x07",
    "%%title%% {{title}} ${title} <!-- --> ]]> \u2028 \u2029",
    "javascript:document.title='taken'",
    "絵　文字 🎨 'quotes' \"double\" \\ backslash",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    """One tab for the whole session."""
    with browsing() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The tab with nothing kept; a complaint of the page fails the test."""
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 24 cells, all kinds of ends among them; four prompts, three guidances, two seeds."""
    prompts = ["a kite over a harbour", "a crow at a window", "a kite in the rain", "an orchard in fog"]
    grid = {"guidance_scale": [2.5, 5, 7.5], "seed": [1, 2]}
    job = made_job(tmp_path_factory.mktemp("small"), prompts=prompts, grid=grid)
    drawn = Drawn(
        inference_ms=lognormal(24, 1),
        status={3: "failed", 8: "unknown", 13: "pending", 16: "submitted"},
        error={
            3: ("content_policy", "flagged by <b>the</b> checker"),
            8: ("unknown_outcome", "the answer to the submission was lost"),
        },
        nsfw=frozenset({5}),
        warnings={7: ["fewer images than asked"]},
    )
    run_dir = made_run(job, drawn)
    return write_report(run_dir).path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose prompts, axis values, name and errors all try to be markup or script."""
    grid = {"style": HOSTILE[:3], "seed": [1]}
    job = made_job(
        tmp_path_factory.mktemp("hostile"),
        prompts=HOSTILE,
        grid=grid,
        name="<img src=x onerror=alert(1)>",
        prompts_section={"columns": {"id": "id"}, "template": "{prompt} {style}"},
    )
    drawn = Drawn(inference_ms=lognormal(24, 2), status={0: "failed"}, error={0: ("generation_failed", HOSTILE[1])})
    return write_report(made_run(job, drawn)).path


@pytest.fixture(scope="session")
def middling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 2,000 cells on which guidance takes its time, and rows bring a parameter of their own."""
    words = ["harbour", "lantern", "fog", "copper", "orchard", "glacier"]
    prompts = [f"{words[place % 6]} and {words[place // 6 % 6]}, scene {place}" for place in range(100)]
    ratios = ["3:2" if place % 4 else "1:1" for place in range(100)]
    job = made_job(
        tmp_path_factory.mktemp("middling"),
        prompts=prompts,
        grid={"guidance_scale": [2, 4, 6, 8, 10], "seed": [1, 2, 3, 4]},
        columns={"ratio": ratios},
        prompts_section={"columns": {"prompt": "prompt", "id": "id", "aspect_ratio": "ratio"}},
    )
    steps = np.tile(np.repeat(np.arange(5), 4), 100)
    drawn = Drawn(
        inference_ms=(lognormal(2000, 3) * (1 + 0.08 * steps)).astype(np.int64),
        status=dict.fromkeys(range(0, 2000, 41), "failed"),
        error=dict.fromkeys(range(0, 2000, 41), ("generation_failed", "no image came of it")),
    )
    return write_report(made_run(job, drawn, are_links=True)).path
