"""Tensors as a rank holds them: boxes and memory."""

import engine_ops as ops
import pytest
import torch

from ckptlab.engine.held import HeldTensors, hold
from ckptlab.errors import LayoutError
from ckptlab.layout import Box


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


def test_tensors_that_are_alike_are_told_together_and_each_by_itself():
    shapes = {"a": (2, 3), "b": (4,), "c": (2, 3), "d": (4,), "e": (2, 3)}
    values = {fqn: torch.full(shape, i) for i, (fqn, shape) in enumerate(shapes.items())}
    held = hold(values, 0, (0,))
    assert [(rows.tolist(), cut.shape) for rows, cut in held.alike] == [([0, 2, 4], (2, 3)), ([1, 3], (4,))]
    assert list(held) == list(held.names) == list(values)
    assert all(held[fqn].memory[0].data_ptr() == value.data_ptr() for fqn, value in values.items())
    assert held.tensors == tuple(held[fqn].tensor for fqn in values)
    assert held.nbytes == (3 * 6 + 2 * 4) * 8
    assert "f" not in held
    assert held.rows_of(["e", "f", "a"]).tolist() == [4, -1, 0]
    assert held.rows_of(list(values)).tolist() == [0, 1, 2, 3, 4]
    rows = held.rows_of(["e", "a"])
    assert [piece.tolist() for piece in held.pieces(rows, 0, Box((1, 0), (1, 2)))] == [[[4, 4]], [[0, 0]]]
    whole = held.pieces(rows, 0, Box((0, 0), (2, 3)))
    assert [piece.data_ptr() for piece in whole] == [values[fqn].data_ptr() for fqn in "ea"]


def test_what_fills_one_key_twice_is_told_apart_by_position():
    held = hold({"a": torch.zeros(2), "b": torch.ones(2)}, 0, (0,))
    twice = HeldTensors.of([held["b"], held["a"]._replace(fqn="b"), held["b"]])
    assert [rows.tolist() for rows, _ in twice.alike] == [[0, 1, 2]]
    assert [memory[0].tolist() for memory in twice.memory] == [[1, 1], [0, 0], [1, 1]]


def test_tensors_share_a_cut_only_if_they_are_sharded_alike(ranks4):
    alike = ["alike", "again", "one spec", "the same spec"]
    apart = [[fqn] for fqn in ("turned", "strided", "wider", "narrow")]
    assert ranks4.run(ops.cuts) == [(alike, True, [alike, *apart])] * 4
