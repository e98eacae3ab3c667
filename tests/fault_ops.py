"""What ranks do in the tests of faults: saves and loads in which the deed is done to one rank."""

from __future__ import annotations

import torch
from crosswise_ops import cut, full, poisoned
from engine_ops import failure
from seed_ops import quiet, same

import ckptlab

# ---------------------------------------------------------------- replicas that went apart


def _hsdp_state(ctx):
    """A state of which each shard is held by one rank, by two or by all four, and a plain tensor."""
    shapes = {"w": (9, 4), "v": (6,), "c": (3, 2)}
    layouts = {"w": "hsdp", "v": "copies", "c": "tiles"}
    state = {fqn: cut(ctx, full(fqn, shapes[fqn]).nan_to_num(0).clamp(-9, 9), layouts[fqn]) for fqn in shapes}
    return {**state, "plain": torch.ones(3), "step": 5}


def diverged(ctx, path, changes, replicas="check", order=1):
    """A save in which `changes` (rank, key, place in the flat shard, by how much) were made first."""
    state = _hsdp_state(ctx)
    for rank, fqn, place, much in changes:
        if ctx.rank == rank:
            state[fqn].to_local().view(-1)[place] += much
    if ctx.rank % 2:
        state = dict(list(state.items())[::order])
    return failure(lambda: ckptlab.save({"m": state}, path, replicas=replicas))


def diverged_but_trusted(ctx, path, rank):
    """A save that is told to trust replicas; whether each rank's own `w` is what was saved."""
    state = _hsdp_state(ctx)
    if ctx.rank == rank:
        state["w"].to_local()[0, 0] = 77.0
    with quiet():
        ckptlab.save(state, path, replicas="trust")
    target = poisoned(cut(ctx, full("w", (9, 4)), "hsdp"))
    ckptlab.load({"w": target}, path)
    return same(target.to_local(), state["w"].to_local())


def many_diverged(ctx, path, count):
    """A save of `count` replicated tensors, all of which are another on rank 1."""
    state = {f"t{i:02}": cut(ctx, torch.zeros(4, 2), "copies") for i in range(count)}
    for i, tensor in enumerate(state.values()):
        tensor.to_local()[0, 0] += float(i) if ctx.rank == 1 else -1.0
    return failure(lambda: ckptlab.save(state, path))


def one_rank_has_not(ctx, path, rank, missing):
    """A save in which one rank lacks some keys; its outcome, and what a load of everything gives."""
    state = _hsdp_state(ctx)
    mine = {fqn: v for fqn, v in state.items() if ctx.rank != rank or fqn not in missing}
    return failure(lambda: ckptlab.save(mine, path))
