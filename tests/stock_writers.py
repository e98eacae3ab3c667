"""What stock DCP would store of tensors under given layouts, and who would write it: its rule, told anew.

Every rank brings the box of its local tensor, empty ones too; boxes at one offset are the same box, and
the holder that has least so far, counted in bytes of whole tensors, writes it.
"""

import math

import numpy as np

from ckptlab.layout import Boxes
from ckptlab.layout.infer import Pieces


def stored_by_stock(tensors, layouts, world, unlisted=False):
    """`Pieces` of float32 tensors (name, shape), each under its layout; `unlisted`: without empty shards."""
    holders = {}
    local = {
        key: _local(*key) for key in {(layout, t[1]) for t, layout in zip(tensors, layouts, strict=True)}
    }
    for rank in range(world):
        for row, ((_, shape), layout) in enumerate(zip(tensors, layouts, strict=True)):
            if rank in local[layout, shape]:
                offset, own = local[layout, shape][rank]
                if not unlisted or 0 not in own or 0 in shape:
                    holders.setdefault((row, offset), (own, []))[1].append(rank)
    load, found = [0] * world, {row: [] for row in range(len(tensors))}
    for (row, offset), (own, ranks) in holders.items():
        writer = min(ranks, key=lambda rank: load[rank])
        load[writer] += math.prod(tensors[row][1]) * 4 or 1
        found[row].append((offset, own, writer))
    return [_pieces(name, shape, found[row]) for row, (name, shape) in enumerate(tensors)]


def _local(layout, shape):
    """Offset and shape of each rank's local tensor."""
    ranks = layout.mesh.rank_list
    return {rank: (layout.first_offset(shape, rank), layout.local_shape(shape, rank)) for rank in ranks}


def _pieces(name, shape, found):
    offsets, shapes = (
        np.array([piece[i] for piece in found], np.int64).reshape(len(found), len(shape)) for i in (0, 1)
    )
    writers = np.array([writer for *_, writer in found], np.int64)
    return Pieces(name, shape, Boxes(offsets, shapes), writers, math.prod(shape) * 4)
