"""The part of a panel that is looked at, on a stub model in Chromium: wheel, drag, buttons, keys."""

import base64

import pytest
import scenes
from browser import SETTLED, comes, point, spot

from ckptlab.explorer.scene import Scene
from ckptlab.explorer.scenes import layout_scene
from ckptlab.explorer.tensor import Look, held_panel
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.widgets.pack import pack

pytestmark = pytest.mark.browser

# Left, top, width and height of what is seen, in units of the panel.
SEEN = """(panel) => {
  const stage = document.querySelector(`[data-panel="${panel}"] .ckl-stage`), { dataset } = stage;
  const words = [...stage.querySelectorAll(".ckl-words text")].map((t) => t.textContent);
  const [left, top, unit] = [dataset.left, dataset.top, dataset.scaleX].map(Number);
  return { near: dataset.near === "true", unit, left, top, words };
}"""


def seen(page, panel="tensor"):
    page.evaluate(SETTLED)
    return page.evaluate(SEEN, panel)


def matrix(n=4, shape=(1000, 800)):
    layout = Layout.parse(str(n), "Shard(0)")
    return Scene("w", (held_panel(Tensor("w", "float32", shape), layout, "shards", name="tensor"),), (), "w")


def test_buttons_zoom_and_the_last_one_shows_all(shown):
    page = shown(matrix())
    before = seen(page)
    whole = page.get_by_role("button", name="whole picture")
    assert whole.is_disabled()
    page.get_by_role("button", name="zoom in").click()
    page.get_by_role("button", name="zoom in").click()
    now = seen(page)
    assert now["near"]
    assert now["unit"] == pytest.approx(4 * before["unit"], rel=0.01)
    page.get_by_role("button", name="zoom out").click()
    assert seen(page)["unit"] == pytest.approx(2 * before["unit"], rel=0.01)
    whole.click()
    assert seen(page) == before
    page.get_by_role("button", name="zoom out").click()  # there is no more than all of it
    assert seen(page) == before


def test_the_wheel_zooms_at_the_pointer_with_ctrl_or_once_the_panel_was_pressed(shown):
    page = shown(matrix())
    before = seen(page)
    at = spot(page, "tensor", 3, 2)
    page.mouse.move(*at)
    page.mouse.wheel(0, -300)
    assert seen(page) == before  # the page is scrolled, not the picture
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    # Whoever turns a wheel is not told when the page has heard of it.
    comes(lambda: seen(page)["unit"] > 1.5 * before["unit"], True)
    page.keyboard.up("Control")
    assert spot(page, "tensor", 3, 2) == pytest.approx(at, abs=1)
    page.mouse.click(*at)
    page.mouse.wheel(0, 3000)
    comes(lambda: seen(page), before)


def test_a_double_click_shows_all_and_selects_nothing(shown):
    page = shown(matrix())
    before = seen(page)
    page.get_by_role("button", name="zoom in").click()
    page.mouse.dblclick(*spot(page, "tensor", 4, 4))
    assert seen(page) == before
    assert page.evaluate("model.get('picked')") == {}


def test_a_drag_moves_what_is_seen_and_selects_nothing(shown):
    page = shown(matrix())
    page.get_by_role("button", name="zoom in").click()
    before = seen(page)
    x, y = spot(page, "tensor", 4, 4)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20, y - 30)
    page.mouse.up()
    now = seen(page)
    assert (now["left"] - before["left"], now["top"] - before["top"]) == pytest.approx((-20, -30), abs=1)
    assert page.evaluate("sent") == []
    page.mouse.click(*spot(page, "tensor", 4, 4))
    assert len(page.evaluate("sent")) == 1  # a press is still one


def test_keys_zoom_pan_and_bring_marks_into_sight(shown):
    page = shown(matrix(8))
    before = seen(page)
    page.get_by_role("option").first.focus()
    for key in ("+", "+", "+"):
        page.keyboard.press(key)
    now = seen(page)
    assert now["unit"] == pytest.approx(8 * before["unit"], rel=0.01)
    page.keyboard.press("Shift+ArrowRight")
    assert seen(page)["left"] < now["left"]
    page.keyboard.press("End")
    page.evaluate(SETTLED)
    last = page.get_by_role("option").last
    assert last.is_visible()
    assert page.evaluate("document.activeElement.dataset.mark") == "7"
    page.keyboard.press("0")
    assert seen(page) == before


def test_marks_out_of_sight_are_not_there_and_ticks_are_round_numbers(shown):
    page = shown(matrix())
    assert {"0", "250", "500", "750", "1000", "800"} <= set(seen(page)["words"])
    page.get_by_role("option").first.focus()
    for _ in range(4):
        page.keyboard.press("+")  # about the middle of the first shard: rows 125, columns 400
    words = [int(w) for w in seen(page)["words"] if w.isdigit()]
    assert words
    assert all(w % 10 == 0 for w in words)
    assert not {250, 500, 1000} & set(words)
    assert [o.get_attribute("data-mark") for o in page.get_by_role("option").all()] == ["0"]


def test_the_very_element_under_the_pointer_is_told(shown):
    tensor = Tensor("cube", "float32", (6, 40, 30))
    layout = Layout.parse("2x2", "Shard(1), Shard(2)")
    scene = layout_scene(layout, tensor, Look((1, 2), (5, 0, 0)))
    page = shown(scene)
    plane = scene.panels[1].plane
    told = page.get_by_role("row", name="at the pointer")
    for _ in range(2):
        for row, column in ((3, 7), (39, 29), (20, 15)):
            point(page, "tensor", (column + 0.5) * plane.width / 30, (row + 0.5) * plane.height / 40)
            assert told.inner_text().split(maxsplit=3)[3] == f"[5, {row}, {column}]"
        page.get_by_role("button", name="zoom in").last.click()
        page.get_by_role("button", name="zoom out").last.click()
    point(page, "mesh", 0.5, 0.5)
    assert told.count() == 0


def test_what_was_seen_stays_when_the_same_tensor_is_drawn_anew(shown):
    page = shown(matrix())
    page.get_by_role("button", name="zoom in").click()
    before = seen(page)
    for scene, same in ((matrix(), True), (matrix(4, (500, 800)), False)):
        header, columns = pack(scene)
        page.evaluate("([h, c]) => show(h, c)", [header, base64.b64encode(columns).decode()])
        assert seen(page)["near"] == same
        assert (seen(page) == before) == same


def test_many_tiles_and_many_ranks_are_zoomed_on_their_canvas(shown):
    page = shown(scenes.tiles(1024))
    page.get_by_role("button", name="zoom in").click(click_count=3)
    page.evaluate(SETTLED)
    point(page, "tensor", 16.5, 16.5)
    assert page.get_by_role("status").inner_text().startswith("chunk 528; ")
    layout = Layout.parse("replicate=64, shard=64", "Replicate, Shard(0)")
    scene = layout_scene(layout, Tensor("w", "float32", (6400, 16)))
    page = shown(scene)
    x, y, w, h = scene.panels[0].marks.box[65].tolist()
    point(page, "mesh", x + w / 2, y + h / 2)
    assert page.get_by_role("status").inner_text().startswith("rank 65; holds: [100:200, 0:16]; ")
    for _ in range(5):
        page.get_by_role("button", name="zoom in").first.click()
    words = seen(page, "mesh")["words"]
    assert "rank 2015" in words  # few enough to bear their names
    assert {"shard (Shard(0)) →", "← replicate (copies)"} <= set(words)
