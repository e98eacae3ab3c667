"""What ranks do in the tests against stock DCP on FSDP models: save here, load there, compare.

Every op returns plain records; the tests judge. Targets are zeroed before a load.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.distributed.checkpoint as stock_dcp
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.optimizer import load_sharded_optimizer_state_dict as stock_load_optimizer
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy, StateDictType, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import ckptlab.dcp as our_dcp
from ckptlab.dcp.optimizer import load_sharded_optimizer_state_dict as our_load_optimizer

DCP = {"ours": our_dcp, "stock": stock_dcp}
LOAD_OPTIMIZER = {"ours": our_load_optimizer, "stock": stock_load_optimizer}

SIZES = {"even": (8, 16, 4, 12), "uneven": (7, 10, 13, 6)}
"""Widths of the layers: every one a multiple of 4 ranks, or none. TP needs its hidden width even."""


@dataclass(frozen=True)
class Seen:
    """One tensor on one rank, before and after a load."""

    empty: bool
    differed: bool
    equal: bool
    same_layout: bool
    how: str = ""


def seen(was, before, now, same_layout, how):
    """Compare what was saved with what was there before the load, and with what is there now."""
    return Seen(was.numel() == 0, not same(was, before), same(was, now), same_layout, how)


def network(kind: str, seed: int) -> nn.Sequential:
    """A chain of linear layers in which every weight gets a gradient."""
    torch.manual_seed(seed)
    widths = SIZES[kind]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*[m for layer in layers for m in (layer, nn.Tanh())])


def fsdp1(ctx, kind, seed, mesh=None, strategy=ShardingStrategy.FULL_SHARD):
    """The network under FSDP1 with Adam; on the CPU FSDP1 wants to be told of the device."""
    model = FSDP(
        network(kind, seed).to(ctx.device),
        device_id=torch.device(ctx.device),
        device_mesh=mesh,
        sharding_strategy=strategy,
    )
    FSDP.set_state_dict_type(model, StateDictType.SHARDED_STATE_DICT)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def step(ctx, model, optimizer, kind, seed):
    generator = torch.Generator().manual_seed(100 * seed + ctx.rank)
    batch = torch.rand(6, SIZES[kind][0], generator=generator).to(ctx.device)
    optimizer.zero_grad()
    model(batch).square().sum().backward()
    optimizer.step()


@cache
def mesh_of(kind, shape, names=None):
    """Every new mesh costs new process groups, so each is made once in the life of a rank."""
    return init_device_mesh(kind, shape, mesh_dim_names=names)


def hsdp_mesh(ctx):
    return mesh_of(kind_of(ctx), (2, ctx.world // 2), ("replicate", "shard"))


def row_mesh(ctx):
    return mesh_of(kind_of(ctx), (ctx.world,))


def kind_of(ctx):
    return ctx.device.partition(":")[0]


@contextmanager
def quiet():
    """FSDP and stock DCP warn of what they will drop some day; that is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def local(value):
    """A rank's own part, as it is now."""
    if isinstance(value, DTensor):
        return value.to_local().detach().clone()
    if isinstance(value, ShardedTensor):
        parts = [s.tensor.detach().reshape(-1) for s in value.local_shards()]
        return torch.cat(parts) if parts else torch.zeros(0)
    return value.detach().clone()


def whole(value):
    return value.full_tensor().detach() if isinstance(value, DTensor) else value.detach().clone()


def layout(value):
    return (value.device_mesh, value.placements) if isinstance(value, DTensor) else None


def zeroed(value):
    """The same shape and sharding with nothing in it: what is not loaded is seen."""
    if isinstance(value, dict):
        return {key: zeroed(inner) for key, inner in value.items()}
    if isinstance(value, DTensor):
        return torch.zeros_like(value)
    if isinstance(value, ShardedTensor):
        copy = deepcopy(value)
        for shard in copy.local_shards():
            shard.tensor.zero_()
        return copy
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else value


def leaves(state, prefix=""):
    """Tensors of a nested dict by path."""
    found = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor | ShardedTensor):
            found[f"{prefix}{key}"] = value
    return found


def same(a, b):
    """Bit for bit."""
    a, b = a.cpu().contiguous().reshape(-1), b.cpu().contiguous().reshape(-1)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def hsdp_round_trip(ctx, path, kind, saver, loader):
    """HSDP on 2x2: save, step away, load into zeros, put back."""
    save, load = DCP[saver], DCP[loader]
    with quiet():
        mesh = hsdp_mesh(ctx)
        model, optimizer = fsdp1(ctx, kind, 1, mesh, ShardingStrategy.HYBRID_SHARD)
        saved = deepcopy(model.state_dict())
        save.save(
            state_dict={"model": saved},
            storage_writer=save.FileSystemWriter(path),
            planner=save.DefaultSavePlanner(),
        )
        step(ctx, model, optimizer, kind, 1)
        stepped = {fqn: local(v) for fqn, v in model.state_dict().items()}
        target = {"model": zeroed(model.state_dict())}
        load.load(
            state_dict=target,
            storage_reader=load.FileSystemReader(path),
            planner=load.DefaultLoadPlanner(),
        )
        model.load_state_dict(target["model"])
        now = model.state_dict()
    return {
        fqn: seen(
            local(was),
            stepped[fqn],
            local(now[fqn]),
            layout(was) == layout(now[fqn]) and layout(now[fqn])[0] == mesh,
            f"{tuple(was.placements)}",
        )
        for fqn, was in saved.items()
    }


