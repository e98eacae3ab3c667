"""What a load asks of far storage, foretold: ranged reads, and the bytes that they bring.

The same rule as whoever reads goes by: small chunks come in spans, of large ones each wanted piece by
itself, with its wrapping where that must be looked at. No bytes, no clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ckptlab.layout.box import Ints
from ckptlab.metadata import Metadata
from ckptlab.plan.holding import Holding, among
from ckptlab.plan.load import Reads, plan_load
from ckptlab.plan.spans import GAP, SMALL, Spans, cut, parts

_CRC = 4


@dataclass(frozen=True)
class Wrapped:
    """How a chunk is wrapped: its elements begin at byte `start`, its crc ends at byte `crc_end`."""

    start: int
    crc_end: int


@dataclass(frozen=True)
class Far:
    """How the chunks of a checkpoint lie in far files.

    `wrapped` says it of a tensor of one dtype and shape; None where elements stand bare and opening told
    their places. `ours`: chunks that are read whole need no look at their wrapping. `objects`: they lie in
    the files, too. With `verify`, chunks that are read in part are read whole to check their crc.
    """

    wrapped: Callable[[str, tuple[int, ...]], Wrapped] | None = None
    ours: bool = False
    objects: bool = True
    verify: bool = False


@dataclass(frozen=True, eq=False)
class Asked:
    """Of each rank, how many ranged reads it asks of far storage, and how many bytes they bring."""

    requests: Ints
    nbytes: Ints

    def add(self, rank: Ints, nbytes: Ints, times: Ints | int = 1) -> None:
        """Count reads of so many bytes that follow each other, each `times` over."""
        np.add.at(self.requests, rank, parts(nbytes) * times)
        np.add.at(self.nbytes, rank, nbytes * times)


def foretell_far(metadata: Metadata, wants: Iterable[Holding], ranks: Sequence[int], far: Far) -> Asked:
    """What each of these ranks asks of far storage to load what it wants, and every object.

    Exact for chunks that are wrapped as `far` says and go to memory of their own dtype.

    >>> from ckptlab.layout import Layout
    >>> from ckptlab.metadata import Tensor
    >>> from ckptlab.plan.holding import holdings
    >>> from ckptlab.plan.metadata_of import metadata_of
    >>> tensors = [Tensor("w", "float32", (2048, 1024)), Tensor("b", "float32", (8,))]
    >>> saved = metadata_of(tensors, Layout.parse("2", "Shard(0)"))
    >>> seen = foretell_far(saved, holdings(tensors, Layout.parse("1", "Replicate")), [0], Far())
    >>> seen.requests.tolist(), seen.nbytes.tolist()
    ([4], [8388640])
    """
    rows = np.full(max(ranks, default=0) + 1, -1)
    rows[list(ranks)] = np.arange(len(ranks))
    asked = Asked(*np.zeros((2, len(ranks)), np.int64))
    chunks, small = metadata.chunks, [np.zeros(0, np.int64)]
    for reads in plan_load(metadata, among(wants, ranks)).reads:
        rank = rows[reads.rank]
        near = chunks.length[reads.chunks] <= SMALL
        small.append((rank * len(chunks) + reads.chunks)[near])
        _add_large(asked, metadata, reads, rank, (~near).sum(axis=0), far)
    rank, chunk = np.divmod(np.unique(np.concatenate(small)), max(1, len(chunks)))
    file = chunks.file[chunk].astype(np.int64)
    _add_small(asked, rank, file, chunks.start[chunk], chunks.length[chunk])
    if far.objects:
        _add_objects(asked, metadata)
    return asked


def _add_small(asked: Asked, rank: Ints, file: Ints, start: Ints, length: Ints) -> None:
    """Count the spans of small extents; those of one rank in one file are neighbours."""
    if not len(rank):
        return
    # As if all stood in one file, each rank's and each file's too far from the others to come with them.
    room = int((start + length).max()) + GAP + 1
    place, which = np.unique(rank * (int(file.max()) + 1) + file, return_inverse=True)
    assert len(place) * room < 1 << 62, "too many files to lay them out one behind the other"
    spans = Spans.of(which.ravel() * room + start, length)
    asked.add(place[spans.starts // room] // (int(file.max()) + 1), spans.ends - spans.starts)


def _add_large(asked: Asked, metadata: Metadata, reads: Reads, rank: Ints, tensors: Ints, far: Far) -> None:
    """Count reads of large chunks, read i of `tensors[i]` of them."""
    some = np.flatnonzero(tensors)
    if not len(some):
        return
    rank, column, tensors = rank[some], reads.chunk[some], tensors[some]
    boxes = metadata.boxes(int(reads.rows[0]))
    shapes, wanted = boxes.shapes[column], reads.boxes.shapes[some]
    strides = np.cumprod(np.c_[shapes[:, 1:], np.ones(len(some), np.int64)][:, ::-1], axis=1)[:, ::-1]
    dims, nbytes = cut(wanted, strides[:, : wanted.shape[1]], reads.itemsize)
    taken = np.where(np.arange(wanted.shape[1]) < dims[:, None], wanted, 1).prod(axis=1)
    whole = (wanted == shapes).all(axis=1)
    start, behind = _wrapping(metadata.tensors[int(reads.rows[0])].dtype, shapes, reads.itemsize, far)
    asked.add(rank, nbytes + whole * behind, taken * tensors)
    # A chunk is looked at once, and checked once, however many boxes of it a rank wants.
    _, first = np.unique(rank * len(boxes) + column, return_index=True)
    looked = first if not far.ours else first[~whole[first]]
    asked.add(rank[looked], start[looked], tensors[looked])
    if far.verify and far.wrapped is not None:
        checked = first[~whole[first]]
        asked.add(rank[checked], np.full(len(checked), _CRC), tensors[checked])
        asked.add(rank[checked], shapes[checked].prod(axis=1) * reads.itemsize, tensors[checked])


def _wrapping(dtype: str, shapes: Ints, itemsize: int, far: Far) -> tuple[Ints, Ints]:
    """Bytes before the elements of chunks of these shapes, and behind them up to the end of their crc."""
    if far.wrapped is None:
        return np.zeros(len(shapes), np.int64), np.zeros(len(shapes), np.int64)
    each, which = np.unique(shapes, axis=0, return_inverse=True)
    known = [far.wrapped(dtype, tuple(shape)) for shape in each.tolist()]
    places = np.array([(one.start, one.crc_end) for one in known], np.int64)[which.ravel()]
    start, end = places[:, 0], places[:, 1]
    return start, end - start - shapes.prod(axis=1) * itemsize


def _add_objects(asked: Asked, metadata: Metadata) -> None:
    """Count the spans of all objects, which every rank reads, and objects that are large."""
    extents = np.array([(e.file, e.start, e.length) for e in metadata.objects.values()], np.int64).reshape(
        -1, 3
    )
    alone = Asked(*np.zeros((2, 1), np.int64))
    file, start, length = extents[(extents[:, 2] > 0) & (extents[:, 2] <= SMALL)].T
    _add_small(alone, np.zeros(len(file), np.int64), file, start, length)
    long = extents[extents[:, 2] > SMALL, 2]
    alone.add(np.zeros(len(long), np.int64), long)
    asked.requests[:] += alone.requests
    asked.nbytes[:] += alone.nbytes
