"""The widget's traits, and the whole view on a stub model in Chromium: scenes, words, pages, widths."""

import base64
import json

import pytest
import scenes
from browser import DARK, SETTLED, bright, comes
from saved import hsdp_metadata

from ckptlab.explorer.scene import Scene
from ckptlab.explorer.scenes import layout_scene, traffic_scene
from ckptlab.explorer.session import Session
from ckptlab.explorer.traffic import BAR, Ran
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.widgets.pack import pack
from ckptlab.widgets.view import SceneView


def test_a_new_scene_travels_in_one_message():
    view = SceneView(scenes.hsdp())
    sent = []
    view.send_state = lambda key=None: sent.append({key} if isinstance(key, str) else set(key))
    view.picked = {"panel": "mesh", "mark": 1}
    sent.clear()
    view.scene = scenes.bars()
    assert sent == [{"header", "columns", "picked"}]
    assert view.scene.title == "Shard(0) to Shard(1)"
    assert (view.header, view.columns) == pack(view.scene)
    assert view.picked == {}


def test_a_view_leaves_a_picture_and_words_behind():
    view = SceneView(scenes.hsdp())
    data, _ = view._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == view.model_id
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == repr(view) == scenes.hsdp().text
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}


def test_nothing_is_fetched_from_elsewhere():
    view = SceneView(scenes.hsdp())
    source = view._esm + view._css
    assert "import " not in source
    assert "@import" not in source
    assert "http" not in source.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_a_view_saves_itself_and_hands_the_browser_the_same(tmp_path, suffix):
    view, sent = SceneView(scenes.hsdp()), []
    view.save(tmp_path / f"view.{suffix}")
    view.send = lambda said, buffers: sent.append((said, buffers))
    view._handle_custom_msg({"save": suffix, "dark": False}, [])
    view._handle_custom_msg({"save": "/etc/passwd"}, [])
    assert sent == [({"saved": suffix}, [(tmp_path / f"view.{suffix}").read_bytes()])]


