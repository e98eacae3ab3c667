"""Who writes which box: each distinct box once, replicas shared out by bytes.

The same holdings give the same plan on every rank. It decides writers, not files or
offsets; it knows no bytes of any tensor and no "me".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.errors import LayoutError
from ckptlab.layout import Boxes, Distinct, Shards, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.holding import Holding


@dataclass(frozen=True, eq=False)
class Writes:
    """The chunks of one tensor: row i says that rank `writer[i]` writes `boxes[i]`."""

    tensor: Tensor
    boxes: Boxes
    writer: Ints


@dataclass(frozen=True, eq=False)
class SavePlan:
    """The chunks of a checkpoint, tensor by tensor, and how many bytes each rank writes."""

    writes: tuple[Writes, ...]
    bytes_by_rank: Ints


def plan_save(held: Sequence[Holding], world: int) -> SavePlan:
    """Choose one writer for each distinct box, so that the busiest rank writes as little as it can.

    Boxes that one rank alone holds are given out first; then replicas, largest first, each to the
    least busy of its holders (the lowest rank among equals). Raises `LayoutError` for a tensor whose
    boxes overlap or leave elements out.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.plan.holding import holdings
    >>> hsdp = Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
    >>> plan = plan_save(holdings([Tensor("w", "float32", (4, 2))], hsdp), world=4)
    >>> plan.writes[0].writer.tolist(), plan.bytes_by_rank.tolist()
    ([0, 1], [16, 16, 0, 0])
    """
    distinct: dict[int, Distinct] = {}
    parts = []
    for holding in held:
        # Tensors of one shape under one layout share their shards, so they are told apart once.
        if id(holding.shards) not in distinct:
            distinct[id(holding.shards)] = _distinct(holding)
        parts.append(distinct[id(holding.shards)])
    load = np.zeros(world, np.int64)
    writers = [np.full(len(part.boxes), -1, np.int64) for part in parts]
    shared: list[tuple[int, int, int]] = []
    for t, (holding, part) in enumerate(zip(held, parts, strict=True)):
        nbytes = part.boxes.numel * ITEMSIZE[holding.tensor.dtype]
        alone = part.holders == 1
        writers[t][alone] = part.rank[part.first[:-1][alone]]
        np.add.at(load, writers[t][alone], nbytes[alone])
        shared += [(-int(nbytes[c]), t, int(c)) for c in np.flatnonzero(~alone)]
    for cost, t, c in sorted(shared):
        part = parts[t]
        group = part.rank[part.first[c] : part.first[c + 1]]
        chosen = group[np.argmin(load[group])]
        writers[t][c] = chosen
        load[chosen] -= cost
    return SavePlan(
        tuple(Writes(h.tensor, part.boxes, w) for h, part, w in zip(held, parts, writers, strict=True)),
        load,
    )


def _distinct(holding: Holding) -> Distinct:
    found = holding.shards.distinct()
    _check_cover(holding.tensor, found.boxes, holding.shards)
    return found


def _check_cover(tensor: Tensor, boxes: Boxes, shards: Shards) -> None:
    meet = overlaps(boxes, boxes)
    twice = np.flatnonzero(meet.a < meet.b)
    if len(twice):
        a, b = boxes[int(meet.a[twice[0]])], boxes[int(meet.b[twice[0]])]
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
