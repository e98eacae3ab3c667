"""The explorer in a real Notebook 7: point, press a tensor, open every sheet."""

import json
import re
import sys

import nbformat
import pytest
from browser import SETTLED, comes
from labserver import lab, open_and_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CELL = """
import torch, ckptlab
state = {"wq": torch.ones(8, 4), "norm": torch.ones(8)}
ckptlab.save(state, "checkpoint", no_dist=True)
ckptlab.explore("checkpoint")
"""
COMMAND = [sys.executable, "-m", "notebook", "--JupyterNotebookApp.expose_app_in_browser=True"]
SHEETS = {
    "What if": "Who reads from whom",
    "Run": "Not run yet.",
    "Files": "1 data file",
    "Values": "32 elements, every one finite",
    "Layout": "what speaks for and against",
}


def test_every_sheet_opens(chromium, tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "book.ipynb")
    # Notebook 7 puts an output of over 100 lines into a box that scrolls; a picture should show all of it.
    settings = tmp_path / ".jupyter" / "settings" / "@jupyter-notebook" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "scroll-output.jupyterlab-settings").write_text(json.dumps({"autoScrollOutputs": False}))
    with lab(tmp_path, COMMAND) as address:
        page = chromium.new_page(viewport={"width": 1250, "height": 1900})
        page.set_default_timeout(120_000)
        try:
            open_and_run(page, address.replace("/lab/", "/notebooks/").format(place="book.ipynb"))
            look(page, tmp_path)
        finally:
            page.screenshot(path=str(tmp_path / "last.png"))
            page.close()


def by_keyboard(page, explorer):
    """Without a pointer: type into the tree, choose, keep a rank lit, turn to another sheet and fill a field.

    A notebook has uses of its own for letters: cells would be cut, or made.
    """
    cells = page.locator(".jp-Cell").count()
    page.mouse.move(2, 2)
    keys = explorer.get_by_role("treegrid", name="keys")
    keys.focus()
    page.keyboard.type("wq")
    explorer.get_by_text("1 of 2 keys").wait_for()
    for key in ("ArrowDown", "Home", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("heading", name="wq in the checkpoint").wait_for()
    page.keyboard.press("Escape")
    explorer.get_by_text("2 keys", exact=False).first.wait_for()
    explorer.get_by_role("option", name=re.compile("^rank 0;")).first.focus()
    page.keyboard.press("Enter")
    explorer.get_by_text("selected: rank 0").first.wait_for()
    page.keyboard.press("Escape")
    explorer.get_by_role("tab", name="What if").focus()
    for key in ("ArrowRight", "Enter"):
        page.keyboard.press(key)
    explorer.get_by_text("Not run yet.").wait_for()
    explorer.get_by_role("tab", name="Run").focus()
    for key in ("ArrowLeft", "Enter"):
        page.keyboard.press(key)
    explorer.get_by_role("textbox", name="Mesh").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("dd=2")
    page.keyboard.press("Enter")
    explorer.get_by_text("the ranks that read, 2.").wait_for()
    comes(page.locator(".jp-Cell").count, cells)


def look(page, tmp_path):
    assert page.evaluate("window.jupyterapp.name") == "Jupyter Notebook"
    explorer = page.locator(".jp-OutputArea-output:has(.ckl-view)").first
    rank = explorer.get_by_role("option", name=re.compile("^rank 0;")).first

    def pointed():
        # The notebook may still move under the pointer.
        page.mouse.move(2, 2)
        rank.hover()
        page.evaluate(SETTLED)
        return explorer.get_by_text(re.compile("^rank 0; holds: ")).count()

    comes(pointed, 1)
    explorer.get_by_role("treegrid", name="keys").get_by_title("norm", exact=True).click()
    page.get_by_role("heading", name="norm in the checkpoint").wait_for()
    by_keyboard(page, explorer)
    for sheet, said in SHEETS.items():
        explorer.get_by_role("tab", name=sheet).click()
        explorer.get_by_text(said).first.wait_for()
        explorer.screenshot(path=str(tmp_path / f"{sheet.replace(' ', '-').lower()}.png"))
    comes(lambda: explorer.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), True)
