"""Random tensors under random layouts, and elements told apart by number, for the tests of plans."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.metadata import Tensor

shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "bfloat16", "int64", "uint8"])


@st.composite
def layouts(draw, strided=True):
    """A layout on up to nine ranks, in any order; it may cut dims that a tensor has not."""
    mesh = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    ranks = tuple(draw(st.permutations(range(math.prod(mesh)))))
    dims = st.integers(0, 2)
    kinds = [st.just(Replicate()), st.builds(Shard, dims)]
    kinds += [st.builds(StridedShard, dims, st.integers(1, 3))] if strided else []
    return Layout(Mesh(mesh, (), ranks), tuple(draw(st.one_of(kinds)) for _ in mesh))


@st.composite
def tensors(draw, most=4):
    """Some tensors of different names."""
    count = draw(st.integers(1, most))
    return [Tensor(f"t{i}", draw(dtypes), draw(shapes)) for i in range(count)]


def numbered(tensor):
    """The whole tensor, each element its own number."""
    return np.arange(math.prod(tensor.shape)).reshape(tensor.shape)


def at(corner, shape):
    """The index of a box of `shape` at `corner`; of a scalar, too, it gives a view."""
    return (*(slice(o, o + n) for o, n in zip(corner, shape, strict=True)), ...)


def locals_of(layout, tensor):
    """What each rank's local tensor holds, in numbers, as the layout says; rank by rank."""
    shards, whole, found = layout.shards(tensor.shape), numbered(tensor), {}
    for rank in layout.mesh.rank_list:
        mine, local = shards.of(rank), np.full(layout.local_shape(tensor.shape, rank), -1)
        for i in range(len(mine)):
            box = mine.boxes[i]
            local[at(mine.local[i], box.shape)] = whole[box.slices]
        found[rank] = local
    return found