def hsdp_to_fsdp(ctx, path, kind, saver, loader):
    """HSDP on 2x2 saved; FSDP on a 1-D mesh of all ranks loaded, by the older names."""
    save, load = DCP[saver], DCP[loader]
    with quiet():
        hsdp, _ = fsdp1(ctx, kind, 1, hsdp_mesh(ctx), ShardingStrategy.HYBRID_SHARD)
        source = hsdp.state_dict()
        save.save_state_dict(
            state_dict={"model": source},
            storage_writer=save.FileSystemWriter(path),
            planner=save.DefaultSavePlanner(),
        )
        mesh = row_mesh(ctx)
        model, _ = fsdp1(ctx, kind, 2, mesh)
        before = {fqn: whole(v) for fqn, v in model.state_dict().items()}
        target = {"model": zeroed(model.state_dict())}
        load.load_state_dict(
            state_dict=target,
            storage_reader=load.FileSystemReader(path),
            planner=load.DefaultLoadPlanner(),
        )
        model.load_state_dict(target["model"])
        now = model.state_dict()
        return {
            fqn: seen(
                whole(was),
                before[fqn],
                whole(now[fqn]),
                layout(now[fqn])[0] == mesh and layout(now[fqn]) != layout(was),
                f"{tuple(now[fqn].placements)}",
            )
            for fqn, was in source.items()
        }


def fsdp_with_adam(ctx, path, kind, saver, loader, hybrid):
    """Model and Adam state saved together by FSDP1, loaded apart into a second model.

    Without a mesh (ShardedTensor), or under HSDP on 2x2 (DTensor) if `hybrid`.
    """
    save, load = DCP[saver], DCP[loader]
    with quiet():
        mesh = hsdp_mesh(ctx) if hybrid else None
        strategy = ShardingStrategy.HYBRID_SHARD if hybrid else ShardingStrategy.FULL_SHARD
        first, first_adam = fsdp1(ctx, kind, 1, mesh, strategy)
        step(ctx, first, first_adam, kind, 1)
        step(ctx, first, first_adam, kind, 3)
        source = {"model": first.state_dict(), "optim": FSDP.optim_state_dict(first, first_adam)}
        save.save_state_dict(state_dict=source, storage_writer=save.FileSystemWriter(path))

        second, second_adam = fsdp1(ctx, kind, 2, mesh, strategy)
        step(ctx, second, second_adam, kind, 2)
        before = {"model": second.state_dict(), "optim": FSDP.optim_state_dict(second, second_adam)}
        before = {fqn: local(v) for fqn, v in leaves(before).items()}
        target = {"model": zeroed(second.state_dict())}
        load.load_state_dict(state_dict=target, storage_reader=load.FileSystemReader(path))
        second.load_state_dict(target["model"])
        loaded = LOAD_OPTIMIZER[loader](
            model_state_dict=target["model"],
            optimizer_key="optim",
            storage_reader=load.FileSystemReader(path),
        )
        second_adam.load_state_dict(FSDP.optim_state_dict_to_load(second, second_adam, loaded["optim"]))
        now = {"model": second.state_dict(), "optim": FSDP.optim_state_dict(second, second_adam)}
    now = leaves(now)
    return {
        fqn: seen(
            local(was),
            before[fqn],
            local(now[fqn]),
            type(now[fqn]) is type(was) and layout(was) == layout(now[fqn]),
            type(was).__name__,
        )
        for fqn, was in leaves(source).items()
    }


def fsdp2(ctx, kind, seed, how):
    """The network under FSDP2 with Adam: "hsdp" on a 2x2 mesh, "fsdp" in a row, "fsdp_tp" over TP."""
    model = network(kind, seed).to(ctx.device)
    if how == "hsdp":
        mesh = hsdp_mesh(ctx)
    elif how == "fsdp":
        mesh = init_device_mesh(kind_of(ctx), (ctx.world,))
    else:
        both = init_device_mesh(kind_of(ctx), (2, ctx.world // 2), mesh_dim_names=("dp", "tp"))
        plan = {
            "0": ColwiseParallel(),
            "2": RowwiseParallel(),
            "4": ColwiseParallel(output_layouts=Replicate()),
        }
        parallelize_module(model, both["tp"], plan)
        mesh = both["dp"]
    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def state_of(model, optimizer):
    return {"model": get_model_state_dict(model), "optim": get_optimizer_state_dict(model, optimizer)}


def fsdp2_round_trip(ctx, path, kind, saver, loader, source_how, target_how):
    """FSDP2 model and Adam state, keyed by fqn, from one sharding to another."""
    save, load = DCP[saver], DCP[loader]
    with quiet():
        first, first_adam = fsdp2(ctx, kind, 1, source_how)
        step(ctx, first, first_adam, kind, 1)
        step(ctx, first, first_adam, kind, 3)
        source = state_of(first, first_adam)
        save.save(source, checkpoint_id=path)

        second, second_adam = fsdp2(ctx, kind, 2, target_how)
        step(ctx, second, second_adam, kind, 2)
        before = {
            "model": get_model_state_dict(second),
            "optim": get_optimizer_state_dict(second, second_adam),
        }
        target = zeroed(before)
        before = {fqn: whole(v) for fqn, v in leaves(before).items()}
        load.load(target, checkpoint_id=path)
        set_model_state_dict(second, target["model"])
        set_optimizer_state_dict(second, second_adam, target["optim"])
        now = state_of(second, second_adam)
        now, asked = leaves(now), leaves(target)
        return {
            fqn: seen(
                whole(was),
                before[fqn],
                whole(now[fqn]),
                layout(now[fqn]) == layout(asked[fqn]),
                f"{getattr(was, 'placements', None)} to {getattr(now[fqn], 'placements', None)}",
            )
            for fqn, was in leaves(source).items()
        }
