"""What ranks do in the tests of slices and audits: save tensors of every layout and dtype, no more."""

from __future__ import annotations

from crosswise_ops import DCP, DTYPES, cut, full, grid
from seed_ops import quiet


def save_grid(ctx, path, saver, layouts):
    """A tensor of every shape for each layout."""
    with quiet():
        DCP[saver].save(grid(ctx, layouts), checkpoint_id=path)


def save_dtypes(ctx, path, saver):
    """A tensor of every dtype, in tiles."""
    with quiet():
        DCP[saver].save({d: cut(ctx, full(d, (6, 5), d), "tiles") for d in DTYPES}, checkpoint_id=path)
