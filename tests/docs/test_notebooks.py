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


def test_a_manifest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook runs the quickstart, shows its plan and result as tables, and draws a dot for every cell."""
    nbclient = pytest.importorskip("nbclient", reason="the [notebook] extra is not installed")
    pytest.importorskip("matplotlib", reason="the [notebook] extra is not installed")
    checkout = Checkout(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    notebook = _read(checkout.root / "notebooks/read-a-manifest.ipynb")
    notebook.cells[-1].source += (
        "\nassert sorted(timings) == [2.5, 5.0, 7.5] and all(len(each) == 8 for each in timings.values())"
        "\nassert len(by_prompt) == 4 and len(fox) == 6"
    )
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": checkout.root / "notebooks"}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    tables = "".join(output.get("data", {}).get("text/html", "") for output in shown)
    assert "24 cells, 24 images" in tables
    assert "24 of 24 cells completed" in tables
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert len(list((checkout.root / "jobs/runs/quickstart-sandbox/images").glob("*/*.png"))) == 24
