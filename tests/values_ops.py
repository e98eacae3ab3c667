"""What ranks save for the tests of values."""

from __future__ import annotations


def save_columns_with_nans(context, path):
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    import ckptlab

    whole = torch.arange(32.0).reshape(4, 8)
    whole[2, 0] = whole[1, 7] = whole[3, 3] = whole[3, 7] = torch.nan
    whole[0, 6] = -torch.inf
    mesh = init_device_mesh("cpu", (context.world,))
    ckptlab.save({"w": distribute_tensor(whole, mesh, [Shard(1)])}, path)
