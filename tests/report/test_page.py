"""The page in a real browser: what it draws, what keys and clicks do, what its address holds; data stay data."""

import csv
import json
from pathlib import Path

import pytest

from tests.report.browser import Page
from tests.report.conftest import HOSTILE

GRID, GALLERY, BOX = "#view-grid", "#view-gallery", "#lightbox"


def _open(page: Page, path: Path, view: str = "", *, width: int = 1440, height: int = 900) -> None:
    page.open(path.as_uri() + (f"#{view}" if view else ""), width=width, height=height)


def _address(page: Page) -> dict[str, str]:
    found: dict[str, str] = page.run("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
    return found


def _tile(index: int, view: str = GRID) -> str:
    return f'{view} .tile[data-index="{index}"]'


def test_the_grid_draws_every_end_as_what_it_is(page: Page, small: Path) -> None:
    """Prompts down and values across with their names; what has no image says why."""
    _open(page, small)
    assert page.count(f"{GRID} .tile") == 24
    heads = page.run("[...document.querySelectorAll('.colhead')].map(node => node.textContent)")
    assert heads == [*(f"guidance_scale{value}" for value in ("2.5", "5", "7.5")), *["seed1", "seed2"] * 3]
    rows = page.run("[...document.querySelectorAll('.rowhead .prompt')].map(node => node.textContent)")
    assert rows == ["a kite over a harbour", "a crow at a window", "a kite in the rain", "an orchard in fog"]
    assert page.text(_tile(3)) == "content_policyflagged by <b>the</b> checker"
    assert page.text(_tile(8)) == "outcome unknownunknown_outcome: the answer to the submission was lost"
    assert (page.text(_tile(13)), page.text(_tile(16))) == ("not sent yet", "in flight")
    assert (page.text(_tile(5)), page.text(_tile(7))) == ("NSFW", "warning")
    page.settle()
    shown = page.run("[...document.querySelectorAll('#view-grid .tile img')].map(image => image.naturalWidth)")
    assert len(shown) == 20
    assert min(shown) > 0
    assert "20 completed" in page.text("#summary")


def test_any_axis_goes_across(page: Page, small: Path) -> None:
    """Seeds across with guidance held by a slider: the same cells, elsewhere, and all of it in the address."""
    _open(page, small)
    page.pick("#across", "seed")
    page.pick("#nest", "-")
    page.wait(f"document.querySelectorAll('{GRID} .tile').length === 8")
    page.pick('input[data-axis="guidance_scale"]', "1")
    page.wait(f"document.querySelector('{_tile(2)}')")
    found = page.run(f"[...document.querySelectorAll('{GRID} .tile')].map(tile => Number(tile.dataset.index))")
    assert found == [2, 3, 8, 9, 14, 15, 20, 21]
    assert _address(page) == {"across": "seed", "nest": "-", "at.guidance_scale": "5"}
    address = page.run("location.href")
    page.open(address)
    assert page.run(f"[...document.querySelectorAll('{GRID} .tile')].map(tile => Number(tile.dataset.index))") == found


def test_back_goes_back(page: Page, small: Path) -> None:
    """Views and the lightbox are steps of the browser's own history."""
    _open(page, small)
    page.click("#tab-gallery")
    page.wait(f"document.querySelectorAll('{GALLERY} .tile').length === 24")
    page.click(_tile(1, GALLERY))
    page.wait("document.querySelector('#lightbox').open")
    page.run("history.back()")
    page.wait("!document.querySelector('#lightbox').open")
    assert not page.run(f"document.querySelector('{GALLERY}').hidden")
    page.run("history.back()")
    page.wait(f"!document.querySelector('{GRID}').hidden")
    page.run("history.forward()")
    page.wait(f"!document.querySelector('{GALLERY}').hidden")


def test_keys_walk_the_grid_and_the_lightbox(page: Page, small: Path) -> None:
    """Arrows move through the cells, Enter opens one; there arrows go along an axis and through prompts."""
    _open(page, small)
    page.run(f"document.querySelector('{GRID} .scroller').focus()")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.press(key)
    assert page.run("document.activeElement.dataset.index") == "7"
    page.press("Enter")
    page.wait("document.querySelector('#lightbox').open")
    page.wait("document.querySelector('#lightbox .longprompt').textContent === 'a crow at a window'")
    page.press("ArrowDown")
    page.wait("document.querySelector('#lightbox .longprompt').textContent === 'a kite in the rain'")
    page.press("ArrowLeft")  # along the axis within: from seed 2 to seed 1
    page.wait(
        "[...document.querySelectorAll('#lightbox .walk .value')].map(node => node.textContent).join() === '2.5,1'"
    )
    page.pick('[data-key="along"]', "guidance_scale")
    page.run("document.querySelector('[data-key=close]').focus()")
    page.press("ArrowRight")
    page.wait("[...document.querySelectorAll('#lightbox .walk .value')].map(node => node.textContent).join() === '5,1'")
    page.press("Escape")
    page.wait("!document.querySelector('#lightbox').open")
    assert page.run("document.activeElement.dataset.index") == "14"


def test_the_lightbox_tells_all(page: Page, small: Path) -> None:
    """All that the manifest says stands there; the image is the file itself, and what failed has its whole reason."""
    _open(page, small)
    page.click(_tile(7))
    page.wait("document.querySelector('#lightbox img.whole')")
    page.settle()
    assert page.run("document.querySelector('#lightbox img.whole').naturalWidth") == 144
    names = page.run("[...document.querySelectorAll('#lightbox table.facts th')].map(node => node.textContent)")
    assert {"cell_id", "prediction_id", "inference_ms", "seed", "submitted_at", "cost_usd", "warnings"} <= set(names)
    assert "fewer images than asked" in page.text("#lightbox table.facts")
    page.press("ArrowUp")
    page.press("Escape")
    page.wait("!document.querySelector('#lightbox').open")
    page.click(_tile(3))
    page.wait("document.querySelector('#lightbox .stage .said')")
    assert page.text("#lightbox .stage") == "content_policyflagged by <b>the</b> checker"
    assert page.count("#lightbox b") == 0
    page.press("Escape")


def test_two_images_are_compared(page: Page, small: Path) -> None:
    """One stays while another is gone to: side by side, or one over the other by a slider."""
    _open(page, small)
    page.click(_tile(0))
    page.wait("document.querySelector('#lightbox').open")
    page.press("c")
    page.wait("document.querySelector('#lightbox [data-key=mode]')")
    page.press("ArrowRight")
    page.wait("document.querySelectorAll('#lightbox figure img').length === 2")
    sources = page.run("[...document.querySelectorAll('#lightbox figure img')].map(image => image.src)")
    assert len(set(sources)) == 2
    page.pick('[data-key="mode"]', "slider")
    page.wait("document.querySelector('#lightbox .wipe')")
    page.pick('[data-key="wipe"]', "25")
    assert page.run("document.querySelectorAll('#lightbox .compare img')[1].style.clipPath") == "inset(0px 0px 0px 25%)"
    assert {"cell", "with", "mode"} <= set(_address(page))
    page.run("document.querySelector('[data-key=close]').focus()")
    page.press("c")
    page.wait("!document.querySelector('#lightbox .compare')")
    page.press("Escape")


def test_the_gallery_finds_and_sorts(page: Page, small: Path) -> None:
    """Words of the prompt, any parameter, status, flags: each narrows the list; any order can be had."""
    _open(page, small, "view=gallery")
    page.wait(f"document.querySelectorAll('{GALLERY} .tile').length === 24")
    for selector, value, count in [
        ("#search", "kite", 12),
        ("#search", "KITE rain", 6),
        ("#search", "p00003", 6),
        ("#search", "nowhere", 0),
        ("#search", "", 24),
        ('[data-filter="guidance_scale"]', "5", 8),
        ('[data-filter="seed"]', "2", 4),
        ('[data-filter="guidance_scale"]', "", 12),
        ('[data-filter="seed"]', "", 24),
        ("#status", "failed", 1),
        ("#status", "", 24),
        ("#kind", "unknown_outcome", 1),
        ("#kind", "", 24),
        ("#nsfw", "yes", 1),
        ("#nsfw", "", 24),
        ("#warned", "yes", 1),
        ("#warned", "", 24),
    ]:
        page.pick(selector, value)
        page.wait(f"document.querySelector('{GALLERY} .found').textContent === '{count} of 24 cells'")
        assert page.count(f"{GALLERY} .tile") == count
    page.pick("#sort", "inference")
    page.wait("new URLSearchParams(location.hash.slice(1)).get('sort') === 'inference'")
    times = page.run(
        f"[...document.querySelectorAll('{GALLERY} .facts')].map(node => parseFloat(node.textContent.split(' · ')[2]))"
    )
    known = [time for time in times if time is not None]
    assert known == sorted(known)
    assert times[20:] == [None] * 4
    page.click(f'{GALLERY} [aria-label="Turn the order"]')
    page.wait("new URLSearchParams(location.hash.slice(1)).get('down') === '1'")
    down = page.run(
        f"[...document.querySelectorAll('{GALLERY} .facts')].map(node => parseFloat(node.textContent.split(' · ')[2]))"
    )
    assert down == [*known[::-1], *[None] * 4]


def test_the_gallery_s_order_is_the_lightbox_s(page: Page, small: Path) -> None:
    """Arrows in the lightbox walk the list that is in the gallery."""
    _open(page, small, "view=gallery&q=crow&sort=inference")
    page.wait(f"document.querySelectorAll('{GALLERY} .tile').length === 6")
    order = page.run(f"[...document.querySelectorAll('{GALLERY} .tile')].map(tile => Number(tile.dataset.index))")
    page.click(_tile(order[0], GALLERY))
    page.wait("document.querySelector('#lightbox').open")
    first = page.text("#lightbox table.facts td")
    page.press("ArrowRight")
    page.wait(f"document.querySelector('#lightbox table.facts td').textContent !== {json.dumps(first)}")
    page.press("Escape")
    page.wait("!document.querySelector('#lightbox').open")
    assert page.run("document.activeElement.dataset.index") == str(order[1])


def test_marks_are_kept_and_leave_as_a_table(page: Page, small: Path, tmp_path: Path) -> None:
    """One key each in all three places; a newly opened page has them, and picks.csv names the cells."""
    _open(page, small)
    page.run("localStorage.clear()")
    _open(page, small)
    page.run(f"document.querySelector('{GRID} .scroller').focus()")
    page.press("ArrowDown")
    page.press("w")
    page.wait("document.querySelector('#picks').textContent.startsWith('★ 1')")
    page.press("ArrowRight")
    page.press("x")
    page.press("ArrowRight")
    page.press("w")
    page.press("w")  # again takes it away
    page.press("Enter")
    page.wait("document.querySelector('#lightbox').open")
    page.press("ArrowDown")
    page.wait("document.querySelector('#lightbox .longprompt').textContent === 'a crow at a window'")
    page.press("w")
    page.wait("document.querySelector('[data-key=winner]').getAttribute('aria-pressed') === 'true'")
    page.press("Escape")
    page.wait("document.querySelector('#picks').textContent === '★ 2  ✕ 1'")
    _open(page, small, "view=gallery&mark=winner")
    page.wait(f"document.querySelector('{GALLERY} .found').textContent === '2 of 24 cells'")
    picks = page.download("#picks", tmp_path, "picks.csv")
    with picks.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["cell_id", "mark"]
    assert sorted(mark for _, mark in rows[1:]) == ["reject", "winner", "winner"]
    import batchflux

    cells = list(batchflux.read_manifest(small.parent)["cell_id"])
    assert {cells.index(cell_id) for cell_id, _ in rows[1:]} == {0, 1, 8}
    page.run("localStorage.clear()")


def test_the_sweep_says_what_was_planted(page: Page, middling: Path) -> None:
    """Guidance that takes its time is said to, with a chart; seeds are said to do nothing; failures are listed."""
    _open(page, middling, "view=sweep")
    page.wait("document.querySelector('.figures')")
    effects = page.run(
        "[...document.querySelectorAll('li.effect')].map(node => "
        "`${node.closest('section').ariaLabel} ${node.dataset.metric}`)"
    )
    assert effects == ["guidance_scale inference_ms", "guidance_scale latency_ms"]
    assert "Inference time rises with it" in page.text("section.axis li.effect")
    assert page.count("section.axis svg.chart") == 6
    assert page.text('section[aria-label="Slowest cells"] td.time').endswith(" s")
    assert "no image came of it" in page.text("table.cells td .why")
    assert "49 × generation_failed" in page.text('section[aria-label^="Failed cells"]')
    page.run("document.querySelector('section[aria-label=\"Slowest cells\"] button').click()")
    page.wait("document.querySelector('#lightbox').open")
    page.press("Escape")


def test_two_thousand_cells_are_walked_through(page: Page, middling: Path) -> None:
    """Only the rows in sight are there, wherever one scrolls; the last row is reached; a row's own values filter."""
    _open(page, middling)
    assert page.count(f"{GRID} .gridrow") < 20
    page.run(f"document.querySelector('{GRID} .scroller').scrollTop = 1e9")
    page.wait("[...document.querySelectorAll('.rowname')].some(node => node.textContent === 'p00099')")
    assert page.count(f"{GRID} .gridrow") < 20
    page.wait("Number(new URLSearchParams(location.hash.slice(1)).get('row')) > 80")
    row = _address(page)["row"]
    page.open(page.run("location.href"))
    page.wait(f"[...document.querySelectorAll('.rowname')].some(node => node.textContent === 'p000{row}')")
    _open(page, middling, "view=gallery&is.aspect_ratio=1:1")
    page.wait(f"document.querySelector('{GALLERY} .found').textContent === '500 of 2,000 cells'")
    assert page.count(f"{GALLERY} .tile") < 200
    _open(page, middling, "view=gallery&sort=row.aspect_ratio&down=1")
    page.wait(f"document.querySelectorAll('{GALLERY} .tile').length > 0")
    assert page.run("document.querySelector('#sort').selectedOptions[0].textContent") == "by aspect_ratio"
    assert page.run(f"document.querySelector('{GALLERY} .tile').dataset.index") == "20"  # the first row of 3:2


@pytest.mark.security(18)
@pytest.mark.fault("X06")
def test_data_stay_data(page: Page, hostile: Path) -> None:
    """Whatever a prompt, an axis, an error or the name hold, it is shown as it is and nothing of it runs."""
    for view in ("", "view=gallery", "view=sweep"):
        _open(page, hostile, view)
        page.wait("document.querySelector('.tile, .figures')")
        assert page.run("document.title") == "<img src=x onerror=alert(1)> · batchflux"
        assert page.text("#name") == "<img src=x onerror=alert(1)>"
        assert page.run("[...document.images].every(image => /^file:.*(webp|png)$/.test(image.src))")
        assert page.count("body script") == 1
    _open(page, hostile)
    page.click(_tile(0))
    page.wait("document.querySelector('#lightbox').open")
    assert page.text("#lightbox .longprompt") == f"{HOSTILE[0]} {HOSTILE[0]}"
    assert HOSTILE[1] in page.text("#lightbox .stage")
    for prompt in HOSTILE[1:]:
        page.press("ArrowDown")
        page.wait(f"document.querySelector('#lightbox .longprompt').textContent.startsWith({json.dumps(prompt)})")
    assert page.run("document.title") == "<img src=x onerror=alert(1)> · batchflux"


def test_the_policy_lets_nothing_else_in(page: Page, small: Path) -> None:
    """A script, a style or an image from elsewhere that got into the page would be refused."""
    _open(page, small)
    smuggled = (
        '<img src="https://elsewhere.example/x.png" onerror="window.ran = 1"><style>body { display: none }</style>'
        '<p style="color: red" id="styled"><svg onload="window.ran = 1"></svg>'
    )
    page.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(smuggled)})")
    page.wait("true")
    assert page.run("window.ran === undefined && getComputedStyle(document.body).display !== 'none'")
    assert page.run("getComputedStyle(document.querySelector('#styled')).color") != "rgb(255, 0, 0)"
    assert len([text for text in page.complaints if "Content Security Policy" in text]) >= 3
    page.complaints.clear()


