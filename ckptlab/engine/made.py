"""Tensors made anew: blank ones under a layout, ones that are sharded as another is, memory for meta ones.

Every rank makes its own part. It knows no files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch.distributed import get_world_size
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard as ShardOfSharded
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab.errors import LayoutError
from ckptlab.layout import Layout, Mesh, Shard, StridedShard
from ckptlab.metadata import Tensor


def torch_placements(layout: Layout) -> tuple[Any, ...]:
    """The placements of a layout as DTensor wants them."""
    return tuple(
        _StridedShard(p.dim, split_factor=p.split_factor)
        if isinstance(p, StridedShard)
        else TorchShard(p.dim)
        if isinstance(p, Shard)
        else TorchReplicate()
        for p in layout.placements
    )


def sharded_like(model: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros of `shape` and `dtype`, sharded as `model` is if that has this shape; else a plain tensor."""
    if model is None or tuple(model.shape) != shape:
        device = "cpu" if model is None else model.device
        return torch.zeros(shape, dtype=dtype, device=device)
    if isinstance(model, DTensor):
        local = torch.zeros_like(model._local_tensor, dtype=dtype)
        return _around(local, model)
    if isinstance(model, ShardedTensor):
        known = replace(model.metadata())
        known.tensor_properties = replace(known.tensor_properties, dtype=dtype)
        shards = [
            ShardOfSharded(torch.zeros_like(shard.tensor, dtype=dtype), shard.metadata)
            for shard in model.local_shards()
        ]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, known, process_group=model._process_group
        )
    return torch.zeros_like(model, dtype=dtype)


def _around(local: torch.Tensor, model: DTensor) -> DTensor:
    """`local` as this rank's part of a tensor that is sharded as `model` is."""
    return DTensor.from_local(
        local,
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )


def without_memory(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor on the meta device."""
    if isinstance(value, DTensor):
        # It is where its local tensor is, which is asked in a third of the time.
        return value._local_tensor.is_meta
    return isinstance(value, torch.Tensor) and not isinstance(value, ShardedTensor) and value.is_meta


def materialized(value: torch.Tensor, device: str | None) -> torch.Tensor:
    """A tensor without memory, with memory: on `device`, else on its mesh's, else on the CPU."""
    if isinstance(value, DTensor):
        local = torch.empty_like(value._local_tensor, device=device or value.device_mesh.device_type)
        return _around(local, value)
    return torch.empty_like(value, device=device or "cpu")


def device_mesh(mesh: Mesh, device: str) -> DeviceMesh:
    """The mesh as torch has it, on "cpu" or "cuda"; every rank of the default process group calls it.

    Raises `LayoutError` for a mesh that is not of all ranks of that group.
    """
    world = get_world_size()
    if sorted(mesh.rank_list) != list(range(world)):
        raise LayoutError(f"{mesh!r} is of {mesh.size} ranks, not of the {world} that are running")
    ranks = torch.tensor(mesh.rank_list, dtype=torch.int).reshape(mesh.shape)
    return DeviceMesh(device, ranks, mesh_dim_names=mesh.axes)


def blank(tensor: Tensor, layout: Layout, mesh: DeviceMesh, device: str, fill: int = 0) -> DTensor:
    """A DTensor under a layout on `mesh`, every byte of it `fill`."""
    local = torch.empty(
        layout.local_shape(tensor.shape, mesh.get_rank()), dtype=getattr(torch, tensor.dtype), device=device
    )
    local.reshape(-1).view(torch.uint8).fill_(fill)
    strides = torch.empty(tensor.shape, device="meta").stride()
    placements = torch_placements(layout)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=torch.Size(tensor.shape), stride=strides
    )
