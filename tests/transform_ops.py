"""What ranks do in the tests of load transforms: random ones, and those that people need.

The answers are numpy's or torch's own, on whole tensors, cut by torch's `distribute_tensor`.
"""

from __future__ import annotations

from contextlib import nullcontext
from random import Random

import torch
import torch.distributed.checkpoint as stock_dcp
from crosswise_ops import LAYOUTS, cut, full, poisoned
from seed_ops import local as part_of
from seed_ops import quiet, same, zeroed
from sharded_ops import CUTS, SHAPE, sharded
from torch.distributed.tensor import DTensor
from transforms import random_case

import ckptlab
import ckptlab.dcp as our_dcp
from ckptlab.dcp import TransformPlanner
from ckptlab.engine import verify_loaded
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


NEEDED = Transform(
    rename=((r"^module\.", ""), (r"^optim\.state\.0\.", "optim.state.qkv.")),
    parts={
        "qkv": (
            Part("module.q", into=((0, 8), (0, 4))),
            Part("module.k", into=((8, 12), (0, 4))),
            Part("module.v", into=((12, 16), (0, 4))),
        ),
        "gate": Part("module.gate_up", stored=((0, 7), (0, 4))),
        "up": Part("module.gate_up", stored=((7, 14), (0, 4))),
        "heads": Part("module.heads", shape=(4, 2, 3, 5), dims=(0, 2, 1, 3)),
        "emb": Part("module.emb", into=((0, 11), (0, 4))),
        "head": Part("module.emb", into=((0, 11), (0, 4))),
        "small": Part("module.emb", stored=((0, 9), (0, 4))),
        "turned": Part("module.odd", dims=(1, 0)),
        "scale": Part("module.scale"),
        "one": Part("module.ones"),
        "unflat.w": Part("module.flat", stored=((3, 38),)),
        "unflat.b": Part("module.flat", stored=((38, 45),)),
        "flat": Part("module.odd", stored=((5, 33),)),
        "optim.lr.qkv": Part("optim.lr.0"),
    },
    leave=("new", "emb", "head"),
    drop=("module.flat*",),
    dtype="widen",
)
"""All that people need at once: fused, split, tied, padded, cut off, turned, flat, by name, not by number."""


def saved_for_needs():
    """What is in the checkpoint, whole."""
    shapes = {
        "q": (8, 4), "k": (4, 4), "v": (4, 4), "gate_up": (14, 4), "heads": (24, 5), "emb": (11, 4),
        "odd": (5, 7), "scale": (), "ones": (1,), "flat": (48,), "norm": (9,),
    }  # fmt: skip
    module = {
        name: full(name, shape, "bfloat16" if name == "norm" else "float32") for name, shape in shapes.items()
    }
    moments = {"exp_avg": full("m", (16, 4)), "step": full("step", ())}
    return {"module": module, "optim": {"state": {"0": moments}, "lr": {"0": 0.125}}, "step": 7}


def needed():
    """What the target must be after the load, whole, and what of it was so before."""
    m = saved_for_needs()["module"]
    padding = full("padding", (16, 4))
    padded = torch.cat([m["emb"], padding[11:]])
    after = {
        "qkv": torch.cat([m["q"], m["k"], m["v"]]),
        "gate": m["gate_up"][:7],
        "up": m["gate_up"][7:],
        "heads": m["heads"].reshape(4, 2, 3, 5).transpose(1, 2).reshape(24, 5),
        "emb": padded,
        "head": padded,
        "small": m["emb"][:9],
        "turned": m["odd"].t().contiguous(),
        "scale": m["scale"].reshape(1),
        "one": m["ones"].reshape(()),
        "unflat.w": m["flat"][3:38].reshape(5, 7),
        "unflat.b": m["flat"][38:45],
        "flat": m["odd"].reshape(-1)[5:33],
        "norm": m["norm"].float(),
        "new": full("new", (3, 3)),
        "optim.state.qkv.exp_avg": full("m", (16, 4)),
        "optim.state.qkv.step": full("step", ()),
    }
    return after, {"emb": padding, "head": padding, "new": after["new"]}


def blank(ctx, layout):
    """A target of that: poisoned, but for what it keeps."""
    after, before = needed()
    state = {
        key: cut(ctx, before[key], layout) if key in before else poisoned(cut(ctx, tensor.clone(), layout))
        for key, tensor in after.items()
    }
    return {**state, "optim.lr.qkv": 0.0, "step": 0}


def all_that_people_need(ctx, path, loaders, layouts):
    """Saved in rows; what differs by loader and layout, and the reports."""
    saved = saved_for_needs()
    ckptlab.save({**saved, "module": {k: cut(ctx, v, "rows") for k, v in saved["module"].items()}}, path)
    found = {}
    for loader in loaders:
        for layout in layouts:
            target = blank(ctx, layout)
            wanted = {key: cut(ctx, tensor, layout) for key, tensor in needed()[0].items()}
            before = differing(target, wanted)
            report = through(loader, target, path, NEEDED)
            seen = verify_loaded(target, path, transform=NEEDED)
            objects = target["optim.lr.qkv"], target["step"]
            found[loader, layout] = before, differing(target, wanted), seen.different, objects, report
    return found


def what_is_no_dtensor(ctx, path, loaders):
    """ShardedTensors of any cut, turned; a flat shard that is each rank's own. What differs, by loader."""
    turned = {name: full(name, SHAPE).t().contiguous() for name in CUTS}
    whole = full("own", (5, 8))
    ckptlab.save({"m": {**turned, "own": cut(ctx, whole, "columns")}}, path)
    wanted = {name: sharded(ctx, name, name) for name in CUTS}
    quarter = (10 * ctx.rank, 10 * ctx.rank + 10)
    parts = {
        **{name: Part(f"m.{name}", dims=(1, 0)) for name in CUTS},
        "own": Part("m.own", stored=(quarter,)),
    }
    found = {}
    for loader in loaders:
        target = {**zeroed(wanted), "own": torch.zeros(10)}
        through(loader, target, path, Transform(parts=parts))
        wrong = [name for name in CUTS if not same(part_of(target[name]), part_of(wanted[name]))]
        found[loader] = wrong, same(target["own"], whole.reshape(-1)[slice(*quarter)])
    return found


def kept_without_values(ctx, path):
    """Stock gives meta tensors memory before it asks the planner; what that says if one is to be kept."""
    ckptlab.save({"w": torch.ones(3)}, path)
    state = {"w": torch.zeros(3, device="meta"), "new": torch.zeros(2, device="meta")}
    through("stock", {"w": torch.zeros(3, device="meta")}, path, Transform())
    try:
        through("stock", state, path, Transform(leave=("new",)))
    except BaseException as error:  # Torch's own is no Exception.
        return str(error)
    return "loaded"
