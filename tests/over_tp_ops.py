"""What ranks do in the tests of FSDP2 over TP, where nothing divides."""

from __future__ import annotations

import torch
import torch.distributed.checkpoint as stock_dcp
from seed_ops import quiet
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import ckptlab


def weight(ctx, sizes, rows):
    """A weight of this many rows, cut by TP and then by FSDP2; row i is full of i."""
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("dp", "tp"))
    linear = torch.nn.Linear(3, rows, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(float(rows))[:, None].expand(rows, 3))
    return fully_shard(parallelize_module(linear, mesh["tp"], ColwiseParallel()), mesh=mesh["dp"]).weight


def saved_and_loaded(ctx, path, sizes, rows):
    """Whether a rank gets back what it had; and all rows, as stock reads them alone."""
    with quiet():
        one = weight(ctx, sizes, rows)
        ckptlab.save({"w": one}, path)
        before = one.to_local().clone()
        with torch.no_grad():
            one.to_local().fill_(-1)
        ckptlab.load({"w": one}, path)
        whole = torch.full((rows, 3), -1.0)
        stock_dcp.load({"w": whole}, checkpoint_id=path, no_dist=True)
        return torch.equal(one.to_local(), before), whole.tolist()
