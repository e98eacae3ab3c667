"""What a load will cost, foretold from its plan alone: bytes, reads and memory, per rank and file.

It is compared to the byte with what a live run counts. Ranks that want the very same are foretold once,
and tensors that are alike together, so that thousands of ranks and millions of chunks take no time. What
is asked of far storage `plan.far` foretells. No bytes, no clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ckptlab.layout import Boxes, Distinct, Shards, overlaps
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata
from ckptlab.plan.far import Far, foretell_far
from ckptlab.plan.holding import Holding, Holdings
from ckptlab.plan.load import alike, check_filled

_AT_ONCE = 1 << 22
"""So many numbers are added at once."""

_DENSE = 2000
"""Numbers to add for each piece, from which on they are added piece by piece."""

_MOST_FAR = 1 << 22
"""Reads beyond which it is not foretold what they ask of far storage."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Bytes and reads of a load onto `world` ranks.

    Rank r is in group `group[r]`, whose ranks want the very same; groups are numbered by their first
    ranks. `table[g, f]` is what each rank of group g reads of file f, in bytes of elements. One number a
    rank: `reads`; `memory`, bytes of its own shards; `stock`, what stock DCP would read: whole chunks;
    `largest` and `whole`, bytes of its largest read, and of the largest chunk that it reads of.
    `unique` counts every stored byte that anyone reads once. Of far storage each rank asks for `fetched`
    bytes in `requests` ranged reads, wrapping and objects included; None where the files are not far, or the
    reads too many to lay them out one by one.
    """

    group: Ints
    table: Ints
    reads: Ints
    memory: Ints
    stock: Ints
    largest: Ints
    whole: Ints
    unique: int
    requests: Ints | None = None
    fetched: Ints | None = None

    @property
    def world(self) -> int:
        """How many ranks load."""
        return len(self.group)

    @property
    def members(self) -> Ints:
        """How many ranks are in each group."""
        return np.bincount(self.group, minlength=len(self.table))

    @property
    def matrix(self) -> Ints:
        """What each rank reads of each file, `(world, files)`, in bytes of elements."""
        matrix: Ints = self.table[self.group]
        return matrix

    @property
    def bytes_by_rank(self) -> Ints:
        """Bytes that each rank reads."""
        total: Ints = self.table.sum(axis=1)[self.group]
        return total

    @property
    def bytes_by_file(self) -> Ints:
        """Bytes that are read of each file."""
        total: Ints = self.members @ self.table
        return total

    @property
    def total(self) -> int:
        """Bytes that all ranks read."""
        return int(self.bytes_by_rank.sum())

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

    @property
    def peak(self) -> Ints:
        """Bytes in each rank's memory at most: its shards, and one read where it cannot go straight there."""
        return self.memory + self.largest

    @property
    def stock_peak(self) -> Ints:
        """The same for stock DCP, which has a whole chunk in memory before it copies its part."""
        return self.memory + self.whole

    @property
    def empty(self) -> Ints:
        """The ranks that get nothing."""
        return np.flatnonzero(self.memory == 0)


def forecast(metadata: Metadata, wants: Iterable[Holding], world: int, far: Far | None = None) -> Forecast:
    """What loading `wants` onto `world` ranks will read; of `far` files, also in how many requests.

    Raises `CorruptError` for a tensor whose chunks leave wanted elements out, or hold them twice.

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
    wants = Holdings.of(wants)
    distinct = {id(shards): shards.distinct for _, shards in wants.alike}
    group, first = _groups(distinct.values(), world)
    # Each group by itself, as if it were one rank.
    table, each = np.zeros((len(first), len(metadata.files)), np.int64), np.zeros((5, len(first)), np.int64)
    alone = Forecast(np.arange(len(first)), table, each[0], each[1], each[2], each[3], each[4], 0)
    cuts: dict[tuple[int, int, int], list[tuple[Ints, Holding]]] = {}
    for want, rows, _ in alike(metadata, wants):
        row = int(rows[0])
        count = int(metadata.chunks.first[row + 1] - metadata.chunks.first[row])
        # Other dtypes of one shape meet the same chunks: an optimizer's moments and their parameter.
        cut = (id(want.shards), int(metadata.chunks.corner[row]), count)
        cuts.setdefault(cut, []).append((rows, want))
    unique = 0
    for (shards, _, _), kinds in cuts.items():
        unique += _add(alone, group, metadata, _for_all(distinct[shards], group, first), kinds)
    every = each[:, group]
    seen = Forecast(group, table, every[0], every[1], every[2], every[3], every[4], unique)
    if far is None or int(alone.reads.sum()) > _MOST_FAR:
        return seen
    told = foretell_far(metadata, wants, first.tolist(), far)
    return replace(seen, requests=told.requests[group], fetched=told.nbytes[group])


def _groups(distinct: Iterable[Distinct], world: int) -> tuple[Ints, Ints]:
    """The group of each rank, and each group's first rank: those that hold the same boxes throughout."""
    label = np.zeros(world, np.int64)
    for found in distinct:
        box = np.repeat(np.arange(len(found.boxes)), found.holders)
        order = np.argsort(found.rank, kind="stable")
        rank, box = found.rank[order], box[order]
        turn = np.arange(len(rank)) - np.searchsorted(rank, rank)
        for i in range(int(turn.max(initial=-1)) + 1):
            held = np.zeros(world, np.int64)
            held[rank[turn == i]] = box[turn == i] + 1
            label = np.unique(label * (len(found.boxes) + 1) + held, return_inverse=True)[1].ravel()
    first, group = np.unique(label, return_index=True, return_inverse=True)[1:]
    order = np.argsort(first)
    return np.argsort(order)[group.ravel()], first[order]


