"""What ranks do in the tests of FSDP1's older kinds of state: ShardedTensors of any cut, flat parameters."""

from __future__ import annotations

import torch
from crosswise_ops import DCP, cut, full
from engine_ops import failure
from seed_ops import leaves, local, network, quiet, same, step, zeroed
from torch.distributed._shard.sharded_tensor import Shard, init_from_local_shards
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

import ckptlab

SHAPE = (7, 5)
CUTS = {
    "rows": [(0, (0, 0), (2, 5)), (1, (2, 0), (2, 5)), (2, (4, 0), (2, 5)), (3, (6, 0), (1, 5))],
    "columns": [(0, (0, 0), (7, 2)), (1, (0, 2), (7, 1)), (3, (0, 3), (7, 1)), (2, (0, 4), (7, 1))],
    "bands": [(r, (i, 0), (1, 5)) for i, r in enumerate((0, 1, 0, 1, 3, 2, 3))],
    "tiles": [(0, (0, 0), (3, 2)), (1, (0, 2), (3, 3)), (2, (3, 0), (4, 2)), (3, (3, 2), (4, 3))],
    "one": [(2, (0, 0), (7, 5))],
    "empty": [(0, (0, 0), (4, 5)), (1, (4, 0), (3, 5)), (2, (7, 0), (0, 5)), (3, (7, 0), (0, 5))],
}
"""Which rank holds which part (offsets, sizes) of a tensor; some hold several, or nothing."""


def sharded(ctx, name, cutting):
    """A tensor of this name as a ShardedTensor."""
    whole = full(name, SHAPE).to(ctx.device)
    parts = []
    for rank, offsets, sizes in CUTS[cutting]:
        if rank == ctx.rank:
            part = whole[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))].contiguous()
            parts.append(Shard.from_tensor_and_offsets(part, list(offsets), rank))
    return init_from_local_shards(parts, *SHAPE)


def _state(ctx, target=None):
    """A tensor for each cut, all in the `target` cut if there is one; and a DTensor in tiles."""
    made = {name: sharded(ctx, name, target or name) for name in CUTS}
    made["dtensor"] = sharded(ctx, "dtensor", target) if target else cut(ctx, full("dtensor", SHAPE), "tiles")
    return made


def _as_dtensors(ctx):
    return {name: cut(ctx, full(name, SHAPE), "columns") for name in [*CUTS, "dtensor"]}


def from_any_cut_to_any(ctx, path, saver, loader):
    """Save one of each cut and load all in each cut, and as DTensors: keys that are wrong, elements seen."""
    out = {}
    with quiet():
        DCP[saver].save(_state(ctx), checkpoint_id=path)
        for target in [*CUTS, "dtensors"]:
            wanted = _as_dtensors(ctx) if target == "dtensors" else _state(ctx, target)
            loaded = zeroed(wanted)
            DCP[loader].load(loaded, checkpoint_id=path)
            wrong = [key for key in wanted if not same(local(wanted[key]), local(loaded[key]))]
            out[target] = wrong, sum(local(one).numel() for one in loaded.values())
    return out


# ---------------------------------------------------------------- FSDP1


def _flat(ctx, seed, individual=False):
    """The network under FSDP1 with Adam, its state one flat parameter."""
    model = FSDP(network("uneven", seed), device_id=torch.device(ctx.device), use_orig_params=individual)
    FSDP.set_state_dict_type(model, StateDictType.LOCAL_STATE_DICT)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def _moments(optimizer):
    """Adam's state of the flat parameter, which is this rank's own part of it."""
    (state,) = optimizer.state_dict()["state"].values()
    return state


def flat_parameters(ctx, path, saver, loader):
    """A flat parameter with its Adam state, a key a rank, to a second model, which then takes the same step.

    Whether it differed before, was the same after the load, and after the step.
    """
    own = str(ctx.rank)
    with quiet():
        first, first_adam = _flat(ctx, 1)
        step(ctx, first, first_adam, "uneven", 1)
        saved = {"model": first.state_dict(), "optim": {own: _moments(first_adam)}}
        DCP[saver].save(saved, checkpoint_id=path)

        second, second_adam = _flat(ctx, 2)
        step(ctx, second, second_adam, "uneven", 2)
        there = {"model": second.state_dict(), "optim": {own: _moments(second_adam)}}
        differed = [not same(local(v), local(leaves(there)[k])) for k, v in leaves(saved).items()]
        with torch.no_grad():
            target = zeroed(there)
        DCP[loader].load(target, checkpoint_id=path)
        second.load_state_dict(target["model"])
        state = second_adam.state_dict()
        second_adam.load_state_dict({**state, "state": {0: target["optim"][own]}})
        now = {"model": second.state_dict(), "optim": {own: _moments(second_adam)}}
        equal = [same(local(v), local(leaves(now)[k])) for k, v in leaves(saved).items()]
        for model, adam in ((first, first_adam), (second, second_adam)):
            step(ctx, model, adam, "uneven", 3)
        after = [
            same(a.detach(), b.detach()) for a, b in zip(first.parameters(), second.parameters(), strict=True)
        ]
    return list(leaves(saved)), differed, equal, after


def flat_parameters_beside_their_parts(ctx, path):
    """With `use_orig_params` torch adds, under the names of whole tensors, what each rank has of them."""
    with quiet():
        state = _flat(ctx, 1, individual=True)[0].state_dict()
        return failure(lambda: ckptlab.save(state, path))


def whole_on_the_first_rank(ctx, path, saver, loader):
    """FSDP1's full state, on rank 0 alone, saved; loaded there again, and by all ranks into their shards."""
    config = FullStateDictConfig(rank0_only=True)
    with quiet():
        model = FSDP(network("uneven", 1), device_id=torch.device(ctx.device))
        with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
            state = model.state_dict()
        DCP[saver].save(state, checkpoint_id=path)
        again = zeroed(state)
        DCP[loader].load(again, checkpoint_id=path)
        FSDP.set_state_dict_type(model, StateDictType.SHARDED_STATE_DICT)
        shards = model.state_dict()
        loaded = zeroed(shards)
        DCP[loader].load(loaded, checkpoint_id=path)
        whole = len(state), all(same(state[key], again[key]) for key in state)
        return *whole, all(same(local(shards[key]), local(loaded[key])) for key in shards)
