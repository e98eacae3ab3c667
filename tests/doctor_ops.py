"""What ranks do in the doctor's tests: a sharded target is diagnosed where it lives, mended and loaded."""

from __future__ import annotations

from crosswise_ops import cut, full, poisoned
from seed_ops import quiet, same

import ckptlab
from ckptlab.engine.target_of import target_of

SHAPES = {"w": (9, 4), "v": (16, 3)}


def save_wrapped(ctx, path):
    """As DDP would name it, sharded by rows."""
    with quiet():
        ckptlab.save(
            {f"module.{name}": cut(ctx, full(name, shape), "rows") for name, shape in SHAPES.items()}, path
        )


def mended(ctx, path):
    """What the doctor says on this rank of HSDP shards; its rank; whether all is loaded, bit for bit."""
    wanted = {name: cut(ctx, full(name, shape), "hsdp") for name, shape in SHAPES.items()}
    target = {name: poisoned(cut(ctx, full(name, shape), "hsdp")) for name, shape in SHAPES.items()}
    found = ckptlab.diagnose(path, target)
    with quiet():
        ckptlab.load(target, path, transform=found.transform)
    equal = all(same(wanted[name].to_local(), target[name].to_local()) for name in SHAPES)
    return [it.kind for it in found], target_of(target).rank, equal