def _for_all(found: Distinct, group: Ints, first: Ints) -> Distinct:
    """The same boxes, each with the ranks that want it and are the first of their group."""
    box = np.repeat(np.arange(len(found.boxes)), found.holders)
    speaks = first[group[found.rank]] == found.rank
    count = np.bincount(box[speaks], minlength=len(found.boxes))
    return Distinct(found.boxes, np.concatenate([[0], np.cumsum(count)]), found.rank[speaks])


def _add(
    sums: Forecast,
    group: Ints,
    metadata: Metadata,
    wanted: Distinct,
    kinds: Sequence[tuple[Ints, Holding]],
) -> int:
    """Add what groups read of tensors that differ in name and dtype alone; bytes that anyone reads once."""
    chunks = metadata.boxes(int(kinds[0][0][0]))
    size = np.array([ITEMSIZE[metadata.tensors[int(rows[0])].dtype] for rows, _ in kinds])
    tensors = np.array([len(rows) for rows, _ in kinds])
    pieces, piece, scale = _projected(wanted.boxes, chunks, kinds[0][1].tensor.shape)
    meet = overlaps(pieces.boxes, pieces.chunks)
    numel = meet.boxes.numel
    found = np.bincount(meet.a, numel, len(pieces.boxes)).astype(np.int64)
    if (found != pieces.boxes.numel).any():
        shards = Shards(wanted.rank[wanted.first[:-1]], wanted.boxes, wanted.boxes.offsets)
        check_filled(Holding(kinds[0][1].tensor, shards), overlaps(wanted.boxes, chunks))
    box, _ = _each(wanted.holders)
    reader, of = group[wanted.rank], piece[box]
    itemsize = np.array([ITEMSIZE[want.tensor.dtype] for _, want in kinds])
    np.add.at(sums.memory, reader, wanted.boxes.numel[box] * int(itemsize @ tensors))
    np.add.at(sums.reads, reader, np.bincount(meet.a, minlength=len(found))[of] * int(tensors.sum()))
    whole = chunks.numel[meet.b]
    stock, largest, most = np.zeros((3, len(found)), np.int64)
    np.add.at(stock, meet.a, whole)
    np.maximum.at(largest, meet.a, numel)
    np.maximum.at(most, meet.a, whole)
    np.add.at(sums.stock, reader, stock[of] * int(size @ tensors))
    np.maximum.at(sums.largest, reader, (largest[of] * scale[box]) * int(size.max()))
    np.maximum.at(sums.whole, reader, most[of] * int(size.max()))
    lies = _lies(metadata, kinds, np.unique(meet.b), size)
    _spread(sums.table, lies, meet.a, meet.b, numel, reader, of, scale[box])
    return int((found[piece] * scale).sum()) * int(size @ tensors)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Wanted boxes, each different one once, and chunks, without the dims along which nothing is cut."""

    boxes: Boxes
    chunks: Boxes


def _projected(boxes: Boxes, chunks: Boxes, shape: Sequence[int]) -> tuple[_Pieces, Ints, Ints]:
    """The pieces; which of them each box is; and how many times over, along the dims left out.

    Where all chunks span a dim, what a box shares with each is in proportion to its length there.
    """
    cut = np.flatnonzero(((chunks.offsets != 0) | (chunks.shapes != np.array(shape, np.int64))).any(axis=0))
    rows = np.concatenate([boxes.offsets[:, cut], boxes.shapes[:, cut]], axis=1)
    if len(cut):
        unique, piece = np.unique(rows, axis=0, return_inverse=True)
    else:
        unique, piece = rows[:1], np.zeros(len(rows), np.int64)
    scale = np.prod(np.delete(boxes.shapes, cut, axis=1), axis=1, dtype=np.int64)
    pieces = Boxes(unique[:, : len(cut)], unique[:, len(cut) :])
    return _Pieces(pieces, Boxes(chunks.offsets[:, cut], chunks.shapes[:, cut])), piece.ravel(), scale


@dataclass(frozen=True, eq=False)
class _Lies:
    """Of the tensors' `chunk[i]`, `nbytes[i]` bytes an element lie in `file[i]`; in the order of chunks."""

    chunk: Ints
    file: Ints
    nbytes: Ints


