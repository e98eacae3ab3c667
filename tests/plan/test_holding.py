"""Tensors as ranks hold them: under a layout, whole everywhere, or told of by several ranks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plan_cases import layouts, shapes, tensors

from ckptlab.errors import LayoutError
from ckptlab.layout import Layout, Replicate
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import Holding, Holdings, among, everywhere, fitted, holdings, merge


@settings(deadline=None)
@given(layouts(), shapes)
def test_a_fitted_layout_cuts_what_there_is_to_cut(layout, shape):
    found = fitted(layout, shape)
    assert found.mesh == layout.mesh
    for before, after in zip(layout.placements, found.placements, strict=True):
        has_it = isinstance(before, Replicate) or before.dim < len(shape)
        assert after == (before if has_it else Replicate())
    assert len(found.shards(shape)) >= 0


@settings(deadline=None)
@given(tensors(), layouts())
def test_each_tensor_under_its_own_layout(some, layout):
    other = Layout.parse("2", "Shard(0)")
    chosen = {t.fqn: layout if i % 2 else other for i, t in enumerate(some)}
    for one, alone in zip(holdings(some, chosen), some, strict=True):
        assert one.tensor == alone
        assert one.shards is fitted(chosen[alone.fqn], alone.shape).shards(alone.shape)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([(4, 2), (3,)]), st.sampled_from(["int64", "bool"])), max_size=9))
def test_tensors_that_share_shards_and_dtype_are_told_together(kinds):
    layout = Layout.parse("2", "Shard(0)")
    every = [
        Holding(Tensor(f"t{i}", dtype, shape), layout.shards(shape)) for i, (shape, dtype) in enumerate(kinds)
    ]
    held = Holdings.of(every)
    assert Holdings.of(held) is held
    assert list(held) == every == [held[i] for i in range(len(held))]
    assert sorted(row for rows, _ in held.alike for row in rows) == list(range(len(every)))
    assert len(held.alike) == len(set(kinds))
    for rows, shards in held.alike:
        assert rows.tolist() == sorted(rows)
        assert {(every[row].tensor[1:], id(every[row].shards)) for row in rows} == {
            (every[rows[0]].tensor[1:], id(shards))
        }
    assert [rows[0] for rows, _ in held.alike] == sorted(rows[0] for rows, _ in held.alike)


def test_everywhere_is_whole_on_every_rank():
    held = everywhere((3, 2), (1, 4, 5))
    assert held.rank.tolist() == [1, 4, 5]
    assert {repr(held.boxes[i]) for i in range(3)} == {"Box[0:3, 0:2]"}
    assert len(everywhere((3, 0), (0, 1, 2, 3))) == 0
    assert len(everywhere((), (0, 1, 2, 3))) == 4


@settings(deadline=None)
@given(tensors(most=1), layouts(), st.sets(st.integers(0, 8)))
def test_what_some_ranks_alone_hold(some, layout, ranks):
    (held,) = holdings(some, layout)
    found, again = among([held, held], sorted(ranks))
    assert found.shards is again.shards
    assert found.tensor == held.tensor
    for rank in layout.mesh.rank_list:
        rows, kept = held.shards.of(rank), found.shards.of(rank)
        if rank in ranks:
            assert kept.boxes.offsets.tolist() == rows.boxes.offsets.tolist()
            assert kept.boxes.shapes.tolist() == rows.boxes.shapes.tolist()
            assert kept.local.tolist() == rows.local.tolist()
        else:
            assert len(kept) == 0


@settings(deadline=None)
@given(tensors(most=1), layouts())
@example([Tensor("w", "float32", (8,))], Layout.parse("2", "StridedShard(0, split_factor=2)"))
def test_what_ranks_tell_one_by_one_makes_the_whole(some, layout):
    (held,) = holdings(some, layout)
    parts = [Holding(held.tensor, held.shards.of(rank)) for rank in range(layout.mesh.size)]
    merged = merge(parts)
    rows = np.argsort(held.shards.rank, kind="stable")
    assert merged.tensor == held.tensor
    assert merged.shards.rank.tolist() == held.shards.rank[rows].tolist()
    assert merged.shards.boxes.offsets.tolist() == held.shards.boxes.offsets[rows].tolist()
    assert merged.shards.boxes.shapes.tolist() == held.shards.boxes.shapes[rows].tolist()
    assert merged.shards.local.tolist() == held.shards.local[rows].tolist()


def test_ranks_that_tell_of_different_tensors_are_refused():
    parts = [Holding(Tensor("w", "float32", (2, n)), everywhere((2, n), (0,))) for n in (3, 4, 3)]
    with pytest.raises(LayoutError, match=r"disagree on tensor 'w': float32\[2, 3\] and float32\[2, 4\]"):
        merge(parts)
