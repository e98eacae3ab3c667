"""Tiles of a tensor: who wrote, who holds, where the bytes lie; copies, and ranks with nothing."""

import numpy as np
import pytest

from ckptlab.errors import LayoutError
from ckptlab.explorer.scene import FILLED, HATCHED, OUTLINED
from ckptlab.explorer.tensor import Look, held_panel, stored_panel
from ckptlab.layout import Layout
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.metadata_of import metadata_of

CUBE = Tensor("cube", "bfloat16", (8, 6, 10))


def cube():
    layout = Layout.parse("2x3x2", "Shard(0), Shard(1), Shard(2)")
    return metadata_of([Tensor("before", "float32", (3, 5)), CUBE], layout), layout


def told(panel, mark):
    return {fact.label: fact.show(mark) for fact in panel.marks.facts if fact.show(mark)}


@pytest.mark.parametrize("at", [(), (0, 0, 0), (7, 0, 0), (4, 0, 0)])
def test_facts_of_a_slice_are_those_of_the_chunks_themselves(at):
    metadata, _ = cube()
    panel = stored_panel(metadata, "cube", Look((1, 2), at))
    row = metadata.rows["cube"]
    boxes, rows = metadata.boxes(row), metadata.chunk_rows(row)
    index = at[0] if at else 0
    wanted = [i for i in range(len(boxes)) if boxes.offsets[i, 0] <= index < boxes.stops[i, 0]]
    assert len(panel.marks) == len(wanted) == 6
    for mark, i in enumerate(wanted):
        chunk = rows.start + i
        rank = metadata.writers[metadata.chunks.file[chunk]]
        assert told(panel, mark) == {
            "elements": repr(boxes[i]).removeprefix("Box"),
            "bytes": f"{boxes[i].numel * ITEMSIZE['bfloat16']} B",
            "written by": f"rank {rank}",
            "held by": f"rank {rank}",
            "file": metadata.files[metadata.chunks.file[chunk]],
            "at byte": f"{metadata.chunks.start[chunk]:,}",
        }
        assert panel.marks.ranks_of(mark) == (rank,)
        assert panel.marks.labels[mark] == f"rank {rank}"
    assert f"Drawn: [{index}, :, :], 6 of them." in panel.caption


def test_chunks_that_several_ranks_hold_are_hatched():
    layout = Layout.parse("2x2", "Replicate, Shard(0)")
    metadata = metadata_of([CUBE], layout)
    assert set(stored_panel(metadata, "cube").marks.style.tolist()) == {HATCHED}
    alone = Layout.parse("4", "Shard(0)")
    assert set(stored_panel(metadata_of([CUBE], alone), "cube").marks.style.tolist()) == {FILLED}
    assert set(held_panel(CUBE, layout, "held").marks.style.tolist()) == {HATCHED}


def test_a_box_that_is_stored_twice_is_hatched_though_no_layout_is_known():
    metadata, _ = cube()
    twice = metadata.chunks.offsets.copy()
    low = metadata.chunks.corner[1]
    twice[low + 3 : low + 6] = twice[low : low + 3]
    shapes = metadata.chunks.shapes.copy()
    shapes[low + 3 : low + 6] = shapes[low : low + 3]
    chunks = type(metadata.chunks)(*{**vars(metadata.chunks), "offsets": twice, "shapes": shapes}.values())
    changed = type(metadata)(metadata.tensors, chunks, metadata.files, metadata.writers)
    style = stored_panel(changed, "cube").marks.style
    assert style.tolist().count(HATCHED) == 2


@pytest.mark.parametrize("shape", [(5, 4), (3,), (0, 4), (2, 3, 4)])
def test_ranks_with_nothing_have_a_strip_of_their_own(shape):
    tensor, layout = Tensor("t", "float32", shape), Layout.parse("8", "Shard(0)")
    for panel in (
        held_panel(tensor, layout, "held"),
        stored_panel(metadata_of([tensor], layout), "t"),
    ):
        marks, last = panel.marks, len(panel.marks) - 1
        none = tuple(range(min(8, shape[0]), 8))
        assert marks.ranks_of(last) == none
        assert marks.style[last] == OUTLINED
        assert told(panel, last) == {"holds": "nothing of this tensor"}
        assert marks.labels[last].startswith("empty: rank")
        # Below the tensor, which stays true to scale.
        assert marks.box[last, 1] > panel.plane.height
        assert marks.box[last, 1] + marks.box[last, 3] <= panel.height
        assert (marks.box[:last, 1] + marks.box[:last, 3] <= panel.plane.height + 1e-4).all()


def test_every_rank_with_something_leaves_no_strip():
    panel = held_panel(CUBE, Layout.parse("8", "Shard(0)"), "held")
    assert OUTLINED not in panel.marks.style
    assert panel.height == panel.plane.height


def test_a_look_that_makes_no_sense_is_refused():
    metadata, _ = cube()
    with pytest.raises(LayoutError, match="no two dims"):
        stored_panel(metadata, "cube", Look((1, 1)))
    with pytest.raises(LayoutError, match="no index"):
        stored_panel(metadata, "cube", Look((1, 2), (8, 0, 0)))


def test_a_tensor_of_many_chunks_is_soon_drawn_and_lists_only_its_own_files():
    layout = Layout.parse("64x64", "Shard(0), Shard(1)")
    metadata = metadata_of([Tensor("w", "float32", (6400, 6400)), CUBE], layout)
    panel = stored_panel(metadata, "w")
    assert len(panel.marks) == 4096
    (file,) = [fact for fact in panel.marks.facts if fact.label == "file"]
    assert len(file.words) == 4096
    small = stored_panel(metadata, "cube")
    (file,) = [fact for fact in small.marks.facts if fact.label == "file"]
    assert len(file.words) == len(set(metadata.chunks.file[metadata.chunk_rows(1)].tolist())) < 4096
    assert np.isfinite(panel.marks.box).all()
