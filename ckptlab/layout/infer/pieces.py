"""The pieces in which tensors were found: their boxes, who wrote each, and which tensors are cut alike.

What `infer` starts from. It knows no mesh and no file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ckptlab.layout.box import Boxes, Ints


@dataclass(frozen=True, eq=False)
class Pieces:
    """One tensor as it was stored: the box of each piece, and the rank that wrote it (-1: nobody knows).

    `nbytes` are the bytes of the whole tensor, for the order in which a saver shares out copies.
    """

    name: str
    shape: tuple[int, ...]
    boxes: Boxes
    writers: Ints
    nbytes: int = 0


@dataclass(frozen=True, eq=False)
class Kind:
    """Tensors of one shape cut into the same boxes.

    `rows` are their positions among all tensors and `writers` is `(tensors, boxes)`. `spans[d]` are
    the different intervals of dim d, `(n, 2)`: start and length, ascending; box i is cell `cell[i]` of the
    grid that they make. `regular` says whether the boxes fill that grid, each cell once. A
    saver may list the empty shards of ranks that hold nothing (`start` is the dim's size), or may not.
    """

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    boxes: Boxes
    writers: Ints
    spans: tuple[Ints, ...]
    cell: Ints
    regular: bool
    known: dict[tuple[int, tuple[tuple[int, int], ...]], Ints | None] = field(default_factory=dict)
    """What was found of the ways to cut a dim, by dim and cuts."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Different intervals of each dim."""
        return tuple(len(span) for span in self.spans)

    @property
    def cut(self) -> bool:
        """Whether it is in more than one piece."""
        return math.prod(self.counts) > 1

    @property
    def lists(self) -> bool:
        """Whether it lists empty shards."""
        return all(self.shape) and any((span[:, 1] == 0).any() for span in self.spans)

    @cached_property
    def ways(self) -> tuple[Ints, Ints]:
        """The different rows of `writers`, and which of them each tensor has."""
        index: dict[bytes, int] = {}
        way = [index.setdefault(row.tobytes(), len(index)) for row in self.writers]
        first = {i: row for row, i in reversed(list(enumerate(way)))}
        return self.writers[[first[i] for i in range(len(index))]], np.array(way, np.int64)

    @cached_property
    def scattered(self) -> int:
        """Tensors of which a rank wrote several cells: no mesh on which a rank holds one explains them."""
        writers, way = self.ways
        order = np.argsort(writers, axis=1, kind="stable")
        who, what = np.take_along_axis(writers, order, axis=1), self.cell[order]
        several = (who[:, 1:] == who[:, :-1]) & (what[:, 1:] != what[:, :-1]) & (who[:, 1:] >= 0)
        return int(several.any(axis=1)[way].sum())

    @cached_property
    def pairs(self) -> Ints:
        """Every cell with every rank that wrote it for some tensor, `(n, 2)`, unknown writers left out."""
        cells = np.broadcast_to(self.cell, self.writers.shape)[self.writers >= 0]
        writers = self.writers[self.writers >= 0]
        world = int(writers.max(initial=0)) + 1
        return np.stack(np.divmod(np.unique(cells * world + writers), world), axis=1)


def kinds(tensors: Sequence[Pieces]) -> tuple[Kind, ...]:
    """The tensors, those that are cut alike together; in the order of their first tensors.

    >>> rows = Boxes(np.array([[0], [2]]), np.array([[2], [1]]))
    >>> found = kinds([Pieces(name, (3,), rows, np.array([0, 1])) for name in "ab"])
    >>> len(found), found[0].rows, found[0].counts, found[0].pairs.tolist()
    (1, (0, 1), (2,), [[0, 0], [1, 1]])
    """
    alike: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    told: dict[int, bytes] = {}
    for row, tensor in enumerate(tensors):
        if id(tensor.boxes) not in told:
            told[id(tensor.boxes)] = tensor.boxes.offsets.tobytes() + tensor.boxes.shapes.tobytes()
        alike.setdefault((tensor.shape, told[id(tensor.boxes)]), []).append(row)
    return tuple(
        _kind(shape, rows, tensors[rows[0]].boxes, np.stack([tensors[row].writers for row in rows]))
        for (shape, _), rows in alike.items()
    )


def _kind(shape: tuple[int, ...], rows: Iterable[int], boxes: Boxes, writers: Ints) -> Kind:
    spans, cell, regular = _grid(shape, boxes)
    full = np.flatnonzero(boxes.numel > 0)
    if not regular and 0 < len(full) < len(boxes):
        # Some savers list empty shards, but not all of them: those tell nothing.
        boxes, writers = boxes.take(full), writers[:, full]
        spans, cell, regular = _grid(shape, boxes)
    return Kind(shape, tuple(rows), boxes, writers, spans, cell, regular)


def _grid(shape: tuple[int, ...], boxes: Boxes) -> tuple[tuple[Ints, ...], Ints, bool]:
    """The intervals of each dim, the cell of each box, and whether all cells are there."""
    if not len(boxes):
        whole = tuple(np.array([[0, size]], np.int64) for size in shape)
        return whole, np.zeros(0, np.int64), math.prod(shape) == 0
    spans, cell, regular = [], np.zeros(len(boxes), np.int64), True
    for dim, size in enumerate(shape):
        both = np.stack([boxes.offsets[:, dim], boxes.shapes[:, dim]], axis=1)
        span, at = np.unique(both, axis=0, return_inverse=True)
        ends = np.concatenate([[0], span[:, 0] + span[:, 1]])
        regular &= bool((span[:, 0] == ends[:-1]).all()) and int(ends[-1]) == size
        cell = cell * len(span) + at.ravel()
        spans.append(span)
    return tuple(spans), cell, regular and len(np.unique(cell)) == math.prod(map(len, spans))
