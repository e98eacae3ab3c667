"""The what-if panel: what is pressed and typed, and what is then shown; then a visit in a real JupyterLab."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import SETTLED, comes, spot
from labserver import visit
from saved import hsdp_metadata

from ckptlab.explorer.session import Session
from ckptlab.widgets import whatif as module
from ckptlab.widgets.whatif import WhatIfPanel

THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"


@pytest.fixture
def panel(monkeypatch):
    # A browser that another test opened leaves a loop running in this thread: nothing is to wait for it.
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: _raise(RuntimeError("no loop")))
    panel = WhatIfPanel(Session(hsdp_metadata()))
    yield panel
    panel.close()


def _raise(error):
    raise error


def stale(panel):
    return "ckl-stale" in panel._answer._dom_classes


def columns(panel):
    """How many ranks read, as the matrix says."""
    return panel.matrix.scene.panels[0].caption.partition("read, ")[2].rstrip(".")


def shown(panel):
    return [axis.said for axis in panel.axes if axis.layout.display != "none"]


def widgets(panel):
    """How many there are within."""
    return 1 + sum(map(widgets, getattr(panel, "children", ())))


def test_a_recipe_fills_every_field_and_is_answered(panel):
    panel.recipe.value = "FSDP + TP"
    assert (panel.mesh.value, panel.placements.value) == (
        "dp=2, tp=2",
        "StridedShard(0, split_factor=2), Shard(0)",
    )
    assert shown(panel) == [("dp", 2, "StridedShard(0)"), ("tp", 2, "Shard(0)")]
    assert "StridedShard(0, split_factor=2), Shard(0)" in panel.tensor.scene.text
    panel.ranks.value = 64
    assert panel._session.mesh == "dp=8, tp=8"
    assert "64" in panel.facts.value
    assert len(panel.costs.foretold.reads) == 64


def test_sliders_and_choosers_of_the_axes_make_the_target(panel):
    panel.axes[0].size.value = 6
    assert panel._session.mesh == "shard=6"
    assert panel.ranks.value == 6
    panel.more.click()
    assert panel._session.mesh == "shard=6, tp=2"
    panel.axes[1].does.value = "Shard(1)"
    assert panel._session.placements == "Shard(0), Shard(1)"
    assert (panel.recipe.value, panel.ranks.value) == ("as typed", 12)
    panel.axes[1].name.value = "cols"
    assert panel._session.mesh == "shard=6, cols=2"
    panel.fewer.click()
    assert (panel._session.mesh, panel.recipe.value) == ("shard=6", "FSDP")
    assert panel.fewer.disabled


def test_what_is_typed_moves_the_sliders(panel):
    panel.mesh.value = "a=5, b=7"
    assert stale(panel)
    panel.placements.value = "Replicate, StridedShard(1, split_factor=2)"
    assert not stale(panel)
    assert shown(panel) == [("a", 5, "Replicate"), ("b", 7, "as typed")]
    assert panel.ranks.value == 35
    assert columns(panel) == "35"


def test_a_target_that_makes_no_sense_is_said_and_the_answer_fades(panel):
    before = panel.matrix.scene
    panel.placements.value = "Shrd(0)"
    assert "role='alert'" in panel.problem.value
    assert "Shrd(0)" in panel.problem.value
    assert stale(panel)
    assert panel.matrix.scene is before
    panel.placements.value = "Shard(1)"
    assert panel.problem.value == ""
    assert not stale(panel)
    panel.mesh.value, panel.placements.value = "a=4, b=3", "Shard(0), Shard(1)"
    panel.ranks.value = 7
    assert "7 ranks" in panel.problem.value
    assert panel._session.mesh == "a=4, b=3"


def test_rules_are_taken_when_they_are_whole(panel):
    total = panel._session.foretold.total
    panel.rule.click()
    key, does, gone = panel.rules.children[0].children
    key.value = "*embed*"
    assert panel._session.rules == ()
    does.value = "Replicate"
    assert panel._session.rules == (("*embed*", "Replicate"),)
    assert panel._session.foretold.total > total
    key.value = "*nothing like it*"
    assert stale(panel)
    gone.click()
    assert panel._session.rules == ()
    assert not stale(panel)
    assert panel._session.foretold.total == total


def test_what_others_change_in_the_session_is_shown(panel):
    panel._session.choose("model.layers.0.wq.weight")
    assert panel.tensor.scene.title.startswith("model.layers.0.wq.weight")
    panel._session.change(mesh="tp=3", placements="Shard(1)")
    assert (panel.recipe.value, panel.mesh.value, panel.ranks.value) == ("TP", "tp=3", 3)
    panel._press(0)
    assert panel._session.rank == 0


def test_thousands_of_ranks_take_no_more_widgets_than_four(panel):
    few = widgets(panel)
    panel.ranks.value = 16384
    assert panel._session.foretold.world == 16384
    assert widgets(panel) == few
    assert len(panel.costs) < 20
    assert len(panel.table.page["lines"]) < 20
    panel.each.value = True
    assert panel.table.page["total"] == 16384
    assert len(panel.table.page["lines"]) < 40


def test_a_slider_that_is_moved_is_answered_when_it_rests():
    async def move():
        panel = WhatIfPanel(Session(hsdp_metadata()))
        asked = []
        panel._session.listen(lambda changed: asked.append(panel._session.mesh))
        for size in (5, 6, 7, 8):
            panel.axes[0].size.value = size
        assert asked == []
        while not asked:
            await asyncio.sleep(0.02)
        assert asked == ["shard=8"]
        panel.close()

    # In a thread of its own: the browser's loop may be running in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(asyncio.wait_for(move(), 60))).result()


def test_it_leaves_a_picture_and_words_behind(panel):
    bundle = panel._repr_mimebundle_()
    assert {"image/png", "text/plain"} <= set(bundle)
    assert "amplification: 1.00x" in bundle["text/plain"]
    panel.mesh.value = "nonsense"
    assert "no mesh" in repr(panel)


# ---------------------------------------------------------------- in a real JupyterLab


@pytest.fixture
def page(chromium, tmp_path):
    cells = [
        "from ckptlab import Layout, Mesh\nfrom ckptlab.metadata import Tensor\n"
        "from ckptlab.plan.metadata_of import metadata_of\n"
        "rows = Layout.parse('replicate=2, shard=4', 'Replicate, Shard(0)')\n"
        "some = [Tensor(f'layers.{i}.{n}', 'float32', s) for i in range(4)\n"
        "        for n, s in (('w1', (1003, 96)), ('w2', (96, 1003)), ('norm', (96,)))]",
        "from ckptlab.explorer.session import Session\nfrom ckptlab.widgets.whatif import WhatIfPanel\n"
        "panel = WhatIfPanel(Session(metadata_of(some, rows)), 'one link')\npanel",
    ]
    with visit(chromium, tmp_path, cells, 1300, 1800) as page:
        yield page


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_a_visit(page, tmp_path):
    panel = page.locator(".jp-OutputArea-output").last

    def shot(name):
        panel.screenshot(path=str(tmp_path / f"whatif-{name}.png"))

    def told(label):
        fact = panel.locator("[role=status] > div > div", has_text=label).first
        return fact.locator("xpath=..").inner_text().splitlines()[1]

    # At once there is an answer, for four ranks.
    comes(lambda: told("ranks"), "4")
    panel.get_by_role("row").nth(1).wait_for()
    shot("light")

    # A recipe, then a slider by keyboard: all fields follow, and the answer.
    panel.get_by_label("Recipe").select_option(label="HSDP")
    panel.locator("[data-panel=target]").get_by_text("copies").or_(
        panel.get_by_text("each on 2 ranks")
    ).first.wait_for()
    comes(panel.get_by_label("Mesh").input_value, "replicate=2, shard=2")
    handle = panel.get_by_role("slider").first
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    panel.get_by_text("the ranks that read, 8.").wait_for()
    comes(panel.get_by_label("Mesh").input_value, "replicate=2, shard=4")
    comes(lambda: told("ranks"), "8")

    # Pointing at a tile lights up its rank in the tensor's picture, too, without Python.
    def lit():
        # The notebook may still move under the pointer.
        page.mouse.move(2, 2)
        page.mouse.move(*spot(page, "matrix", 0.5 * 10 / 8, 0.5 * 10 / 8))
        page.evaluate(SETTLED)
        return panel.locator("[data-panel=target]").get_attribute("data-lit")

    comes(lit, "1")
    page.mouse.move(2, 2)

    # A rule for some keys.
    panel.get_by_role("button", name="rule").click()
    panel.get_by_placeholder("keys: *norm*").fill("*w2")
    panel.get_by_placeholder("placements: Replicate").fill("Replicate")
    before = told("read in all")
    panel.get_by_placeholder("placements: Replicate").press("Enter")
    comes(lambda: told("read in all") != before, True)
    shot("rule")

    # A target that makes no sense: one clear error, and what is below fades.
    panel.get_by_label("Placements").fill("Shrd(0)")
    panel.get_by_label("Placements").press("Enter")
    panel.get_by_role("alert").get_by_text("no placement: 'Shrd(0)'").wait_for()
    comes(panel.locator(".ckl-stale").count, 1)
    shot("bad")
    panel.get_by_label("Placements").fill("Replicate, Shard(0)")
    panel.get_by_label("Placements").press("Enter")
    panel.get_by_role("alert").wait_for(state="detached")

    # Sixteen thousand ranks, dark; then narrow.
    panel.get_by_label("Mesh").fill("replicate=2048, shard=8")
    panel.get_by_label("Mesh").press("Enter")
    panel.get_by_text("the ranks that read, 16,384.").wait_for()
    assert panel.get_by_role("row").count() < 30
    page.evaluate(THEME, "JupyterLab Dark")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    shot("dark")
    page.set_viewport_size({"width": 640, "height": 2400})
    comes(lambda: panel.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), True)
    shot("narrow")
