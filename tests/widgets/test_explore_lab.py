"""Keys, files and the sheets in a real JupyterLab: search, walk, look into a file; light, dark and narrow."""

import pytest
from browser import comes
from labserver import visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CELL = """
import torch, ckptlab
names = [f"layers.{i}.{part}.weight" for i in range(40) for part in ("wq", "wk", "norm")]
state = {"model": {name: torch.ones(8, 4) for name in names}, "step": 3, "note": {"lr": 0.1}}
state["optim"] = {"state": {name: {"exp_avg": torch.zeros(8, 4)} for name in names}}
ckptlab.save(state, "checkpoint", no_dist=True)
open("checkpoint/__9_0.distcp", "wb").write(bytes(5000))
explorer = ckptlab.explore("checkpoint")
explorer
"""
THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"


@pytest.fixture
def page(chromium, tmp_path):
    with visit(chromium, tmp_path, [CELL.strip()], 1250, 1900) as page:
        yield page


def test_keys_files_and_sheets(page, tmp_path):
    explorer = page.locator(".jp-OutputArea-output:has(.ckl-view)").first
    keys = explorer.get_by_role("treegrid", name="keys")
    search = explorer.get_by_role("searchbox", name="search keys")

    def shot(name, what=explorer):
        what.scroll_into_view_if_needed()
        page.wait_for_timeout(400)  # for a picture only
        what.screenshot(path=str(tmp_path / f"{name}.png"))

    def chosen(fqn):
        page.get_by_role("heading", name=f"{fqn} in the checkpoint").wait_for()
        explorer.locator(f"[role=row][aria-selected=true][title='{fqn}']").wait_for()

    shot("light")
    # By keyboard alone: type into the tree, walk to a key, choose it; what an optimizer keeps comes beside.
    keys.focus()
    page.keyboard.type("*.7.wq.*")
    explorer.get_by_text("2 of 242 keys").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    while (line := active(page)) != "model.layers.7.wq.weight":
        page.keyboard.press("ArrowDown")
        comes(lambda line=line: active(page) not in (None, line), True)
    page.keyboard.press("Enter")
    chosen("model.layers.7.wq.weight")
    explorer.get_by_role("checkbox", name="optimizer state").check()
    # The row of that title was there before, by a longer name, among what the search found.
    row = keys.get_by_title("optim.state.layers.7.wq.weight.exp_avg", exact=True)
    row.get_by_text("exp_avg", exact=True).wait_for()
    shot("keys-search", keys)
    search.fill("note")
    keys.get_by_title("note.lr: 0.1").wait_for()
    search.fill("")
    explorer.get_by_title("Unfold all").click()
    page.wait_for_function("document.querySelector('[role=treegrid]').getAttribute('aria-rowcount') > 200")
    keys.focus()
    page.keyboard.press("End")
    keys.get_by_title("step: 3").wait_for()
    assert 10 < keys.get_by_role("row").count() < 40
    with page.expect_download() as download:
        explorer.get_by_role("button", name="CSV").first.click()
    assert download.value.suggested_filename == "keys.csv"

    # Files: the stale one first and told of; into a file by a bar, to a tensor by a chunk, and out again.
    explorer.get_by_role("tab", name="Files").click()
    explorer.get_by_text("1 data file of another save by rank 9").wait_for()
    table = explorer.get_by_role("grid", name="files")
    comes(lambda: table.get_by_role("row").nth(1).inner_text().split()[:1], ["__9_0.distcp"])
    shot("files")
    bars = explorer.locator("[data-panel=files]")
    bars.get_by_text("4.88 KiB, stale").wait_for()
    bars.get_by_role("option", name="layers.7.wq.weight [0:8, 0:4]").first.click()
    explorer.get_by_text("The bytes of __0_0.distcp").wait_for()
    extents = explorer.get_by_role("grid", name="extents")
    extents.get_by_role("row").nth(1).wait_for()
    extents.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    extents.locator("[role=row][aria-selected=true]").wait_for()
    shot("file")
    page.evaluate(THEME, "JupyterLab Dark")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    shot("file-dark")
    explorer.get_by_role("tab", name="Layout").click()
    explorer.get_by_text("Layout inferred").wait_for()
    page.set_viewport_size({"width": 480, "height": 1900})
    page.evaluate("window.jupyterapp.shell.collapseLeft()")
    explorer.get_by_role("tab", name="Files").click()
    bars.get_by_text("The bytes of").wait_for()
    shot("narrow-dark")
    comes(lambda: explorer.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), True)
    page.evaluate(THEME, "JupyterLab Light")
    shot("narrow")


def active(page):
    return page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.title"
    )
