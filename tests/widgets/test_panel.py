"""Panels of rectangles on a stub model in Chromium: what lights up, how soon, and by which keys."""

import re
import statistics

import numpy as np
import pytest
import scenes
from browser import DARK, HOVERS, LIGHT, SETTLED, bright, comes, point, spot
from saved import hsdp_metadata

from ckptlab.explorer.scenes import layout_scene
from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor

# The pixels of a panel's canvas, and the one at a point in units of the panel.
CANVAS = """
  const stage = document.querySelector(`[data-panel="${panel}"] .ckl-stage`), { dataset } = stage;
  const canvas = stage.querySelector("canvas"), { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height), dpr = width / stage.clientWidth;
  const column = (x) => Math.floor((Number(dataset.left) + x * dataset.scaleX) * dpr);
  const row = (y) => Math.floor((Number(dataset.top) + y * dataset.scaleY) * dpr);
"""

# Alpha of the canvas at the middle of every tile: 255 where it is bright, less where it is dimmed.
ALPHAS = f"""([panel, box]) => {{
  {CANVAS}
  return box.map(([x, y, w, h]) => data[4 * (row(y + h / 2) * width + column(x + w / 2)) + 3]);
}}"""

# How many pixels of the canvas have a grey, as lines in the colour of the theme's text do.
GREYS = f"""([panel, grey]) => {{
  {CANVAS}
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {{
    count += data[i] === grey && data[i + 1] === grey && data[i + 2] === grey && data[i + 3] > 200;
  }}
  return count;
}}"""


