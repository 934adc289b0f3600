"""The page in the other engine: drawn from the disk, walked by keys, its marks kept, its data inert."""

from pathlib import Path

from tests.report.firefox import Tab, firefox

_TILES = "document.querySelectorAll('#view-{} .tile').length"


async def _walk(tab: Tab, small: Path, hostile: Path) -> None:
    address = small.as_uri()
    await tab.open(address)
    assert await tab.run(_TILES.format("grid")) == 24
    await tab.wait("[...document.images].every(image => image.complete)")
    widths = await tab.run("[...document.querySelectorAll('#view-grid img')].map(image => image.naturalWidth)")
    assert (len(widths), min(widths) > 0) == (20, True)
    await tab.run("document.querySelector('#view-grid .tile[data-index=\"2\"]').focus()")
    await tab.press("w")
    await tab.wait("document.querySelector('#picks').textContent === '★ 1  ✕ 0'")
    await tab.press("\ue007")  # Enter
    await tab.wait("document.querySelector('#lightbox img.whole')?.naturalWidth === 144")
    await tab.press("\ue014")  # the right arrow
    await tab.wait("document.querySelector('#lightbox .said')?.textContent.startsWith('content_policy')")
    await tab.open(f"{address}#view=gallery&mark=winner")
    await tab.wait("document.querySelector('#view-gallery .found').textContent === '1 of 24 cells'")
    await tab.run("localStorage.clear()")
    await tab.open(f"{address}#view=sweep")
    await tab.wait("document.querySelectorAll('section.axis svg.chart').length === 8")
    for view in ("grid", "gallery"):
        await tab.open(f"{hostile.as_uri()}#view={view}")
        await tab.wait(f"{_TILES.format(view)} > 0")
        assert await tab.run("document.title") == "<img src=x onerror=alert(1)> · batchflux"


def test_firefox_draws_it_from_the_disk(small: Path, hostile: Path) -> None:
    """All three views and the lightbox come without a complaint; a mark outlives the page; nothing of the data runs."""
    with firefox() as (tab, runner):
        runner.run(_walk(tab, small, hostile))
        assert tab.complaints == []
