"""A save that is ended anywhere, by whatever, leaves the old checkpoint or the new one, whole."""

import os
from itertools import groupby

import fault_ops as ops
import pytest
import torch
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import full
from ranks_fixture import pool
from seed_ops import quiet, same

import ckptlab
from ckptlab import open_checkpoint
from ckptlab.errors import RankError
from ckptlab.storage.sidecar import layout_file


@pytest.fixture
def ranks2():
    return pool(2)


def whole(seed):
    """The small state as one process holds it."""
    tensors = {"rows": (4, 3), "copies": (5,), "plain": (2, 2)}
    return {**{fqn: full(f"{fqn} {seed}", shape) for fqn, shape in tensors.items()}, "step": seed}


def seed_there(path):
    """Which of the two states a path holds, whole, for stock DCP and for ckptlab."""
    found = []
    for load in (
        lambda state: ckptlab.load(state, path),
        lambda state: stock_dcp.load(state, checkpoint_id=path, no_dist=True),
    ):
        target = {k: torch.full_like(v, -3) if k != "step" else 0 for k, v in whole(1).items()}
        with quiet():
            load(target)
        equal = [s for s in (1, 2) if all(same(target[k], whole(s)[k]) for k in target if k != "step")]
        assert equal == [target["step"]], "a mix of two checkpoints"
        found.append(target["step"])
    assert found[0] == found[1]
    return found[0]


def clean(path):
    """Nothing lies there but what the checkpoint refers to."""
    metadata = open_checkpoint(path).metadata
    used = {metadata.files[i] for i in metadata.chunks.file.tolist()}
    used |= {metadata.files[extent.file] for extent in metadata.objects.values()}
    return set(os.listdir(path)) == {*used, ".metadata", layout_file(metadata.save_id)}


@pytest.mark.parametrize("how", ["save", "async"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_at_any_file_operation_leaves_one_whole_checkpoint(ranks2, tmp_path, rank, how):
    path = str(tmp_path)
    ranks2.run(ops.save_small, path, 1)
    operations = ranks2.run(ops.count_operations, path, how)[rank]
    assert {"pwritev", "fsync", "open"} <= {name.split()[0] for name in operations}
    there = []
    for at in range(len(operations)):
        # The save that follows a kill works, and clears what was left.
        ranks2.run(ops.save_small, path, 1)
        assert seed_there(path) == 1
        assert clean(path), operations[at]
        with pytest.raises(RankError, match=f"rank {rank} .*SIGKILL"):
            ranks2.run(ops.killed_at_operation, path, rank, at, how)
        there.append(seed_there(path))
    # The new one comes at one of the first rank's operations, and stays.
    assert [seed for seed, _ in groupby(there)] == ([1, 2] if rank == 0 else [1])
