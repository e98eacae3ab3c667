"""What is read for whom: wanted boxes cut along the chunks that hold them.

Only overlaps, each once a rank. It knows no bytes, no files' contents and no "me".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.layout import Box, Boxes, Overlaps, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata, grouped
from ckptlab.plan.holding import Holding, Holdings


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of tensors that were saved alike and are wanted alike, as columns.

    Those are tensors `rows` of the metadata, `asked` in what was asked for; tensor t has its chunks
    from row `first[t]` of `Metadata.chunks` on. For each of them, read i: rank `rank[i]` wants
    `boxes[i]` (in elements of the whole tensor), which lies in its chunk `chunk[i]` at `source[i]`,
    and goes to `target[i]` in the rank's local tensor; both `(n, ndim)`, in elements. `want[i]` is
    the row of the wanted shards it fills.
    """

    rows: Ints
    asked: Ints
    first: Ints
    itemsize: int
    rank: Ints
    chunk: Ints
    boxes: Boxes
    source: Ints
    target: Ints
    want: Ints

    def __len__(self) -> int:
        """How many reads, of all tensors."""
        return len(self.rows) * len(self.rank)

    @property
    def nbytes(self) -> Ints:
        """Bytes of each read of one tensor."""
        return self.boxes.numel * self.itemsize

    @property
    def chunks(self) -> Ints:
        """The chunk row of every read, `(tensors, reads of one)`."""
        return self.first[:, None] + self.chunk

    def source_box(self, i: int) -> Box:
        """Read i in elements of its chunk."""
        return Box(tuple(self.source[i].tolist()), tuple(self.boxes.shapes[i].tolist()))

    def target_box(self, i: int) -> Box:
        """Read i in elements of the rank's local tensor."""
        return Box(tuple(self.target[i].tolist()), tuple(self.boxes.shapes[i].tolist()))


@dataclass(frozen=True, eq=False)
class LoadPlan:
    """The reads of a load, tensors that are alike together; and all of them as columns, in the same order."""

    reads: tuple[Reads, ...]

    @cached_property
    def rank(self) -> Ints:
        """The rank of every read."""
        return _column(np.tile(r.rank, len(r.rows)) for r in self.reads)

    @cached_property
    def chunk(self) -> Ints:
        """The chunk row of every read."""
        return _column(r.chunks.ravel() for r in self.reads)

    @cached_property
    def chunks(self) -> Ints:
        """The rows of all chunks that are read, each once."""
        return np.flatnonzero(np.bincount(self.chunk))

    @cached_property
    def nbytes(self) -> Ints:
        """The bytes of every read."""
        return _column(np.tile(r.nbytes, len(r.rows)) for r in self.reads)

    def __len__(self) -> int:
        return len(self.rank)


def plan_load(metadata: Metadata, wants: Iterable[Holding]) -> LoadPlan:
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
    return LoadPlan(tuple(_reads(metadata, *one) for one in alike(metadata, Holdings.of(wants))))


def alike(metadata: Metadata, wants: Holdings) -> list[tuple[Holding, Ints, Ints]]:
    """Tensors of one shape and dtype, saved and wanted under one layout each: they meet in the same boxes.

    Of each such group, what is wanted of its first tensor, the rows of the metadata, and the positions in
    `wants`.
    """
    every = np.fromiter(map(metadata.rows.__getitem__, wants.tensors.names), np.int64, len(wants))
    columns = metadata.tensors.kinds, metadata.chunks.corner, np.diff(metadata.chunks.first)
    found = []
    for asked, shards in wants.alike:
        rows = every[asked]
        forms = [column[rows] for column in columns]
        if all((column == column[0]).all() for column in forms):
            # So it is nearly always, and soon seen.
            groups = [np.arange(len(rows))]
        else:
            groups = grouped(zip(*(column.tolist() for column in forms), strict=True))
        for some in groups:
            first = Holding(wants.tensors[asked[some[0]]], shards)
            found.append((first, rows[some], asked[some]))
    return found


def _reads(metadata: Metadata, want: Holding, rows: Ints, asked: Ints) -> Reads:
    row = int(rows[0])
    chunks = metadata.boxes(row)
    meet = overlaps(want.shards.boxes, chunks)
    check_filled(want, meet)
    return Reads(
        rows,
        asked,
        metadata.chunks.first[rows],
        ITEMSIZE[metadata.tensors[row].dtype],
        want.shards.rank[meet.a],
        meet.b,
        meet.boxes,
        meet.boxes.offsets - chunks.offsets[meet.b],
        meet.boxes.offsets - want.shards.boxes.offsets[meet.a] + want.shards.local[meet.a],
        meet.a,
    )


def _column(parts: Iterable[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def check_filled(want: Holding, meet: Overlaps) -> None:
    """Raise `CorruptError` unless the chunks that meet the wanted boxes fill each of them, once."""
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