@pytest.mark.browser
def test_facts_read_as_in_python(shown):
    edges = [10**k + d for k in range(19) for d in (-1, 0, 1)]
    edges += [
        (1 << (10 * k)) * m // 1000 for k in range(1, 6) for m in (995, 999, 1000, 1125, 9995, 99950, 999500)
    ]
    # Halves: 1.125 KiB and the like, which Python rounds to even and JavaScript away from zero.
    edges += [1024 * n // 8 for n in range(9, 90, 4)] + [(1 << 20) * n // 8 for n in range(9, 90, 4)]
    numbers = sorted({*edges, *(-n for n in edges), 0, (1 << 63) - 1, -(1 << 63)})
    scene = scenes.values(numbers)
    page = shown(scene)
    said = page.get_by_role("option").evaluate_all("all => all.map((o) => o.getAttribute('aria-label'))")
    facts = scene.panels[0].marks.facts
    assert said == ["; ".join(f"{f.label}: {f.show(i)}" for f in facts) for i in range(len(numbers))]


@pytest.mark.browser
def test_pointing_at_a_rank_lights_what_it_shares(shown):
    page = shown(scenes.hsdp())
    assert bright(page, "mesh") == set(range(6))
    page.get_by_role("option", name="rank 2").first.hover()
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {2, 4}  # itself and the frame of its replica group
    assert bright(page, "tensor") == {0}
    point(page, "tensor", 512, 1500)
    assert bright(page, "mesh") == {1, 3, 5}
    assert bright(page, "tensor") == {1}
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == set(range(6))


@pytest.mark.browser
def test_pointing_shows_label_and_facts(shown):
    page = shown(scenes.hsdp())
    point(page, "tensor", 512, 1500)
    tip = page.get_by_role("tooltip")
    assert tip.is_visible()
    assert tip.inner_text().split() == (
        ["rank", "1", "box", "[1024:2048,", "0:1024]", "bytes", "4.00", "MiB", "file", "__1_0.distcp"]
    )
    assert page.get_by_role("status").inner_text() == (
        "rank 1; box: [1024:2048, 0:1024]; bytes: 4.00 MiB; file: __1_0.distcp"
    )
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


@pytest.mark.browser
def test_facts_that_a_mark_lacks_are_not_said(shown):
    page = shown(Session(hsdp_metadata()).stored_scene())
    page.get_by_role("option", name=re.compile("^rank 3; ")).hover()
    page.evaluate(SETTLED)
    heads = page.get_by_role("tooltip").get_by_role("rowheader").all_inner_texts()
    assert heads == ["holds", "at", "also held by", "shard group", "wrote, in all"]
    assert "replica group" not in page.get_by_role("status").inner_text()


@pytest.mark.browser
def test_the_tooltip_stays_in_the_window(shown):
    page = shown(scenes.hsdp())
    page.set_viewport_size({"width": 400, "height": 640})
    page.wait_for_function("innerWidth === 400")
    page.evaluate(SETTLED)
    page.evaluate(SETTLED)
    page.get_by_role("figure").last.scroll_into_view_if_needed()
    for x, y in ((5, 20), (990, 20), (5, 1980), (990, 1980)):
        point(page, "tensor", x, y)
        box = page.get_by_role("tooltip").bounding_box()
        assert min(box["x"], box["y"]) >= 0
        assert box["x"] + box["width"] <= 400
        assert box["y"] + box["height"] <= 640


@pytest.mark.browser
@pytest.mark.parametrize("n", [64, 1024, 16_384])
def test_hover_lights_the_right_tiles_soon(shown, n):
    scene = scenes.tiles(n)
    tiles, side = scene.panels[1].marks, round(n**0.5)
    page = shown(scene)
    row, column = side // 3, side // 2
    point(page, "tensor", column + 0.5, row + 0.5)
    at = row * side + column
    assert page.get_by_role("status").inner_text().startswith(f"chunk {at}; rank: {tiles.colour[at]};")
    mine = {i for i in range(n) if tiles.colour[i] == tiles.colour[at]}
    if n == 64:
        assert bright(page, "tensor") == mine
    else:
        alphas = np.array(page.evaluate(ALPHAS, ["tensor", tiles.box.tolist()]))
        # Round the pointed tile a ring is drawn, which may touch the middle of tiny neighbours.
        lit = set((alphas > 250).nonzero()[0].tolist())
        near = {at + dy * side + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        assert lit - near == mine - near
        assert len(lit) < n / 4
    assert bright(page, "mesh") == {int(tiles.colour[at])}
    points = [((k * 37) % side + 0.5, (k * 17) % side + 0.5) for k in range(40)]
    took = page.evaluate(HOVERS, ["tensor", points])
    # How quick it is, the bench says; here others may be at work.
    assert statistics.median(took) < 1000, f"{n} tiles: hover to frame, in ms: {took}"


@pytest.mark.browser
def test_keys_walk_select_and_let_go(shown):
    page = shown(scenes.hsdp())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("rank 0;")
    for key, rank in (
        ("ArrowRight", 1),
        ("ArrowDown", 3),
        ("ArrowLeft", 2),
        ("ArrowUp", 0),
        ("ArrowRight", 1),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.mark") == str(rank)
    assert page.get_by_role("tooltip").is_visible()
    page.keyboard.press("Enter")
    assert page.evaluate("sent") == [{"rank": 1, "picked": {"panel": "mesh", "mark": 1}}]
    page.keyboard.press("Enter")
    assert page.evaluate("sent.at(-1)") == {"rank": -1, "picked": {}}
    page.keyboard.press(" ")
    page.keyboard.press("Escape")
    assert page.evaluate("sent.map((s) => s.rank)") == [1, -1, 1, -1]
    # A walk by keyboard goes on from where it was when the scene is drawn anew.
    page.evaluate("model.set('columns', model.get('columns'))")
    page.evaluate(SETTLED)
    assert page.evaluate("document.activeElement.dataset.mark") == "1"


@pytest.mark.browser
def test_keys_reach_every_rank_of_a_real_mesh_and_hollow_ones_too(shown):
    layout = Layout.parse("dp=2, fsdp=3", "Replicate, Shard(0)")
    page = shown(layout_scene(layout, Tensor("w", "float32", (2, 4)), hosts=3))
    said = "document.activeElement.getAttribute('aria-label')"
    page.keyboard.press("Tab")
    assert page.evaluate(said).startswith("rank 0; holds: [0:1, 0:4]; at: dp 0, fsdp 0; ")
    for key, rank in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowDown", 5),
        ("ArrowLeft", 4),
        ("ArrowUp", 1),
    ):
        page.keyboard.press(key)
        assert page.evaluate(said).startswith(f"rank {rank}; ")
    page.keyboard.press("ArrowRight")
    assert "nothing of this tensor" in page.get_by_role("status").inner_text()
    page.keyboard.press("Enter")
    assert page.evaluate("sent.at(-1).rank") == 2


@pytest.mark.browser
def test_keys_go_no_further_than_the_view(shown):
    page = shown(scenes.hsdp())
    page.evaluate("window.leaked = []; document.addEventListener('keydown', (ev) => leaked.push(ev.key))")
    page.get_by_role("option").first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter", "Home", "x"):
        page.keyboard.press(key)
    assert page.evaluate("leaked") == ["x"]


@pytest.mark.browser
def test_what_is_selected_stays_lit(shown):
    page = shown(scenes.hsdp())
    page.get_by_role("option", name="rank 3").first.click()
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert page.evaluate("sent.at(-1)") == {"rank": 3, "picked": {"panel": "mesh", "mark": 3}}
    assert bright(page, "mesh") == {3, 5}
    assert page.get_by_role("option", name="rank 3").first.get_attribute("aria-selected") == "true"
    point(page, "mesh", 50, 40)  # rank 0 lights up beside it
    assert bright(page, "mesh") == {0, 3, 4, 5}
    assert bright(page, "tensor") == {0, 1}


@pytest.mark.browser
def test_a_tile_that_is_pressed_selects_all_its_ranks(shown):
    page = shown(scenes.hsdp())
    page.mouse.click(*spot(page, "tensor", 512, 1500))
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert page.evaluate("sent") == [{"rank": -1, "picked": {"panel": "tensor", "mark": 1}}]
    assert bright(page, "mesh") == {1, 3, 5}
    page.mouse.click(*spot(page, "tensor", 512, 1500))
    assert page.evaluate("sent.at(-1)") == {"rank": -1, "picked": {}}


@pytest.mark.browser
def test_python_selects_and_lets_go(shown):
    page = shown(scenes.hsdp(), rank=1)
    assert bright(page, "mesh") == {1, 5}
    assert page.get_by_role("status").inner_text() == "selected: rank 1"
    page.get_by_role("option", name="rank 2").first.click()
    page.mouse.move(5, 5)
    page.evaluate("model.set('rank', -1)")  # as Python would: the pressed mark is let go of too
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == set(range(6))
    assert page.evaluate("sent.length") == 1


@pytest.mark.browser
def test_words_follow_the_theme_at_once(shown):
    page = shown(scenes.tiles(1024), LIGHT)
    colour = "e => getComputedStyle(e).color"
    assert page.get_by_role("heading").evaluate(colour) == "rgb(20, 20, 20)"
    point(page, "tensor", 3.5, 3.5)
    assert page.evaluate(GREYS, ["tensor", 240]) == 0
    page.evaluate("(css) => { document.getElementById('theme').textContent = css }", DARK)
    # The ring on the canvas, too, without a move.
    page.wait_for_function(f"(how) => ({GREYS})(how) > 8", arg=["tensor", 240])
    comes(lambda: page.get_by_role("heading").evaluate(colour), "rgb(240, 240, 240)")
