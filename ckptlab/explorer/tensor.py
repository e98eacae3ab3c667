"""The picture of one tensor: its boxes as tiles, true to scale along each dim.

As it lies in a checkpoint (chunks, by the rank that wrote them or by file) and as it would lie on a
mesh (shards, by the ranks that hold them). Plain data: no torch and no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ckptlab.explorer.held import listed, meeting
from ckptlab.explorer.plane import Dims, met, placed, plane, sliced, ticks
from ckptlab.explorer.scene import FILLED, HATCHED, NEUTRAL, OUTLINED, Fact, Marks, Panel, categories, count
from ckptlab.layout import Boxes, Layout
from ckptlab.layout.box import Ints
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor, human_shape

MANY = 256
"""Tiles beyond which none is labelled."""

EMPTY = 0.9
"""Units: how thick the strip is that stands for the ranks with nothing, and how far it is from the tensor."""

Colours = Literal["rank", "file"]
"""What a chunk's colour tells: the rank that wrote it, or the file that holds it."""


@dataclass(frozen=True)
class Look:
    """How a tensor is looked at: along which two dims, y and x (None: those cut most), and in which colours.

    `at[d]` is the index of any other dim d (`()`: the beginning of each).
    """

    dims: Dims | None = None
    at: tuple[int, ...] = ()
    by: Colours = "rank"


@dataclass(frozen=True, eq=False)
class _Tiles:
    """One tile a box: `colour` is a rank or a file (-1: nobody knows), `copies` is how many hold it.

    Tile i is of the ranks `ranks[first[i]:first[i + 1]]`.
    """

    colour: Ints
    labels: Sequence[str]
    first: Ints
    ranks: Ints
    facts: Sequence[Fact]
    copies: Ints

    def take(self, rows: Ints) -> _Tiles:
        """Those of some rows."""
        sizes = np.diff(self.first)[rows]
        first = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(first[-1]) - np.repeat(first[:-1], sizes)
        return _Tiles(
            self.colour[rows],
            [self.labels[i] for i in rows.tolist()] if self.labels else (),
            first,
            self.ranks[np.repeat(self.first[:-1][rows], sizes) + within],
            [replace(fact, values=fact.values[rows]) for fact in self.facts],
            self.copies[rows],
        )


def owners_of(metadata: Metadata, fqn: str, layout: Layout, by: Colours = "rank") -> dict[int, int]:
    """For each rank of a layout, the rank that wrote what it holds, or the file (the first of several)."""
    row = metadata.rows[fqn]
    told = metadata.chunk_writers(row)
    if by == "file":
        told = metadata.chunks.file[metadata.chunk_rows(row)].astype(np.int64)
    shards = layout.shards(metadata.tensors[row].shape)
    chunk, shard = meeting(metadata.boxes(row), shards.boxes)
    ranks, at = np.unique(shards.rank[shard], return_index=True)
    return {rank: own for rank, own in zip(ranks.tolist(), told[chunk[at]].tolist(), strict=True) if own >= 0}


def stored_panel(
    metadata: Metadata,
    fqn: str,
    look: Look | None = None,
    name: str = "tensor",
    layout: Layout | None = None,
) -> Panel:
    """A tensor's chunks, coloured by the rank that wrote each, or by its file.

    Where the layout that it was saved on is recorded, or given, a chunk lights up with every rank that
    held it, and is hatched where those are several; else with its writer alone. Raises `LayoutError` for a
    look that asks for a dim or an index which the tensor has not.
    """
    look, layout = look or Look(), layout or metadata.layouts.get(fqn)
    row = metadata.rows[metadata.tensor(fqn).fqn]
    tensor, boxes, rows = metadata.tensors[row], metadata.boxes(row), metadata.chunk_rows(row)
    file = metadata.chunks.file[rows].astype(np.int64)
    writer = metadata.chunk_writers(row)
    first, ranks = _holders(boxes, writer, layout, tensor)
    facts = [
        _box_fact(boxes),
        Fact("bytes", "bytes", boxes.numel * ITEMSIZE[tensor.dtype]),
        _rank_fact("written by", writer),
        _file_fact(file, metadata.files),
        Fact("at byte", "count", metadata.chunks.start[rows]),
    ]
    if layout is not None:
        facts.insert(3, _group_fact("held by", first, ranks))
    tiles = _Tiles(
        writer if look.by == "rank" else file,
        _rank_labels(writer) if look.by == "rank" else [metadata.files[f] for f in file.tolist()],
        first,
        ranks,
        facts,
        np.maximum(np.diff(first), _twice(boxes)),
    )
    empty = _without(layout, tensor) if layout is not None else np.zeros(0, np.int64)
    said = f"{count(len(boxes), 'chunk')} in {count(len(np.unique(file)), 'file')}"
    return _panel(name, "Its chunks, as stored", tensor, boxes, look, tiles, empty, said)


def held_panel(
    tensor: Tensor, layout: Layout, title: str, look: Look | None = None, name: str = "target"
) -> Panel:
    """A tensor's distinct shards on a mesh, coloured by the lowest rank that holds each."""
    found = layout.shards(tensor.shape).distinct
    boxes, copies = found.boxes, found.holders
    facts = [
        _box_fact(boxes),
        Fact("bytes", "bytes", boxes.numel * ITEMSIZE[tensor.dtype]),
        _group_fact("wanted by", found.first, found.rank),
    ]
    lowest = found.rank[found.first[:-1]]
    tiles = _Tiles(lowest, _rank_labels(lowest), found.first, found.rank, facts, copies)
    said = count(len(boxes), "shard")
    if len(copies) and copies.max() > 1:
        said += f", each on {int(copies.max())} ranks"
    return _panel(name, title, tensor, boxes, look or Look(), tiles, _without(layout, tensor), said)


