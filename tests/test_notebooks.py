"""Every notebook runs from top to bottom, and leaves a picture for a reader without a kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

BOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

# What cells say that the words around them build upon, by notebook and cell.
SAYS = {
    "06-when-a-load-does-not-fit": {
        "a": "stock DCP: Missing key in checkpoint state_dict: attn.k.weight.",
        "a-doctor": "Right: it loads, and all 6 tensors hold what they should.",
        "b-doctor": "Right: it loads, and all 6 tensors hold what they should.",
        "c-doctor": "Right: it loads, and all 6 tensors hold what they should.",
        "d": "stock DCP: loaded, and said nothing",
        "d-doctor": "Right: it loads, and all 6 tensors hold what they should. It warned:",
        "e-doctor": "Right: it loads, and all 18 tensors hold what they should.",
        "puzzle-look": "No: it loads without an error, but mlp.up.weight is wrong",
    },
    "07-the-strided-shard": {
        "answer": "Rank 1 holds rows 4 and 5",
        "uneven": "all 4 ranks hold the very rows of the 9",
        "save": "refused: Failed to validate global plan: key:weight has overlapping chunks",
    },
    "08-torn-and-hostile": {
        "kill": "rank 2 died: killed by SIGKILL",
        "load": "rows 2, 2, 2, 2, 2, 2, 1, 1, 1, 2; step 2",
        "tell": "is whole\n",
        "ours": "rank 2 died: killed by SIGKILL",
        "ours-load": "Saved by ckptlab: rows 1, 1, 1, 1, 1, 1, 1, 1, 1, 1; step 1",
        "ours-tell": "note   stale: 3 data files of another save by ranks 0, 1, 3",
        "hostile-run": "its code RAN",
    },
    "09-405b-on-paper": {
        "size": "4,058,533,888,000 bytes",
        "plan": "in 3,492,828 chunks",
        "load": "It is 53 TiB. ckptlab reads 3.7 TiB",
        "empty": "15,360 ranks without any of it",
        "sent": "8.84 GiB from 16,384 ranks",
        "growth": "41,949,120",
    },
}


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
    for name, words in SAYS.get(path.stem, {}).items():
        assert words in told(book, name)


def told(book, name):
    """All that a cell shows, as plain text."""
    cell = next(cell for cell in book.cells if cell.id == name)
    return "\n".join(output["data"].get("text/plain", "") for output in cell.outputs)


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_it_is_short_and_stores_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) <= 12
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 12
