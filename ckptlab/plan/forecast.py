"""What a load will cost, foretold from its plan alone: bytes, reads and memory, per rank and file.

It is compared to the byte with what a live run counts. No bytes, no clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata
from ckptlab.plan.holding import Holding
from ckptlab.plan.load import LoadPlan, plan_load


@dataclass(frozen=True, eq=False)
class Forecast:
    """Bytes and reads of a load onto `world` ranks.

    `matrix[r, f]` is what rank r reads of file f, in bytes of elements; `reads`, `memory` (bytes of the
    rank's own shards) and `stock` (what stock DCP would read: whole chunks) are one number a rank.
    `unique` counts every stored byte that anyone reads once.
    """

    matrix: Ints
    reads: Ints
    memory: Ints
    stock: Ints
    unique: int

    @property
    def world(self) -> int:
        """How many ranks load."""
        return len(self.reads)

    @property
    def bytes_by_rank(self) -> Ints:
        """Bytes that each rank reads."""
        total: Ints = self.matrix.sum(axis=1)
        return total

    @property
    def bytes_by_file(self) -> Ints:
        """Bytes that are read of each file."""
        total: Ints = self.matrix.sum(axis=0)
        return total

    @property
    def total(self) -> int:
        """Bytes that all ranks read."""
        return int(self.matrix.sum())

    @property
    def amplification(self) -> float:
        """Bytes read for each byte that a rank wants: 1.0, unless nothing is wanted."""
        return self.total / wanted if (wanted := int(self.memory.sum())) else 1.0

    @property
    def stock_amplification(self) -> float:
        """The same for stock DCP, which reads whole chunks."""
        return int(self.stock.sum()) / wanted if (wanted := int(self.memory.sum())) else 1.0

    @property
    def shared(self) -> int:
        """Bytes that are read by more than one rank, counted beyond the first."""
        return self.total - self.unique


def forecast(metadata: Metadata, wants: Sequence[Holding], world: int) -> Forecast:
    """What loading `wants` onto `world` ranks will read.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.metadata import Tensor
    >>> from ckptlab.plan.holding import holdings
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> tensor = Tensor("w", "float32", (4, 4))
    >>> saved = metadata_of([tensor], Layout.parse("2", "Shard(0)"))
    >>> seen = forecast(saved, holdings([tensor], Layout.parse("2", "Shard(1)")), world=2)
    >>> seen.bytes_by_rank.tolist(), seen.amplification, seen.stock_amplification
    ([32, 32], 1.0, 2.0)
    """
    plan = plan_load(metadata, wants)
    matrix = np.zeros((world, len(metadata.files)), np.int64)
    np.add.at(matrix, (plan.rank, metadata.chunks.file[plan.chunk]), plan.nbytes)
    memory = np.zeros(world, np.int64)
    for want in wants:
        np.add.at(memory, want.shards.rank, want.shards.boxes.numel * ITEMSIZE[want.tensor.dtype])
    stock = np.zeros(world, np.int64)
    for reads in plan.reads:
        whole = metadata.boxes(int(reads.rows[0])).numel * reads.itemsize
        np.add.at(stock, reads.rank, whole[reads.chunk] * len(reads.rows))
    return Forecast(matrix, np.bincount(plan.rank, minlength=world), memory, stock, _unique(metadata, plan))


def _unique(metadata: Metadata, plan: LoadPlan) -> int:
    """Bytes that anyone reads: replicas want the same boxes, so distinct reads are counted once."""
    total = 0
    for reads in plan.reads:
        rows = np.concatenate([reads.chunk[:, None], reads.source, reads.boxes.shapes], axis=1)
        distinct = np.unique(rows, axis=0)
        ndim = reads.boxes.ndim
        elements = int(np.prod(distinct[:, 1 + ndim :], axis=1, dtype=np.int64).sum())
        total += elements * reads.itemsize * len(reads.rows)
    return total