def _without(layout: Layout, tensor: Tensor) -> Ints:
    """The ranks that hold nothing of it."""
    ranks = np.array(layout.mesh.rank_list, np.int64)
    return ranks[~np.isin(ranks, layout.shards(tensor.shape).rank)]


def _holders(boxes: Boxes, writer: Ints, layout: Layout | None, tensor: Tensor) -> tuple[Ints, Ints]:
    if layout is None:
        return np.arange(len(boxes) + 1), writer
    shards = layout.shards(tensor.shape)
    chunk, shard = meeting(boxes, shards.boxes)
    pairs = np.unique(np.stack([chunk, shards.rank[shard]], axis=1), axis=0).reshape(-1, 2)
    holders = np.bincount(pairs[:, 0], minlength=len(boxes))
    return np.concatenate([[0], np.cumsum(holders)]), pairs[:, 1]


def _twice(boxes: Boxes) -> Ints:
    """How many chunks hold the very box of each."""
    keys = np.concatenate([boxes.offsets, boxes.shapes], axis=1)
    if not keys.shape[1]:
        return np.full(len(boxes), len(boxes))
    _, index, number = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return number[index.ravel()].astype(np.int64)


def _panel(
    name: str,
    title: str,
    tensor: Tensor,
    boxes: Boxes,
    look: Look,
    every: _Tiles,
    empty: Ints,
    said: str,
) -> Panel:
    flat = plane(tensor.shape, boxes, look.dims, look.at)
    rows = met(flat, boxes)
    tiles, seen = every.take(rows), boxes.take(rows)
    box, height = placed(flat, seen), flat.height
    style = np.where(tiles.copies > 1, HATCHED, FILLED)
    drawn = Marks(
        box,
        categories(tiles.colour),
        style.astype(np.uint8),
        tiles.first.astype(np.int32),
        tiles.ranks.astype(np.int32),
        tuple(tiles.labels) if len(rows) <= MANY else (),
        tuple(tiles.facts),
    )
    if len(empty):
        drawn = _with_strip(drawn, empty, (0, height + EMPTY, flat.width, EMPTY))
        height += 2 * EMPTY
    part = sliced(flat, boxes)
    part = f" Drawn: {part}, {len(rows):,} of them." if part else ""
    if len(empty):
        part += f" {listed(empty.tolist()).capitalize()}: nothing of it."
    caption = f"{tensor.dtype}, {human_shape(tensor.shape)}: {said}.{part}"
    notes = tuple(ticks(flat, seen))
    return Panel(name, "tiles", title, caption, flat.width, height, drawn, notes, rigid=True, plane=flat)


def _with_strip(drawn: Marks, empty: Ints, box: tuple[float, float, float, float]) -> Marks:
    """One more mark, last: the ranks that hold nothing. Facts of tiles do not speak of it."""
    nothing = Fact(
        "holds", "word", np.append(np.zeros(len(drawn), np.int64), 1), ("", "nothing of this tensor")
    )
    return Marks(
        np.concatenate([drawn.box, np.array([box], np.float32)]),
        np.append(drawn.colour, np.int16(NEUTRAL)),
        np.append(drawn.style, np.uint8(OUTLINED)),
        np.append(drawn.first, np.int32(drawn.first[-1] + len(empty))),
        np.concatenate([drawn.ranks, empty.astype(np.int32)]),
        (*drawn.labels, f"empty: {listed(empty.tolist())}") if drawn.labels or not len(drawn) else (),
        (*drawn.facts, nothing),
    )


def _rank_labels(ranks: Ints) -> list[str]:
    return [f"rank {r}" if r >= 0 else "?" for r in ranks.tolist()]


def _box_fact(boxes: Boxes) -> Fact:
    return Fact("elements", "box", np.concatenate([boxes.offsets, boxes.shapes], axis=1))


def _rank_fact(label: str, rank: Ints) -> Fact:
    known = np.unique(rank)
    named = tuple(f"rank {r}" if r >= 0 else "unknown" for r in known.tolist())
    return Fact(label, "word", np.searchsorted(known, rank), named)


def _file_fact(file: Ints, files: Sequence[str]) -> Fact:
    """The files that are met, and no others: a checkpoint may have thousands."""
    known = np.unique(file)
    return Fact("file", "word", np.searchsorted(known, file), tuple(files[f] for f in known.tolist()))


def _group_fact(label: str, first: Ints, ranks: Ints) -> Fact:
    """Lists of ranks in words, each different list once."""
    index: dict[bytes, int] = {}
    bounds = list(zip(first[:-1].tolist(), first[1:].tolist(), strict=True))
    rows = [index.setdefault(ranks[a:b].tobytes(), len(index)) for a, b in bounds]
    named = {row: listed(ranks[a:b].tolist()) for row, (a, b) in zip(rows, bounds, strict=True)}
    return Fact(label, "word", np.array(rows, np.int64), tuple(named[i] for i in range(len(index))))
