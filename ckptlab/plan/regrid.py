"""Boxes of a tensor in memory, when the tensor is seen under another shape, order of dims, or cut.

Exact integers and strides alone: it knows no dtype, no bytes, no rank and no checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ckptlab.errors import LayoutError
from ckptlab.layout import Box

MOST = 1 << 16
"""Into so many boxes one shard may be cut; more would each be a read of a few elements."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """The elements of `box` of some tensor, and where they are: `strides` apart from `start`, in elements."""

    box: Box
    start: int
    strides: Shape

    def cut(self, box: Box) -> Piece | None:
        """What of it is in `box`, counted from the corner of that; None if nothing is."""
        both = self.box & box
        if not both.numel:
            return None
        moved = zip(both.offset, self.box.offset, self.strides, strict=True)
        start = self.start + sum((a - b) * s for a, b, s in moved)
        return Piece(both.within(box), start, self.strides)

    def moved(self, by: Shape) -> Piece:
        """The same elements, of a tensor in which they lie further on."""
        offset = tuple(a + b for a, b in zip(self.box.offset, by, strict=True))
        return Piece(Box(offset, self.box.shape), self.start, self.strides)

    def unpermuted(self, dims: Shape) -> Piece:
        """The same elements of the tensor that became this one when its dims were put in the order `dims`.

        >>> Piece(Box((0, 2), (4, 3)), 0, (3, 1)).unpermuted((1, 0))
        Piece(box=Box[2:5, 0:4], start=0, strides=(1, 3))
        """
        back = [dims.index(d) for d in range(len(dims))]
        offset, shape, strides = (
            tuple(row[d] for d in back) for row in (self.box.offset, self.box.shape, self.strides)
        )
        return Piece(Box(offset, shape), self.start, strides)

    def reshaped(self, old: Shape, new: Shape) -> list[Piece]:
        """The same elements of a tensor of shape `old`, seen (row-major) as `new`: as few boxes as go.

        Raises `LayoutError` if they are more than `MOST`.

        >>> Piece(Box((3,), (7,)), 0, (1,)).reshaped((12,), (3, 4))  # doctest: +NORMALIZE_WHITESPACE
        [Piece(box=Box[0:1, 3:4], start=0, strides=(4, 1)),
         Piece(box=Box[1:2, 0:4], start=1, strides=(4, 1)),
         Piece(box=Box[2:3, 0:2], start=5, strides=(4, 1))]
        """
        if old == new:
            return [self]
        each = [self._group(old[a:b], new[c:d], a, b) for a, b, c, d in groups(old, new)]
        if (many := math.prod(map(len, each))) > MOST:
            raise _too_many(many)
        return [
            Piece(
                Box(
                    tuple(n for bit in bits for n in bit.offset), tuple(n for bit in bits for n in bit.shape)
                ),
                self.start + sum(bit.at for bit in bits),
                tuple(n for bit in bits for n in bit.strides),
            )
            for bits in product(*each)
        ]

    def _group(self, old: Shape, new: Shape, first: int, last: int) -> list[_Bit]:
        """The dims `first:last` of it, which hold as many elements as the dims `new` that they become."""
        box, strides = Box(self.box.offset[first:last], self.box.shape[first:last]), self.strides[first:last]
        if old == new:
            return [_Bit(box.offset, box.shape, 0, strides)]
        return [bit for run in _runs(box, strides, old) for bit in _split(run, new)]


def groups(old: Shape, new: Shape) -> list[tuple[int, int, int, int]]:
    """Dims that become dims: `old[a:b]` and `new[c:d]` hold as many elements; as small groups as go.

    >>> groups((6, 4, 5), (2, 3, 20))
    [(0, 1, 0, 2), (1, 3, 2, 3)]
    """
    assert math.prod(old) == math.prod(new) > 0
    found, a, c = [], len(old), len(new)
    while a or c:
        b, d = a, c
        a, c = max(a - 1, 0), max(c - 1, 0)
        while (one := math.prod(old[a:b])) != (other := math.prod(new[c:d])):
            a, c = (a - 1, c) if one < other else (a, c - 1)
        found.append((a, b, c, d))
    return found[::-1]


def refines(old: Shape, new: Shape) -> bool:
    """Whether dims are only merged or split between these shapes, so that no element can go astray.

    >>> refines((4, 8), (2, 2, 8)), refines((4, 8), (32,)), refines((4, 8), (8, 4))
    (True, True, False)
    """
    if math.prod(old) != math.prod(new) or not math.prod(old):
        return math.prod(old) == math.prod(new)
    wide = [(sum(n > 1 for n in old[a:b]), sum(n > 1 for n in new[c:d])) for a, b, c, d in groups(old, new)]
    return all(min(pair) <= 1 for pair in wide)


def without(whole: Box, boxes: Sequence[Box]) -> list[Box]:
    """What is left of `whole` when `boxes` are taken out, as boxes.

    >>> without(Box((0, 0), (4, 4)), [Box((0, 0), (3, 4))])
    [Box[3:4, 0:4]]
    """
    left = [whole] if whole.numel else []
    for box in boxes:
        left = [rest for one in left for rest in _minus(one, box)]
    return left


def _minus(one: Box, other: Box) -> Iterator[Box]:
    both = one & other
    if not both.numel:
        yield one
        return
    low, high = list(one.offset), list(one.stop)
    for d, (start, stop) in enumerate(zip(both.offset, both.stop, strict=True)):
        for first, last in ((low[d], start), (stop, high[d])):
            if first < last:
                offset, end = [*low[:d], first, *low[d + 1 :]], [*high[:d], last, *high[d + 1 :]]
                yield Box(tuple(offset), tuple(b - a for a, b in zip(offset, end, strict=True)))
        low[d], high[d] = start, stop


@dataclass(frozen=True)
class _Run:
    """`length` elements from the `first` on, in row-major order; in memory `step` apart from `at`."""

    first: int
    length: int
    at: int
    step: int


@dataclass(frozen=True)
class _Bit:
    """A box of some dims, and where it lies in memory: the part of a `Piece` that these dims tell."""

    offset: Shape
    shape: Shape
    at: int
    strides: Shape


def _runs(box: Box, strides: Shape, shape: Shape) -> list[_Run]:
    """The elements of the box in runs, as long as row-major order and memory allow."""
    length, step, unit, outer = 1, 1, 1, len(shape)
    while outer:
        n, stride = box.shape[outer - 1], strides[outer - 1]
        if n > 1:
            if length != unit or (length > 1 and stride != step * length):
                break
            length, step = length * n, step if length > 1 else stride
        unit, outer = unit * shape[outer - 1], outer - 1
    if (many := math.prod(box.shape[:outer])) > MOST:
        raise _too_many(many)
    units = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    corner = sum(o * u for o, u in zip(box.offset, units, strict=True))
    return [
        _Run(
            corner + sum(i * u for i, u in zip(index, units, strict=False)),
            length,
            sum(i * s for i, s in zip(index, strides, strict=False)),
            step,
        )
        for index in product(*map(range, box.shape[:outer]))
    ]


def _split(run: _Run, shape: Shape) -> list[_Bit]:
    """A run as boxes of `shape`: whole rows in one, what is before and behind them row by row, within."""
    if len(shape) <= 1:
        return [_Bit((run.first,) * len(shape), (run.length,) * len(shape), run.at, (run.step,) * len(shape))]
    inner = math.prod(shape[1:])
    strides = tuple(run.step * math.prod(shape[d + 1 :]) for d in range(len(shape)))
    found, first, end = [], run.first, run.first + run.length
    while first < end:
        row, column = divmod(first, inner)
        at = run.at + (first - run.first) * run.step
        if column == 0 and (rows := (end - first) // inner):
            found.append(_Bit((row, *[0] * (len(shape) - 1)), (rows, *shape[1:]), at, strides))
            first += rows * inner
            continue
        length = min(end - first, inner - column)
        for bit in _split(_Run(column, length, at, run.step), shape[1:]):
            found.append(_Bit((row, *bit.offset), (1, *bit.shape), bit.at, (strides[0], *bit.strides)))
        first += length
    return found


def _too_many(many: int) -> LayoutError:
    return LayoutError(
        f"it is no box of the stored tensor, but {many} of them, more than {MOST}: "
        "load it whole, or sharded along another dim"
    )
