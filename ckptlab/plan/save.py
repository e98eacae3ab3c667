"""Who writes which box, and where in the writer's file: each distinct box once, replicas shared out by bytes.

The same holdings give the same plan on every rank. It knows no bytes of any tensor and no "me".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout import Boxes, Distinct
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, BoxColumns, Chunks, Tensors
from ckptlab.plan.holding import Holding, Holdings

Length = Callable[[str, tuple[int, ...]], int]
"""Bytes that a chunk of some dtype and shape takes in a file."""


_EMPTY = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Writes:
    """The chunks of tensors that are held alike: `boxes[i]` of tensor `rows[t]` is written by `writer[t, i]`.

    `rows` are positions in `SavePlan.tensors`, all of one `dtype`.
    """

    rows: Ints
    dtype: str
    boxes: Boxes
    writer: Ints


@dataclass(frozen=True, eq=False)
class SavePlan:
    """The chunks of a checkpoint, and how many bytes of elements each rank writes.

    `replicated` says whether there is a box that several ranks hold.
    """

    tensors: Tensors
    writes: tuple[Writes, ...]
    bytes_by_rank: Ints
    replicated: bool

    def chunks(self, length: Length, files: int = 1) -> tuple[Chunks, Ints]:
        """Where each chunk lies, one behind the other, and where each file ends.

        Rank r has the `files` files from number `r * files` on, of about as many bytes each. Tensors
        held alike stand together, so that equal chunks are one run.
        """
        counts, corner = np.zeros(len(self.tensors), np.int64), np.zeros(len(self.tensors), np.int64)
        columns = BoxColumns()
        for group in self.writes:
            counts[group.rows] = len(group.boxes)
            corner[group.rows] = columns.corner(group.boxes)
        first = np.concatenate([[0], np.cumsum(counts)])
        rows, writer, lengths = [_EMPTY], [_EMPTY], [_EMPTY]
        for group in self.writes:
            each = np.array([length(group.dtype, tuple(s)) for s in group.boxes.shapes.tolist()], np.int64)
            rows.append((first[group.rows][:, None] + np.arange(len(each))).ravel())
            writer.append(group.writer.ravel())
            lengths.append(np.tile(each, len(group.rows)))
        row, chosen, size = np.concatenate(rows), np.concatenate(writer), np.concatenate(lengths)
        start, end = _behind(chosen, size, len(self.bytes_by_rank))
        if files > 1:
            chosen = chosen * files + start * files // end[chosen]
            start, end = _behind(chosen, size, len(end) * files)
        file = np.empty(len(row), np.int32)
        begin, taken = np.empty(len(row), np.int64), np.empty(len(row), np.int64)
        file[row], begin[row], taken[row] = chosen, start, size
        return Chunks(first, corner, *columns.build(), file, begin, taken), end


def plan_save(held: Iterable[Holding], world: int) -> SavePlan:
    """Choose one writer for each distinct box, so that the busiest rank writes as little as it can.

    Boxes that one rank alone holds are given out first; then replicas, largest first, each to the
    least busy of its holders (the lowest rank among equals). Raises `LayoutError` for a tensor whose
    boxes overlap or leave elements out.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.metadata import Tensor
    >>> from ckptlab.plan.holding import holdings
    >>> hsdp = Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
    >>> plan = plan_save(holdings([Tensor("w", "float32", (4, 2))], hsdp), world=4)
    >>> plan.writes[0].writer.tolist(), plan.bytes_by_rank.tolist()
    ([[0, 1]], [16, 16, 0, 0])
    """
    every = Holdings.of(held)
    distinct: dict[int, Distinct] = {}
    load = np.zeros(world, np.int64)
    groups: list[tuple[Writes, Distinct]] = []
    shared: list[tuple[int, int, int, int]] = []
    for rows, shards in every.alike:
        tensor = every.tensors[rows[0]]
        if id(shards) not in distinct:
            distinct[id(shards)] = _distinct(Holding(tensor, shards))
        part, dtype = distinct[id(shards)], tensor.dtype
        group = Writes(rows, dtype, part.boxes, np.empty((len(rows), len(part.boxes)), np.int64))
        nbytes = part.boxes.numel * ITEMSIZE[dtype]
        alone = part.holders == 1
        group.writer[:, alone] = part.rank[part.first[:-1][alone]]
        np.add.at(load, part.rank[part.first[:-1][alone]], nbytes[alone] * len(rows))
        shared += [(-int(nbytes[c]), int(rows[0]), len(groups), int(c)) for c in np.flatnonzero(~alone)]
        groups.append((group, part))
    for cost, _, g, c in sorted(shared):
        group, part = groups[g]
        group.writer[:, c] = _shared_out(
            load, part.rank[part.first[c] : part.first[c + 1]], -cost, len(group.rows)
        )
    return SavePlan(every.tensors, tuple(group for group, _ in groups), load, bool(shared))


def _shared_out(load: Ints, holders: Ints, cost: int, n: int) -> Ints:
    """The writers of `n` boxes of `cost` bytes, each in turn the least busy holder; adds to `load`."""
    busy = load[holders][:, None] + cost * np.arange(n)
    chosen = holders[np.argsort(busy, axis=None, kind="stable")[:n] // n]
    np.add.at(load, chosen, cost)
    return chosen


def _behind(file: Ints, length: Ints, files: int) -> tuple[Ints, Ints]:
    """Start of each chunk if each file's stand one behind the other in this order; and each file's end."""
    order = np.argsort(file, kind="stable")
    stop = np.cumsum(length[order])
    end = np.bincount(file, weights=length, minlength=files).astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(end)[:-1]])
    start = np.empty_like(length)
    start[order] = stop - length[order] - begin[file[order]]
    return start, end


def _distinct(holding: Holding) -> Distinct:
    """The boxes of a tensor, which together must be all of it, each element once."""
    tensor, shards = holding.tensor, holding.shards
    found = shards.distinct
    boxes = found.boxes
    if found.overlapping:
        a, b = (boxes[row] for row in found.overlapping)
        raise LayoutError(
            f"tensor {tensor.fqn!r} {list(tensor.shape)}: {a} and {b} overlap but are not the same; "
            f"ranks {sorted(set(shards.rank.tolist()))} disagree on how it is sharded",
            [a, b],
        )
    held, wanted = int(boxes.numel.sum()), int(np.prod(tensor.shape, dtype=np.int64))
    if held != wanted:
        raise LayoutError(
            f"tensor {tensor.fqn!r} {list(tensor.shape)}: ranks {sorted(set(shards.rank.tolist()))} hold "
            f"{held} of its {wanted} elements; the rest would be lost",
            [tensor],
        )
    return found