def test_a_phone_has_it_all(page: Page, small: Path) -> None:
    """At 390 pixels nothing is wider than the window, and all views and the lightbox are there."""
    for view in ("", "view=gallery", "view=sweep"):
        _open(page, small, view, width=390, height=844)
        page.wait("document.querySelector('.tile, .figures')")
        assert page.run("document.documentElement.scrollWidth") <= 390
    heights = page.run("[...document.querySelectorAll('table.cells button')].map(node => node.offsetHeight)")
    assert max(heights) < 40  # its word is in one line
    _open(page, small, width=390, height=844)
    page.click(_tile(0))
    page.wait("document.querySelector('#lightbox img.whole')")
    assert page.run("document.querySelector('#lightbox').scrollWidth") <= 390
    page.press("Escape")


def test_long_values_fit_on_a_phone(page: Page, hostile: Path) -> None:
    """A slider's value is cut short before it makes the page too wide; the gallery's leave the time room."""
    _open(page, hostile, "across=seed&nest=-", width=390, height=844)
    assert page.count('input[data-axis="style"]') == 1
    assert page.run("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    _open(page, hostile, "view=sweep", width=390, height=844)
    page.wait("document.querySelector('.named .chart')")  # its lines stay beside their names
    assert (
        page.run("(chart => chart.clientHeight - chart.getAttribute('height'))(document.querySelector('.chart'))") == 0
    )
    _open(page, hostile, "view=gallery")
    page.wait(f"document.querySelector('{GALLERY} .facts')")
    assert page.run(f"document.querySelectorAll('{GALLERY} .facts')[1].textContent").startswith('"><img src=… · 1 · ')


def test_light_and_dark(page: Page, small: Path) -> None:
    """The system's choice holds until the button is pressed, and the button's is kept."""
    page.open(small.as_uri(), is_dark=True)
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.click('[aria-label="Light or dark"]')
    assert page.run("document.documentElement.dataset.theme") == "light"
    page.open(small.as_uri(), is_dark=True)
    assert page.run("document.documentElement.dataset.theme") == "light"
    page.run("localStorage.clear()")


def test_everything_has_a_name_for_who_can_t_see_it(page: Page, small: Path) -> None:
    """In the browser's own accessibility tree every control and every cell has a name and a role."""
    _open(page, small)
    page.click(_tile(7))
    page.wait("document.querySelector('#lightbox').open")
    for view in ("", "view=gallery", "view=sweep"):
        if view:
            _open(page, small, view)
            page.wait("document.querySelector('#view-gallery .tile, .figures')")
        nodes = [node for node in page.send("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
        controls = {"button", "combobox", "slider", "searchbox", "tab", "gridcell", "grid", "link", "textbox", "dialog"}
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
        assert [role for role, name in named if role in controls and not name.strip()] == []
        assert len([role for role, _ in named if role in controls]) > 4


def test_a_tile_is_called_by_what_it_shows(page: Page, small: Path) -> None:
    """Who speaks to the browser says what is to be read on a tile: its name holds those words."""
    _open(page, small)
    parts = "[...tile.querySelectorAll('strong, .flag')].map(part => part.textContent.trim())"
    tiles = page.run(f"[...document.querySelectorAll('{GRID} .tile')].map(tile => [tile.ariaLabel, {parts}])")
    assert {word for _, shown in tiles for word in shown} >= {"not sent yet", "in flight", "NSFW", "content_policy"}
    assert [(name, word) for name, shown in tiles for word in shown if word not in name] == []


def test_a_page_without_its_folder_says_so(page: Page, small: Path, tmp_path: Path) -> None:
    """Moved away from its data, the page says what is missing and how it is made anew."""
    lone = tmp_path / "report.html"
    lone.write_bytes(small.read_bytes())
    page.send("Page.navigate", url=lone.as_uri())
    page.wait("document.querySelector('main .notice')?.textContent.includes('is missing')")
    page.complaints.clear()  # the browser says, too, that the file isn't there


@pytest.mark.slow
def test_a_hundred_thousand_cells(page: Page, tmp_path: Path) -> None:
    """The first view is there within two seconds, however long the run; the far end is reached and searched."""
    import numpy as np

    from batchflux.app.reporting import write_report
    from tests.report.made import Drawn, lognormal, made_job, made_run

    prompts = [f"scene {place} of a long night" for place in range(5000)]
    job = made_job(tmp_path, prompts=prompts, grid={"guidance_scale": [2, 4, 6, 8, 10], "seed": [1, 2, 3, 4]})
    drawn = Drawn(inference_ms=np.asarray(lognormal(100_000, 1)))
    path = write_report(made_run(job, drawn, are_links=True)).path
    page.open(path.as_uri())  # the browser's own caches of the folder
    page.open(path.as_uri())
    assert page.run("performance.now()") < 2000
    page.run(f"document.querySelector('{GRID} .scroller').scrollTop = 1e9")
    page.wait("[...document.querySelectorAll('.rowname')].some(node => node.textContent === 'p04999')")
    _open(page, path, "view=gallery&q=scene+4321&sort=inference")
    page.wait(f"document.querySelector('{GALLERY} .found').textContent === '20 of 100,000 cells'")
