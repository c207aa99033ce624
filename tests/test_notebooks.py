"""The notebooks of docs/ run from top to bottom, and are kept without outputs."""

import base64
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any, kind: str) -> list[Any]:
    """What the cells showed in one form, such as ``text/html``."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"][kind] for output in shown if kind in output.get("data", {})]


def streamed(notebook: Any, name: str) -> list[str]:
    """What the cells wrote to stdout or stderr."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["text"] for output in shown if output.get("name") == name]


def run(file: Path, folder: Path) -> Any:
    """A notebook as it is after all its cells ran in a folder."""
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_there_are_three() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["digits", "faces", "own_folder"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_kept_without_outputs(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", ["digits", "own_folder"])
def test_a_notebook_runs_and_shows_tables_and_figures(name: str, tmp_path: Path) -> None:
    notebook = run(NOTEBOOKS[0].with_stem(name), tmp_path)
    assert any("<table>" in html for html in outputs(notebook, "text/html"))
    figures = [base64.b64decode(png) for png in outputs(notebook, "image/png")]
    assert figures
    assert all(png.startswith(b"\x89PNG") for png in figures)
    assert not streamed(notebook, "stderr")


def test_the_notebook_on_faces_runs_with_vectors_in_their_place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("KDBIAS_DATA", raising=False)
    shown = "".join(outputs(run(NOTEBOOKS[0].with_stem("faces"), tmp_path), "text/html"))
    assert "your data differ from the reference" in shown


def test_the_notebook_on_faces_runs_with_faces(real_data: Path, tmp_path: Path) -> None:
    if not (real_data / "fairface8k").is_dir() or not (real_data / "lfw112").is_dir():
        pytest.skip("the folder of real data has no faces")
    notebook = run(NOTEBOOKS[0].with_stem("faces"), tmp_path)
    assert "real faces" in "".join(streamed(notebook, "stdout"))
    assert "your data differ from the reference" in "".join(outputs(notebook, "text/html"))
