"""The explorer without a browser: what is pressed and typed, and what is then shown."""

import base64

import pytest
import torch

import ckptlab
from ckptlab.errors import PathError
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


def test_it_opens_on_a_matrix_with_its_target_and_forecast(explorer):
    assert explorer.stored_view.scene.title == "model.layers.0.w in the checkpoint"
    assert explorer.target_view.scene.title == "model.layers.0.w on the target mesh"
    assert explorer.run_panel.view.scene.panels[0].name == "traffic"
    assert explorer.run_panel._ranks is None


def test_pressing_a_tensor_shows_it_everywhere(explorer):
    press(explorer, "model.layers.0.b")
    assert explorer.stored_view.scene.title == "model.layers.0.b in the checkpoint"
    assert explorer.target_view.scene.title == "model.layers.0.b on the target mesh"
    page = explorer.keys_panel.view.page
    assert page["show"] == line(explorer, "model.layers.0.b")
    assert [line[-1] for line in page["lines"] if line[4]] == ["model.layers.0.b"]


def test_what_is_chosen_elsewhere_is_unfolded_among_the_keys(explorer):
    explorer.session.choose("model.layers.2.w")
    assert explorer.stored_view.scene.title == "model.layers.2.w in the checkpoint"
    page = explorer.keys_panel.view.page
    assert page["lines"][page["show"]][-1] == "model.layers.2.w"


def test_pressing_a_branch_only_unfolds_it(explorer):
    stored, target = explorer.stored_view.scene, explorer.target_view.scene
    before = keys(explorer)
    press(explorer, "model.layers.1")
    assert len(keys(explorer)) == len(before) + 2
    press(explorer, "model.layers.1")
    assert keys(explorer) == before
    assert explorer.stored_view.scene is stored
    assert explorer.target_view.scene is target


def test_a_search_shows_what_it_finds_and_bears_half_typed_ones(explorer):
    view = explorer.keys_panel.view
    view.hear({"search": "layers.2.b"})
    assert keys(explorer) == ["model.layers", "2", "b"]
    view.hear({"search": "/layers.(/"})
    assert keys(explorer) == ["model.layers", "2", "b"]
    assert "no regular expression" in view.trouble
    press(explorer, "model.layers.2.b")
    assert explorer.stored_view.scene.title == "model.layers.2.b in the checkpoint"
    view.hear({"search": ""})
    assert view.trouble == ""
    assert keys(explorer)[-1] == "step"


def test_a_recipe_fills_the_fields_and_fields_name_the_recipe(explorer):
    explorer.recipe.value = "2 x 2: rows and columns"
    assert (explorer.mesh.value, explorer.placements.value) == ("dp=2, tp=2", "Shard(0), Shard(1)")
    assert len(explorer.target_view.scene.panels[1].marks) == 4
    explorer.mesh.value = "dp=2, tp=4"
    assert explorer.recipe.value == "as typed"
    # Six columns do not divide by four: each row of ranks has one with none, told of beside the six.
    assert len(explorer.target_view.scene.panels[1].marks) == 7
    assert explorer.run_panel.view.scene.text.count("foretold") == 8
    explorer.mesh.value = "dp=2, tp=2"
    assert explorer.recipe.value == "2 x 2: rows and columns"


def test_a_target_that_makes_no_sense_is_said_and_cannot_be_run(explorer):
    target = explorer.target_view.scene
    explorer.placements.value = "Shrd(0)"
    assert "role='alert'" in explorer.problem.value
    assert "Shrd(0)" in explorer.problem.value
    assert explorer.run_panel.run.disabled
    assert explorer.target_view.scene is target
    assert "ckl-stale" in explorer._target._dom_classes
    explorer.placements.value = "Shard(1)"
    assert explorer.problem.value == ""
    assert not explorer.run_panel.run.disabled
    assert "ckl-stale" not in explorer._target._dom_classes


def test_a_checkpoint_without_tensors_can_be_looked_at(tmp_path):
    explorer = Explorer(saved(tmp_path / "objects", {"step": 3, "name": "x"}))
    assert keys(explorer) == ["step", "name"]
    assert [line[0][2] for line in explorer.keys_panel.view.page["lines"]] == ["3", "'x'"]
    assert explorer.problem.value == ""
    assert "image/png" not in explorer._repr_mimebundle_()
    assert "0 tensors and 2 objects" in explorer.children[0].value
    explorer.close()


def test_words_of_a_checkpoint_stay_words(tmp_path):
    state = {HOSTILE: torch.ones(4, 2)}
    explorer = Explorer(saved(tmp_path / "<img src=x onerror=boom()>", state))
    assert explorer.session.fqn == HOSTILE
    assert "<img" not in explorer.children[0].value
    explorer.placements.value = HOSTILE
    assert "&lt;img" in explorer.problem.value
    assert "<img" not in explorer.problem.value
    explorer.close()


def test_it_leaves_a_picture_and_words_behind(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == repr(explorer)
    assert "model.layers.0.w in the checkpoint" in repr(explorer)


def test_a_path_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(PathError):
        explore(tmp_path)
