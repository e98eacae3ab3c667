"""Tensors made anew, as another one is."""

import torch

from ckptlab.engine.made import sharded_like


def test_a_plain_parameter_has_plain_state():
    like = sharded_like(torch.nn.Parameter(torch.ones(2, 3)), (2, 3), torch.float64)
    assert (like.shape, like.dtype, like.count_nonzero()) == ((2, 3), torch.float64, 0)
    assert sharded_like(torch.ones(2, 3), (), torch.float32).shape == ()
    assert sharded_like(None, (4,), torch.int64).tolist() == [0] * 4
