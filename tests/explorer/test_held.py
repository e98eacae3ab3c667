"""What each rank holds, and who holds the same, against the layout itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.explorer.held import held, listed, meeting, together
from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard, overlaps

PLACEMENTS = st.sampled_from(
    [Replicate(), Shard(0), Shard(1), StridedShard(0, split_factor=2), StridedShard(1, split_factor=3)]
)


@st.composite
def layouts(draw):
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    ranks = draw(st.permutations(range(int(np.prod(shape)))))
    mesh = Mesh(tuple(shape), tuple("abc"[: len(shape)]), tuple(ranks))
    return Layout(mesh, tuple(draw(PLACEMENTS) for _ in shape))


@given(layouts(), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_groups_are_the_replicas_of_the_layout(layout, shape):
    mine = held(layout, shape)
    groups = {tuple(mine.rank[rows].tolist()) for rows in mine.groups}
    assert groups == set(layout.replicas(shape))
    assert set(mine.empty.tolist()) == set(layout.mesh.rank_list) - {r for g in groups for r in g}
    for i, rank in enumerate(mine.rank.tolist()):
        assert tuple(mine.place[i].tolist()) == layout.mesh.coordinate(rank)
        own = layout.shards(shape).of(rank).boxes
        content = mine.content[i]
        assert (content >= 0) == (len(own) > 0)
        if content >= 0:
            rows = slice(mine.first[content], mine.stop[content])
            np.testing.assert_array_equal(mine.boxes.take(rows).offsets, own.offsets)
            np.testing.assert_array_equal(mine.boxes.take(rows).shapes, own.shapes)
            group = next(g for g in groups if rank in g)
            assert mine.owner[i] == group[0]
            rest = [r for r in group if r != rank]
            assert mine.others[i] == (listed(rest) if rest else "no other rank")
        else:
            assert mine.owner[i] == rank
            assert mine.others[i] == ""


def test_contents_are_said_as_slices():
    assert held(Layout.parse("2", "Shard(0)"), (5, 4)).said == ["[0:3, 0:4]", "[3:5, 0:4]"]
    strided = held(Layout.parse("2", "StridedShard(0, split_factor=4)"), (16,))
    assert strided.said[0] == "[0:2] and [4:6] and 2 more"
    assert held(Layout.parse("2", "Replicate"), ()).said == ["[]"]


def test_no_tensor_is_held_by_nobody():
    mine = held(Layout.parse("2x2", "Replicate, Shard(0)"), None)
    assert mine.contents == 0
    assert mine.content.tolist() == [-1] * 4


def test_ranks_that_hold_a_whole_copy_between_them():
    layout = Layout.parse("dp=2, tp=3", "Replicate, Shard(0)")
    assert together(layout, held(layout, (6,))) == ["ranks 0, 1 and 2"] * 3 + ["ranks 3, 4 and 5"] * 3


@pytest.mark.parametrize(
    ("ranks", "number", "said"),
    [
        ([3], 0, "rank 3"),
        ([0, 2], 0, "ranks 0 and 2"),
        ([0, 1, 2], 0, "ranks 0, 1 and 2"),
        (range(4, 10), 0, "ranks 4 to 9"),
        ([4, 5, 6, 8], 0, "ranks 4, 5, 6 and 8"),
        (range(0, 40, 2), 0, "ranks 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"),
        (range(10), 5000, "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 4,992 more"),
    ],
)
def test_ranks_are_listed_as_people_would(ranks, number, said):
    assert listed(ranks, number) == said


def test_others_of_a_large_group_are_the_first_few_without_oneself():
    mine = held(Layout.parse("300", "Replicate"), (4,))
    assert mine.others[0] == "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 291 more"
    assert mine.others[299] == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 291 more"


@given(layouts(), layouts(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_chunks_meet_the_shards_that_they_overlap(saved, wanted, shape):
    for layout in (saved, wanted):
        chunks, shards = saved.shards(shape).distinct.boxes, layout.shards(shape).boxes
        met = overlaps(chunks, shards)
        a, b = meeting(chunks, shards)
        assert (a.tolist(), b.tolist()) == (met.a.tolist(), met.b.tolist())


def test_scalars_meet():
    shards = Layout.parse("3", "Replicate").shards(())
    a, b = meeting(shards.distinct.boxes, shards.boxes)
    assert (a.tolist(), b.tolist()) == ([0, 0, 0], [0, 1, 2])
