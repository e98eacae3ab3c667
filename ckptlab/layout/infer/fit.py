"""Which placements on a given mesh cut tensors into the pieces that were found, written by whom they were.

It tries all that there are; which mesh to try, and which answer to believe, is asked of `infer`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ckptlab.layout.box import Ints
from ckptlab.layout.infer.effort import Effort
from ckptlab.layout.infer.pieces import Kind
from ckptlab.layout.layout import Layout
from ckptlab.layout.mesh import Mesh
from ckptlab.layout.placement import Placement, Replicate, Shard, StridedShard

Cuts = tuple[tuple[int, int], ...]
"""What cuts a dim: size and split factor of each axis, in the mesh's order."""

_NOBODY = -1

_MOST_RUNS = 1 << 17
"""Uneven strided cuts of more places times pieces are not tried: they would take too much memory."""


_SOME = 24
"""Places that are looked at first: if one gets what is no piece that was found, the others need no look."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A mesh to try: the sizes of its axes, and its ranks row by row."""

    shape: tuple[int, ...]
    ranks: Ints

    @cached_property
    def place(self) -> Ints:
        """Where each rank stands, by rank; `_NOBODY` for one that is not in the mesh."""
        place = np.full(int(self.ranks.max()) + 2, _NOBODY, np.int64)
        place[self.ranks] = np.arange(len(self.ranks))
        return place

    @cached_property
    def coordinates(self) -> Ints:
        """`(axes, ranks)`."""
        return np.indices(self.shape).reshape(len(self.shape), -1)

    def places(self, ranks: Ints) -> Ints:
        """Where these ranks stand."""
        return self.place[np.clip(ranks, -1, len(self.place) - 1)]


@dataclass(frozen=True, eq=False)
class Option:
    """Placements that make the boxes of a kind.

    `groups` are the axes of the mesh that each placement is of: several, if neighbours were flattened
    into one before. `hold` is the cell that each place of the mesh holds, `_NOBODY` for none.
    """

    groups: tuple[tuple[int, ...], ...]
    placements: tuple[Placement, ...]
    hold: Ints

    @property
    def flattened(self) -> bool:
        """Whether neighbouring axes were made one."""
        return any(len(group) > 1 for group in self.groups)

    @property
    def by_axis(self) -> tuple[Placement, ...]:
        """The placement of every axis of the mesh; a flattened one's is said of each of its axes."""
        return tuple(p for group, p in zip(self.groups, self.placements, strict=True) for _ in group)


@dataclass(frozen=True, eq=False)
class Fit:
    """A kind on a mesh: `options[choice[t]]` is what tensor t of the kind is given; `wrong[t]` says
    that its writers contradict even that. `open` are options that the writers allow for all as well.
    """

    kind: Kind
    options: tuple[Option, ...]
    choice: Ints
    wrong: Ints
    open: tuple[int, ...] = ()


def fit(kind: Kind, grid: Grid, effort: Effort) -> Fit | None:
    """The kind on this mesh; None if no placements make its boxes."""
    options = tuple(_options(kind, grid, effort))
    if not options:
        return None
    n = len(kind.rows)
    cells, places = kind.pairs[:, 0], grid.places(kind.pairs[:, 1])
    fits = [i for i, o in enumerate(options) if (o.hold[places] == cells).all() and (places >= 0).all()]
    if fits:
        return Fit(kind, options, np.full(n, fits[0]), np.zeros(n, np.int64), tuple(fits))
    writers, way = kind.ways
    places, unknown = grid.places(writers), writers < 0
    good = np.stack([((o.hold[places] == kind.cell) & (places >= 0) | unknown).sum(axis=1) for o in options])
    return Fit(kind, options, good.argmax(axis=0)[way], (writers.shape[1] - good.max(axis=0))[way])


def _options(kind: Kind, grid: Grid, effort: Effort) -> Iterator[Option]:
    """Every way to place the kind that makes its boxes; the plainest of those that give ranks the same."""
    seen: set[bytes] = set()
    for groups in _groupings(len(grid.shape)):
        sizes = tuple(math.prod(grid.shape[a] for a in group) for group in groups)
        where = np.stack(
            [
                np.ravel_multi_index(tuple(grid.coordinates[list(g)]), tuple(grid.shape[a] for a in g))
                for g in groups
            ]
        )
        for dims in _assignments(kind, sizes):
            for placements in _strides(dims, sizes):
                effort.place(len(grid.ranks))
                hold = _hold(kind, placements, sizes, where)
                if hold is not None and (key := hold.tobytes()) not in seen:
                    seen.add(key)
                    yield Option(groups, placements, hold)


