"""Boxes: n-d rectangles of elements, one at a time or in columns.

This is the one geometry that pictures, plans, forecasts, reads and checks ask.
Exact integers, half-open intervals. It knows no file, no rank and no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_FEW_PAIRS = 4096
"""So many pairs of boxes are compared sooner than sorted."""


@dataclass(frozen=True)
class Box:
    """The elements from `offset` up to, not including, `offset + shape`; both in elements, one number a dim.

    >>> a, b = Box((0, 0), (4, 2)), Box((2, 1), (4, 4))
    >>> a & b
    Box[2:4, 1:2]
    >>> (a & b).numel
    2
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def stop(self) -> tuple[int, ...]:
        """The first element beyond, in each dim."""
        return tuple(o + n for o, n in zip(self.offset, self.shape, strict=True))

    @property
    def numel(self) -> int:
        """How many elements; 1 for the box of a scalar."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """As an index into an array."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.shape, strict=True))

    def __and__(self, other: Box) -> Box:
        """What both hold; a box with no elements where they do not meet."""
        low = tuple(max(a, b) for a, b in zip(self.offset, other.offset, strict=True))
        high = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(low, tuple(max(0, b - a) for a, b in zip(low, high, strict=True)))

    def within(self, outer: Box) -> Box:
        """The same elements, counted from the corner of `outer`."""
        return Box(tuple(a - b for a, b in zip(self.offset, outer.offset, strict=True)), self.shape)

    def __repr__(self) -> str:
        return "Box[" + ", ".join(f"{a}:{b}" for a, b in zip(self.offset, self.stop, strict=True)) + "]"


@dataclass(frozen=True, eq=False)
class Boxes:
    """Many boxes of one number of dims, as columns: `offsets` and `shapes`, both `(n, ndim)` int64.

    >>> boxes = Boxes.of([Box((0, 0), (2, 4)), Box((2, 0), (2, 4))])
    >>> len(boxes), boxes.numel.tolist(), boxes[1]
    (2, [8, 8], Box[2:4, 0:4])
    """

    offsets: Ints
    shapes: Ints

    @classmethod
    def of(cls, boxes: Iterable[Box], ndim: int = 0) -> Boxes:
        """Columns from single boxes; `ndim` matters only when there are none."""
        rows = list(boxes)
        width = len(rows[0].offset) if rows else ndim
        return cls(
            np.array([b.offset for b in rows], np.int64).reshape(len(rows), width),
            np.array([b.shape for b in rows], np.int64).reshape(len(rows), width),
        )

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return int(self.offsets.shape[1])

    @property
    def stops(self) -> Ints:
        """The first element beyond each box, `(n, ndim)`."""
        return self.offsets + self.shapes

    @property
    def numel(self) -> Ints:
        """Elements of each box, `(n,)`."""
        numel: Ints = np.prod(self.shapes, axis=1, dtype=np.int64)
        return numel

    def take(self, rows: npt.NDArray[Any]) -> Boxes:
        """The boxes at `rows` (indices or a mask)."""
        return Boxes(self.offsets[rows], self.shapes[rows])

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, row: int) -> Box:
        return Box(tuple(self.offsets[row].tolist()), tuple(self.shapes[row].tolist()))


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Where boxes of `a` meet boxes of `b`: rows `a[i]` and `b[i]` share `boxes[i]`, never empty."""

    a: Ints
    b: Ints
    boxes: Boxes


def overlaps(a: Boxes, b: Boxes) -> Overlaps:
    """Every pair of a box of `a` and a box of `b` that share elements, ordered by `a`, then `b`.

    Where there are many, pairs are found by a sorted search along the dim that tells the boxes of `b`
    apart best, then sieved in the others: near linear for grids, whatever the number of ranks.

    >>> rows = Boxes.of([Box((0, 0), (2, 4)), Box((2, 0), (2, 4))])
    >>> column = Boxes.of([Box((0, 1), (4, 1))])
    >>> found = overlaps(column, rows)
    >>> found.b.tolist(), found.boxes[1]
    ([0, 1], Box[2:4, 1:2])
    """
    if not a.ndim or len(a) * len(b) <= _FEW_PAIRS:
        low = np.maximum(a.offsets[:, None], b.offsets)
        size = np.minimum(a.stops[:, None], b.stops) - low
        ia, ib = np.nonzero((size > 0).all(axis=2))
        return Overlaps(ia, ib, Boxes(low[ia, ib], size[ia, ib]))
    ia, ib = _candidates(a, b)
    low = np.maximum(a.offsets[ia], b.offsets[ib])
    size = np.minimum(a.stops[ia], b.stops[ib]) - low
    keep = np.flatnonzero((size > 0).all(axis=1))
    keep = keep[np.lexsort((ib[keep], ia[keep]))]
    return Overlaps(ia[keep], ib[keep], Boxes(low[keep], size[keep]))


def _candidates(a: Boxes, b: Boxes) -> tuple[Ints, Ints]:
    """Pairs that may meet: all that do, and as few others as one dim can sort out."""
    distinct = [len(np.unique(b.offsets[:, d])) for d in range(a.ndim)]
    dim = int(np.argmax(distinct))
    start, stop = b.offsets[:, dim], b.stops[:, dim]
    order = np.argsort(start, kind="stable")
    # A running maximum of the ends is sorted too: the first box that may reach us is found by search.
    reach = np.maximum.accumulate(stop[order]) if len(order) else stop
    first = np.searchsorted(reach, a.offsets[:, dim], side="right")
    last = np.searchsorted(start[order], a.stops[:, dim], side="left")
    count = np.maximum(last - first, 0)
    ia = np.repeat(np.arange(len(a)), count)
    within = np.arange(len(ia)) - np.repeat(np.cumsum(count) - count, count)
    return ia, order[np.repeat(first, count) + within]
