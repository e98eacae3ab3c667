"""The tree as a table: columns, folds, and the limit of lines."""

from saved import hsdp_metadata

from ckptlab.explorer.inventory import inventory, visible
from ckptlab.explorer.keys import MOST, keys_panel
from ckptlab.explorer.scene import CLOSED, LEAF, OPEN
from ckptlab.layout import Layout
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of


def test_lines_carry_folds_columns_and_the_choice():
    rows = visible(inventory(hsdp_metadata()), opened=frozenset({"model", "model.embed"}))
    panel = keys_panel(rows, "model.embed.weight")
    assert panel.marks.labels[:3] == ("model  (4 keys)", "embed  (1 key)", "weight")
    assert panel.tree.fold.tolist() == [OPEN, OPEN, LEAF, CLOSED, CLOSED]
    assert panel.tree.depth.tolist() == [0, 1, 2, 1, 0]
    assert panel.tree.chosen == 2
    shown = {fact.label: fact.show(2) for fact in panel.marks.facts}
    assert shown["shape"] == "1003 x 96"
    assert shown["dtype"] == "float32"
    assert shown["bytes"] == "376 KiB"


def test_too_many_lines_are_told_of():
    tensors = [Tensor(f"t{i}", "float32", (1,)) for i in range(MOST + 5)]
    rows = visible(inventory(metadata_of(tensors, Layout.parse("1", "Replicate"))))
    panel = keys_panel(rows)
    assert len(panel.marks) == MOST
    assert panel.caption.startswith("5 more lines")


def test_nothing_found_is_said():
    assert "No key" in keys_panel([]).caption
