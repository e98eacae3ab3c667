"""The heat map: which tile is where, what it says by colour, style and words."""

import math

import pytest
import torch

from ckptlab import compare, save
from ckptlab.explorer import compare_scene
from ckptlab.explorer.compare_scene import cells_of, heat_panel, heat_scene
from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, NEUTRAL, OUTLINED


@pytest.fixture
def compared(tmp_path):
    """What a change makes of a small model, compared with what it was."""

    def make(change, **how):
        state = {f"model.layers.{i}.{part}": torch.ones(4, 4) for i in range(11) for part in ("wq", "norm")}
        state |= {f"model.layers.{i}.experts.{j}.w1": torch.ones(4) for i in (0, 1) for j in range(3)}
        state |= {"model.embed": torch.ones(5), "step": 3}
        save(state, tmp_path / "a", no_dist=True)
        changed = {key: value.clone() if key != "step" else value for key, value in state.items()}
        change(changed)
        save(changed, tmp_path / "b", no_dist=True)
        return compare(tmp_path / "a", tmp_path / "b", **how)

    return make


def tile(comparison, label):
    """The box, colour, style, label and facts of the tile whose key begins so."""
    panel, cells = heat_panel(comparison)
    (i,) = (i for i, cell in enumerate(cells) if cell.changes[0].key == label)
    marks = panel.marks
    facts = {fact.label: fact.show(i) for fact in marks.facts if fact.show(i)}
    return marks.box[i].tolist(), int(marks.colour[i]), int(marks.style[i]), marks.labels[i], facts


def test_parts_are_rows_and_layers_columns(compared):
    found = compared(lambda it: None)
    panel, cells = heat_panel(found)
    rows = [note.text for note in panel.notes if note.x < 0]
    assert rows == ["wq", "norm", "experts.*.w1", "model.embed"]
    assert [note.text for note in panel.notes if note.y < 0] == [str(i) for i in range(11)]
    assert (panel.width, panel.height, len(cells)) == (11, 4, 11 * 2 + 2 + 1)
    assert "what is in model.layers.*, and what is in no layer" in panel.caption
    x, y, wide, high = tile(found, "model.layers.10.norm")[0]
    assert (round(x), round(y), round(wide), round(high)) == (10, 1, 1, 1)
    x, y, wide, _ = tile(found, "model.embed")[0]
    assert (round(x), round(y), round(wide)) == (0, 3, 11)
    facts = tile(found, "model.layers.1.experts.0.w1")[4]
    assert facts["keys"] == "3, as model.layers.1.experts.0.w1"
    assert facts["differ"] == "0 of 12 elements"


def test_how_much_is_said_thrice(compared):
    def change(it):
        it["model.layers.0.wq"] *= 1 + 2**-23
        it["model.layers.1.wq"] *= 1.0005
        it["model.layers.2.wq"] *= 1.05
        it["model.layers.3.wq"] *= 2
        it["model.layers.4.wq"] *= math.nan
        it["model.layers.5.wq"] = torch.ones(2, 8)
        del it["model.layers.6.wq"]
        it["model.layers.1.experts.1.w1"] *= 3
        it["model.extra"] = torch.ones(2)

    found = compared(change)
    drawn = {i: tile(found, f"model.layers.{i}.wq")[1:4] for i in range(8)}
    assert drawn == {
        0: (12, FILLED, "-7"),
        1: (4, FILLED, "-4"),
        2: (0, FILLED, "-2"),
        3: (1, FILLED, "0"),
        4: (3, FILLED, "N"),
        5: (5, HATCHED, "!"),
        6: (5, HATCHED, "!"),
        7: (NEUTRAL, OUTLINED, "="),
    }
    assert tile(found, "model.layers.1.experts.0.w1")[4]["change"] == f"{2 / math.sqrt(3):.3g} of its norm"
    assert tile(found, "model.layers.2.wq")[4]["largest"] == "0.05"
    assert tile(found, "model.extra")[3] == "!"
    scene = heat_scene(found)
    assert {key.text.partition(":")[0] for key in scene.legend} >= {"=", "N", "!", "0.1 and more"}
    assert "model.layers.*.wq, layer 3: 0.1 and more (1)" in scene.text


def test_before_values_are_read(compared):
    found = compared(lambda it: None, values=False)
    assert {cell.level for cell in cells_of(found)} == {compare_scene.UNREAD}
    assert tile(found, "model.layers.0.wq")[1:4] == (NEUTRAL, GROUND, "")


def test_zero_that_became_something_and_bits_that_changed(compared, tmp_path):
    def change(it):
        it["model.embed"] *= 0

    there = compared(change)
    back = compare(tmp_path / "b", tmp_path / "a")
    assert tile(there, "model.embed")[1:4] == (1, FILLED, "0")
    assert tile(back, "model.embed")[1:4] == (1, FILLED, "∞")
    save({"x": torch.zeros(3)}, tmp_path / "c", no_dist=True)
    save({"x": -torch.zeros(3)}, tmp_path / "d", no_dist=True)
    assert tile(compare(tmp_path / "c", tmp_path / "d"), "x")[3] == "bits"


def test_many_parts_and_no_layers(compared, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_scene, "MOST", 2)

    def change(it):
        it["model.embed"] *= 2

    panel, cells = heat_panel(compared(change))
    rows = [note.text for note in panel.notes if note.x < 0]
    assert len(rows) == 2
    assert "model.embed" in rows
    assert "The 2 rows that changed least are left out." in panel.caption
    save({"step": 3}, tmp_path / "none", no_dist=True)
    panel, cells = heat_panel(compare(tmp_path / "none", tmp_path / "none"))
    assert (len(panel.marks), cells) == (0, [])
