"""What the bytes of one file are, in their order: chunks, objects, and what lies between them.

Columns, and a way to put together those too narrow to be seen. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata

CHUNK, OBJECT, WRAPPING, BETWEEN, LOST, ALIEN = range(6)
"""Kinds of extents: a chunk (or its elements), an object, what is round a chunk's elements, bytes that
are neither, bytes that the file has not got (any more), a file that is none of the checkpoint's."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Extents:
    """The bytes `start[i]` to `stop[i]` of a file are of kind `kind[i]`, as columns, in their order.

    `item` is the row of a chunk among all of the checkpoint, the position of an object, else -1;
    `tensor` is the row of a chunk's tensor, else -1. `at` counts all extents of the file.
    """

    start: Ints
    stop: Ints
    kind: Ints
    item: Ints
    tensor: Ints
    at: Ints

    def __len__(self) -> int:
        return len(self.start)

    def within(self, low: int, high: int) -> Extents:
        """What lies in the bytes `low` to `high`, cut there."""
        here = (self.stop > low) & (self.start < high)
        return Extents(
            np.maximum(self.start[here], low),
            np.minimum(self.stop[here], high),
            self.kind[here],
            self.item[here],
            self.tensor[here],
            self.at[here],
        )


def extents(metadata: Metadata, file: int, size: int) -> Extents:
    """Everything in `files[file]`, of which there are `size` bytes (-1: it is not there)."""
    chunks = metadata.chunks
    rows = np.flatnonzero(chunks.file == file)
    objects = [(i, e) for i, e in enumerate(metadata.objects.values()) if e.file == file]
    start = np.r_[chunks.start[rows], np.array([e.start for _, e in objects], np.int64)]
    length = np.r_[chunks.length[rows], np.array([e.length for _, e in objects], np.int64)]
    item = np.r_[rows, np.array([i for i, _ in objects], np.int64)]
    kind = np.r_[np.full(len(rows), CHUNK), np.full(len(objects), OBJECT)]
    tensor = np.r_[np.searchsorted(chunks.first, rows, side="right") - 1, np.full(len(objects), -1, np.int64)]
    held = np.flatnonzero(length > 0)
    order = held[np.argsort(start[held], kind="stable")]
    return _with_gaps(start[order], length[order], kind[order], item[order], tensor[order], max(size, 0))


def unwrapped(found: Extents, elements: Callable[[int], tuple[int, int] | None]) -> Extents:
    """The same with each chunk taken apart: header, elements, directory.

    `elements` tells for the row of a chunk where its elements begin and end in the file, if it can be told.
    """
    parts: list[tuple[int, int, int, int]] = []
    for i, (start, stop, kind) in enumerate(
        zip(found.start.tolist(), found.stop.tolist(), found.kind.tolist(), strict=True)
    ):
        inner = elements(int(found.item[i])) if kind == CHUNK else None
        low, high = inner if inner and start <= inner[0] <= inner[1] <= stop else (start, stop)
        parts += [(i, start, low, WRAPPING), (i, low, high, kind), (i, high, stop, WRAPPING)]
    rows = np.array([part for part in parts if part[1] < part[2]], np.int64).reshape(-1, 4)
    whole = rows[:, 0]
    return Extents(
        rows[:, 1], rows[:, 2], rows[:, 3], found.item[whole], found.tensor[whole], found.at[whole]
    )


def alien(size: int) -> Extents:
    """A file that is none of the checkpoint's."""
    one = np.array([-1], np.int64)
    return Extents(one + 1, one + 1 + max(size, 1), np.array([ALIEN]), one, one, one + 1)


def _with_gaps(start: Ints, length: Ints, kind: Ints, item: Ints, tensor: Ints, size: int) -> Extents:
    stop = start + length
    # Behind what has come so far, and behind all of it: places may lie over each other in a damaged file.
    reached = np.concatenate([[0], np.maximum.accumulate(stop)]) if len(stop) else np.zeros(1, np.int64)
    low, high = reached, np.append(start, max(size, int(reached[-1])))
    gap = np.flatnonzero(high > low)
    kind = np.where(stop > size, LOST, kind)
    none = np.full(len(gap), -1, np.int64)
    all_ = np.argsort(np.r_[start, low[gap]], kind="stable")
    return Extents(
        np.r_[start, low[gap]][all_],
        np.r_[stop, high[gap]][all_],
        np.r_[kind, np.full(len(gap), BETWEEN)][all_],
        np.r_[item, none][all_],
        np.r_[tensor, none][all_],
        np.arange(len(all_)),
    )


@dataclass(frozen=True, eq=False)
class Merged:
    """Neighbours too narrow to be seen are one: mark `i` is `number[i]` extents, from `first[i]` on.

    It is lost if one of them is, and of the kind that matters most to a reader otherwise.
    """

    first: Ints
    number: Ints
    start: Ints
    stop: Ints
    kind: Ints


def merged(found: Extents, low: int, high: int, pixels: int, alone: Bools) -> Merged:
    """Put together what falls on one of `pixels` from byte `low` to `high`, but for those that stay `alone`.

    There are at most about twice as many as `pixels`, and those that stay alone.
    """
    if not len(found):
        none = np.zeros(0, np.int64)
        return Merged(none, none, none, none, none)
    unit = (high - low) / pixels
    pixel = ((found.start - low) / unit).astype(np.int64)
    single = (found.stop - found.start >= unit) | alone
    begins = np.ones(len(found), bool)
    begins[1:] = single[1:] | single[:-1] | (pixel[1:] != pixel[:-1])
    first = np.flatnonzero(begins)
    kind = np.minimum.reduceat(found.kind, first)
    return Merged(
        first,
        np.diff(np.append(first, len(found))),
        found.start[first],
        np.maximum.reduceat(found.stop, first),
        np.where(np.maximum.reduceat(found.kind, first) == LOST, LOST, kind),
    )


def wrapping(metadata: Metadata, found: Extents) -> Ints:
    """Bytes of each chunk that are none of its elements; 0 for what is no chunk."""
    out = np.zeros(len(found), np.int64)
    for row in np.unique(found.tensor[found.tensor >= 0]).tolist():
        mine = np.flatnonzero((found.tensor == row) & (found.item >= 0))
        inside = found.item[mine] - int(metadata.chunks.first[row])
        elements = metadata.boxes(row).numel[inside] * ITEMSIZE[metadata.tensors[row].dtype]
        out[mine] = np.maximum(0, metadata.chunks.length[found.item[mine]] - elements)
    return out
