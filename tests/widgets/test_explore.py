"""The explorer without a browser: what is pressed and typed, and what is then shown."""

import base64

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.errors import PathError
from ckptlab.widgets import explore as explore_module
from ckptlab.widgets.explore import Explorer, explore

HOSTILE = "</script><img src=x onerror=boom()>"


def saved(path, state):
    ckptlab.save(state, path, no_dist=True)
    return ckptlab.open_checkpoint(path)


@pytest.fixture
def explorer(tmp_path):
    layers = {f"layers.{i}": {"w": torch.ones(8, 6), "b": torch.ones(6)} for i in range(3)}
    explorer = Explorer(saved(tmp_path / "checkpoint", {"model": layers, "step": 3}))
    yield explorer
    explorer.close()


def line(explorer, fqn):
    """The line of the tree that shows a key or a branch."""
    return next(i for i, line in enumerate(explorer.keys_panel.tree.lines(0, 1000)) if line.hint == fqn)


def press(explorer, fqn):
    explorer.keys_panel.view.hear({"press": line(explorer, fqn)})


def keys(explorer):
    return [line[0][0].partition("  (")[0] for line in explorer.keys_panel.view.page["lines"]]


def drawn(explorer):
    return explorer.tensor_panel.view.scene.title


def test_it_opens_on_a_matrix_and_asks_what_if(explorer):
    assert drawn(explorer) == "model.layers.0.w in the checkpoint"
    assert explorer.sheets.titles == ("What if", "Run", "Files", "Values", "Layout")
    assert explorer.sheets.selected_index == 0
    assert [type(sheet).__name__ for sheet in explorer.sheets.all_made] == ["WhatIfPanel"]


def test_a_sheet_is_made_when_it_is_looked_at_and_then_stays(explorer):
    files = explorer.sheets.show("Files")
    assert type(files).__name__ == "FilesPanel"
    explorer.sheets.show("Values")
    assert explorer.sheets.show("Files") is files
    assert len(list(explorer.sheets.all_made)) == 3


def test_of_very_many_chunks_nothing_is_foretold_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(explore_module, "SMALL", 2)
    explorer = Explorer(
        saved(tmp_path / "checkpoint", {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)})
    )
    assert explorer.sheets.selected_index is None
    assert list(explorer.sheets.all_made) == []
    explorer.close()


def test_pressing_a_tensor_shows_it_everywhere(explorer):
    for title in ("What if", "Files", "Layout"):
        explorer.sheets.show(title)
    press(explorer, "model.layers.0.b")
    assert drawn(explorer) == "model.layers.0.b in the checkpoint"
    page = explorer.keys_panel.view.page
    assert page["show"] == line(explorer, "model.layers.0.b")
    assert [line[-1] for line in page["lines"] if line[4]] == ["model.layers.0.b"]
    files, layout = explorer.sheets.made("Files"), explorer.sheets.made("Layout")
    tall = files.view.scene.panels[0].marks.box[:, 3] > 0.8
    assert [files.view.scene.panels[0].marks.facts[0].show(i) for i in np.flatnonzero(tall)] == [
        "model.layers.0.b [0:6]"
    ]
    assert "model.layers.0.b" in layout.view.scene.title


def test_what_is_chosen_elsewhere_is_unfolded_among_the_keys(explorer):
    explorer.session.choose("model.layers.2.w")
    assert drawn(explorer) == "model.layers.2.w in the checkpoint"
    page = explorer.keys_panel.view.page
    assert page["lines"][page["show"]][-1] == "model.layers.2.w"


def test_pressing_a_branch_only_folds_it(explorer):
    scene = explorer.tensor_panel.view.scene
    before = keys(explorer)
    press(explorer, "model.layers.1")
    assert len(keys(explorer)) == len(before) - 2
    press(explorer, "model.layers.1")
    assert keys(explorer) == before
    assert explorer.tensor_panel.view.scene is scene


def test_a_search_shows_what_it_finds_and_bears_half_typed_ones(explorer):
    view = explorer.keys_panel.view
    view.hear({"search": "layers.2.b"})
    assert keys(explorer) == ["model.layers", "2", "b"]
    view.hear({"search": "/layers.(/"})
    assert keys(explorer) == ["model.layers", "2", "b"]
    assert "no regular expression" in view.trouble
    press(explorer, "model.layers.2.b")
    assert drawn(explorer) == "model.layers.2.b in the checkpoint"
    view.hear({"search": ""})
    assert view.trouble == ""
    assert keys(explorer)[-1] == "step"


def test_a_checkpoint_without_tensors_can_be_looked_at(tmp_path):
    explorer = Explorer(saved(tmp_path / "objects", {"step": 3, "name": "x"}))
    assert keys(explorer) == ["step", "name"]
    assert [line[0][2] for line in explorer.keys_panel.view.page["lines"]] == ["3", "'x'"]
    assert explorer.sheets.titles == ("Files",)
    assert "image/png" not in explorer._repr_mimebundle_()
    assert "0 tensors and 2 objects" in explorer.children[0].value
    explorer.close()


def test_words_of_a_checkpoint_stay_words(tmp_path):
    state = {HOSTILE: torch.ones(4, 2)}
    explorer = Explorer(saved(tmp_path / "<img src=x onerror=boom()>", state))
    assert explorer.session.fqn == HOSTILE
    assert "<img" not in explorer.children[0].value
    assert "&lt;img" in explorer.children[0].value
    explorer.sheets.show("Layout")
    assert "<img" not in explorer.sheets.made("Layout")._why.value
    explorer.close()


def test_closing_it_ends_its_ranks(explorer):
    ranks = explorer.sheets.show("Run")._ranks
    assert ranks is not None
    explorer.close()
    assert explorer.sheets.made("Run")._ranks is None


def test_it_leaves_a_picture_and_words_behind(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == repr(explorer)
    assert "model.layers.0.w in the checkpoint" in repr(explorer)


def test_a_path_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(PathError):
        explore(tmp_path)
