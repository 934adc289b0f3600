"""Images beside the submissions: tried five times within a minute, refreshed where dead, then left to the next run."""

import asyncio

import pytest

from batchflux.core.model import FactKind, Fault
from batchflux.core.protocol import HttpAnswer
from batchflux.engine import downloading
from batchflux.engine.ports import Download
from tests.core.answers import answer, completed_data
from tests.core.lives import a_cell
from tests.engine import virtual
from tests.engine.fakes import Images, Scene, Service

BROKEN = Fault(kind="download", message="the image is damaged")
SILENT = Fault(kind="network", message="ServerTimeoutError")
GONE = Fault(kind="download", message="HTTP 404", code=404)


def old_download(index: int = 0, *urls: str, prediction_id: str = "old") -> Download:
    return Download(
        cell=a_cell(index), labels={"seed": index}, attempt=2, prediction_id=prediction_id, urls=urls or ("old-1",)
    )


def play(scene: Scene) -> Scene:
    return virtual.run(scene.play())


def test_every_completed_cells_images_are_saved() -> None:
    """One fact a cell with paths, hashes and sizes, after the cell's own outcome."""
    scene = play(Scene(cells=30, images=Images()))
    saved = scene.sink.of(FactKind.FILES)
    assert len(saved) == 30
    assert all(fact.error_kind is None and len(fact.files) == len(fact.sha256) == 1 for fact in saved)
    assert {fact.attempt for fact in saved} == {1}
    for fact in saved:
        own = [each.kind for each in scene.sink.facts if each.cell_id == fact.cell_id]
        assert own == [FactKind.INTENT, FactKind.ACCEPTED, FactKind.OUTCOME, FactKind.FILES]
    assert scene.progress.images_saved == 30
    names = [fact.files[0] for fact in saved]
    assert len(set(names)) == 30
    assert f"images/00/p3_seed3_{'0' * 12}.png" in names


def test_slow_downloads_never_hold_back_submissions() -> None:
    """Images that take a minute each don't slow the cells."""
    images = Images(seconds=60.0)
    service = Service()
    play(Scene(cells=100, transport=service, images=images))
    assert service.posts[-1][0] - service.posts[0][0] < 20


def test_a_download_is_tried_five_times_within_a_minute() -> None:
    """Then the cell stays completed, with the reason of its missing images, and the run ends."""
    images = Images(fate=lambda url, tries: BROKEN)
    scene = play(Scene(cells=1, images=images))
    assert list(images.tries.values()) == [5]
    assert images.tried_at_s[-1] - images.tried_at_s[0] <= 60
    left = scene.sink.of(FactKind.FILES)[0]
    assert (left.status, left.error_kind, left.error, left.files) == ("completed", "download", BROKEN.message, ())
    assert scene.statuses == {"completed": 1}
    assert scene.stop is None


def test_a_host_that_hangs_holds_nobody_for_minutes() -> None:
    """Where each try takes its time to fail, no try begins later than a minute after the first."""
    images = Images(fate=lambda url, tries: BROKEN, seconds=25.0)
    scene = play(Scene(cells=0, images=images, backlog=[old_download()]))
    assert images.tried_at_s[-1] - images.tried_at_s[0] <= 60
    assert 2 <= sum(images.tries.values()) <= 3
    assert scene.sink.of(FactKind.FILES)[0].error == BROKEN.message


def test_a_download_that_works_at_last() -> None:
    """A passing trouble is no fault."""
    images = Images(fate=lambda url, tries: BROKEN if tries < 5 else None)
    scene = play(Scene(cells=3, images=images))
    assert all(fact.error_kind is None for fact in scene.sink.of(FactKind.FILES))


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_dead_url_is_asked_for_anew(code: int) -> None:
    """A URL that has run out is replaced from a fresh query of its prediction, once, at no cost."""
    dead = Fault(kind="download", message=f"HTTP {code}", code=code)
    images = Images(fate=lambda url, tries: None if url == "https://h.example/new" else dead)
    fresh = answer(completed_data(id="old", outputs=["https://h.example/new"]))
    service = Service(look=lambda prediction_id: fresh)
    scene = play(Scene(cells=0, transport=service, images=images, backlog=[old_download()]))
    assert images.tries == {"old-1": 1, "https://h.example/new": 1}
    fact = scene.sink.of(FactKind.FILES)[0]
    assert (fact.error_kind, fact.attempt, fact.prediction_id) == (None, 2, "old")
    assert (len(service.posts), service.queries["old"]) == (0, 1)


