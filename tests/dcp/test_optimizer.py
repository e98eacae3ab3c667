"""Optimizer state by torch's name: through the engine, or through a reader of somebody's own."""

import dcp_ops as ops
import pytest
import torch

import ckptlab.dcp as dcp
from ckptlab.errors import CheckpointError


@pytest.mark.parametrize("foreign", [False, True])
def test_every_moment_is_sharded_as_its_parameter_is(ranks4, tmp_path, foreign):
    for same, step, groups in ranks4.run(ops.optimizer_load, str(tmp_path), foreign):
        assert same
        assert (step, groups) == (7.0, [{"lr": 0.1}])


def test_optimizer_state_that_is_not_there_is_said(tmp_path):
    dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path)
    with pytest.raises(CheckpointError, match=r"no optimizer state under 'optim'; its keys are \['model'\]"):
        dcp.load_sharded_optimizer_state_dict({}, "optim", dcp.FileSystemReader(tmp_path))
