"""Every notebook runs from top to bottom, and leaves a picture for a reader without a kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

BOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert BOOKS


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_it_runs(path, tmp_path):
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = [o["data"] for cell in book.cells for o in cell.get("outputs", []) if "data" in o]
    assert any("image/png" in data for data in shown)
    said = [o for cell in book.cells for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    assert said == [], "a cell printed warnings"


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_it_is_short_and_stores_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) <= 12
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 12
