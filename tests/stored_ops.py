"""What ranks do in the tests of slices and audits: save tensors of every layout and dtype, no more."""

from __future__ import annotations

from crosswise_ops import DCP, DTYPES, cut, full, grid
from seed_ops import kind_of, mesh_of, quiet
from torch.distributed.tensor import Shard, distribute_tensor


def save_grid(ctx, path, saver, layouts):
    """A tensor of every shape for each layout."""
    with quiet():
        DCP[saver].save(grid(ctx, layouts), checkpoint_id=path)


def save_dtypes(ctx, path, saver):
    """A tensor of every dtype, in tiles."""
    with quiet():
        DCP[saver].save({d: cut(ctx, full(d, (6, 5), d), "tiles") for d in DTYPES}, checkpoint_id=path)


def save_rows(ctx, path, saver, height):
    """A few tensors in rows over all ranks, and objects."""
    mesh = mesh_of(kind_of(ctx), (ctx.world,))
    state = {
        name: distribute_tensor(full(name, shape), mesh, [Shard(0)], src_data_rank=None)
        for name, shape in (("a", (height, 16)), ("b", (height, 3, 5)), ("c", (7,)))
    }
    with quiet():
        DCP[saver].save({"model": state, "step": height, "plain": full("p", (4, 4))}, checkpoint_id=path)
