"""What ranks do in the tests of tensors whose elements do not lie where their placements say."""

import torch
from engine_ops import failure
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import ckptlab


def saved_and_loaded(ctx, path):
    """How a save and a load fail of 8 rows of which rank 2 has three and rank 3 has one."""
    mesh = init_device_mesh("cpu", (ctx.world,))
    rows = {2: 3, 3: 1}.get(ctx.rank, 2)
    made = {"shape": torch.Size((8, 3)), "stride": (3, 1), "run_check": False}
    apart = DTensor.from_local(torch.ones(rows, 3), mesh, [Shard(0)], **made)
    whole = DTensor.from_local(torch.ones(2, 3), mesh, [Shard(0)], **made)
    refused = failure(lambda: ckptlab.save({"w": apart}, path))
    ckptlab.save({"w": whole}, path)
    return refused, failure(lambda: ckptlab.load({"w": apart}, path))
