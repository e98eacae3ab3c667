"""Two checkpoints in the notebook: the panel by itself, and once in a real JupyterLab."""

import threading
import time

import pytest
import torch
from labserver import visit

from ckptlab import save
from ckptlab.errors import CheckpointError
from ckptlab.widgets.compare import compare_view

CELL = """
import torch, ckptlab
from ckptlab.widgets.compare import compare_view
names = [f"layers.{i}.{part}.weight" for i in range(12) for part in ("wq", "wk", "norm")]
state = {"model": {name: torch.ones(64, 8) for name in names}, "step": 3}
state["model"]["embed.weight"] = torch.ones(100, 8)
ckptlab.save(state, "before", no_dist=True)
for i in range(4, 12):
    state["model"][f"layers.{i}.wq.weight"] = torch.ones(64, 8) + 2 * 10.0 ** (i - 10)
state["model"]["layers.5.wk.weight"] = torch.full((64, 8), float("nan"))
state["model"]["layers.6.wk.weight"] = torch.ones(8, 64)
del state["model"]["layers.11.norm.weight"]
ckptlab.save({**state, "step": 4}, "after", no_dist=True)
panel = compare_view("before", "after")
panel
"""
THEME = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"


@pytest.fixture
def paths(tmp_path):
    state = {"layers.0.w": torch.ones(4, 3), "layers.1.w": torch.ones(4, 3), "step": 3}
    save(state, tmp_path / "a", no_dist=True)
    save({**state, "layers.1.w": torch.zeros(4, 3)}, tmp_path / "b", no_dist=True)
    return tmp_path / "a", tmp_path / "b"


def done(panel):
    until = time.monotonic() + 60
    while panel.work.busy:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_metadata_at_once_and_values_when_asked(paths):
    panel = compare_view(*paths)
    assert panel.comparison.states == {"unread": 3}
    assert "values were not compared" in panel.work.status.value
    assert len(panel.changes) == 0
    panel.work.button.click()
    done(panel)
    assert panel.comparison.states == {"equal": 2, "values": 1}
    assert "DIFFERENT" in panel.work.status.value
    assert [line.cells[0] for line in panel.changes.lines(0, 9)] == ["layers.1.w"]
    assert "layers.1.w" in repr(panel)
    bundle = panel._repr_mimebundle_()
    assert bundle["image/png"]
    assert "DIFFERENT" in bundle["text/plain"]
    panel.close()


def test_a_tile_chooses_its_line_and_a_line_is_told(paths):
    panel = compare_view(*paths)
    panel.begin()
    done(panel)
    panel.table.hear({"press": 0})
    assert "layers.1.w: 12 of 12 elements differ" in panel.detail.value
    # Of a tile that is equal the line is not shown: then every key is.
    panel.view.picked = {"panel": "changes", "mark": 0}
    assert panel.table.switched
    assert panel.changes.at(panel.changes.chosen).key == "layers.0.w"
    panel.table.hear({"search": "layers.1"})
    assert len(panel.changes) == 1
    panel.table.hear({"search": "/[/"})
    assert "no regular expression" in panel.table.trouble
    panel.close()


def test_cancel(paths, monkeypatch):
    panel, begun = compare_view(*paths), threading.Event()
    through = panel._ask

    def slow(progress):
        begun.set()
        while not panel.work._cancelled.is_set():
            time.sleep(0.01)
        return through(progress)

    monkeypatch.setattr(panel, "_ask", slow)
    panel.begin()
    assert begun.wait(60)
    panel.work.stop.click()
    done(panel)
    assert "Cancelled" in panel.work.status.value
    assert panel.comparison.states == {"unread": 3}


def test_keys_that_neither_has(paths):
    with pytest.raises(CheckpointError, match="neither"):
        compare_view(*paths, keys="nothing")


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_in_jupyterlab(chromium, tmp_path):
    with visit(chromium, tmp_path, [CELL.strip()], 1100, 1300) as page:
        panel = page.locator(".jp-OutputArea-output:has(.ckl-view)").first

        def shot(name):
            panel.scroll_into_view_if_needed()
            page.wait_for_timeout(400)  # for a picture only
            panel.screenshot(path=str(tmp_path / f"{name}.png"))

        panel.get_by_text("DIFFERENT. 38 keys: 36 not read, 1 of another shape, 1 only in a").wait_for()
        shot("unread")
        panel.get_by_role("button", name="Compare values").click()
        panel.get_by_text("10 with other values").wait_for()
        heat = panel.locator("[data-panel=changes]")
        assert heat.get_by_role("option").count() == 37
        shot("light")
        heat.get_by_role("option", name="-2").first.click()
        panel.get_by_text("model.layers.8.wq.weight: 512 of 512 elements differ").wait_for()
        panel.locator("[role=row][aria-selected=true]", has_text="model.layers.8.wq.weight").wait_for()
        panel.get_by_role("searchbox", name="search changes").fill("wk")
        panel.get_by_text("2 keys that differ").wait_for()
        page.evaluate(THEME, "JupyterLab Dark")
        shot("dark")
        page.set_viewport_size({"width": 820, "height": 1300})
        shot("narrow")
        panel.get_by_role("checkbox", name="equal ones too").check()
        panel.get_by_text("12 keys").wait_for()
