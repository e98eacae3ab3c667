"""What is fetched together of a far file: the rule of its requests, as pure geometry.

A request costs as much as the transfer of a MiB. So small chunks that lie near each other come in one
span; of a large chunk each wanted run comes by itself, and runs that lie near each other with all that is
between them. Whoever reads and whoever foretells go by it. No bytes, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.layout.box import Ints

SMALL = 1 << 20
"""Bytes of an extent up to which it is fetched whole, with its neighbours."""

GAP = 256 << 10
"""Bytes between two extents up to which they are fetched together, and what lies between them, too."""

SPAN = 64 << 20
"""Bytes at about which a span is cut."""

PART = 8 << 20
"""Bytes of one request; what is longer is read in parts, several at a time."""


@dataclass(frozen=True, eq=False)
class Spans:
    """Where the spans of one file begin and end, ascending."""

    starts: Ints
    ends: Ints

    @classmethod
    def of(cls, starts: Ints, lengths: Ints) -> Spans:
        """The spans of extents: neighbours up to `GAP` bytes apart, cut at about `SPAN` bytes.

        Empty extents and those of more than `SMALL` bytes are left out.

        >>> spans = Spans.of(np.array([0, 100, 10 << 20]), np.array([10, 5, 7]))
        >>> spans.starts.tolist(), spans.ends.tolist()
        ([0, 10485760], [105, 10485767])
        """
        small = (lengths > 0) & (lengths <= SMALL)
        low = starts[small]
        order = np.argsort(low, kind="stable")
        low = low[order]
        if not len(low):
            return cls(low, low)
        ends = np.maximum.accumulate(low + lengths[small][order])
        apart = np.r_[True, low[1:] - ends[:-1] > GAP]
        group = np.cumsum(apart) - 1
        piece = (low - low[apart][group]) // SPAN
        first = np.flatnonzero(apart | np.r_[True, piece[1:] != piece[:-1]])
        return cls(low[first], np.maximum.reduceat(low + lengths[small][order], first))

    def around(self, start: int, length: int) -> tuple[int, int] | None:
        """Begin and end of the span in which these bytes lie, if one holds them all."""
        i = int(np.searchsorted(self.starts, start, side="right")) - 1
        if i < 0 or start + length > int(self.ends[i]):
            return None
        return int(self.starts[i]), int(self.ends[i])


def parts(nbytes: Ints) -> Ints:
    """How many requests fetch so many bytes that follow each other.

    >>> parts(np.array([0, 1, PART, PART + 1])).tolist()
    [0, 1, 1, 2]
    """
    count: Ints = -(-nbytes // PART)
    return count


def cut(shapes: Ints, strides: Ints, itemsize: int) -> tuple[Ints, Ints]:
    """How boxes are fetched out of a large chunk: dims taken one index at a time; bytes of each piece.

    `shapes` and `strides`, `(n, ndim)`, count elements. A piece reaches from its first element to its
    last; a dim along which pieces lie more than `GAP` bytes apart is taken one index at a time, together
    with all dims before it. So box i comes in `shapes[i, :dims[i]].prod()` pieces; none may be empty.

    >>> dims, nbytes = cut(np.array([[4, 100], [4, 100]]), np.array([[1000, 1], [1 << 20, 1]]), 4)
    >>> dims.tolist(), nbytes.tolist()
    ([0, 1], [12400, 400])
    """
    count, ndim = shapes.shape
    dims, reach = np.zeros(count, np.int64), np.ones(count, np.int64)
    reaches = [reach]
    for d in range(ndim - 1, -1, -1):
        gap = (strides[:, d] - reach) * itemsize
        # The innermost such dim comes first in this loop, and takes those before it along.
        dims = np.where((dims == 0) & (shapes[:, d] > 1) & (gap > GAP), d + 1, dims)
        reach = reach + (shapes[:, d] - 1) * strides[:, d]
        reaches.append(reach)
    return dims, np.stack(reaches[::-1])[dims, np.arange(count)] * itemsize


def cut_one(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int]:
    """The same of one box."""
    dims, nbytes = cut(np.array([shape], np.int64), np.array([strides], np.int64), itemsize)
    return int(dims[0]), int(nbytes[0])
