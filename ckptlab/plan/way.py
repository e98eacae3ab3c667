"""The way of a stored tensor's elements into a target: seen as a shape, permuted, cut, and put into a box.

From a target's shards back to boxes of the stored tensor, so that all else may go on as if those were asked
for. It knows no names, no dtype, no bytes and no rank of this process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout import Box, Boxes, Shards
from ckptlab.layout.box import Ints
from ckptlab.metadata import human_shape
from ckptlab.plan.part import Part, Ranges, human_ranges
from ckptlab.plan.regrid import MOST, Piece, Shape, refines


@dataclass(frozen=True)
class Way:
    """How elements of a tensor of shape `stored` come into one of shape `target`.

    The first is seen as `shape`, its dims put in the order `dims`, all that seen as `cut_of` and cut to
    `cut`; the other, seen as `into_of`, takes that in `into`, in row-major order.
    """

    stored: Shape
    shape: Shape
    dims: Shape
    cut_of: Shape
    cut: Box
    into_of: Shape
    into: Box
    target: Shape

    @property
    def plain(self) -> bool:
        """Whether the target has the stored elements as they are."""
        shapes = (self.shape, self.cut_of, self.cut.shape, self.into_of, self.into.shape, self.target)
        return self.dims == tuple(range(len(self.dims))) and all(it == self.stored for it in shapes)

    @property
    def filled(self) -> tuple[Box, ...]:
        """What it fills, as boxes of the target."""
        if not self.into.numel:
            return ()
        return tuple(
            it.box
            for it in Piece(self.into, 0, _row_major(self.into.shape)).reshaped(self.into_of, self.target)
        )

    def back(self, piece: Piece) -> list[Piece]:
        """Elements of the target as elements of the stored tensor; what it does not fill is left out.

        Raises `LayoutError` if they are too many boxes there.
        """
        turned = tuple(self.shape[d] for d in self.dims)
        cut = [it for one in piece.reshaped(self.target, self.into_of) if (it := one.cut(self.into))]
        pieces = [
            it.moved(self.cut.offset) for one in cut for it in one.reshaped(self.into.shape, self.cut.shape)
        ]
        pieces = [it.unpermuted(self.dims) for one in pieces for it in one.reshaped(self.cut_of, turned)]
        return [it for one in pieces for it in one.reshaped(self.shape, self.stored)]


def way(part: Part, stored: Shape, target: Shape) -> Way:
    """The way of a part. Raises `LayoutError` that says why there is none between these shapes.

    >>> way(Part("w", dims=(1, 0)), (4, 2), (2, 4)).back(Piece(Box((0, 1), (2, 3)), 0, (3, 1)))
    [Piece(box=Box[1:4, 0:2], start=0, strides=(1, 3))]
    """
    shape = stored if part.shape is None else part.shape
    if math.prod(shape) != math.prod(stored):
        raise LayoutError(f"{human_shape(stored)} cannot be seen as {human_shape(shape)}")
    dims = tuple(range(len(shape))) if part.dims is None else part.dims
    if len(dims) != len(shape):
        raise LayoutError(f"dims {dims} are not those of {human_shape(shape)}")
    cut_of, cut = _ranges("stored", part.stored, tuple(shape[d] for d in dims))
    into_of, into = _ranges("into", part.into, target)
    if cut.numel != into.numel:
        raise LayoutError(f"{_elements(cut)} do not go into {_elements(into)}")
    if not refines(cut.shape, into.shape):
        hint = "; dims=(1, 0) swaps them" if cut.shape[::-1] == into.shape else ""
        raise LayoutError(
            f"merging or splitting dims makes no {human_shape(into.shape)} of {human_shape(cut.shape)}{hint}"
        )
    return Way(stored, shape, dims, cut_of, cut, into_of, into, target)


@dataclass(frozen=True, eq=False)
class Carried:
    """Shards of a target as shards of a stored tensor.

    Row i of `shards` is elements of the target's row `row[i]`; they lie `strides[i]` apart in its local
    tensor, from `start[i]` on, in elements.
    """

    shards: Shards
    row: Ints
    start: Ints
    strides: tuple[Shape, ...]


def carried(way: Way, shards: Shards, strides: tuple[Shape, ...]) -> Carried:
    """The shards, whose local tensors have these strides (one tuple a row), as shards of the stored tensor.

    Raises `LayoutError` if a shard would be too many boxes there.
    """
    found: list[tuple[int, Piece]] = []
    for i, (local, apart) in enumerate(zip(shards.local.tolist(), strides, strict=True)):
        start = sum(o * s for o, s in zip(local, apart, strict=True))
        pieces = way.back(Piece(shards.boxes[i], start, apart))
        if len(pieces) > MOST:
            raise LayoutError(f"{shards.boxes[i]} is {len(pieces)} boxes of the stored tensor")
        found += [(i, piece) for piece in pieces]
    row = np.array([i for i, _ in found], np.int64)
    boxes = Boxes.of([piece.box for _, piece in found], len(way.stored))
    start = np.array([piece.start for _, piece in found], np.int64)
    moved = Shards(shards.rank[row], boxes, np.zeros_like(boxes.offsets))
    return Carried(moved, row, start, tuple(piece.strides for _, piece in found))


def row_major_strides(shards: Shards) -> tuple[Shape, ...]:
    """The strides of each row's local tensor, if they all lie in memory in row-major order."""
    ends = shards.local + shards.boxes.shapes
    owner, first = np.unique(shards.rank, return_inverse=True)
    shapes = np.zeros((len(owner), shards.boxes.ndim), np.int64)
    np.maximum.at(shapes, first.ravel(), ends)
    strides = [_row_major(tuple(shape)) for shape in shapes.tolist()]
    return tuple(strides[i] for i in first.ravel().tolist())


def _ranges(name: str, ranges: Ranges | None, shape: Shape) -> tuple[Shape, Box]:
    """The box of these ranges, and the shape that it is of: flat, if one range is given for several dims."""
    if ranges is None:
        return shape, Box((0,) * len(shape), shape)
    of = (math.prod(shape),) if len(ranges) == 1 and len(shape) != 1 else shape
    if len(ranges) != len(of) or any(stop > n for (_, stop), n in zip(ranges, of, strict=True)):
        raise LayoutError(f"{name}={human_ranges(ranges)} is not within {human_shape(shape)}")
    return of, Box(tuple(start for start, _ in ranges), tuple(stop - start for start, stop in ranges))


def _elements(box: Box) -> str:
    return (
        f"{human_shape(box.shape)} ({box.numel} elements)" if len(box.shape) > 1 else f"{box.numel} elements"
    )


def _row_major(shape: Shape) -> Shape:
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))
