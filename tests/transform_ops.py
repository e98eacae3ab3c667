"""What ranks do in the tests of load transforms: random ones, and those that people need.

The answers are numpy's or torch's own, on whole tensors, cut by torch's `distribute_tensor`.
"""

from __future__ import annotations

from contextlib import nullcontext
from random import Random

import torch
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import LAYOUTS, cut, full
from seed_ops import kind_of, mesh_of, quiet, same
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from transforms import random_case

import ckptlab
import ckptlab.dcp as our_dcp
from ckptlab.dcp import TransformPlanner
from ckptlab.engine import verify_loaded
from ckptlab.layout import Layout, Mesh
from ckptlab.plan.transform import Part, Transform


def through(loader, state, path, transform):
    """Load by `ckptlab.load`, or by either DCP with the planner; the report of the first."""
    if loader == "load":
        return ckptlab.load(state, path, transform=transform)
    dcp = {"ours": our_dcp, "stock": stock_dcp}[loader]
    with quiet() if loader == "stock" else nullcontext():
        return dcp.load(state, checkpoint_id=path, planner=TransformPlanner(transform))


def local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def differing(loaded, wanted):
    """The keys of which this rank's part is not as it must be."""
    return [key for key, tensor in wanted.items() if not same(local(loaded[key]), local(tensor))]


def random_ones(ctx, path, seeds, loaders):
    """Random parts of tensors under random layouts into others; what differs, by loader."""
    choices = [(Random(seed), random_case(Random(seed)), f"t{seed}") for seed in seeds]
    stored = {name: full(name, case.stored) for _, case, name in choices}
    saved = {name: cut(ctx, stored[name], random.choice(list(LAYOUTS))) for random, _, name in choices}
    ckptlab.save({"m": saved}, path)
    parts = {name: (renamed(case.part, f"m.{name}"),) for _, case, name in choices}
    transform = Transform(parts=parts, leave=("t*",))
    before = {name: full(f"before {name}", case.target) for _, case, name in choices}
    layout = {name: random.choice(list(LAYOUTS)) for random, _, name in choices}
    bits = {
        name: case.applied(stored[name].view(torch.int32).numpy(), before[name].view(torch.int32).numpy())
        for _, case, name in choices
    }
    wanted = {name: torch.from_numpy(it).view(torch.float32) for name, it in bits.items()}
    wanted = {name: cut(ctx, it, layout[name]) for name, it in wanted.items()}
    found = {}
    for loader in loaders:
        target = {name: cut(ctx, it, layout[name]) for name, it in before.items()}
        moved = differing(target, wanted)
        through(loader, target, path, transform)
        seen = verify_loaded(target, path, transform=transform)
        found[loader] = (len(moved), differing(target, wanted), seen.elements, seen.different)
    return found


def renamed(part, fqn):
    return Part(fqn, part.stored, part.into, part.shape, part.dims)
