"""Tensors as a rank holds them: boxes and memory."""

import engine_ops as ops
import pytest
import torch

from ckptlab.engine.held import hold
from ckptlab.errors import LayoutError


def test_a_plain_tensor_is_held_whole_by_every_rank():
    value = torch.ones(3, 2)
    held = hold({"w": value}, 2, (1, 2))["w"]
    assert held.cut.plain
    assert held.cut.layout is None
    assert held.cut.shards.rank.tolist() == [1, 2]
    assert len(held.cut.mine) == 1
    assert held.piece_of(held.cut.mine.boxes[0]).data_ptr() == value.data_ptr()
    assert len(hold({"none": torch.ones(0, 2)}, 0, (0,))["none"].cut.mine) == 0
    assert hold({"scalar": torch.tensor(1.0)}, 0, (0,))["scalar"].cut.shape == ()


def test_what_has_no_boxes_is_refused():
    with pytest.raises(LayoutError, match=r"'w' is a torch.sparse_coo tensor.*to_dense"):
        hold({"w": torch.eye(2).to_sparse()}, 0, (0,))
    with pytest.raises(LayoutError, match=r"'w' has dtype torch.bits8"):
        hold({"w": torch.zeros(2, dtype=torch.uint8).view(torch.bits8)}, 0, (0,))


def test_tensors_share_a_cut_only_if_they_are_sharded_alike(ranks4):
    assert ranks4.run(ops.cuts) == [(["alike", "again"], True)] * 4
