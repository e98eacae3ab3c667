"""A layout: a mesh, and what each of its axes does to a tensor.

It says where every element of a tensor of any shape lives: which boxes each rank
holds, and where in the rank's own memory. The rule is DTensor's: axes are applied
from left to right, each cutting what the axes before it left; but one strided shard whose
split factor is the size of the axes after it cuts what those left, as FSDP2 over TP does.
It knows no files, no torch and no "me": a rank is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout.box import Boxes, Ints, overlaps
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.placement import Placement, Replicate, Shard, StridedShard, parse_placements


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

    @cached_property
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

    @cached_property
    def overlapping(self) -> tuple[int, int] | None:
        """The first two boxes that share elements; None if no two do."""
        meet = overlaps(self.boxes, self.boxes)
        twice = np.flatnonzero(meet.a < meet.b)[:1].tolist()
        return (int(meet.a[twice[0]]), int(meet.b[twice[0]])) if twice else None

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

    def shards(self, shape: Sequence[int], ranks: Sequence[int] | None = None) -> Shards:
        """What every rank, or each of `ranks`, holds of a tensor of this shape, rank by rank in mesh order.

        Raises `LayoutError` if a placement names a dim that the tensor has not.
        """
        return _shards(self, tuple(shape), None if ranks is None else tuple(ranks))

    def local_shape(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """The shape of the rank's local tensor; 0 in a dim of which it holds nothing."""
        return tuple(int(runs.length.sum()) for runs in self._runs(shape, rank))

    def first_offset(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """Where the local tensor's first element lies; the dim's size where there is none."""
        runs = self._runs(shape, rank)
        return tuple(int(r.begin[0]) if len(r.begin) else n for r, n in zip(runs, shape, strict=True))

    def replicas(self, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The ranks that hold the same, group by group; ranks that hold nothing are in none."""
        shards = self.shards(shape)
        begin = np.flatnonzero(np.diff(shards.rank, prepend=-1))
        rows = np.concatenate([shards.boxes.offsets, shards.boxes.shapes], axis=1)
        held: dict[bytes, list[int]] = {}
        end = np.append(begin, len(rows))[1:]
        for low, high, rank in zip(begin.tolist(), end.tolist(), shards.rank[begin].tolist(), strict=True):
            held.setdefault(rows[low:high].tobytes(), []).append(rank)
        return tuple(tuple(ranks) for ranks in held.values())

    def _runs(self, shape: Sequence[int], rank: int) -> list[_DimRuns]:
        """What one rank holds, dim by dim."""
        where = np.array([self.mesh.coordinate(rank)], np.int64)
        return [_dim_runs(n, self._cuts(d, len(shape)), where) for d, n in enumerate(shape)]

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
        return tuple(_as_fsdp2_cuts(cuts))

    def __repr__(self) -> str:
        return f"Layout({self.mesh!r}, {list(self.placements)})"


def _as_fsdp2_cuts(cuts: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The cuts of a dim, a strided one after those that it counts as pieces: TP cuts before FSDP2 does."""
    strided = [i for i, (_, _, factor) in enumerate(cuts) if factor > 1]
    for i in strided if len(strided) == 1 else []:
        axis, n, factor = cuts[i]
        if factor == math.prod(size for _, size, _ in cuts[i + 1 :]):
            return [*cuts[:i], *cuts[i + 1 :], (axis, n, 1)]
    return cuts


@lru_cache(maxsize=4096)
def _shards(layout: Layout, shape: tuple[int, ...], ranks: tuple[int, ...] | None = None) -> Shards:
    if not shape:
        for placement in layout.placements:
            if isinstance(placement, Shard | StridedShard):
                raise LayoutError(f"{placement} cannot cut a scalar")
    rank = np.array(layout.mesh.rank_list if ranks is None else ranks, np.int64)
    places = range(len(rank)) if ranks is None else [layout.mesh.place(r) for r in ranks]
    where = np.stack(np.unravel_index(np.array(places, np.int64), layout.mesh.shape), axis=1)
    dims = [_dim_runs(n, layout._cuts(d, len(shape)), where) for d, n in enumerate(shape)]
    count = np.ones(len(rank), np.int64)
    for dim in dims:
        count *= np.diff(dim.first)
    # A rank has the product of the runs of all its dims, the last dim's next to each other.
    owner = np.repeat(np.arange(len(rank)), count)
    turn = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    offsets, shapes, local = (np.empty((len(owner), len(shape)), np.int64) for _ in range(3))
    for d in reversed(range(len(shape))):
        first, many = dims[d].first[owner], np.diff(dims[d].first)[owner]
        run = first + turn % many
        turn = turn // many
        offsets[:, d], shapes[:, d], local[:, d] = dims[d].begin[run], dims[d].length[run], dims[d].at[run]
    return Shards(rank[owner], Boxes(offsets, shapes), local)


@dataclass(frozen=True, eq=False)
class _DimRuns:
    """The runs of one dim: the i-th rank has the rows `first[i]:first[i + 1]`, `at` in its own memory."""

    first: Ints
    begin: Ints
    length: Ints
    at: Ints


def _dim_runs(size: int, cuts: Sequence[tuple[int, int, int]], where: Ints) -> _DimRuns:
    """What ranks at the coordinates `where` are left with of a dim of `size`, after all cuts."""
    ranks = len(where)
    owner, begin, length = np.arange(ranks), np.zeros(ranks, np.int64), np.full(ranks, size, np.int64)
    for axis, n, factor in cuts:
        at = _behind(owner, length, ranks)
        total = np.bincount(owner, length, ranks).astype(np.int64)
        # The concatenated runs of a rank are cut into `factor` pieces, and it keeps its share of each.
        low, high = _shares(total, n, factor, where[:, axis])
        run, piece = (a.ravel() for a in np.meshgrid(np.arange(len(owner)), np.arange(factor), indexing="ij"))
        start = np.maximum(low[owner[run], piece], at[run])
        stop = np.minimum(high[owner[run], piece], at[run] + length[run])
        keep = np.flatnonzero(start < stop)
        keep = keep[np.lexsort((run[keep], piece[keep], owner[run[keep]]))]
        owner, begin, length = _joined(
            owner[run[keep]], begin[run[keep]] + start[keep] - at[run[keep]], stop[keep] - start[keep]
        )
    keep = np.flatnonzero(length)
    owner, begin, length = owner[keep], begin[keep], length[keep]
    first = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=ranks))])
    return _DimRuns(first, begin, length, _behind(owner, length, ranks))


