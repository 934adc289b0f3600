"""`report --live`: a page that follows a run, right before, during and after a kill; for this machine alone, inert."""

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.cli.driver import Started, batchflux_command, started, wait_until, write_job
from tests.report.browser import Page
from tests.report.conftest import HOSTILE
from tests.report.made import Drawn, lognormal, made_job, made_run


@contextmanager
def _live(run_dir: Path, *options: str) -> Iterator[tuple[Started, str]]:
    """Serve a run's live page; yields the command and the page's address."""
    with started("report", run_dir, "--live", *options, cwd=run_dir.parent) as server:
        assert server.process.stdout is not None
        line = server.process.stdout.readline().decode()
        found = re.match(r"http://127\.0\.0\.1:\d+/\S{8,}/(?=  \(Ctrl-C ends it\))", line)
        assert found, line
        yield server, found[0]


def _ask(address: str, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(address, headers={name.replace("_", "-"): said for name, said in headers.items()})  # noqa: S310
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def _now(address: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_ask(f"{address}now.json")[1])
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 24 cells that is over, with images, whose words all try to be markup."""
    job = made_job(
        tmp_path_factory.mktemp("live"), prompts=HOSTILE, grid={"guidance_scale": [2.5, 5, 7.5]}, name=HOSTILE[0][:20]
    )
    return made_run(
        job,
        Drawn(inference_ms=lognormal(24, 5), status={4: "failed"}, error={4: ("generation_failed", HOSTILE[1])}),
    )


@pytest.fixture(scope="module")
def served(finished: Path) -> Iterator[str]:
    """The address of that run's live page."""
    with _live(finished) as (_, address):
        yield address


@pytest.mark.security(24)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1.evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_sites_are_answered_nothing(served: str, headers: dict[str, str]) -> None:
    """Not one whose name was turned to this machine, nor one that would load our data as its script."""
    for path in ("", "now.json"):
        status, body, said = _ask(served + path, **headers)
        assert (status, body) == (403, b"only this machine's own page is answered here\n")
        assert "Access-Control-Allow-Origin" not in said


def test_a_tunnel_is_answered(served: str) -> None:
    """Its other end has a port of its own, and the name localhost."""
    for host in ("localhost:9999", "127.0.0.1:1", "localhost", "[::1]:80"):
        assert _ask(f"{served}now.json", Host=host)[0] == 200


@pytest.mark.security(24)
def test_only_files_of_known_places_are_given(served: str, finished: Path) -> None:
    """No name leads out of the page's data, the thumbnails and the images; nothing is listed, nothing is changed."""
    (finished / "images" / "ab").mkdir(exist_ok=True)
    (finished / "images" / "ab" / "link.png").symlink_to("/etc/hostname")
    (finished / "images" / "ab" / "notes.txt").write_text("no image")
    folder = _now(served)["folder"]
    assert _ask(f"{served}{folder}/index.js")[0] == 200
    for path in (
        "job.yaml",
        "run.json",
        "images/",
        "images/ab/",
        "images/ab/link.png",
        "images/ab/notes.txt",
        "images/ab/..%2f..%2fjob.yaml",
        "images/..%2f/job.yaml",
        "images/ab/%2fetc%2fpasswd",
        "images/ab/.hidden.png",
        "report/thumbnails/ab/..%2f..%2f..%2frun.json",
        "report/data-00000000/index.js",
        f"{folder}/..%2findex.js",
        f"{folder}/nothing.js",
        "..%2f",
    ):
        assert _ask(served + path)[0] == 404, path
    assert _ask(re.sub(r"/[^/]+/$", "/", served))[0] == 404  # without the part that nobody can guess
    request = urllib.request.Request(served, method="POST", data=b"x")  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)  # noqa: S310
    with refused.value:
        assert refused.value.code == 405


@pytest.mark.security(24)
def test_every_answer_is_closed_to_others(served: str) -> None:
    """No sniffing, no frames, no other origin; a policy in the page that lets it ask its own server alone."""
    status, body, said = _ask(served)
    assert status == 200
    assert said["X-Content-Type-Options"] == "nosniff"
    assert said["Cross-Origin-Resource-Policy"] == "same-origin"
    assert said["Content-Security-Policy"] == "frame-ancestors 'none'"
    page = body.decode()
    assert "connect-src &#x27;self&#x27;" in page
    assert "file:" not in page.split("</head>")[0].split("<style>")[0]
    assert HOSTILE[0][:20] not in page


