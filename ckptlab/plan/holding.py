"""A tensor as it lives on ranks: what is saved, and what a load must fill.

Both plans begin here. No bytes, no clocks and no ranks of this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout import Boxes, Layout, Placement, Replicate, Shards
from ckptlab.layout.box import Ints
from ckptlab.metadata import Tensor, Tensors, grouped, meant, near


class Holding(NamedTuple):
    """One tensor, and which rank holds which box of it."""

    tensor: Tensor
    shards: Shards


class Alike(NamedTuple):
    """Tensors of one dtype that are held alike: their positions among all, ascending."""

    rows: Ints
    shards: Shards


@dataclass(frozen=True, eq=False)
class Holdings:
    """Some tensors, and which rank holds which box of each: one `Holding` a tensor.

    Those alike are told together: a model has thousands of tensors, but few shapes.
    """

    tensors: Tensors
    alike: Sequence[Alike]

    @classmethod
    def of(cls, held: Iterable[Holding]) -> Holdings:
        """These, in their order; tensors are alike if they share their shards."""
        if isinstance(held, Holdings):
            return held
        every = tuple(held)
        groups = grouped((id(shards), tensor.dtype) for tensor, shards in every)
        alike = tuple(Alike(rows, every[rows[0]].shards) for rows in groups)
        return cls(Tensors.of(one.tensor for one in every), alike)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, row: int) -> Holding:
        return Holding(self.tensors[row], self._shards[row])

    def __iter__(self) -> Iterator[Holding]:
        return map(Holding, self.tensors, self._shards)

    @cached_property
    def _shards(self) -> list[Shards]:
        """Those of each tensor."""
        found = {row: shards for rows, shards in self.alike for row in rows.tolist()}
        return [found[row] for row in range(len(self))]


def holdings(
    tensors: Iterable[Tensor], layout: Layout | Mapping[str, Layout], ranks: Sequence[int] | None = None
) -> Holdings:
    """The tensors under one layout, or each under its own (by fqn); what all ranks hold, or `ranks` alone.

    Placements that name a dim which a tensor has not fall back to a replica on every rank, as models
    under one recipe have scalars and vectors too.

    >>> from ckptlab.layout import Layout
    >>> held = holdings([Tensor("w", "float32", (4, 2))], Layout.parse("2", "Shard(0)"))
    >>> held[0].shards.boxes[1]
    Box[2:4, 0:2]
    """
    held = []
    made: dict[tuple[int, tuple[int, ...]], Shards] = {}
    for tensor in tensors:
        chosen = layout if isinstance(layout, Layout) else layout[tensor.fqn]
        key = (id(chosen), tensor.shape)
        if key not in made:
            made[key] = fitted(chosen, tensor.shape).shards(tensor.shape, ranks)
        held.append(Holding(tensor, made[key]))
    return Holdings.of(held)


def ruled(
    keys: Iterable[str], layout: Layout, rules: Sequence[tuple[str, Sequence[Placement]]]
) -> dict[str, Layout]:
    """The layout of each key: with the placements of the first rule whose pattern it fits, else `layout`.

    A pattern is as file names have them. Raises `LayoutError` for a pattern that no key fits, and for
    placements that are not one for each axis of the mesh.

    >>> from ckptlab.layout import Layout, Replicate
    >>> rows = Layout.parse("dp=2", "Shard(0)")
    >>> ruled(["model.w", "model.norm"], rows, [("*norm*", [Replicate()])])["model.norm"]
    Layout(Mesh(dp=2), [Replicate()])
    """
    every = list(keys)
    chosen = dict.fromkeys(every, layout)
    for pattern, placements in reversed(rules):
        found, wrong = meant(every, pattern)
        if wrong:
            hint = near(pattern, every) or "; a pattern is written as '*.norm*'"
            raise LayoutError(f"rule {pattern!r}: no key is like that{hint}", [pattern])
        chosen |= dict.fromkeys(found, Layout(layout.mesh, tuple(placements)))
    return chosen


def fitted(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout for a tensor of this shape: axes that shard a dim which it has not replicate it instead."""
    placements = tuple(
        p if isinstance(p, Replicate) or -len(shape) <= p.dim < len(shape) else Replicate()
        for p in layout.placements
    )
    return Layout(layout.mesh, placements)


@lru_cache(maxsize=4096)
def everywhere(shape: tuple[int, ...], ranks: tuple[int, ...]) -> Shards:
    """A plain tensor that each of `ranks` holds whole."""
    ndim = len(shape)
    full = np.array(shape, np.int64).reshape(1, ndim)
    holders = np.array(ranks if all(shape) else (), np.int64)
    corner = np.zeros((len(holders), ndim), np.int64)
    return Shards(holders, Boxes(corner, np.repeat(full, len(holders), axis=0)), corner)


def among(held: Iterable[Holding], ranks: Sequence[int]) -> Holdings:
    """What these ranks alone hold; tensors that shared their shards still do."""
    every = Holdings.of(held)
    kept: dict[int, Shards] = {}
    for _, shards in every.alike:
        if id(shards) not in kept:
            kept[id(shards)] = _kept(shards, ranks)
    return Holdings(every.tensors, tuple(Alike(rows, kept[id(shards)]) for rows, shards in every.alike))


def _kept(shards: Shards, ranks: Sequence[int]) -> Shards:
    known = np.isin(shards.rank, ranks)
    if known.all():
        return shards
    return Shards(shards.rank[known], shards.boxes.take(known), shards.local[known])


def merge(parts: Iterable[Holding]) -> Holding:
    """One tensor, told of by several ranks, each of its own part.

    Raises `LayoutError` if they tell of different tensors.
    """
    rows = list(parts)
    told = {part.tensor for part in rows}
    if len(told) > 1:
        kinds = " and ".join(sorted(f"{t.dtype}{list(t.shape)}" for t in told))
        raise LayoutError(
            f"ranks disagree on tensor {rows[0].tensor.fqn!r}: {kinds}; "
            "a key must name the same global tensor on every rank",
            list(told),
        )
    return Holding(
        rows[0].tensor,
        Shards(
            np.concatenate([p.shards.rank for p in rows]),
            Boxes(
                np.concatenate([p.shards.boxes.offsets for p in rows]),
                np.concatenate([p.shards.boxes.shapes for p in rows]),
            ),
            np.concatenate([p.shards.local for p in rows]),
        ),
    )
