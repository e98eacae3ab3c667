"""Where the ranks of a mesh stand in its picture, and which neighbours can be framed together.

Axes nest: the last lies along x, the one before along y, a third and fourth repeat the whole
grid along x and y. An axis much longer than the other of its pair goes on in further lines.
No tensor and no drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ckptlab.layout.box import Ints

CELL, GAP, BETWEEN = 1.0, 0.2, 0.5
"""Units: a cell, the gap between two, and what is added to it between two hosts."""

_LONG, _LINE = 4.0, 16
"""An axis of more cells than a line's is broken when the grid is so many times longer than wide."""

_SHAPE = 1.6
"""Width to height of an axis that was broken into lines."""

Spots = npt.NDArray[np.float64]
"""`(n, 2)`: the upper left corners of cells, in units."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Cell i stands at `spot[i]`, in column `column[i]` and row `row[i]` of all columns and rows there are.

    `line[axis]` is how many cells of an axis stand in one line, before the next begins.
    """

    spot: Spots
    column: Ints
    row: Ints
    line: tuple[int, ...]
    width: float
    height: float

    def framed(self, cells: Ints) -> tuple[float, float, float, float] | None:
        """x, y, width and height of these cells, if no other cell stands between them."""
        left, right = self.column[cells].min(), self.column[cells].max()
        top, bottom = self.row[cells].min(), self.row[cells].max()
        inside = self._before[bottom + 1, right + 1] - self._before[bottom + 1, left]
        inside += self._before[top, left] - self._before[top, right + 1]
        if inside != len(cells):
            return None
        (x0, y0), (x1, y1) = self.spot[cells].min(axis=0), self.spot[cells].max(axis=0)
        return float(x0), float(y0), float(x1 - x0 + CELL), float(y1 - y0 + CELL)

    @property
    def _before(self) -> Ints:
        """How many cells stand above and left of each crossing of rows and columns."""
        known: Ints | None = self.__dict__.get("_crossings")
        if known is None:
            filled = np.zeros((self.row.max() + 2, self.column.max() + 2), np.int64)
            np.add.at(filled, (self.row + 1, self.column + 1), 1)
            known = self.__dict__["_crossings"] = filled.cumsum(axis=0).cumsum(axis=1)
        return known


def grid(shape: tuple[int, ...], place: Ints, host: Ints | None = None, edge: float = GAP / 2) -> Grid:
    """The cells at `place` (`(n, axes)`) of a mesh of `shape`, with `edge` units of room round all.

    Hosts (`host[i]` of cell i) that have whole columns or rows to themselves stand further apart.
    """
    lines = [0] * len(shape)
    spot = np.zeros((len(place), 2))
    extent, gap = np.array([CELL, CELL]), GAP
    for last in range(len(shape) - 1, -1, -2):
        pair = ((last, 0), (last - 1, 1)) if last else ((last, 0),)
        sizes = [shape[axis] for axis, _ in pair] + [1] * (2 - len(pair))
        whole = sizes * (extent + gap)
        for axis, way in pair:
            size = shape[axis]
            fits = size <= _LINE or whole[way] <= _LONG * whole[1 - way]
            lines[axis] = size if fits else _broken(size, whole[1 - way] / (extent + gap)[way], way)
            along, across = place[:, axis] % lines[axis], place[:, axis] // lines[axis]
            step = extent + gap
            spot[:, way] += along * step[way]
            spot[:, 1 - way] += across * step[1 - way]
            extent[way] += (lines[axis] - 1) * step[way]
            extent[1 - way] += (-(-size // lines[axis]) - 1) * step[1 - way]
        gap += 2 * GAP
    ranked = [np.unique(spot[:, way].round(6), return_inverse=True)[1].ravel() for way in (0, 1)]
    if host is not None:
        for way, index in enumerate(ranked):
            spot[:, way] += BETWEEN * _bounds(index, host)[index]
    spot += edge
    width, height = spot.max(axis=0) + CELL + edge
    return Grid(spot, ranked[0], ranked[1], tuple(lines), float(width), float(height))


def _broken(size: int, across: float, way: int) -> int:
    """So many of `size` cells a line, a power of two, that lines `across` apart make a pleasant shape."""
    shape = _SHAPE if way == 0 else 1 / _SHAPE
    return int(2 ** round(np.log2(np.sqrt(size * shape * across))))


def _bounds(index: Ints, host: Ints) -> Ints:
    """For each column (or row), how many bounds between hosts lie before it."""
    order = np.lexsort((host, index))
    pairs = np.unique(np.stack([index[order], host[order]], 1), axis=0)
    there = [set(pairs[pairs[:, 0] == i, 1].tolist()) for i in range(int(index.max()) + 1)]
    apart = [0, *(int(not (a & b)) for a, b in pairwise(there))]
    return np.cumsum(apart)