def test_it_listens_on_this_machine_alone(served: str) -> None:
    """The port is bound to 127.0.0.1: the machine's other addresses answer nothing."""
    port = int(re.findall(r":(\d+)/", served)[0])
    with socket.socket() as probe:
        probe.settimeout(2)
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_words_of_the_job_stay_words(page: Page, served: str, finished: Path) -> None:
    """What would be markup in prompts, values and errors is text; the newest images open in the page."""
    page.open(served, height=2400)
    page.wait("document.documentElement.dataset.told")
    assert page.run("document.title") != "taken"
    assert page.text(".nowstate") == "finished"
    assert page.text(".nowshare") == "24 of 24 cells, 100 %"
    page.settle()
    assert page.count(".newest img") == 16
    assert page.count("#view-grid .tile") == 24
    page.click(".newest a")
    page.wait("document.querySelector('#lightbox').open")


def test_it_says_where_there_is_no_run(command: Command, tmp_path: Path) -> None:
    """A job that never ran, options that don't go together, a port that is taken: status 2 and words."""
    job = write_job(tmp_path)
    assert command("report", job, "--live", cwd=tmp_path).status == 2
    done = command("report", tmp_path, "--port", "80", cwd=tmp_path)
    assert (done.status, "--port goes with --live" in done.err) == (2, True)
    assert command("report", tmp_path, "--live", "--json", cwd=tmp_path).status == 2


def test_a_port_that_is_taken(finished: Path) -> None:
    """Named with what to do, status 2; a free one that was asked for is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = batchflux_command("report", finished, "--live", "--port", port, cwd=finished)
    assert done.status == 2
    assert f"--port {port}: " in done.err
    assert "take another, or none" in done.err
    with _live(finished, "--port", port) as (_, address):
        assert f":{port}/" in address


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_asked(finished: Path, number: signal.Signals) -> None:
    """Ctrl-C is how it ends: status 0, no words, no folder left behind."""
    before = {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("batchflux-live-*")}  # noqa: S108
    with _live(finished) as (server, _):
        server.send(number)
        done = server.wait()
    assert (done.status, done.err) == (0, "")
    after = {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("batchflux-live-*")}  # noqa: S108
    assert after <= before


def test_a_killed_run_and_its_resume(page: Page, tmp_path: Path) -> None:
    """At work, not at work, at work again, finished: each told by itself, with the counts that `status` has."""
    job = write_job(
        tmp_path,
        prompts=[f"kite {place}" for place in range(90)],
        grid={"seed": [1, 2]},
        output={"dir": "out", "download": True},
        run={"budget": 50},
    )
    run_dir = tmp_path / "out-sandbox"
    words = ("run", job, "--sandbox", "--quiet")
    with started(*words, "-j", "4", cwd=tmp_path) as run:
        wait_until(lambda: _status(run_dir, tmp_path).get("completed", 0) >= 4, "four cells")
        with _live(run_dir) as (_, address):
            page.open(address)
            page.wait("document.querySelector('.nowstate')?.textContent === 'at work'")
            first = _now(address)
            page.wait(f"{_DONE} > {first['counts']['completed']}")  # it moves by itself
            page.click("#tab-sweep")
            page.wait("document.querySelector('.sweep .figures')")
            run.send(signal.SIGKILL)
            run.process.wait()
            page.wait("document.querySelector('.nowstate').textContent === 'not at work'")
            status = _status(run_dir, tmp_path)
            page.wait(f"{_DONE} === {status['completed']}")
            assert _now(address)["counts"] == {name: status[name] for name in first["counts"]}
            assert "batchflux run out-sandbox goes on" in page.text(".nowline")
            with started(*words, cwd=tmp_path) as again:
                page.wait("document.querySelector('.nowstate').textContent === 'at work'")
                assert again.wait().status == 0
            page.wait("document.querySelector('.nowstate').textContent === 'finished'")
            status = _status(run_dir, tmp_path)
            now = _now(address)
            assert now["counts"] == {name: status[name] for name in first["counts"]}
            assert now["counts"]["completed"] == 180
            assert (now["spent_usd"], now["budget_usd"]) == (status["cost_usd"], 50)
            # The views are of the end too, without being loaded anew.
            page.wait("document.querySelectorAll('.sweep .figure dd')[1].textContent === '180'")
            page.click("#tab-grid")
            page.wait("[...document.querySelectorAll('#view-grid .tile')].every(tile => tile.querySelector('img'))")
            page.wait(f"document.documentElement.dataset.told >= '{now['at']}'")
        page.wait("document.querySelector('.nowstate').textContent === 'no longer told'")
    page.complaints = [said for said in page.complaints if "ERR_CONNECTION_REFUSED" not in said]


_DONE = "Number(document.querySelector('.nowshare').textContent.split(' ')[0])"


def _status(run_dir: Path, cwd: Path) -> dict[str, Any]:
    if not (run_dir / "run.json").exists():
        return {}
    done = batchflux_command("status", run_dir, "--json", cwd=cwd)
    return dict(done.document) if done.status == 0 else {}
