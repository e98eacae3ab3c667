"""What is read for whom: wanted boxes cut along the chunks that hold them.

Only overlaps, each once a rank. It knows no bytes, no files' contents and no "me".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.layout import Box, Boxes, Overlaps, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata
from ckptlab.plan.holding import Holding


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of one tensor, as columns.

    Row i: rank `rank[i]` wants `boxes[i]` (in elements of the whole tensor), which lies in chunk
    `chunk[i]` (a row of `Metadata.chunks`) at `source[i]`, and goes to `target[i]` in the rank's
    local tensor; both `(n, ndim)`, in elements. `want[i]` is the row of the wanted shards it fills.
    """

    row: int
    itemsize: int
    rank: Ints
    chunk: Ints
    boxes: Boxes
    source: Ints
    target: Ints
    want: Ints

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def nbytes(self) -> Ints:
        """Bytes of each read."""
        return self.boxes.numel * self.itemsize

    def source_box(self, i: int) -> Box:
        """Read i in elements of its chunk."""
        return Box(tuple(self.source[i].tolist()), tuple(self.boxes.shapes[i].tolist()))

    def target_box(self, i: int) -> Box:
        """Read i in elements of the rank's local tensor."""
        return Box(tuple(self.target[i].tolist()), tuple(self.boxes.shapes[i].tolist()))


@dataclass(frozen=True, eq=False)
class LoadPlan:
    """The reads of a load, tensor by tensor; and all of them as columns, in the same order."""

    reads: tuple[Reads, ...]

    @cached_property
    def rank(self) -> Ints:
        """The rank of every read."""
        return np.concatenate([np.zeros(0, np.int64), *(r.rank for r in self.reads)])

    @cached_property
    def chunk(self) -> Ints:
        """The chunk row of every read."""
        return np.concatenate([np.zeros(0, np.int64), *(r.chunk for r in self.reads)])

    @cached_property
    def nbytes(self) -> Ints:
        """The bytes of every read."""
        return np.concatenate([np.zeros(0, np.int64), *(r.nbytes for r in self.reads)])

    def __len__(self) -> int:
        return len(self.rank)


def plan_load(metadata: Metadata, wants: Sequence[Holding]) -> LoadPlan:
    """The reads that fill every wanted box, for tensors that `plan.check` found to fit.

    Raises `CorruptError` for a tensor whose chunks leave wanted elements out, or hold them twice.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.metadata import Tensor
    >>> from ckptlab.plan.holding import holdings
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> tensor = Tensor("w", "float32", (4, 4))
    >>> saved = metadata_of([tensor], Layout.parse("2", "Shard(0)"))
    >>> plan = plan_load(saved, holdings([tensor], Layout.parse("2", "Shard(1)")))
    >>> list(zip(plan.rank.tolist(), plan.chunk.tolist(), plan.nbytes.tolist()))
    [(0, 0, 16), (0, 1, 16), (1, 0, 16), (1, 1, 16)]
    """
    found: dict[tuple[object, ...], tuple[Ints, Ints, Boxes, Ints, Ints, Ints]] = {}
    reads = []
    for want in wants:
        row = metadata.rows[want.tensor.fqn]
        chunks = metadata.boxes(row)
        # Tensors of one shape, saved and wanted under one layout each, meet in the same boxes.
        key = (id(want.shards), chunks.offsets.tobytes(), chunks.shapes.tobytes())
        if key not in found:
            meet = overlaps(want.shards.boxes, chunks)
            _check_filled(want, meet)
            found[key] = (
                want.shards.rank[meet.a],
                meet.b,
                meet.boxes,
                meet.boxes.offsets - chunks.offsets[meet.b],
                meet.boxes.offsets - want.shards.boxes.offsets[meet.a] + want.shards.local[meet.a],
                meet.a,
            )
        rank, chunk, boxes, source, target, rows = found[key]
        first = int(metadata.chunks.first[row])
        itemsize = ITEMSIZE[metadata.tensors[row].dtype]
        reads.append(Reads(row, itemsize, rank, chunk + first, boxes, source, target, rows))
    return LoadPlan(tuple(reads))


def _check_filled(want: Holding, meet: Overlaps) -> None:
    boxes = want.shards.boxes
    found = np.bincount(meet.a, weights=meet.boxes.numel, minlength=len(boxes)).astype(np.int64)
    wrong = np.flatnonzero(found != boxes.numel)
    if len(wrong):
        i = int(wrong[0])
        raise CorruptError(
            f"tensor {want.tensor.fqn!r} {list(want.tensor.shape)}: its chunks hold {found[i]} of the "
            f"{boxes.numel[i]} elements of {boxes[i]}, which rank {want.shards.rank[i]} wants; "
            "the checkpoint is incomplete or contradicts itself",
            [boxes[int(j)] for j in wrong],
        )
