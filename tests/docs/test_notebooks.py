"""The notebooks run from top to bottom, and are kept without outputs."""

from pathlib import Path
from typing import Any

import pytest

from tests.docs.checkout import ROOT, Checkout

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="the [notebook] extra is not installed")
    return nbformat.read(path, as_version=4)


@pytest.mark.security(21)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_clean(path: Path) -> None:
    """A notebook in the repository has no outputs and no counts, so that a change of it is a change of its words."""
    cells = [cell for cell in _read(path).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def _run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, also: str) -> tuple[Any, Checkout]:
    """Run a notebook of a fresh checkout to its end, with some more code in its last cell."""
    nbclient = pytest.importorskip("nbclient", reason="the [notebook] extra is not installed")
    pytest.importorskip("matplotlib", reason="the [notebook] extra is not installed")
    checkout = Checkout(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("WAVESPEED_API_KEY", raising=False)
    for variable in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(folder))
    notebook = _read(checkout.root / "notebooks" / f"{name}.ipynb")
    notebook.cells[-1].source += also
    nbclient.NotebookClient(
        notebook, timeout=170, kernel_name="python3", resources={"metadata": {"path": checkout.root / "notebooks"}}
    ).execute()
    return notebook, checkout


def _shown(notebook: Any) -> tuple[str, int]:
    """Return all HTML that a notebook shows, and how many plots."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    html = "".join(output.get("data", {}).get("text/html", "") for output in shown)
    return html, sum("image/png" in output.get("data", {}) for output in shown)


def test_a_manifest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook runs the quickstart, shows its plan and result as tables and its grid as images, and draws dots."""
    notebook, checkout = _run(
        "read-a-manifest",
        tmp_path,
        monkeypatch,
        also="\nassert sorted(timings) == [2.5, 5.0, 7.5] and all(len(each) == 8 for each in timings.values())"
        "\nassert len(by_prompt) == 4 and len(fox) == 6",
    )
    html, plots = _shown(notebook)
    assert "24 cells, 24 images" in html
    assert "24 of 24 cells completed" in html
    assert (plots, html.count("data:image/webp;base64,")) == (2, 4 * 3 + 2 * 3)
    assert len(list((checkout.root / "jobs/runs/quickstart-sandbox/images").glob("*/*.png"))) == 24


def test_a_sweep_is_analysed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted effect is found and the absent one is not: intervals of guidance part, those of the seed don't."""
    notebook, _ = _run(
        "analyse-a-sweep",
        tmp_path,
        monkeypatch,
        also="\n(mean, low, high), (_, seed_low, seed_high) = guidance, seeds"
        "\nassert low[-1] > high[0] and mean[-1] > 1.3 * mean[0], guidance"
        "\nassert max(seed_low) < min(seed_high), seeds"
        "\nshare, least, most = failures"
        "\nassert max(least) < min(most) and all(least < most), failures"
        "\nassert len(cells) == 216 and set(cells['status']) == {'completed', 'failed'} and len(by_prompt) == 6"
        "\nassert cost['size'].sum() == 216",
    )
    html, plots = _shown(notebook)
    assert plots == 3
    assert html.count("data:image/webp;base64,") > 20
    assert "content_policy" in html
    said = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    told = [line for line in said.splitlines() if "inference time" in line.lower()]
    assert [line.split(":")[0] for line in told if "No effect" not in line] == ["guidance_scale"], said