@pytest.mark.browser
def test_the_menu_asks_for_a_picture_and_gives_it_to_the_reader(shown, tmp_path):
    page = shown(scenes.hsdp())
    assert not page.get_by_role("button", name="save as SVG").is_visible()
    page.get_by_label("save the picture").click()
    page.get_by_role("button", name="save as SVG").click()
    comes(lambda: page.evaluate("asked"), [{"save": "svg", "dark": False}])
    page.get_by_role("button", name="save as SVG").wait_for(state="hidden")
    with page.expect_download() as download:
        page.evaluate(
            "([said, bytes]) => tell(said, bytes)", [{"saved": "svg"}, base64.b64encode(b"<svg/>").decode()]
        )
    assert download.value.suggested_filename == "Who-holds-layers.0.mlp.weight.svg"
    download.value.save_as(tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"<svg/>"
    page.evaluate("(css) => { document.getElementById('theme').textContent = css }", DARK)
    page.wait_for_function(
        "getComputedStyle(document.querySelector('.ckl-view')).color === 'rgb(240, 240, 240)'"
    )
    page.evaluate(SETTLED)
    page.get_by_label("save the picture").focus()
    for key in ("Enter", "Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    comes(lambda: page.evaluate("asked.at(-1)"), {"save": "png", "dark": True})
    assert page.evaluate("sent") == []


@pytest.mark.browser
def test_a_new_scene_replaces_the_old(shown):
    page = shown(scenes.hsdp())
    header, columns = pack(scenes.bars())
    page.evaluate("([h, c]) => show(h, c)", [header, base64.b64encode(columns).decode()])
    page.evaluate(SETTLED)
    assert page.get_by_role("heading").inner_text() == "Shard(0) to Shard(1)"
    assert page.get_by_role("listbox").count() == 1
    page.get_by_role("option", name="rank: 2; what: read so far").hover()
    page.evaluate(SETTLED)
    assert bright(page, "forecast") == {2, 6}
    page.evaluate("stop()")


def nested():
    layout = Layout.parse("pp=2, dp=2, fsdp=4, tp=4", "Replicate, Replicate, Shard(0), Shard(1)")
    return layout_scene(layout, Tensor("w", "float32", (4096, 1024)), hosts=8)


def load():
    foretold = Session(hsdp_metadata()).foretold
    ran = [Ran(r, "done", n, 0.25, True) for r, n in enumerate(foretold.bytes_by_rank.tolist())]
    return traffic_scene(foretold, ran)


@pytest.mark.browser
@pytest.mark.parametrize("make", [scenes.hsdp, load, scenes.tiles, nested])
def test_a_narrow_window_stacks_panels_and_overflows_nowhere(shown, make):
    page = shown(make())
    for width in (1100, 480, 320):
        page.set_viewport_size({"width": width, "height": 800})
        # A view is arranged for its new width in a frame after the one that has it.
        page.wait_for_function("width => innerWidth === width", arg=width)
        page.evaluate(SETTLED)
        comes(lambda w=width: page.evaluate("document.documentElement.scrollWidth") <= w, True)
        page.evaluate(SETTLED)
        frames = [f.bounding_box() for f in page.get_by_role("figure").all()]
        if len(frames) == 2:
            stacked = frames[1]["y"] >= frames[0]["y"] + frames[0]["height"]
            assert stacked == (width < 500)
        assert all(box["x"] + box["width"] <= width for box in frames)
        if make is load:
            assert page.locator(".ckl-words text").all_text_contents()[1].startswith("foretold = read")
            # Words beside the bars leave them the better part of the room.
            assert float(page.locator(".ckl-stage").get_attribute("data-scale-x")) * BAR > width * 0.5


@pytest.mark.browser
def test_labels_and_legend_say_what_colours_say(shown):
    page = shown(scenes.hsdp())
    assert [item.inner_text() for item in page.get_by_role("listitem").all()] == [
        k.text for k in scenes.hsdp().legend
    ]
    words = page.locator(".ckl-stage text").all_text_contents()
    assert {"rank 0", "rank 1", "rank 2", "rank 3", "shard", "replicate", "dim 0", "2048"} <= set(words)


@pytest.mark.browser
def test_nothing_is_said_quietly(shown):
    page = shown(scenes.nothing())
    page.get_by_text("an object: no elements to draw").wait_for()
    assert page.get_by_text("nothing to show").count() == 1
    page = shown(Scene("", (), (), ""))
    page.get_by_text("nothing to show").wait_for()


@pytest.mark.browser
def test_hostile_words_stay_words(shown):
    panels = scenes.hsdp().panels
    page = shown(Scene("<img src=x onerror=boom()>", panels, (), "</script><script>boom()</script>"))
    assert page.get_by_role("heading").inner_text() == "<img src=x onerror=boom()>"
    assert page.locator("img").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("name", ["hsdp", "tiles"])
def test_a_page_by_itself_needs_no_kernel_and_no_network(page, tmp_path, name):
    path = tmp_path / "scene.html"
    SceneView(getattr(scenes, name)()).to_html(path)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    page.goto(path.as_uri())
    page.get_by_role("option", name="rank 1").first.hover()
    page.evaluate(SETTLED)
    assert page.get_by_role("status").inner_text().startswith("rank 1; ")
    assert 1 in bright(page, "mesh", "#view")
    assert 0 not in bright(page, "mesh", "#view")
    page.get_by_role("option", name="rank 1").first.click()
    assert page.get_by_label("save the picture").count() == 0  # there is no Python to ask
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_page_cannot_be_broken_out_of(tmp_path):
    hsdp = scenes.hsdp()
    SceneView(Scene("</title></script><b>", hsdp.panels, (), "")).to_html(tmp_path / "scene.html")
    text = (tmp_path / "scene.html").read_text()
    assert text.count("</script>") == 1
    assert text.count("</title>") == 1
    assert json.dumps("</script>") not in text


@pytest.mark.browser
def test_ranks_that_a_new_scene_lacks_leave_nothing_dimmed(shown):
    page = shown(scenes.hsdp(), rank=3)
    assert bright(page, "mesh") == {3, 5}
    header, columns = pack(scenes.tiles(16, ranks=2))
    page.evaluate("([h, c]) => show(h, c)", [header, base64.b64encode(columns).decode()])
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {0, 1}
    assert page.get_by_role("tooltip").count() == 0


@pytest.mark.browser
def test_the_hint_stands_below_a_mesh_and_nowhere_else(shown):
    hint = "e => getComputedStyle(e, '::before').content"
    assert "lights up" in shown(scenes.hsdp()).locator(".ckl-status").evaluate(hint)
    assert "lights up" not in shown(scenes.bars()).locator(".ckl-status").evaluate(hint)
    page = shown(scenes.hsdp(), hint="")
    assert "lights up" not in page.locator(".ckl-status").evaluate(hint)