def test_a_fresh_answer_brings_no_flagged_image_in() -> None:
    """Of a cell that came without its flagged image the others are fetched, though a fresh answer has them all."""
    images = Images(fate=lambda url, tries: GONE if url.startswith("old") else None)
    outputs = [f"https://h.example/{number}" for number in range(3)]
    fresh = answer(completed_data(id="old", outputs=outputs, has_nsfw_contents=[True, False, False]))
    service = Service(look=lambda prediction_id: fresh)
    play(Scene(cells=0, transport=service, images=images, backlog=[old_download(0, "old-1", "old-2")]))
    assert [url for url in images.tries if url in outputs] == outputs[1:]
    # One that was kept with its flags is fetched whole.
    images = Images(fate=lambda url, tries: GONE if url.startswith("old") else None)
    play(Scene(cells=0, transport=service, images=images, backlog=[old_download(0, "old-0", "old-1", "old-2")]))
    assert [url for url in images.tries if url in outputs] == outputs


@pytest.mark.parametrize("code", [404, 410])
def test_a_dead_url_that_stays_dead_is_left_at_once(code: int) -> None:
    """Where a fresh query gives the same URL, or none, five tries would be five times nothing."""
    dead = Fault(kind="download", message=f"HTTP {code}", code=code)
    for look in (
        answer(completed_data(id="old", outputs=["old-1"])),
        answer(None, status=404),
        HttpAnswer(status=500, body=b""),
    ):
        images = Images(fate=lambda url, tries: dead)
        service = Service(look=lambda prediction_id, look=look: look)  # type: ignore[misc]
        scene = play(Scene(cells=0, transport=service, images=images, backlog=[old_download()]))
        assert sum(images.tries.values()) == 1
        assert scene.sink.of(FactKind.FILES)[0].error == f"HTTP {code}"


def test_a_cell_of_four_images_is_whole_or_not() -> None:
    """Files are in the order of the outputs; where one can't be had the cell's images are missing, not some of them."""
    urls = tuple(f"u{number}" for number in range(4))
    whole = play(Scene(cells=0, images=Images(), backlog=[old_download(0, *urls)])).sink.of(FactKind.FILES)[0]
    stem = f"images/00/p0_seed0_{'0' * 12}"
    assert whole.files == (f"{stem}.png", f"{stem}-2.png", f"{stem}-3.png", f"{stem}-4.png")
    broken = play(
        Scene(
            cells=0,
            images=Images(fate=lambda url, tries: BROKEN if url == "u2" else None),
            backlog=[old_download(0, *urls, prediction_id="")],
        )
    )
    fact = broken.sink.of(FactKind.FILES)[0]
    assert (fact.files, fact.sha256, fact.file_bytes, fact.error_kind) == ((), (), (), "download")


def test_what_an_earlier_run_left_comes_after_what_is_new() -> None:
    """New images first: their URLs are the youngest news, the backlog has waited already."""
    images = Images(seconds=0.001)
    backlog = [old_download(100 + number, f"old-{number}") for number in range(200)]
    scene = play(Scene(cells=20, images=images, backlog=backlog))
    assert len(scene.sink.of(FactKind.FILES)) == 220
    assert len(images.tries) == 220


def test_the_run_ends_when_the_last_image_is_saved() -> None:
    """Neither before it nor long after: fetchers end by themselves."""
    images = Images(seconds=30.0)
    scene = play(Scene(cells=5, images=images))
    assert len(scene.sink.of(FactKind.FILES)) == 5
    assert 30 < scene.took_s < 40


