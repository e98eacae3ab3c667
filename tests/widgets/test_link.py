"""Views of one link on stub models in Chromium: they light up together, without Python."""

import base64

import pytest
import scenes
from browser import SETTLED, bright, point, spot

from ckptlab.widgets.pack import pack

pytestmark = pytest.mark.browser


@pytest.fixture
def pair(shown):
    """Shows a scene twice, as `#root` and `#twin`, of one link or of two."""

    def show(scene, link="a", other="a", **how):
        page = shown(scene, link=link, **how)
        page.evaluate("twin", other)
        page.evaluate(SETTLED)
        return page

    return show


def test_pointing_lights_up_every_view_of_the_link(pair):
    page = pair(scenes.hsdp())
    point(page, "tensor", 512, 1500)
    assert bright(page, "mesh") == bright(page, "mesh", "#twin") == {1, 3, 5}
    assert bright(page, "tensor", "#twin") == {1}
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == set(range(6))
    assert page.evaluate("sent") == []


@pytest.mark.parametrize(("link", "other"), [("", ""), ("a", "b")])
def test_views_of_no_link_or_of_another_stay_as_they_are(pair, link, other):
    page = pair(scenes.hsdp(), link, other)
    point(page, "tensor", 512, 1500)
    assert bright(page, "mesh") == {1, 3, 5}
    assert bright(page, "mesh", "#twin") == set(range(6))
    page.mouse.click(*spot(page, "tensor", 512, 1500))
    assert page.evaluate("sent.filter((s) => s.twin)") == []
    page.evaluate("model.set('link', 'b'); twinned.set('link', 'b')")  # and they meet when they are told to
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == {1, 3, 5}


def test_a_rank_that_is_kept_in_one_view_is_kept_in_all(pair):
    page = pair(scenes.hsdp())
    page.locator("#twin").get_by_role("option", name="rank 3").first.click()
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == bright(page, "mesh", "#twin") == {3, 5}
    assert page.evaluate("model.get('rank')") == 3
    assert {"rank": 3, "picked": {}} in page.evaluate("sent")  # Python learns of it in both
    page.evaluate("model.set('rank', 2)")  # as Python would
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == {2, 4}
    page.evaluate("model.set('rank', -1)")
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == set(range(6))


def test_one_tile_is_pressed_in_all_views(pair):
    page = pair(scenes.hsdp())
    page.mouse.click(*spot(page, "tensor", 512, 1500))
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == {1, 3, 5}
    page.locator("#twin [data-panel=tensor]").get_by_role("option").first.click()
    page.mouse.move(5, 5)
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == bright(page, "mesh", "#twin") == {0, 2, 4}
    assert page.evaluate("model.get('picked')") == {}


def test_a_view_that_comes_later_joins_and_one_that_goes_leaves(shown):
    page = shown(scenes.hsdp(), link="a", rank=1)
    page.evaluate("twin", "a")
    page.evaluate(SETTLED)
    assert bright(page, "mesh", "#twin") == {1, 5}
    page.locator("#twin").get_by_role("option", name="rank 2").first.hover()
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {1, 2, 4, 5}
    page.evaluate("untwin()")
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {1, 5}


def test_ranks_that_a_view_does_not_know_dim_nothing_in_it(pair):
    page = pair(scenes.hsdp())
    header, columns = pack(scenes.tiles(16, ranks=2))
    page.evaluate("([h, c]) => show(h, c)", [header, base64.b64encode(columns).decode()])
    page.evaluate(SETTLED)
    page.locator("#twin").get_by_role("option", name="rank 3").first.hover()
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {0, 1}
    page.locator("#twin").get_by_role("option", name="rank 1").first.hover()
    page.evaluate(SETTLED)
    assert bright(page, "mesh") == {1}
