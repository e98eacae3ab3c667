"""Stock's options: those that are kept, and those that are refused by name."""

import pytest
import torch
import torch.distributed.checkpoint as stock

import ckptlab.dcp as dist_cp
from ckptlab.errors import CheckpointError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dist_cp.FileSystemWriter("x", thread_count=4), "thread_count=4"),
        (lambda: dist_cp.FileSystemWriter("x", single_file_per_rank=False), "single_file_per_rank=False"),
        (lambda: dist_cp.DefaultSavePlanner(flatten_state_dict=False), "flatten_state_dict=False"),
        (lambda: dist_cp.DefaultSavePlanner(enable_plan_caching=True), "enable_plan_caching=True"),
        (lambda: dist_cp.DefaultLoadPlanner(flatten_sharded_tensors=False), "flatten_sharded_tensors=False"),
    ],
)
def test_what_cannot_be_honoured_is_refused(make, words):
    with pytest.raises(CheckpointError, match=words):
        make()


# Stock warns whenever it saves without a process group.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_reader_tells_what_stock_tells(tmp_path):
    state = {"w": torch.arange(6.0).reshape(2, 3), "n": 5}
    stock.save(state, checkpoint_id=tmp_path, no_dist=True)
    ours = dist_cp.FileSystemReader(tmp_path).read_metadata()
    theirs = stock.FileSystemReader(tmp_path).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.planner_data == theirs.planner_data
    assert ours.storage_data == theirs.storage_data


def test_overwrite_can_be_refused(tmp_path):
    state = {"w": torch.ones(2)}
    dist_cp.save(state, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        dist_cp.save(state, storage_writer=dist_cp.FileSystemWriter(tmp_path, overwrite=False), no_dist=True)