def _shares(total: Ints, n: int, factor: int, index: Ints) -> tuple[Ints, Ints]:
    """Begin and end of what ranks, each number `index` of `n`, keep of each of `factor` pieces of `total`.

    Both `(ranks, factor)`; `torch.chunk` cuts so into pieces, and those into shares.
    """
    edge = np.minimum(total[:, None], (-(-total // factor))[:, None] * np.arange(factor + 1))
    piece = np.diff(edge, axis=1)
    step = -(-piece // n)
    low, high = (edge[:, :-1] + np.minimum(piece, step * (index + i)[:, None]) for i in (0, 1))
    return low, high


def _behind(owner: Ints, length: Ints, ranks: int) -> Ints:
    """Where each run begins if those of one owner, which stand together, lie one behind the other."""
    end = np.cumsum(length)
    before = np.cumsum(np.bincount(owner, length, ranks).astype(np.int64))
    begin: Ints = end - length - np.concatenate([[0], before])[owner]
    return begin


def _joined(owner: Ints, begin: Ints, length: Ints) -> tuple[Ints, Ints, Ints]:
    """The runs, those of one owner that touch made one."""
    fresh = np.ones(len(owner), bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | (begin[1:] != begin[:-1] + length[:-1])
    at = np.flatnonzero(fresh)
    return owner[at], begin[at], np.add.reduceat(length, at) if len(at) else length
