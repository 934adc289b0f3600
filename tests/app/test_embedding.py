"""`output.embed_metadata`: every saved image says what it was made from, and the run stays sound and as cheap."""

import hashlib
import json
from pathlib import Path

from PIL import Image

import batchflux
from batchflux.app.verify import verify_run
from tests.app.service import quick_service, write_spec


def test_images_say_what_they_are(tmp_path: Path) -> None:
    """Prompt, parameters and cell id stand in each file, hashed as it lies; no cell is another for it."""
    output = {"dir": "out", "download": True}
    with quick_service(image_size=64) as service:

        def run(**more: bool) -> batchflux.Result:
            keys = {"grid": {"seed": [1, 2]}, "params": {"num_images": 2}, "output": {**output, **more}}
            path = write_spec(tmp_path, service, 'prompt\n"a kite, 絵"\na crow\n', **keys)
            return batchflux.run(batchflux.load_job(path), batchflux.RunOptions(download_only=not more))

        assert run(embed_metadata=True).exit_status == 0
        assert service.stats["submissions_received"] == 4
        assert run().exit_status == 0
        assert service.stats["submissions_received"] == 4
    images = batchflux.read_manifest(tmp_path / "out", per="image")
    assert len(images) == 8
    for _, image in images.iterrows():
        path = tmp_path / "out" / image["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == image["sha256"]
        with Image.open(path) as picture:
            words = json.loads(picture.info["batchflux"])
            assert picture.info["parameters"].startswith(f"{image['prompt']}\nSeed: {image['seed']}, ")
        assert words == {name: image[name] for name in words if name != "image_number"} | {
            "image_number": image["image"]
        }
        assert {"prompt", "seed", "num_images", "model", "cell_id", "prompt_id"} <= set(words)
    assert verify_run(tmp_path / "out").exit_status == 0


def test_without_it_files_are_the_service_s(tmp_path: Path) -> None:
    """By default not a byte of an image is changed."""
    with quick_service(image_size=64) as service:
        path = write_spec(tmp_path, service, "prompt\na kite\n", output={"dir": "out", "download": True})
        assert batchflux.run(batchflux.load_job(path)).exit_status == 0
    (file,) = (tmp_path / "out").glob("images/*/*")
    with Image.open(file) as picture:
        assert "batchflux" not in picture.info
