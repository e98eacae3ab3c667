"""The picture of a mesh: colours, frames, hosts, ticks; small ones and ones of 16,384 ranks."""

import numpy as np
import pytest

from ckptlab.errors import LayoutError
from ckptlab.explorer.mesh import mesh_panel
from ckptlab.explorer.scene import FILLED, GROUND, HATCHED, OUTLINED
from ckptlab.layout import Layout


def drawn(mesh, placements, shape=(4096, 64), owners=None, **how):
    layout = Layout.parse(mesh, placements)
    if owners is None:
        owners = {rank: group[0] for group in layout.replicas(shape) for rank in group}
    return mesh_panel(layout, shape, owners, "mesh", **how)


def ranks(panel):
    """The marks of single ranks, by rank."""
    labels = enumerate(panel.marks.labels)
    return {panel.marks.ranks_of(i)[0]: i for i, label in labels if label.startswith("rank")}


def told(panel, rank):
    return {fact.label: fact.show(ranks(panel)[rank]) for fact in panel.marks.facts}


def of_style(panel, style):
    return [panel.marks.ranks_of(int(i)) for i in np.flatnonzero(panel.marks.style == style)]


def test_replica_groups_are_told_from_shard_groups():
    panel = drawn("dp=2, tp=3", "Replicate, Shard(0)", (6, 5), hosts=3)
    assert told(panel, 4) == {
        "replica group": "",
        "holds": "[2:4, 0:5]",
        "at": "dp 1, tp 1",
        "also held by": "rank 1",
        "shard group": "ranks 3, 4 and 5",
        "host": "host 1",
    }
    assert of_style(panel, OUTLINED) == [(0, 3), (1, 4), (2, 5)]
    colours = [panel.marks.colour[i] for _, i in sorted(ranks(panel).items())]
    assert colours == [0, 1, 2, 0, 1, 2]
    styles = [panel.marks.style[i] for _, i in sorted(ranks(panel).items())]
    assert styles == [FILLED] * 3 + [HATCHED] * 3


def test_a_group_that_others_stand_between_has_no_frame():
    panel = drawn("a=2, b=2, c=2", "Shard(0), Shard(1), Replicate")
    assert len(of_style(panel, OUTLINED)) == 4
    panel = drawn("a=3, b=2, c=2", "Replicate, Shard(0), Shard(1)")
    assert of_style(panel, OUTLINED) == []


def test_hosts_are_grounds_under_their_ranks():
    panel = drawn("dp=2, tp=4", "Shard(0), Shard(1)", hosts=4)
    assert of_style(panel, GROUND) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert panel.marks.labels[:2] == ("host 0", "host 1")
    for i, group in enumerate(of_style(panel, GROUND)):
        x, y, w, h = panel.marks.box[i]
        for rank in group:
            u, v, s, t = panel.marks.box[ranks(panel)[rank]]
            assert x < u
            assert y < v
            assert u + s < x + w
            assert v + t < y + h
    a, b = panel.marks.box[:2]
    assert a[1] + a[3] < b[1]
    assert panel.caption.startswith("dp 2 x tp 4. 2 hosts of 4 ranks.")


def test_hosts_that_are_no_neighbours_are_said_to_be_apart():
    layout = Layout.parse("2x2", "Shard(0), Shard(1)")
    mixed = Layout(type(layout.mesh)((2, 2), ("a", "b"), (0, 2, 3, 1)), layout.placements)
    panel = mesh_panel(mixed, (4, 4), {}, "mesh", hosts=2)
    assert of_style(panel, GROUND) == []
    assert "which stand apart here" in panel.caption
    assert told(panel, 2)["host"] == "host 1"
    with pytest.raises(LayoutError, match="not -1"):
        drawn("4", "Shard(0)", hosts=-1)


def test_ranks_with_nothing_are_hollow_and_of_no_ones_colour():
    panel = drawn("4", "Shard(0)", (3, 2))
    assert of_style(panel, OUTLINED) == [(3,)]
    assert panel.marks.colour[ranks(panel)[3]] == -1
    assert told(panel, 3)["holds"] == "nothing of this tensor"
    assert panel.caption == "4 ranks. 1 rank without any of it."


def test_ticks_number_the_inner_axes_and_name_the_outer():
    panel = drawn("pp=2, dp=3, fsdp=2, tp=2", "Replicate, Replicate, Shard(0), Shard(1)")
    across = [(n.y, n.text) for n in sorted(panel.notes, key=lambda n: n.x) if n.y < 0]
    down = [(n.x, n.text) for n in sorted(panel.notes, key=lambda n: n.y) if n.x < 0]
    assert [text for y, text in across if y == pytest.approx(-0.1)] == ["0", "1"] * 3
    assert [text for y, text in across if y == pytest.approx(-0.2)] == ["dp 0", "dp 1", "dp 2"]
    assert [text for x, text in down if x == pytest.approx(-0.1)] == ["0", "1"] * 2
    assert [text for x, text in down if x == pytest.approx(-0.2)] == ["pp 0", "pp 1"]
    titles = {note.text for note in panel.notes if -1 in (note.x, note.y)}
    assert titles == {"dp (copies) / tp (Shard(1)) →", "← pp (copies) / fsdp (Shard(0))"}


@pytest.mark.parametrize(
    ("mesh", "placements"),
    [
        ("shard=1024", "Shard(0)"),
        ("replicate=16, shard=64", "Replicate, Shard(0)"),
        ("shard=16384", "Shard(0)"),
        ("replicate=128, shard=128", "Replicate, Shard(0)"),
        ("pp=8, dp=16, fsdp=16, tp=8", "Replicate, Replicate, Shard(0), Shard(1)"),
    ],
)
def test_thousands_of_ranks_are_drawn(mesh, placements):
    layout = Layout.parse(mesh, placements)
    panel = mesh_panel(layout, (53248, 16384), {}, "mesh", hosts=8)
    world = layout.mesh.size
    cells = panel.marks.box[-world:]
    assert len(np.unique(cells[:, :2], axis=0)) == world
    assert [panel.marks.ranks_of(len(panel.marks) - world + i)[0] for i in (0, world - 1)] == [0, world - 1]
    assert len(panel.notes) < 400
    assert len(panel.caption) < 400
