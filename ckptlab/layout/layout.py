"""A layout: a mesh, and what each of its axes does to a tensor.

It says where every element of a tensor of any shape lives: which boxes each rank
holds, and where in the rank's own memory. The rule is DTensor's: axes are applied
from left to right, each cutting what the axes before it left. It knows no files, no
torch and no "me": a rank is an argument.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout.box import Box, Boxes, Ints
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.placement import Placement, Replicate, Shard, StridedShard, parse_placements

Runs = tuple[tuple[int, int], ...]
"""Half-open intervals of one tensor dim, in the order in which a rank stores them."""


@dataclass(frozen=True, eq=False)
class Shards:
    """What ranks hold of one tensor, as columns: row i says that `rank[i]` holds `boxes[i]`.

    `local` is where the box begins in the rank's own local tensor, `(n, ndim)`. A rank whose
    local tensor is no single box has several rows; a rank whose local tensor is empty has none.
    """

    rank: Ints
    boxes: Boxes
    local: Ints

    def __len__(self) -> int:
        return len(self.rank)

    def of(self, rank: int) -> Shards:
        """The rows of one rank."""
        rows = np.flatnonzero(self.rank == rank)
        return Shards(self.rank[rows], self.boxes.take(rows), self.local[rows])

    def distinct(self) -> Distinct:
        """Each box once, in the order of offsets and shapes, with the ranks that hold it."""
        keys = np.concatenate([self.boxes.offsets, self.boxes.shapes], axis=1)
        if keys.shape[1]:
            unique, group = np.unique(keys, axis=0, return_inverse=True)
        else:
            unique, group = keys[:1], np.zeros(len(keys), np.int64)
        order = np.lexsort((self.rank, group.ravel()))
        count = np.bincount(group.ravel(), minlength=len(unique))
        ndim = self.boxes.ndim
        first = np.concatenate([[0], np.cumsum(count)])
        return Distinct(Boxes(unique[:, :ndim], unique[:, ndim:]), first, self.rank[order])


@dataclass(frozen=True, eq=False)
class Distinct:
    """The different boxes of a tensor; box i is held by `rank[first[i]:first[i + 1]]`, ascending."""

    boxes: Boxes
    first: Ints
    rank: Ints

    @property
    def holders(self) -> Ints:
        """How many ranks hold each box."""
        return np.diff(self.first)


@dataclass(frozen=True)
class Layout:
    """Placements on a mesh, one for each axis.

    >>> hsdp = Layout(Mesh((2, 2), ("replicate", "shard")), (Replicate(), Shard(0)))
    >>> shards = hsdp.shards((5, 4))
    >>> [(rank, shards.boxes[i]) for i, rank in enumerate(shards.rank.tolist())][:2]
    [(0, Box[0:3, 0:4]), (1, Box[3:5, 0:4])]
    >>> hsdp.local_shape((5, 4), rank=3)
    (2, 4)
    >>> hsdp.replicas((5, 4))
    ((0, 2), (1, 3))
    """

    mesh: Mesh
    placements: tuple[Placement, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "placements", tuple(self.placements))
        if len(self.placements) != len(self.mesh.shape):
            raise LayoutError(
                f"{self.mesh!r} has {len(self.mesh.shape)} axes and needs one placement for each, "
                f"not {len(self.placements)}: {list(self.placements)}"
            )

    @classmethod
    def parse(cls, mesh: str, placements: str) -> Layout:
        """Both as people write them.

        >>> Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
        Layout(Mesh(replicate=2, shard=2), [Replicate(), Shard(0)])
        """
        return cls(Mesh.parse(mesh), parse_placements(placements))

    def shards(self, shape: Sequence[int]) -> Shards:
        """What every rank holds of a tensor of this shape, rank by rank in mesh order.

        Raises `LayoutError` if a placement names a dim that the tensor has not.
        """
        return _shards(self, tuple(shape))

    def local_shape(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """The shape of the rank's local tensor; 0 in a dim of which it holds nothing."""
        where = self.mesh.coordinate(rank)
        return tuple(
            sum(b - a for a, b in _runs(n, self._cuts(d, len(shape)), where)) for d, n in enumerate(shape)
        )

    def first_offset(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """Where the local tensor's first element lies; the dim's size where there is none."""
        where = self.mesh.coordinate(rank)
        runs = [_runs(n, self._cuts(d, len(shape)), where) for d, n in enumerate(shape)]
        return tuple(r[0][0] if r else n for r, n in zip(runs, shape, strict=True))

    def replicas(self, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The ranks that hold the same, group by group; ranks that hold nothing are in none."""
        shards = self.shards(shape)
        held: dict[bytes, list[int]] = {}
        for rank in dict.fromkeys(shards.rank.tolist()):
            boxes = shards.of(rank).boxes
            held.setdefault(boxes.offsets.tobytes() + boxes.shapes.tobytes(), []).append(rank)
        return tuple(tuple(ranks) for ranks in held.values())

    def _cuts(self, dim: int, ndim: int) -> tuple[tuple[int, int, int], ...]:
        """What cuts this dim, in order: (axis, its size, split factor)."""
        cuts = []
        for axis, (n, placement) in enumerate(zip(self.mesh.shape, self.placements, strict=True)):
            if isinstance(placement, Replicate):
                continue
            if not -ndim <= placement.dim < ndim:
                raise LayoutError(
                    f"{placement} on axis {self.mesh.axes[axis]!r} needs a tensor with a dim "
                    f"{placement.dim}; this one has {ndim} dims"
                )
            if placement.dim % ndim == dim:
                cuts.append((axis, n, placement.split_factor if isinstance(placement, StridedShard) else 1))
        return tuple(cuts)

    def __repr__(self) -> str:
        return f"Layout({self.mesh!r}, {list(self.placements)})"


@lru_cache(maxsize=4096)
def _shards(layout: Layout, shape: tuple[int, ...]) -> Shards:
    if not shape:
        for placement in layout.placements:
            if isinstance(placement, Shard | StridedShard):
                raise LayoutError(f"{placement} cannot cut a scalar")
    cuts = [layout._cuts(d, len(shape)) for d in range(len(shape))]
    ranks, boxes, local = [], [], []
    pieces_of: dict[tuple[Runs, ...], list[tuple[Box, tuple[int, ...]]]] = {}
    for place, rank in enumerate(layout.mesh.rank_list):
        where = tuple(int(i) for i in np.unravel_index(place, layout.mesh.shape))
        runs = tuple(_runs(n, c, where) for n, c in zip(shape, cuts, strict=True))
        if runs not in pieces_of:
            pieces_of[runs] = _pieces(runs)
        for box, corner in pieces_of[runs]:
            ranks.append(rank)
            boxes.append(box)
            local.append(corner)
    return Shards(
        np.array(ranks, np.int64),
        Boxes.of(boxes, len(shape)),
        np.array(local, np.int64).reshape(len(ranks), len(shape)),
    )


def _pieces(runs: tuple[Runs, ...]) -> list[tuple[Box, tuple[int, ...]]]:
    """The boxes that the product of the runs of all dims makes, each with its corner in the local tensor."""
    placed = []
    for dim_runs in runs:
        at, row = 0, []
        for a, b in dim_runs:
            row.append((a, b - a, at))
            at += b - a
        placed.append(row)
    return [
        (Box(tuple(r[0] for r in combo), tuple(r[1] for r in combo)), tuple(r[2] for r in combo))
        for combo in itertools.product(*placed)
    ]


def _runs(size: int, cuts: tuple[tuple[int, int, int], ...], where: tuple[int, ...]) -> Runs:
    """The runs of a dim of `size` that the rank at `where` is left with after all cuts."""
    return _cut_runs(size, tuple((n, factor, where[axis]) for axis, n, factor in cuts))


@lru_cache(maxsize=65536)
def _cut_runs(size: int, cuts: tuple[tuple[int, int, int], ...]) -> Runs:
    runs: Runs = ((0, size),)
    for n, factor, index in cuts:
        total = sum(b - a for a, b in runs)
        runs = _merge(
            run
            for begin, length in _pieces_of(total, factor)
            for run in _window(runs, begin + _start(length, n, index), begin + _start(length, n, index + 1))
        )
    return tuple(run for run in runs if run[1] > run[0])


def _pieces_of(total: int, factor: int) -> list[tuple[int, int]]:
    """`torch.chunk` of `total` into `factor`: begin and length of each piece."""
    bounds = [_start(total, factor, i) for i in range(factor + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


def _start(length: int, n: int, index: int) -> int:
    """Where chunk `index` of `n` begins, as `torch.chunk` cuts `length`."""
    return min(length, -(-length // n) * index)


def _window(runs: Runs, begin: int, end: int) -> Runs:
    """The part of concatenated runs from position `begin` to `end`."""
    cut, at = [], 0
    for a, b in runs:
        low, high = max(begin, at), min(end, at + b - a)
        if low < high:
            cut.append((a + low - at, a + high - at))
        at += b - a
    return tuple(cut)


def _merge(runs: Iterable[tuple[int, int]]) -> Runs:
    merged: list[tuple[int, int]] = []
    for a, b in runs:
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    return tuple(merged)
