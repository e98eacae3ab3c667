"""A table with a tree, on a stub model in Chromium."""

import base64

import pytest
from browser import SETTLED
from saved import hsdp_metadata

from ckptlab.explorer.session import Session
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.widgets.pack import pack


def folded(page):
    """Of each line: its name, and whether it is unfolded (None: it has nothing below it)."""
    rows = page.get_by_role("treegrid").locator("tbody").get_by_role("row").all()
    return [(r.locator("td").first.inner_text()[1:].strip(), r.get_attribute("aria-expanded")) for r in rows]


def shows(page, session):
    """What Python does when a line is pressed: send the table as it is now."""
    header, columns = pack(session.keys_scene())
    page.evaluate("([h, c]) => show(h, c)", [header, base64.b64encode(columns).decode()])
    page.evaluate(SETTLED)


@pytest.fixture
def session():
    return Session(hsdp_metadata())


@pytest.mark.browser
def test_a_table_has_its_columns_folds_and_choice(shown, session):
    page = shown(session.keys_scene())
    heads = page.get_by_role("columnheader").all_inner_texts()
    assert heads == ["key", "shape", "dtype", "bytes", "chunks", "files"]
    line = page.get_by_role("row", selected=True)
    assert line.inner_text().split() == [
        "weight",
        "1003",
        "x",
        "96",
        "float32",
        "376",
        "KiB",
        "2",
        "2",
        "files",
    ]
    assert line.get_attribute("aria-level") == "3"
    row = page.get_by_role("row", name="layers")
    assert row.get_attribute("aria-expanded") == "false"
    assert page.get_by_role("row", name="model").get_attribute("aria-expanded") == "true"
    assert line.get_attribute("aria-expanded") is None
    assert page.get_by_role("status").count() == 0


@pytest.mark.browser
def test_a_line_that_is_pressed_is_told(shown, session):
    page = shown(session.keys_scene())
    page.get_by_role("row", name="layers").click()
    assert page.evaluate("sent.map((s) => s.picked)") == [{"panel": "keys", "mark": 3}]


@pytest.mark.browser
def test_keys_walk_a_table_and_focus_stays_when_it_is_drawn_anew(shown, session):
    page = shown(session.keys_scene())
    focus = "document.activeElement.dataset.mark"
    page.keyboard.press("Tab")
    assert page.evaluate(focus) == "2"  # the chosen line
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")  # it is folded already
    assert page.evaluate("sent") == []
    page.keyboard.press("ArrowRight")
    assert page.evaluate("sent.at(-1).picked") == {"panel": "keys", "mark": 3}
    session.press(3)
    shows(page, session)
    assert page.evaluate(focus) == "3"
    assert page.get_by_role("row", name="layers").get_attribute("aria-expanded") == "true"
    assert page.get_by_role("row", name="0").first.get_attribute("aria-level") == "3"
    page.keyboard.press("End")
    assert page.evaluate(focus) == str(len(session.rows) - 1)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.evaluate("sent.at(-1).picked") == {"panel": "keys", "mark": 0}
    session.press(0)
    shows(page, session)
    assert page.evaluate(focus) == "0"
    assert page.get_by_role("row", name="model").get_attribute("aria-expanded") == "false"


@pytest.mark.browser
def test_a_table_takes_no_focus_that_was_elsewhere(shown, session):
    page = shown(session.keys_scene())
    shows(page, session)
    assert page.evaluate("document.activeElement.tagName") == "BODY"


@pytest.mark.browser
def test_hostile_names_in_a_table_stay_words(shown):
    name = "</script><img src=x onerror=boom()>"
    layout = Layout.parse("1", "Replicate")
    page = shown(Session(metadata_of([Tensor(name, "float32", (4, 2))], layout)).keys_scene())
    assert page.get_by_role("row", selected=True).locator("td").first.inner_text().strip() == name
    assert page.locator("img").count() == 0