def test_what_is_odd_about_an_image_is_stated_with_its_files() -> None:
    """One colour is a warning and no error; what was fetched has a hash of its own where words were added."""
    plain = play(Scene(cells=1, images=Images())).sink.of(FactKind.FILES)[0]
    assert (plain.warnings, plain.fetched_sha256) == ((), ())
    odd = {"is_one_colour": True, "fetched_sha256": "1" * 64}
    scene = play(Scene(cells=1, images=Images(odd=odd)))
    stated = scene.sink.of(FactKind.FILES)[0]
    assert (stated.warnings, stated.error_kind) == (("image 1 is of one colour",), None)
    assert stated.fetched_sha256 == ("1" * 64,)
    assert scene.statuses == {"completed": 1}


def test_images_that_come_too_fast_wait_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue has its bound; what found it full is looked up later, in one go each time, and saved all the same."""
    monkeypatch.setattr(downloading, "_MOST_QUEUED", 5)
    waiting: list[int] = []

    async def watch(scene: Scene) -> None:
        while True:
            await asyncio.sleep(0.25)
            waiting.append(scene.progress.downloads_waiting)

    images = Images(seconds=20.0)
    scene = play(Scene(cells=100, images=images, during=watch))
    saved = scene.sink.of(FactKind.FILES)
    assert sorted(fact.cell_id for fact in saved) == sorted(fact.cell_id for fact in scene.sink.of(FactKind.OUTCOME))
    late = [index for cells in scene.looked_up for index in cells]
    assert len(late) == len(set(late)) == 100 - 5 - downloading._FETCHERS
    assert len(scene.looked_up) == 1
    assert max(waiting) == 100 - downloading._FETCHERS
    assert scene.progress.downloads_waiting == 0


def test_all_fetchers_go_on_with_what_was_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that find nothing to do while one of them looks up don't leave, though nothing more is submitted."""
    monkeypatch.setattr(downloading, "_MOST_QUEUED", 1)
    images = Images(seconds=60.0)
    scene = play(Scene(cells=37, images=images))
    assert scene.took_s < 4 * 60 + 30  # 37 on twelve fetchers, beside the cells' own time


def test_images_are_looked_up_after_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run left has waited longest, and nothing of it is dropped for what comes after."""
    monkeypatch.setattr(downloading, "_MOST_QUEUED", 1)
    images = Images(seconds=5.0)
    backlog = [old_download(100 + number, f"old-{number}") for number in range(50)]
    scene = play(Scene(cells=60, images=images, backlog=backlog))
    assert len(scene.sink.of(FactKind.FILES)) == 110
    assert {f"old-{number}" for number in range(50)} <= set(images.tries)


def test_a_host_that_is_gone_does_not_hold_the_runs_end() -> None:
    """A thousand images that nobody gives would take an hour and a half; after three minutes the next run has them."""
    images = Images(fate=lambda url, tries: SILENT, seconds=10.0)
    backlog = [old_download(number, f"old-{number}") for number in range(1000)]
    scene = play(Scene(cells=0, images=images, backlog=backlog))
    assert 180 < scene.took_s < 300
    assert len(scene.sink.of(FactKind.FILES)) < 100
    assert [event for event, _ in scene.notes.notes].count("images_left") == 1
    assert scene.stop is None


def test_a_host_that_answers_is_not_gone() -> None:
    """Whatever it says: a refusal, now and then an image among timeouts. Then every image has its five tries."""
    fates = {0: None, 10: GONE}
    images = Images(fate=lambda url, tries: fates.get(int(url) % 20, SILENT), seconds=10.0)
    backlog = [old_download(number, str(number), prediction_id="") for number in range(200)]
    scene = play(Scene(cells=0, images=images, backlog=backlog))
    assert len(scene.sink.of(FactKind.FILES)) == 200


def test_a_host_that_is_gone_is_asked_for_as_long_as_cells_are_submitted() -> None:
    """It may come back, and nobody waits for it: images that came late in the run are saved."""
    images = Images(fate=lambda url, tries: SILENT if asyncio.get_running_loop().time() < 900 else None, seconds=10.0)
    backlog = [old_download(1000 + number, f"old-{number}") for number in range(20)]
    scene = play(Scene(cells=40, images=images, backlog=backlog, rate_per_s=1 / 30))
    saved = [fact for fact in scene.sink.of(FactKind.FILES) if fact.files]
    assert scene.took_s > 1100
    assert len(saved) >= 8
