"""What ranks do in the tests of pipeline and expert parallelism: every key is held by some ranks only."""

from __future__ import annotations

from functools import cache

from crosswise_ops import DCP, full, plain, poisoned
from seed_ops import kind_of, quiet
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

WAYS = {
    "stages": ((0, 1), (2, 3)),
    "experts": ((0, 2), (1, 3)),
    "ranks": ((0,), (1,), (2,), (3,)),
    "uneven": ((3,), (0, 1, 2)),
    "all": ((0, 1, 2, 3),),
}
"""Groups of ranks; layers are dealt out to them in turn, and cut into rows within a group."""

SHAPES = [(6, 4), (5, 3), (1, 2), (3,), (8, 2), (0, 2)]


@cache
def _meshes(kind, way):
    return [DeviceMesh(kind, list(ranks)) for ranks in WAYS[way]]


def _layers(ctx, way):
    """The layers of this rank: each a cut tensor, a plain one and an object, the latter in a list."""
    meshes, layers = _meshes(kind_of(ctx), way), {}
    for i, shape in enumerate(SHAPES):
        group = i % len(meshes)
        if ctx.rank in WAYS[way][group]:
            whole = full(f"layer {i}", shape).to(ctx.device)
            weight = distribute_tensor(whole, meshes[group], [Shard(0)], src_data_rank=None)
            layers[f"layer{i}"] = {"weight": weight, "scale": full(f"scale {i}", (2,)), "seen": [i, {"i": i}]}
    return layers


def _emptied(layers):
    return {
        key: {"weight": poisoned(one["weight"]), "scale": poisoned(one["scale"]), "seen": [-1, {"i": -1}]}
        for key, one in layers.items()
    }


def keys_of_some_ranks(ctx, path, saver, loader, source):
    """Save layers dealt out in one way and load them dealt out in every way: keys asked for, those wrong."""
    out = {}
    with quiet():
        DCP[saver].save(_layers(ctx, source), checkpoint_id=path)
        for target in WAYS:
            wanted, loaded = _layers(ctx, target), _emptied(_layers(ctx, target))
            before = plain(loaded)
            DCP[loader].load(loaded, checkpoint_id=path)
            wrong = [key for key in wanted if plain(loaded[key]) != plain(wanted[key])]
            unchanged = [key for key in wanted if plain(loaded[key]) == before[key]]
            out[target] = list(wanted), wrong, unchanged
    return out