def _lies(metadata: Metadata, kinds: Sequence[tuple[Ints, Holding]], used: Ints, size: Ints) -> _Lies:
    """Where the chunks of all these tensors lie, added up over the tensors."""
    files, width = metadata.chunks.file, len(metadata.files)
    first = np.concatenate([metadata.chunks.first[rows] for rows, _ in kinds])
    each = np.repeat(size, [len(rows) for rows, _ in kinds])
    at = files[first[:, None] + used]
    if (at == at[:1]).all():
        return _Lies(used, at[0].astype(np.int64), np.full(len(used), int(each.sum())))
    # Replicas were shared out among their holders: the same chunk of two tensors is in two files.
    place, which = np.unique(used * width + at, return_inverse=True)
    nbytes = np.bincount(which.ravel(), np.repeat(each, len(used)), len(place)).astype(np.int64)
    return _Lies(place // width, place % width, nbytes)


def _spread(
    table: Ints, lies: _Lies, piece: Ints, chunk: Ints, numel: Ints, reader: Ints, of: Ints, scale: Ints
) -> None:
    """Add what the readers read of each file: reader i, `scale[i]` times over, what piece `of[i]` meets."""
    begin, end = (np.searchsorted(lies.chunk, chunk, side) for side in ("left", "right"))
    pair, turn = _each(end - begin)
    entry = begin[pair] + turn
    owner, file, nbytes = piece[pair], lies.file[entry], numel[pair] * lies.nbytes[entry]
    first = np.searchsorted(owner, np.arange(int(of.max(initial=-1)) + 2))
    count = np.diff(first)[of]
    if int(count.sum()) > _DENSE * len(first):
        _spread_by_piece(table, first, file, nbytes, reader, of, scale)
        return
    flat, end = table.reshape(-1), np.cumsum(count)
    low = 0
    while low < len(of):
        high = max(low + 1, int(np.searchsorted(end, end[low] - count[low] + _AT_ONCE, "right")))
        row, turn = _each(count[low:high])
        entry = first[of[low:high]][row] + turn
        np.add.at(
            flat, reader[low:high][row] * table.shape[1] + file[entry], nbytes[entry] * scale[low:high][row]
        )
        low = high


def _spread_by_piece(
    table: Ints, first: Ints, file: Ints, nbytes: Ints, reader: Ints, of: Ints, scale: Ints
) -> None:
    """The same, quicker where many readers read the same pieces of many files: row by row of the table."""
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(first)))
    for piece in range(len(first) - 1):
        rows, which = np.unique(reader[order[ends[piece] : ends[piece + 1]]], return_inverse=True)
        times = np.zeros(len(rows), np.int64)
        np.add.at(times, which.ravel(), scale[order[ends[piece] : ends[piece + 1]]])
        some = slice(int(first[piece]), int(first[piece + 1]))
        if not len(rows) or some.start == some.stop:
            continue
        low, high = int(file[some].min()), int(file[some].max()) + 1
        each = np.zeros(high - low, np.int64)
        np.add.at(each, file[some] - low, nbytes[some])
        step = max(1, _AT_ONCE // len(each))
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            table[part, low:high] += times[at : at + step, None] * each


def _each(count: Ints) -> tuple[Ints, Ints]:
    """Row i `count[i]` times; and which time it is."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
