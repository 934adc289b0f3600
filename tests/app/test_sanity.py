"""Odd images of whole runs: told in the manifest, at the end of the run and by `status`; nothing is bought again."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import batchflux
from batchflux.app.status import read_status
from batchflux.sandbox import FaultRule
from tests.app.service import quick_service, write_spec


@contextmanager
def one_image(width: int, height: int, *, is_one_colour: bool = False) -> Iterator[str]:
    """Give the address of a server that has the same image for everybody."""
    picture = Image.linear_gradient("L").resize((width, height))
    picture = Image.new("RGB", (width, height), (9, 9, 9)) if is_one_colour else picture.convert("RGB")
    data = io.BytesIO()
    picture.save(data, "PNG")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data.getvalue())))
            self.end_headers()
            self.wfile.write(data.getvalue())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/a.png"
        finally:
            server.shutdown()
            serving.join()


@contextmanager
def service_of(width: int, height: int, *, is_one_colour: bool = False) -> Iterator[Callable[..., batchflux.Result]]:
    """Give what runs jobs against a service whose predictions all have the same image."""
    with ExitStack() as stack:
        url = stack.enter_context(one_image(width, height, is_one_colour=is_one_colour))
        answers = FaultRule(on="result", do="patch", data={"outputs": [url]})
        service = stack.enter_context(quick_service(answers, image_size=64))

        def run(folder: Path, table: str, **keys: Any) -> batchflux.Result:
            keys = {"output": {"dir": "out", "download": True}, **keys}
            return batchflux.run(batchflux.load_job(write_spec(folder, service, table, **keys)))

        yield run


def warnings_of(run_dir: Path) -> list[list[str]]:
    return [list(lines) for lines in batchflux.read_manifest(run_dir)["warnings"]]


@pytest.mark.parametrize("embeds", [False, True])
def test_a_service_that_ignores_seeds_is_told(embeds: bool, tmp_path: Path) -> None:
    """Each cell says how many other seeds of its own request gave its bytes, also where words were added since."""
    output = {"dir": "out", "download": True, "embed_metadata": embeds}
    with service_of(64, 64) as run:
        result = run(tmp_path, "prompt\na kite\na crow\n", grid={"seed": [1, 2, 3]}, output=output)
    assert warnings_of(result.run_dir) == [["the same image as for 2 other seeds of this request"]] * 6
    assert result.exit_status == 0
    assert "6 cells with a warning: the same image for several seeds" in str(result)
    status, _, _ = read_status(result.run_dir)
    assert status.standing.warnings == result.standing.warnings == {"same_image": 6}
    assert json.loads(status.as_json())["warnings"] == {"same_image": 6}
    assert "the same image for several seeds" in str(status)


def test_seeds_are_compared_between_runs_and_rows(tmp_path: Path) -> None:
    """Rows that bring their seeds, bought at different times, are cells of one request all the same."""
    with service_of(64, 64) as run:
        columns = {"columns": {"prompt": "prompt", "seed": "seed"}}
        run(tmp_path, "prompt,seed\na kite,1\na crow,1\n", prompts=columns)
        assert warnings_of(tmp_path / "out") == [[], []]
        run(tmp_path, "prompt,seed\na kite,1\na crow,1\na kite,2\n", prompts=columns)
    line = ["the same image as for 1 other seed of this request"]
    assert warnings_of(tmp_path / "out") == [line, [], line]


def test_equal_cells_may_have_equal_images(tmp_path: Path) -> None:
    """Rows that ask for the very same, seed and all, get what they ask for; so do other prompts and parameters."""
    grid = {"seed": [1], "guidance_scale": [2.5, 3.5]}
    with service_of(64, 64) as run:
        result = run(tmp_path, "prompt\na kite\na kite\na crow\n", grid=grid)
    assert warnings_of(result.run_dir) == [[]] * 6
    assert result.standing.warnings == {}


def test_real_images_are_nothing_to_warn_of(tmp_path: Path) -> None:
    """What the sandbox draws differs by seed, has the shape asked for and more than one colour."""
    grid = {"seed": [1, 2], "aspect_ratio": ["1:1", "16:9", "9:21", "4:3"]}
    with quick_service(image_size=64) as service:
        path = write_spec(tmp_path, service, "prompt\na kite\n", grid=grid, output={"dir": "out", "download": True})
        result = batchflux.run(batchflux.load_job(path))
    assert warnings_of(result.run_dir) == [[]] * 8
    assert "warning" not in str(result)


def test_shape_and_colour_are_told_with_what_the_service_left_out(tmp_path: Path) -> None:
    """What a cell's answer and its images are warned of stands together, and is counted by cell."""
    grid = {"aspect_ratio": ["1:1", "16:9"]}
    with service_of(64, 64, is_one_colour=True) as run:
        result = run(tmp_path, "prompt\na kite\n", grid=grid, params={"num_images": 2})
    few, dull = "1 of 2 images arrived", "image 1 is of one colour"
    odd = "image 1 has 64 × 64 pixels where 16:9 was asked for"
    assert warnings_of(result.run_dir) == [[few, dull], [few, dull, odd]]
    status, _, _ = read_status(result.run_dir)
    assert status.standing.warnings == {"one_colour": 2, "aspect_ratio": 1, "fewer_images": 2}
    assert result.standing.warnings == status.standing.warnings


def test_status_says_what_expired_and_what_soon_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that aren't on the disk, asked for or not; what was saved can't expire."""
    with quick_service(image_size=64) as service:
        path = write_spec(tmp_path, service, "prompt\na kite\n", grid={"seed": [1, 2]}, params={"num_images": 2})
        run_dir = batchflux.run(batchflux.load_job(path)).run_dir
        real, later_s = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: real() + later_s)
        for days, expired, expiring in ((0.0, 0, 0), (5.9, 0, 0), (6.5, 0, 4), (7.1, 4, 0)):
            later_s = days * 86_400
            status, _, _ = read_status(run_dir)
            assert (status.standing.images_expired, status.standing.images_expiring) == (expired, expiring), days
            assert ("have expired" in str(status), "expire within a day" in str(status)) == (expired > 0, expiring > 0)
            assert (status.standing.expires_at is not None) == (expiring > 0)
        later_s = 0.0
        batchflux.run(batchflux.load_job(path), batchflux.RunOptions(download_only=True))
        later_s = 6.5 * 86_400
        assert read_status(run_dir)[0].standing.images_expiring == 0
