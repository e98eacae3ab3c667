"""The table: a page at a time, without a browser; and in Chromium, talking to its Python side."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from browser import DARK, comes
from tablepage import show_table

from ckptlab.explorer.keys import Keys
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.widgets.table import Answers, TableView

PARTS = ("wq", "wk", "wv")
HOSTILE = "</script><img src=x onerror=boom()>"


def keys_of(*names):
    return Keys(
        metadata_of([Tensor(name, "float32", (4, 2)) for name in names], Layout.parse("1", "Replicate"))
    )


class Tree:
    """A tree of keys, its view, and what was pressed."""

    def __init__(self, *names):
        self.keys, self.pressed = keys_of(*names), []
        answers = Answers(self.press, self.fold, self.fold_all, self.search, self.switch)
        self.view = TableView(self.keys, "keys", answers, "search", "beside")

    def press(self, at):
        self.pressed.append(self.keys.node(at).fqn)
        self.keys.choose(self.keys.node(at).fqn)
        self.view.refresh()

    def fold(self, at):
        self.keys.fold(at)
        self.view.refresh()

    def fold_all(self, shut):
        self.keys.fold_all(shut)
        self.view.refresh()

    def search(self, query):
        self.keys.search(query)
        self.view.refresh()

    def switch(self, on):
        self.keys.group(on)
        self.view.refresh()


@pytest.fixture
def many():
    tree = Tree(*(f"model.layers.{i}.{part}" for i in range(2000) for part in PARTS))
    tree.fold_all(False)
    return tree


def test_only_what_is_asked_for_is_sent(many):
    assert many.view.page["total"] == 8001
    assert len(many.view.page["lines"]) < 40
    many.view.hear({"want": [3997, 30]})
    page = many.view.page
    assert (page["first"], len(page["lines"])) == (3997, 30)
    assert page["lines"][0] == (
        ("999  (3 keys)", *page["lines"][0][0][1:]),
        1,
        2,
        1.0,
        False,
        "model.layers.999",
    )
    many.view.hear({"want": [-5, 10**9]})
    assert len(many.view.page["lines"]) == 200


def test_a_page_tells_whether_what_came_before_still_holds(many):
    before = many.view.page["version"]
    many.view.hear({"want": [100, 30]})
    assert many.view.page["version"] == before
    many.view.hear({"fold": 0})
    assert many.view.page["version"] > before
    assert (many.view.page["first"], many.view.page["total"]) == (0, 1)


def test_what_is_chosen_comes_into_view(many):
    many.keys.choose("model.layers.1500.wq")
    many.view.refresh()
    assert many.view.page["first"] == 0
    many.view.refresh(show=True)
    page = many.view.page
    assert page["lines"][page["show"] - page["first"]][4] is True


def test_all_of_it_is_exported(many, tmp_path):
    many.view.to_csv(tmp_path / "keys.csv")
    assert len((tmp_path / "keys.csv").read_text().splitlines()) == 6001
    sent = []
    many.view.send = lambda message, buffers: sent.append((message, buffers))
    many.view.hear({"csv": True})
    ((message, (data,)),) = sent
    assert message == {"csv": "keys.csv"}
    assert data == (tmp_path / "keys.csv").read_bytes()


def test_a_search_that_was_overtaken_is_not_shown(many):
    def typed(query, view, nth):
        many.view.hear({"search": query, "view": view, "nth": nth})
        return many.view.query, many.view.page["total"]

    assert typed("1234.wk", "a", 2) == ("1234.wk", 3)
    assert typed("1234.", "a", 1) == ("1234.wk", 3)
    assert typed("1234.", "b", 1) == ("1234.", 5)
    assert typed("1234.wq", "a", 3) == ("1234.wq", 3)


def test_messages_to_several_threads_are_answered_one_at_a_time(many):
    begun, go_on, done = threading.Event(), threading.Event(), []

    def slow(query):
        begun.set()
        go_on.wait(20)
        many.search(query)
        done.append(query)

    many.view._answers = replace(many.view._answers, search=slow)
    first = threading.Thread(target=many.view.hear, args=[{"search": "1234.wk"}])
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=many.view.hear, args=[{"want": [0, 30]}])
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    second.join(20)
    assert done == ["1234.wk"]
    assert many.view.page["total"] == 3


def test_it_leaves_a_picture_and_words_behind(many):
    data, _ = many.view._repr_mimebundle_()
    assert set(data) >= {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert "... and 7,971 more" in data["text/plain"]


def names(page):
    """The lines that stand in the page, from top to bottom."""
    lines = page.locator(".ckt-line").all()
    return [line.locator("[role=gridcell]").first.inner_text().strip("▸▾ ") for line in lines]


def active(page):
    return page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.title"
    )


@pytest.mark.browser
def test_lines_come_as_they_are_scrolled_to(page, many):
    show_table(page, many.view)
    grid = page.get_by_role("treegrid", name="keys")
    comes(lambda: grid.get_attribute("aria-rowcount"), "8002")
    assert len(names(page)) < 30
    grid.evaluate("grid => { grid.scrollTop = 24 * 3997; }")
    page.get_by_title("model.layers.999", exact=True).wait_for()
    assert len(names(page)) < 30
    grid.focus()
    page.keyboard.press("End")
    page.get_by_title("model.layers.1999.wv").wait_for()
    comes(lambda: active(page), "model.layers.1999.wv")
    page.keyboard.press("ArrowLeft")
    comes(lambda: active(page), "model.layers.1999")
    page.keyboard.press("ArrowLeft")  # folds it
    page.wait_for_function(
        "document.querySelector('[role=treegrid]').getAttribute('aria-rowcount') === '7999'"
    )
    comes(lambda: active(page), "model.layers.1999")
    line = page.get_by_title("model.layers.1999", exact=True)
    comes(lambda: (line.get_attribute("aria-expanded"), line.get_attribute("aria-level")), ("false", "2"))
    page.keyboard.press("Home")
    comes(lambda: active(page), "model.layers")


@pytest.mark.browser
def test_keys_walk_search_and_choose(page, many):
    show_table(page, many.view, DARK)
    many.fold_all(True)
    page.evaluate("page => take({ traits: { page }, custom: [] })", many.view.page)
    comes(lambda: names(page), ["model.layers (6,000 keys)"])
    page.get_by_role("treegrid").focus()
    page.keyboard.type("1234.wk")  # typed into the table, it goes to the field
    page.get_by_title("model.layers.1234.wk").wait_for()
    comes(page.get_by_role("searchbox").input_value, "1234.wk")
    comes(page.get_by_role("status").inner_text, "1 of 6,000 keys, 32 B")
    ((_, nth),) = many.view._searched.items()
    assert nth == len("1234.wk")
    page.keyboard.press("ArrowDown")  # back into the table
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=row][aria-selected=true]")
    comes(lambda: many.pressed, ["model.layers.1234.wk"])
    page.keyboard.press("Escape")
    page.wait_for_function(
        "document.querySelector('[role=treegrid]').getAttribute('aria-rowcount') === '2005'"
    )
    page.get_by_role("searchbox").fill("/(/")
    page.get_by_text("no regular expression").wait_for()
    page.get_by_role("searchbox").fill("")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "keys.csv"
    assert len(Path(download.value.path()).read_text().splitlines()) == 6001
    page.get_by_title("Fold all", exact=True).click()
    page.wait_for_function("document.querySelector('[role=treegrid]').getAttribute('aria-rowcount') === '2'")
    page.get_by_title("model.layers").locator(".ckt-fold").click()
    page.wait_for_function(
        "document.querySelector('[role=treegrid]').getAttribute('aria-rowcount') === '2002'"
    )


@pytest.mark.browser
def test_a_narrow_table_leaves_its_last_columns_out_and_names_stay_words(page):
    tree = Tree(HOSTILE, "other")
    page.set_viewport_size({"width": 340, "height": 400})
    show_table(page, tree.view)
    comes(page.get_by_role("columnheader").all_inner_texts, ["key", "bytes"])
    comes(lambda: names(page)[:1], [HOSTILE])
    assert page.locator("img").count() == 0
    page.set_viewport_size({"width": 900, "height": 400})
    page.get_by_role("columnheader", name="files").wait_for()
    comes(page.get_by_role("columnheader").count, 6)