@lru_cache(maxsize=64)
def _groupings(axes: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Axes in a row, parted in every way; each alone comes first."""
    ways = []
    for joined in itertools.product((False, True), repeat=axes - 1):
        groups = [[0]]
        for axis, join in enumerate(joined, 1):
            if join:
                groups[-1].append(axis)
            else:
                groups.append([axis])
        ways.append(tuple(map(tuple, groups)))
    return tuple(sorted(ways, key=len, reverse=True))


def _assignments(kind: Kind, sizes: tuple[int, ...]) -> Iterator[tuple[int | None, ...]]:
    """For each axis the dim that it cuts (None: a copy), as far as the number of pieces allows it."""
    cut = [d for d, n in enumerate(kind.counts) if n > 1]
    longest = {d: int(kind.spans[d][:, 1].max()) for d in cut}
    for dims in itertools.product((None, *cut), repeat=len(sizes)):
        parts = {d: math.prod(n for n, e in zip(sizes, dims, strict=True) if e == d) for d in cut}
        if all(-(-kind.shape[d] // parts[d]) == longest[d] for d in cut):
            yield dims


def _strides(dims: tuple[int | None, ...], sizes: tuple[int, ...]) -> Iterator[tuple[Placement, ...]]:
    """The placements that cut these dims: of several axes on one, each may go behind those after it."""
    ways: list[tuple[Placement, ...]] = []
    for axis, dim in enumerate(dims):
        if dim is None:
            ways.append((Replicate(),))
            continue
        later = math.prod(n for n, d in zip(sizes[axis + 1 :], dims[axis + 1 :], strict=True) if d == dim)
        ways.append((Shard(dim), StridedShard(dim, later)) if later > 1 else (Shard(dim),))
    yield from itertools.product(*ways)


def _hold(kind: Kind, placements: tuple[Placement, ...], sizes: tuple[int, ...], where: Ints) -> Ints | None:
    """The cell that each place holds; None if these placements make other boxes."""
    hold = np.zeros(where.shape[1], np.int64)
    nothing = np.zeros(where.shape[1], bool)
    for dim, count in enumerate(kind.counts):
        axes = [a for a, p in enumerate(placements) if not isinstance(p, Replicate) and p.dim == dim]
        cuts = tuple(
            (sizes[a], p.split_factor if isinstance(p := placements[a], StridedShard) else 1) for a in axes
        )
        index = _index(kind, dim, cuts)
        if index is None:
            return None
        if axes:
            index = index[np.ravel_multi_index(tuple(where[axes]), tuple(sizes[a] for a in axes))]
        hold = hold * count + index
        nothing |= index < 0
    hold[nothing] = _NOBODY
    return hold


def _index(kind: Kind, dim: int, cuts: Cuts) -> Ints | None:
    """Which of the kind's intervals each place along these axes gets; None if they are not its intervals."""
    if (dim, cuts) not in kind.known:
        size, span = kind.shape[dim], kind.spans[dim]
        few = _match(_along(size, cuts, _SOME), span)
        kind.known[dim, cuts] = None if few is None else _match(_along(size, cuts), span)
    return kind.known[dim, cuts]


def _match(table: Ints | None, span: Ints) -> Ints | None:
    if table is None:
        return None
    index = np.minimum(np.searchsorted(span[:, 0], table[:, 0]), len(span) - 1)
    same = (span[index] == table).all(axis=1)
    index[~same] = _NOBODY
    unlisted = (table[:, 1] == 0) & ~(span[:, 1] == 0).any()
    # What the places get covers the dim, and so do the intervals: if each is one of them, all are there.
    return index if (same | unlisted).all() else None


@lru_cache(maxsize=4096)
def _along(size: int, cuts: Cuts, some: int = 0) -> Ints | None:
    """Start and length of what each place along these axes gets of a dim, row by row; `(places, 2)`.

    None if some place gets what is not in one piece. Only `some` of the places, if that is not 0.
    """
    if not cuts:
        return np.array([[0, size]], np.int64)
    shape = tuple(n for n, _ in cuts)
    parts = math.prod(shape)
    if size and size % parts == 0:
        start = _even(cuts, np.indices(shape).reshape(len(shape), -1)) * (size // parts)
        return np.stack([start, np.full(parts, size // parts)], axis=1)
    if parts * max(factor for _, factor in cuts) > _MOST_RUNS:
        return None
    placements = tuple(StridedShard(0, factor) if factor > 1 else Shard(0) for _, factor in cuts)
    where = np.arange(parts)
    if 0 < some < parts:
        where = np.linspace(0, parts - 1, some).astype(np.int64)
    shards = Layout(Mesh(shape), placements).shards((size,), where.tolist())
    if len(np.unique(shards.rank)) < len(shards):
        return None
    table = np.tile(np.array([[size, 0]], np.int64), (len(where), 1))
    row = np.searchsorted(where, shards.rank)
    table[row, 0], table[row, 1] = shards.boxes.offsets[:, 0], shards.boxes.shapes[:, 0]
    return table


def _even(cuts: Cuts, where: Ints) -> Ints:
    """Which of all equal pieces each place gets: a strided axis counts behind those after it."""
    index, unit, rest = np.zeros(where.shape[1], np.int64), 1, math.prod(n for n, _ in cuts)
    for (n, factor), at in zip(cuts, where, strict=True):
        rest //= n
        if factor > 1:
            index += at * unit
            unit *= n
        else:
            index += at * unit * rest
    return index
