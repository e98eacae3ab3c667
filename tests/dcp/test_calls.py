"""Stock's calls on this engine: the same arguments, the same effect, warnings instead of silence."""

import pytest
import torch

import ckptlab.dcp as dist_cp
from ckptlab.errors import CheckpointError, MismatchError


def test_old_and_new_names_do_the_same(tmp_path):
    state = {"w": torch.arange(4.0), "n": {"k": 3}}
    said = dist_cp.save_state_dict(state, dist_cp.FileSystemWriter(tmp_path), no_dist=True)
    assert said.state_dict_metadata["w"].size == torch.Size([4])
    target = {"w": torch.zeros(4), "n": {"k": None}}
    dist_cp.load_state_dict(target, dist_cp.FileSystemReader(tmp_path), no_dist=True)
    assert target["w"].tolist() == [0, 1, 2, 3]
    assert target["n"]["k"] == 3


def test_a_partial_load_leaves_what_is_not_there(tmp_path):
    dist_cp.save({"a": torch.ones(2)}, checkpoint_id=tmp_path, no_dist=True)
    target = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(MismatchError, match=r"missing +b"):
        dist_cp.load(target, checkpoint_id=tmp_path, no_dist=True)
    assert target["a"].tolist() == [0, 0]
    dist_cp.load(
        target,
        checkpoint_id=tmp_path,
        planner=dist_cp.DefaultLoadPlanner(allow_partial_load=True),
        no_dist=True,
    )
    assert (target["a"].tolist(), target["b"].tolist()) == ([1, 1], [0, 0])


def test_a_cast_is_done_as_stock_does_it_but_said(tmp_path):
    dist_cp.save({"a": torch.tensor([1.0, 1 / 3])}, checkpoint_id=tmp_path, no_dist=True)
    target = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    with pytest.warns(UserWarning, match=r"a \(float32 to bfloat16\)"):
        dist_cp.load(target, checkpoint_id=tmp_path, no_dist=True)
    assert target["a"].equal(torch.tensor([1.0, 1 / 3]).bfloat16())


def test_somewhere_must_be_named():
    with pytest.raises(CheckpointError, match="give checkpoint_id"):
        dist_cp.save({"a": torch.ones(1)}, no_dist=True)
    with pytest.raises(CheckpointError, match="coordinator_rank=1"):
        dist_cp.load_state_dict({}, dist_cp.FileSystemReader("x"), coordinator_rank=1)


def test_optimizer_state_that_is_not_there_is_said(tmp_path):
    dist_cp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(MismatchError, match=r"no optimizer state under 'optim'; its keys are \['model'\]"):
        dist_cp.load_sharded_optimizer_state_dict({}, "optim", dist_cp.FileSystemReader(tmp_path))
