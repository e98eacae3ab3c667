"""What each rank of a mesh holds of one tensor, and who holds the same.

Columns, one row a rank in the order of the mesh. Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ckptlab.layout import Boxes, Layout, Replicate, overlaps
from ckptlab.layout.box import Ints


@dataclass(frozen=True, eq=False)
class Held:
    """Row i: rank `rank[i]` stands at `place[i]` of the mesh and holds content `content[i]` (-1: nothing).

    Content c is `boxes[first[c]:stop[c]]`, in elements of the tensor.
    """

    rank: Ints
    place: Ints
    content: Ints
    boxes: Boxes
    first: Ints
    stop: Ints

    @property
    def contents(self) -> int:
        """How many different ones."""
        return len(self.first)

    @cached_property
    def others(self) -> list[str]:
        """For each row the other ranks that hold the same, in words; "" where it holds nothing."""
        out = ["" if c < 0 else "no other rank" for c in self.content.tolist()]
        for rows in self.groups:
            if len(rows) == 1:
                continue
            ranks = self.rank[rows[:10]].tolist()
            same = listed(ranks, len(rows) - 1)
            for i, row in enumerate(rows.tolist()):
                # A rank that would not be listed anyway needs no list of its own.
                out[row] = listed(ranks[:i] + ranks[i + 1 :], len(rows) - 1) if i < 10 else same
        return out

    @cached_property
    def groups(self) -> tuple[Ints, ...]:
        """The rows of each content, in the order of the mesh."""
        order = np.argsort(self.content, kind="stable")
        ends = np.searchsorted(self.content[order], np.arange(self.contents + 1))
        return tuple(order[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))

    @cached_property
    def owner(self) -> Ints:
        """For each row the first rank that holds the same; itself where it holds nothing."""
        owner = self.rank.copy()
        for rows in self.groups:
            owner[rows] = self.rank[rows[0]]
        return owner

    @cached_property
    def empty(self) -> Ints:
        """The ranks that hold nothing."""
        return self.rank[self.content < 0]

    @cached_property
    def said(self) -> list[str]:
        """Each content as people write slices, the first two boxes of many."""
        low, high = self.boxes.offsets.tolist(), self.boxes.stops.tolist()

        def box(row: int) -> str:
            return f"[{', '.join(f'{a}:{b}' for a, b in zip(low[row], high[row], strict=True))}]"

        shown = []
        for first, stop in zip(self.first.tolist(), self.stop.tolist(), strict=True):
            more = f" and {stop - first - 2:,} more" if stop - first > 2 else ""
            shown.append(" and ".join(map(box, range(first, min(stop, first + 2)))) + more)
        return shown


def held(layout: Layout, shape: tuple[int, ...] | None) -> Held:
    """What every rank of the layout's mesh holds of a tensor of `shape` (None: of no tensor: nothing)."""
    mesh = layout.mesh
    rank = np.array(mesh.rank_list, np.int64)
    place = np.stack(np.unravel_index(np.arange(mesh.size), mesh.shape), 1).astype(np.int64)
    if shape is None:
        none = np.zeros(0, np.int64)
        corner = np.zeros((0, 0), np.int64)
        return Held(rank, place, np.full(mesh.size, -1), Boxes(corner, corner), none, none)
    shards = layout.shards(shape)
    # The shards come rank by rank in the order of the mesh, so each rank's are neighbours.
    begins = np.flatnonzero(np.diff(shards.rank, prepend=-1))
    ends = np.append(begins, len(shards))[1:]
    keys = _keys(shards.boxes)
    index: dict[bytes, int] = {}
    chosen = [
        index.setdefault(keys[a:b].tobytes(), len(index))
        for a, b in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    row_of = {r: i for i, r in enumerate(rank.tolist())}
    content = np.full(mesh.size, -1)
    content[[row_of[r] for r in shards.rank[begins].tolist()]] = chosen
    _, seen = np.unique(np.array(chosen, np.int64), return_index=True)
    return Held(rank, place, content, shards.boxes, begins[seen], ends[seen])


def _keys(boxes: Boxes) -> Ints:
    return np.ascontiguousarray(np.concatenate([boxes.offsets, boxes.shapes, boxes.numel[:, None]], axis=1))


def meeting(chunks: Boxes, shards: Boxes) -> tuple[Ints, Ints]:
    """Rows of chunks and of the shards of one layout that share elements, ordered by chunk, then by shard."""
    keys = np.concatenate([np.concatenate([b.offsets, b.shapes], axis=1) for b in (chunks, shards)])
    if not keys.shape[1] or not (len(chunks) and len(shards)):
        met = overlaps(chunks, shards)
        return met.a, met.b
    _, number = np.unique(keys, axis=0, return_inverse=True)
    a, b = number.ravel()[: len(chunks)], number.ravel()[len(chunks) :]
    if not np.array_equal(np.unique(a), np.unique(b)):
        met = overlaps(chunks, shards)
        return met.a, met.b
    # Stored as it is held: different shards of a layout never overlap, so equal boxes are all that meet.
    order = np.argsort(b, kind="stable")
    first, stop = (np.searchsorted(b[order], a, side) for side in ("left", "right"))
    size = stop - first
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(np.arange(len(a)), size), order[np.repeat(first, size) + within]


def copies(layout: Layout) -> tuple[int, ...]:
    """The axes along which the ranks hold the same."""
    return tuple(i for i, placement in enumerate(layout.placements) if isinstance(placement, Replicate))


def together(layout: Layout, mine: Held) -> list[str]:
    """For each row the ranks, itself among them, that hold one whole copy of the tensor between them."""
    across = copies(layout)
    sizes = tuple(layout.mesh.shape[axis] for axis in across)
    number = np.ravel_multi_index(tuple(mine.place[:, axis] for axis in across), sizes)
    order = np.argsort(number, kind="stable")
    out = [""] * len(number)
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        said = listed(mine.rank[rows].tolist())
        for row in rows.tolist():
            out[row] = said
    return out


def listed(ranks: Sequence[int], number: int = 0, most: int = 8) -> str:
    """`rank 0`, `ranks 0 and 2`, `ranks 0, 1 and 2`, `ranks 4 to 9`; the first of many.

    `ranks` may be only the first of `number`.
    """
    number = max(number, len(ranks))
    if number == 1:
        return f"rank {ranks[0]}"
    if number == len(ranks) > 3 and list(ranks) == list(range(ranks[0], ranks[0] + number)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    if number > most:
        return f"ranks {', '.join(map(str, ranks[:most]))} and {number - most:,} more"
    *first, last = map(str, ranks)
    return f"ranks {', '.join(first)} and {last}"
